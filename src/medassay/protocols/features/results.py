"""What a features report holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medassay.core.estimate import Estimate
from medassay.protocols.features.classifiers import Candidate, Name

Level = Literal["as_good", "better", "worse", "undecided"]  # a classifier beside the net's last layer
METRICS = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "auroc": "AUROC"}


@dataclass(frozen=True)
class LastLayer:
    """The net's own last layer: its ``METRICS`` on the judged images, and its balanced accuracy on validation images."""

    scores: dict[str, Estimate]
    validation: float


@dataclass(frozen=True)
class ClassifierResult:
    """A classifier on the features.

    Attributes:
        key, name: Its name in the settings, and in words.
        chosen: The hyperparameters that validation images chose.
        candidates: All that were tried, the simplest first.
        scores: ``METRICS`` on the judged images.
        difference: How much more balanced accuracy it has there than the last layer; None where that does not apply.
        level: What the rule says of the difference.
    """

    key: Name
    name: str
    chosen: Candidate
    candidates: list[Candidate]
    scores: dict[str, Estimate]
    difference: Estimate | None
    level: Level | None


@dataclass(frozen=True)
class FeatureResults:
    """What was computed.

    Attributes:
        split: The judged split.
        file: Name of the file of features.
        dimensions: Number of features of an image.
        n: Number of images by split.
        fitted_on: Number of training images that the classifiers were fitted on; 0 where there are none.
        standardise: Whether the classifiers see features of mean 0 and standard deviation 1.
        classes: Names, by label.
        images: Path of another set's images; None for the run's own data.
        md5: The md5 of that file.
        converted: By conversion, the number of that set's images that it was done to.
        last_layer: The net's own last layer on the same images; None where it does not apply.
        classifiers: The classifiers, in the order of the settings.
        best: The classifier with the highest balanced accuracy on validation images, the first among equals.
        verdict: The verdict in words; empty where no classifier was fitted.
        scikit_learn: Version of scikit-learn.
    """

    split: str
    file: str
    dimensions: int
    n: dict[str, int]
    fitted_on: int
    standardise: bool
    classes: list[str]
    images: str | None
    md5: str | None
    converted: dict[str, int]
    last_layer: LastLayer | None
    classifiers: list[ClassifierResult]
    best: Name | None
    verdict: str
    scikit_learn: str

    def flatten(self) -> dict[str, float]:
        """Single numbers, ``<classifier>/<split>/<score>``."""
        flat = {}
        for one in self.classifiers:
            flat[f"{one.key}/val/balanced_accuracy"] = one.chosen.score
            flat |= {f"{one.key}/{self.split}/{name}": estimate.value for name, estimate in one.scores.items()}
            if one.difference is not None:
                flat[f"{one.key}/{self.split}/difference"] = one.difference.value
        if self.last_layer is not None:
            flat["last_layer/val/balanced_accuracy"] = self.last_layer.validation
            flat |= {f"last_layer/{self.split}/{name}": e.value for name, e in self.last_layer.scores.items()}
        return flat
