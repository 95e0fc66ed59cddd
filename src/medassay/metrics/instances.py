"""How well single objects are found, cells say: connected components matched with true instances, image by image.

Source: Caicedo et al. 2019, Nature Methods 16, 1247 (the 2018 Data Science Bowl), whose score this is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medassay.core.estimate import Estimate
from medassay.metrics.estimates import mean_over_bounded_scores

# quotients of integers, so that an IoU of 3/5, the same number to the last bit, reaches 0.6
THRESHOLDS = tuple(i / 20 for i in range(10, 20))


@dataclass(frozen=True)
class InstanceScores:
    """What was found in each image.

    Attributes:
        matched: True positives at each of ``THRESHOLDS``, ``(N, 10) int64``.
        predicted: Predicted instances, ``(N,) int64``.
        true: True instances, ``(N,) int64``.
    """

    matched: Tensor
    predicted: Tensor
    true: Tensor

    @property
    def average_precision(self) -> Tensor:
        """TP / (TP + FP + FN) at each threshold, ``(N, 10) float64``; 1 where there is no instance, true or predicted."""
        counted = (self.predicted + self.true)[:, None] - self.matched
        return torch.where(counted > 0, self.matched.double() / counted, 1.0)

    @property
    def count_error(self) -> Tensor:
        """How far the number of instances is off, ``(N,) float64``."""
        return (self.predicted - self.true).abs().double()

    def summarise(self) -> InstanceSummary:
        """Means over the images, with intervals by 1000 resamples of them; of few images Student's t."""
        precisions = self.average_precision
        return InstanceSummary(
            n=len(self.true),
            average_precision=mean_over_bounded_scores(precisions.mean(1), most=1.0),
            per_threshold=[mean_over_bounded_scores(column, most=1.0) for column in precisions.T],
            count_error=mean_over_bounded_scores(self.count_error),
        )


@dataclass(frozen=True)
class InstanceSummary:
    """Means over images with 95 % intervals.

    Attributes:
        n: Number of images.
        average_precision: Average precision, the mean over ``THRESHOLDS``.
        per_threshold: Average precision at each of ``THRESHOLDS``.
        count_error: Absolute difference between the numbers of predicted and true instances.
    """

    n: int
    average_precision: Estimate
    per_threshold: list[Estimate]
    count_error: Estimate


def score_instances(predicted: Sequence[Tensor], true: Sequence[Tensor]) -> InstanceScores:
    """The matches of some images, which may differ in size.

    Args:
        predicted: Predicted instance maps, ``(H, W)`` of integers, 0 the background; see :func:`label_components`.
        true: True instance maps, of the same shapes.

    Raises:
        ValueError: Numbers or shapes differ, or there is no image.
    """
    if len(predicted) != len(true) or not len(true):
        raise ValueError(f"as many predicted as true maps are scored, and one at least: {len(predicted)}, {len(true)}")
    overlaps = [match_instances(ours, theirs) for ours, theirs in zip(predicted, true, strict=True)]
    matched = [[int((ious >= threshold).sum()) for threshold in THRESHOLDS] for ious in overlaps]
    counts = [[count_instances(instances) for instances in maps] for maps in (predicted, true)]
    return InstanceScores(torch.tensor(matched), *map(torch.tensor, counts))


def label_components(foreground: Tensor) -> Tensor:
    """Numbers the connected components, ``(H, W) bool -> (H, W) int32`` from 1, 0 the background.

    Pixels are connected by their sides: two cells that touch at a corner stay two.
    """
    from scipy import ndimage  # slow: where instances are wanted only

    return torch.from_numpy(ndimage.label(foreground.cpu().numpy(), output=np.int32)[0])


def match_instances(predicted: Tensor, true: Tensor) -> Tensor:
    """The IoU of each pair of instances that belong together, ``(pairs,) float64``, the largest first.

    Greedy: of all pairs with an IoU of at least 0.5 the best is taken, then the best of instances that are left, and so on. The
    pairs at a higher threshold are the first of these.

    Args:
        predicted: Predicted instance map, ``(H, W)`` of integers, 0 the background.
        true: True instance map, of the same shape.

    Raises:
        ValueError: Shapes differ.
    """
    if predicted.shape != true.shape:
        raise ValueError(f"two maps of one shape are compared, not {tuple(predicted.shape)} and {tuple(true.shape)}")
    rows, columns, ious = _compute_ious(predicted.cpu().numpy(), true.cpu().numpy())
    taken: list[float] = []
    free_rows, free_columns = set(rows.tolist()), set(columns.tolist())
    for i in np.argsort(-ious, kind="stable"):
        row, column = int(rows[i]), int(columns[i])
        if ious[i] >= THRESHOLDS[0] and row in free_rows and column in free_columns:
            free_rows.remove(row)
            free_columns.remove(column)
            taken.append(float(ious[i]))
    return torch.tensor(taken, dtype=torch.float64)


def _compute_ious(
    predicted: NDArray[np.integer], true: NDArray[np.integer]
) -> tuple[NDArray[np.integer], NDArray[np.integer], NDArray[np.float64]]:
    """All pairs of instances that share a pixel: their places in the two maps' sorted numbers, and their IoU."""
    numbers, ours, areas = np.unique(predicted, return_inverse=True, return_counts=True)
    true_numbers, theirs, true_areas = np.unique(true, return_inverse=True, return_counts=True)
    keys, shared = np.unique(ours.ravel() * len(true_numbers) + theirs.ravel(), return_counts=True)
    rows, columns = keys // len(true_numbers), keys % len(true_numbers)
    both = (numbers[rows] != 0) & (true_numbers[columns] != 0)
    rows, columns, shared = rows[both], columns[both], shared[both]
    return rows, columns, shared / (areas[rows] + true_areas[columns] - shared)


def count_instances(instances: Tensor) -> int:
    """The number of instances in a map ``(H, W)`` of integers, 0 the background."""
    return int(np.count_nonzero(np.unique(instances.cpu().numpy())))
