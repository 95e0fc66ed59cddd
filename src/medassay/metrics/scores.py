"""A classifier's scores with their intervals, as one result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medassay.core.estimate import Estimate
from medassay.metrics.classification import compute_intervals, measure_classification

DECISIONS = ("accuracy", "balanced_accuracy", "precision", "recall", "specificity", "f1")  # what needs no probability


@dataclass(frozen=True)
class ClassificationScores:
    """What :func:`medassay.metrics.classification.measure_classification` measures, single numbers with 95 % intervals.

    Attributes:
        n: Number of images.
        estimates: The single numbers by name.
        per_class: Lists of one number a class by name; empty where only decisions are known.
        confusion: Counts, a row per true class.
    """

    n: int
    estimates: dict[str, Estimate]
    per_class: dict[str, list[float]]
    confusion: list[list[int]]

    @property
    def values(self) -> dict[str, float]:
        """The single numbers without their intervals."""
        return {name: estimate.value for name, estimate in self.estimates.items()}

    def to_json(self) -> dict[str, Any]:
        """The form of a group in ``metrics.json``: values by name, their intervals apart."""
        per_class = {"per_class": self.per_class} if self.per_class else {}
        intervals = {name: [estimate.low, estimate.high] for name, estimate in self.estimates.items()}
        return {"n": self.n, **self.values, **per_class, "confusion": self.confusion, "interval_95": intervals}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ClassificationScores:
        """What :meth:`to_json` wrote; null is NaN."""
        nan, n = float("nan"), values["n"]
        estimates = {
            name: Estimate(nan if (value := values.get(name)) is None else value, low, high, n=n)
            for name, (low, high) in values["interval_95"].items()
        }
        per_class = {
            name: [nan if value is None else value for value in column]
            for name, column in values.get("per_class", {}).items()
        }
        return cls(n, estimates, per_class, values["confusion"])


def score_classification(probabilities: Tensor, labels: Tensor) -> ClassificationScores:
    """All metrics of ``probabilities (N, K)`` and ``labels (N,)``; intervals by 1000 resamples of the images."""
    metrics = measure_classification(probabilities, labels)
    intervals, n = compute_intervals(probabilities, labels), len(labels)
    estimates = {name: Estimate(metrics[name], low, high, n=n) for name, (low, high) in intervals.items()}
    return ClassificationScores(n, estimates, metrics["per_class"], metrics["confusion"])


def score_decisions(positive: Tensor, labels: Tensor) -> ClassificationScores:
    """The metrics of a decision between two classes that need no probability.

    Args:
        positive: Whether each image is called class 1, ``(N,) bool``.
        labels: True class indices, ``(N,) int64``.
    """
    certain = torch.stack([~positive, positive], 1).float()  # the largest "probability" is the decision
    all_scores = score_classification(certain, labels)
    estimates = {name: e for name, e in all_scores.estimates.items() if name.removeprefix("macro_") in DECISIONS}
    return ClassificationScores(all_scores.n, estimates, {}, all_scores.confusion)
