"""A classifier's scores with their intervals, as one result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medassay.core.estimate import Estimate
from medassay.metrics.classification import bootstrap_intervals, classification_metrics

DECISIONS = ("accuracy", "balanced_accuracy", "precision", "recall", "specificity", "f1")  # what needs no probability


@dataclass(frozen=True)
class ClassificationScores:
    """What :func:`medassay.metrics.classification.classification_metrics` measures, single numbers with 95 % intervals.

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


def classification_scores(probabilities: Tensor, labels: Tensor) -> ClassificationScores:
    """All metrics of ``probabilities (N, K)`` and ``labels (N,)``; intervals by 1000 resamples of the images."""
    found = classification_metrics(probabilities, labels)
    intervals, n = bootstrap_intervals(probabilities, labels), len(labels)
    estimates = {name: Estimate(found[name], low, high, n=n) for name, (low, high) in intervals.items()}
    return ClassificationScores(n, estimates, found["per_class"], found["confusion"])


def decision_scores(positive: Tensor, labels: Tensor) -> ClassificationScores:
    """The metrics of a decision between two classes that need no probability.

    Args:
        positive: ``(N,) bool``, the images called class 1.
        labels: ``(N,) int64``.
    """
    certain = torch.stack([~positive, positive], 1).float()  # the largest "probability" is the decision
    found = classification_scores(certain, labels)
    kept = {name: e for name, e in found.estimates.items() if name.removeprefix("macro_") in DECISIONS}
    return ClassificationScores(found.n, kept, {}, found.confusion)
