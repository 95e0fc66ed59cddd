"""How well regions are found: overlap of two masks, and distances between their outlines, image by image.

Conventions: class 0 is the background and is not scored. A class that neither mask has is found perfectly. Where only one mask
has it, its distances are the image's diagonal, sqrt(H² + W²), and such images are counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medassay.core.estimate import Estimate
from medassay.metrics.estimates import mean_over_bounded_scores

PERCENTILE = 95  # of the distances, for the Hausdorff distance without the few farthest pixels
SCORES = ("dice", "iou", "hd95", "surface_distance")
_MOST = {"dice": 1.0, "iou": 1.0}  # distances have no end


@dataclass(frozen=True)
class SegmentationScores:
    """The scores of each image and class, ``(N, K - 1)``, the background left out.

    Attributes:
        dice: Dice coefficients, float64 in [0, 1].
        iou: Intersections over unions, float64 in [0, 1].
        hd95: 95th-percentile Hausdorff distances in pixels, float64.
        surface_distance: Mean symmetric surface distances in pixels, float64.
        one_empty: Whether just one of the two masks has the class, bool: its distances are the image's diagonal.
    """

    dice: Tensor
    iou: Tensor
    hd95: Tensor
    surface_distance: Tensor
    one_empty: Tensor

    def summarise(self) -> SegmentationSummary:
        """Means over the images, with intervals by 1000 resamples of them; of few images Student's t."""
        scores: dict[str, Tensor] = {name: getattr(self, name) for name in SCORES}

        def average(name: str, score: Tensor) -> Estimate:
            return mean_over_bounded_scores(score, most=_MOST.get(name, math.inf))

        return SegmentationSummary(
            n=len(self.dice),
            means={name: average(name, score.mean(1)) for name, score in scores.items()},
            per_class={name: [average(name, column) for column in score.T] for name, score in scores.items()},
            one_empty=self.one_empty.sum(0).tolist(),
        )


@dataclass(frozen=True)
class SegmentationSummary:
    """Means over images with 95 % intervals, by the names in ``SCORES``.

    Attributes:
        n: Number of images.
        means: Of the mean over an image's classes; both are means, so it is that of ``per_class`` too.
        per_class: One a class, from class 1.
        one_empty: Images by class, from class 1, where just one of the two masks has it.
    """

    n: int
    means: dict[str, Estimate]
    per_class: dict[str, list[Estimate]]
    one_empty: list[int]


class SurfaceDistances(NamedTuple):
    """Distances in pixels between the outlines of two masks."""

    hd95: float
    mean: float


def score_segmentation(predicted: Sequence[Tensor], true: Sequence[Tensor], num_classes: int) -> SegmentationScores:
    """All scores of some images, which may differ in size.

    Args:
        predicted: Predicted class maps, ``(H, W)`` of integers in [0, K); also one tensor ``(N, H, W)``.
        true: True class maps, of the same shapes.
        num_classes: Number of classes K, the background included.

    Raises:
        ValueError: Numbers or shapes differ, or there is no image.
    """
    if len(predicted) != len(true) or not len(true):
        raise ValueError(
            f"as many predicted as true class maps are scored, and one at least: {len(predicted)}, {len(true)}"
        )
    rows: list[list[Tensor]] = [[], [], [], []]
    for ours, theirs in zip(predicted, true, strict=True):
        classes = torch.arange(1, num_classes, device=ours.device)[:, None, None]
        masks, true_masks = ours == classes, theirs == classes.to(theirs.device)
        distances = [measure_surface_distances(a, b) for a, b in zip(masks, true_masks, strict=True)]
        rows[0].append(compute_dice(masks, true_masks))
        rows[1].append(compute_iou(masks, true_masks))
        rows[2].append(torch.tensor(distances, dtype=torch.float64))
        rows[3].append(masks.any(2).any(1) != true_masks.any(2).any(1))
    dice, iou, surfaces, one_empty = (torch.stack(row).cpu() for row in rows)
    return SegmentationScores(dice, iou, surfaces[..., 0], surfaces[..., 1], one_empty)


def compute_dice(predicted: Tensor, true: Tensor) -> Tensor:
    """2 |A ∩ B| / (|A| + |B|) of two masks (Dice 1945), ``(..., H, W) bool -> (...) float64``; 1 where both are empty.

    Raises:
        ValueError: The masks are not boolean, or their shapes differ.
    """
    shared, total = _count_pixels(predicted, true)
    return torch.where(total > 0, 2 * shared / total, 1.0)


def compute_iou(predicted: Tensor, true: Tensor) -> Tensor:
    """|A ∩ B| / |A ∪ B| of two masks (Jaccard 1912); shapes, errors and empty masks as in :func:`compute_dice`."""
    shared, total = _count_pixels(predicted, true)
    return torch.where(total > 0, shared / (total - shared), 1.0)


def _count_pixels(predicted: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels in both masks, and the sum of their areas, ``(...) float64``."""
    _check_masks(predicted, true)
    areas = predicted.sum((-2, -1)) + true.sum((-2, -1))
    return (predicted & true).sum((-2, -1)).double(), areas.double()


def measure_surface_distances(predicted: Tensor, true: Tensor) -> SurfaceDistances:
    """Distances between the outlines of two masks ``(H, W) bool``, in pixels.

    An outline is the mask's pixels with a neighbour, of four, outside of it; the image's border counts as outside. From each
    pixel of one outline the distance to the nearest of the other is taken, and the other way round.

    ``hd95`` is the larger of the two directions' 95th percentiles (Huttenlocher et al. 1993, IEEE TPAMI 15, 850, whose k-th
    ranked distance replaces the maximum), ``mean`` the mean of all distances of both directions (Heimann et al. 2009, IEEE TMI
    28, 1251). Both are 0 for two empty masks, and the image's diagonal where only one is empty.

    Raises:
        ValueError: The masks are not boolean, or their shapes differ.
    """
    _check_masks(predicted, true)
    ours, theirs = (_find_outline(mask) for mask in (predicted, true))
    if not ours.any() and not theirs.any():
        return SurfaceDistances(0.0, 0.0)
    if not ours.any() or not theirs.any():
        diagonal = math.hypot(*predicted.shape)
        return SurfaceDistances(diagonal, diagonal)
    there, back = _measure_distances(ours, theirs), _measure_distances(theirs, ours)
    hd95 = max(float(np.percentile(distances, PERCENTILE)) for distances in (there, back))
    return SurfaceDistances(hd95, float(np.concatenate([there, back]).mean()))


def _find_outline(mask: Tensor) -> NDArray[np.bool_]:
    from scipy import ndimage  # slow: where distances are wanted only

    inside = mask.cpu().numpy()
    return inside & ~ndimage.binary_erosion(inside)  # type: ignore[no-any-return]


def _measure_distances(start: NDArray[np.bool_], goal: NDArray[np.bool_]) -> NDArray[np.float64]:
    """From each pixel of ``start (H, W)`` the distance to the nearest of ``goal (H, W)``."""
    from scipy import ndimage

    return ndimage.distance_transform_edt(~goal)[start]  # type: ignore[no-any-return]


def _check_masks(predicted: Tensor, true: Tensor) -> None:
    if predicted.shape != true.shape or predicted.dtype != torch.bool or true.dtype != torch.bool:
        raise ValueError(
            f"two boolean masks of one shape are compared, not {tuple(predicted.shape)} {predicted.dtype} and "
            f"{tuple(true.shape)} {true.dtype}"
        )
