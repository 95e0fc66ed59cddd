"""The decision between two classes by a threshold that validation images choose."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from medassay.core.estimate import Estimate
from medassay.metrics.classification import choose_youden_threshold
from medassay.metrics.scores import ClassificationScores, score_decisions
from medassay.reporting.classification import format_scores
from medassay.tasks.predictions import Predictions


@dataclass(frozen=True)
class Threshold:
    """The least probability of class 1 that is called class 1, chosen on ``n`` images, and the scores of the decisions."""

    value: float
    n: int
    scores: ClassificationScores = field(metadata={"name": "metrics"})
    rule: str = "Youden"
    chosen_on: str = "val"

    @property
    def summary(self) -> str:
        """The decision in one line."""
        line = format_scores(self.scores.estimates, ("accuracy", "balanced_accuracy", "recall", "specificity"))
        return f"threshold {self.value:.3f} ({self.rule}, on {self.n} validation images): {line}"


@dataclass(frozen=True)
class NoThreshold:
    """Why there is no threshold."""

    none: str


def choose_threshold(predictions: Predictions, validation: Predictions | None) -> Threshold | NoThreshold:
    """The decision on ``predictions`` by the threshold chosen on ``validation``, or why there is none.

    Both are by the same model; ``validation`` is None where there are no images to choose on.
    """
    if predictions.probabilities.shape[1] != 2:
        return NoThreshold("A threshold decides between two classes; with more, the largest probability decides.")
    if validation is None:
        return NoThreshold(
            "The nets were not judged on the same validation images, so no threshold can be chosen on them."
        )
    if int(torch.bincount(validation.labels, minlength=2).min()) == 0:
        return NoThreshold("The validation images are all of one class, so no threshold can be chosen on them.")
    value = choose_youden_threshold(validation.probabilities[:, 1], validation.labels)
    scores = score_decisions(predictions.probabilities[:, 1] >= value, predictions.labels)
    return Threshold(value, len(validation.labels), scores)


def list_threshold_numbers(threshold: Threshold, split: str) -> dict[str, Estimate]:
    """The decision's numbers by the names that they have in the table of runs."""
    numbers = {"value": Estimate(threshold.value), **threshold.scores.estimates}
    return {f"{name_group(split)}/{name}": estimate for name, estimate in numbers.items()}


def name_group(split: str) -> str:
    """What the decision's numbers on ``split`` are called in ``metrics.json`` and in tables."""
    return f"{split} by threshold"
