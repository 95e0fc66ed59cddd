"""A classifier's scores with their intervals, and how far they are from those of the net's last layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from medassay.core.estimate import Estimate
from medassay.metrics.bootstrap import percentile_interval
from medassay.metrics.classification import measure_classification, resample_classification
from medassay.protocols.features import verdict
from medassay.protocols.features.classifiers import (
    CRITERION,
    NAMES,
    Choice,
    LabelledFeatures,
    Name,
    predict_probabilities,
)
from medassay.protocols.features.results import METRICS, ClassifierResult


@dataclass(frozen=True)
class Scores:
    """A classifier's ``METRICS`` on ``n`` images, and the same on each resample of them, ``(1000,) float64``."""

    n: int
    values: dict[str, float]
    drawn: dict[str, Tensor]

    @classmethod
    def from_probabilities(cls, probabilities: Tensor, labels: Tensor) -> Scores:
        """Of ``probabilities (N, K)`` and ``labels (N,)``; the resamples are the same for every classifier."""
        measured, drawn = measure_classification(probabilities, labels), resample_classification(probabilities, labels)
        return cls(len(labels), {name: measured[name] for name in METRICS}, {name: drawn[name] for name in METRICS})

    @property
    def estimates(self) -> dict[str, Estimate]:
        """The numbers with their 95 % intervals."""
        return {
            name: Estimate(value, *percentile_interval(self.drawn[name]), n=self.n)
            for name, value in self.values.items()
        }

    def subtract(self, other: Scores) -> Estimate:
        """How much more ``CRITERION`` this classifier has than another of the same images, image by image."""
        interval = percentile_interval(self.drawn[CRITERION] - other.drawn[CRITERION])
        return Estimate(self.values[CRITERION] - other.values[CRITERION], *interval, n=self.n)


def judge_classifiers(
    choices: Mapping[Name, Choice], judged: LabelledFeatures, num_classes: int, last_layer: Scores | None
) -> list[ClassifierResult]:
    """Scores of classifiers that were chosen before.

    Args:
        choices: The fitted classifiers by name.
        judged: Features and labels of the judged images.
        num_classes: Number of classes.
        last_layer: Scores of the net's last layer on the same images; None where it does not apply.
    """
    results = []
    for name, choice in choices.items():
        probabilities = predict_probabilities(choice.classifier, judged.features, num_classes)
        scores = Scores.from_probabilities(probabilities, judged.labels)
        difference = level = None
        if last_layer is not None:
            difference = scores.subtract(last_layer)
            level = verdict.judge(difference, last_layer.estimates, count_classes(judged.labels))
        result = ClassifierResult(
            name, NAMES[name], choice.chosen, choice.candidates, scores.estimates, difference, level
        )
        results.append(result)
    return results


def find_best(results: Sequence[ClassifierResult]) -> ClassifierResult:
    """The classifier that validation images prefer, the first among equals."""
    return max(results, key=lambda one: one.chosen.score)


def count_classes(labels: Tensor) -> list[int]:
    """Number of images of each class that has any, at least 1."""
    return labels.unique(return_counts=True)[1].tolist()  # type: ignore[no-any-return, no-untyped-call]
