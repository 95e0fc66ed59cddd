"""What a classification report holds: scores, decisions, calibration, and the most confident mistakes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from medassay.core.estimate import Estimate
from medassay.metrics.classification import compute_class_intervals
from medassay.metrics.scores import DECISIONS, ClassificationScores
from medassay.protocols.classification.medmnist_results import EvaluatorScores
from medassay.protocols.classification.threshold import NoThreshold, Threshold
from medassay.tasks.predictions import Predictions


@dataclass(frozen=True)
class Calibration:
    """Predictions in bins of their confidence, see :class:`~medassay.metrics.calibration.CalibrationBins`."""

    ece: float
    counts: list[int]
    confidence: list[float]
    accuracy: list[float]


@dataclass(frozen=True)
class Mistake:
    """One wrong decision: the image's position in the split, from 0, the names of its classes, and what was said of it."""

    index: int
    true: str
    predicted: str
    probability: float
    probabilities: list[float]


@dataclass(frozen=True)
class Mistakes:
    """Number of wrong decisions, and those shown, the most confident first."""

    count: int
    shown: list[Mistake]


@dataclass(frozen=True)
class ClassificationResults:
    """How good a classifier is on one split.

    Attributes:
        scores: Scores of the most probable class.
        per_class: Scores of each class against the rest, K by name.
        macro: Their means over the classes that have images.
        threshold: The decision by a threshold chosen on validation images.
        medmnist: MedMNIST's own numbers; None where it has none.
        predictions: Name of the file of predictions.
    """

    split: str
    n: int
    scores: ClassificationScores = field(metadata={"name": "metrics"})
    per_class: dict[str, list[Estimate]]
    macro: dict[str, Estimate]
    threshold: Threshold | NoThreshold
    calibration: Calibration
    mistakes: Mistakes
    medmnist: EvaluatorScores | None
    predictions: str

    def list_decision_rows(self) -> list[tuple[str, list[Estimate]]]:
        """Metrics of a decision: by the largest probability and, where there is one, by the threshold."""
        columns = [self.scores.estimates]
        if isinstance(self.threshold, Threshold):
            columns.append(self.threshold.scores.estimates)
        names = [*DECISIONS, *(f"macro_{name}" for name in DECISIONS if f"macro_{name}" in columns[0])]
        return [(name.replace("_", " ").replace("f1", "F1"), [column[name] for column in columns]) for name in names]


def score_classes(
    predictions: Predictions, scores: ClassificationScores
) -> tuple[dict[str, list[Estimate]], dict[str, Estimate]]:
    """The scores of each class, and their means over the classes that have images."""
    of_classes, of_means = compute_class_intervals(predictions.probabilities, predictions.labels)
    per_class, macro = {}, {}
    for name, intervals in of_classes.items():
        values = scores.per_class[name]
        per_class[name] = [Estimate(v, low, high, n=scores.n) for v, (low, high) in zip(values, intervals, strict=True)]
        known = [value for value in values if not math.isnan(value)]
        low, high = of_means[name]
        macro[name] = Estimate(sum(known) / len(known) if known else math.nan, low, high, n=scores.n)
    return per_class, macro


def find_mistakes(predictions: Predictions, classes: Sequence[str], most: int) -> Mistakes:
    """The wrong decisions; shown are the ``most`` confident ones, equal ones in the order of the images."""
    confidence, decision = predictions.probabilities.max(1)
    wrong = (decision != predictions.labels).nonzero().squeeze(1)
    order = wrong[confidence[wrong].sort(descending=True, stable=True).indices]
    shown = [
        Mistake(
            index,
            classes[int(predictions.labels[index])],
            classes[int(decision[index])],
            float(confidence[index]),
            predictions.probabilities[index].tolist(),
        )
        for index in order[:most].tolist()
    ]
    return Mistakes(len(wrong), shown)
