"""All scores of a segmentation with their intervals, as one result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medassay.core.estimate import Estimate
from medassay.core.types import SegmentedImages
from medassay.metrics.instances import (
    THRESHOLDS,
    InstanceScores,
    InstanceSummary,
    label_components,
    score_instances,
)
from medassay.metrics.segmentation import score_segmentation

AP50 = THRESHOLDS.index(0.5)


@dataclass(frozen=True)
class RegionScores:
    """What was found in some images: means over them, with 95 % intervals.

    Attributes:
        n: Number of images.
        estimates: The single numbers by name: ``dice``, ``iou``, ``hd95``, ``surface_distance``; where the data tell objects
            apart also ``average_precision`` (mean over IoU 0.5 to 0.95), ``ap50`` (at 0.5) and ``count_error``.
        per_class: The first four by class, from class 1.
        per_threshold: Average precision at each IoU of ``THRESHOLDS``; None where objects are not told apart.
        one_empty: Images by class, from class 1, where just one of prediction and truth has it (see the distances).
        dice: Dice coefficient of each image, the mean over its classes.
        objects: Numbers of true and predicted objects of each image; None where objects are not told apart.
        of_true_masks: ``average_precision``, ``ap50`` and ``count_error`` of the true masks themselves, in which a border parts
            objects that touch: what a net reaches that draws exactly what it was taught (one that draws a thinner border can do
            better); None where objects are not told apart.
    """

    n: int
    estimates: dict[str, Estimate]
    per_class: dict[str, list[Estimate]]
    per_threshold: list[Estimate] | None
    one_empty: list[int]
    dice: list[float]
    objects: list[tuple[int, int]] | None = None
    of_true_masks: dict[str, float] | None = None

    @property
    def worst_first(self) -> list[int]:
        """Indices of the images, sorted by their Dice coefficients."""
        return sorted(range(len(self.dice)), key=lambda index: self.dice[index])

    def to_json(self) -> dict[str, Any]:
        """The form of a group in ``metrics.json``: values by name, their intervals apart."""
        values = {name: estimate.value for name, estimate in self.estimates.items()}
        per_class = {name: [estimate.value for estimate in column] for name, column in self.per_class.items()}
        intervals = {name: [estimate.low, estimate.high] for name, estimate in self.estimates.items()}
        objects: dict[str, Any] = {}
        if self.per_threshold is not None:
            objects = {"per_threshold": [one.value for one in self.per_threshold], "of_true_masks": self.of_true_masks}
        lists = {"per_class": per_class, **objects, "one_empty": self.one_empty, "dice_of_images": self.dice}
        return {"n": self.n, **values, **lists, "interval_95": intervals}


def score_regions(predicted: Sequence[Tensor], truth: SegmentedImages, num_classes: int) -> RegionScores:
    """All scores of predicted class maps, ``(H, W)`` of integers, beside the true ones.

    Objects are compared where there are two classes and the truth numbers them: the predicted ones are the connected regions
    of class 1. The true masks' regions are compared as well: they have less than the whole objects, which a border parts.
    """
    scores = score_segmentation(predicted, truth.masks, num_classes)
    summary = scores.summarise()
    estimates, per_threshold, objects, of_true_masks = dict(summary.means), None, None, None
    if truth.instances is not None and num_classes == 2:
        matches = _match_regions(predicted, truth.instances)
        objects = list(zip(matches.true.tolist(), matches.predicted.tolist(), strict=True))
        found = matches.summarise()
        per_threshold = found.per_threshold
        estimates |= _name_scores(found)
        taught = _name_scores(_match_regions(truth.masks, truth.instances).summarise())
        of_true_masks = {name: one.value for name, one in taught.items()}
    dice: list[float] = torch.nan_to_num(scores.dice.mean(1)).tolist()
    return RegionScores(
        summary.n, estimates, summary.per_class, per_threshold, summary.one_empty, dice, objects, of_true_masks
    )


def _match_regions(masks: Sequence[Tensor], instances: Sequence[Tensor]) -> InstanceScores:
    """The connected regions of class 1 of class maps ``(H, W)`` beside true instances."""
    return score_instances([label_components(mask == 1) for mask in masks], instances)


def _name_scores(found: InstanceSummary) -> dict[str, Estimate]:
    precision, count_error = found.average_precision, found.count_error
    return {"average_precision": precision, "ap50": found.per_threshold[AP50], "count_error": count_error}
