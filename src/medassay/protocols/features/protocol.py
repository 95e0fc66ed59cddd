"""The features before the last layer as a file, and scikit-learn's classifiers on them beside the net's own last layer."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor

from medassay.core.types import LabelledImages, NonNegativeInt, PositiveInt
from medassay.data.order import make_stratified_order
from medassay.evaluation.protocol import ComputeContext, Page, Protocol, Report
from medassay.metrics.classification import measure_classification
from medassay.protocols.features import figures, verdict
from medassay.protocols.features.classifiers import (
    CRITERION,
    NAMES,
    Choice,
    LabelledFeatures,
    Name,
    choose_classifier,
    describe_settings,
    list_settings,
)
from medassay.protocols.features.measures import Scores, count_classes, find_best, judge_classifiers
from medassay.protocols.features.other_images import OtherImages, read_other_images
from medassay.protocols.features.results import METRICS, FeatureResults, LastLayer
from medassay.reporting.charts import Chart
from medassay.runs.load import select_evaluated_images
from medassay.runs.run import Run
from medassay.tasks.classification import Classification
from medassay.tasks.predictions import extract_features, predict

logger = logging.getLogger(__name__)

FILE = "features.npz"
SPLITS = {"test": "test images", "val": "validation images"}
FLATTERING = (
    "Validation images also chose the hyperparameters and, of the run’s own data, the net’s epoch, so their numbers are too "
    "good: use them to compare settings only."
)


@dataclass(frozen=True)
class Features(Protocol):
    """The features before a classifier's last layer, and what simple classifiers make of them.

    Attributes:
        name: Name of the protocol.
        split: Split to judge by; with ``val`` no test image is looked at.
        classifiers: scikit-learn's classifiers to fit on the features; none for the features alone.
        standardise: Whether the classifiers see features of mean 0 and standard deviation 1 on the training images.
        largest: Number of training images that the classifiers are fitted on, at most, classes in proportion.
        images: An ``.npz`` in MedMNIST's layout whose images, with its own labels, take the place of the run's.
        seed: Seed of the random forest, and of the choice of training images.
    """

    requires: ClassVar[type] = Classification
    name: str = "features"
    split: Literal["test", "val"] = "test"
    classifiers: list[Name] = field(default_factory=lambda: list(NAMES))
    standardise: bool = True
    largest: PositiveInt = 12_000
    images: str | None = None
    seed: NonNegativeInt = 0

    # Of other protocols the class says it, here a setting does
    @property
    def uses_own_data(self) -> bool:  # type: ignore[override]
        return self.images is None

    def run(self, run: Run, context: ComputeContext) -> Report:
        """Computes a finished run's features, and fits and judges the classifiers.

        Raises:
            ConfigError: The net gives no features.
            DataError: The other set's images cannot be read, or the training images are all of one class.
        """
        assert isinstance(run.task, Classification)
        data, other = run.data, None
        if self.images is not None:
            other = read_other_images(self.images, size=data.size, channels=data.channels)
        images = self._select_images(run, other)
        logger.info("features of %s images …", f"{sum(map(len, images.values())):,}")
        features = {
            split: LabelledFeatures(extract_features(run.task.net, some.images, context.device), some.labels)
            for split, some in images.items()
        }
        classes = data.classes if other is None else other.classes
        choices = self._choose_classifiers(features, len(classes))
        own: dict[str, Tensor] | None = None
        if choices and other is None:
            own = {name: predict(run.task, images[name], context.device).probabilities for name in {"val", self.split}}
        results = self._judge(features, choices, own, classes, other)
        provenance = {"run": str(run.directory.path), "weights": str(run.weights), "images": self.images}
        return self._report(results, features, provenance)

    def _select_images(self, run: Run, other: OtherImages | None) -> dict[str, LabelledImages]:
        """The images of each split that is looked at."""
        splits = ["train", "val", *(["test"] if self.split == "test" else [])]
        if other is not None:
            return {split: getattr(other.splits, split) for split in splits}
        return {split: select_evaluated_images(run.data, split, run.settings) for split in splits}

    def _choose_classifiers(self, features: Mapping[str, LabelledFeatures], num_classes: int) -> dict[Name, Choice]:
        """Every classifier, fitted on training images with the hyperparameters that validation images choose."""
        train, choices = features["train"], {}
        if len(train) > self.largest:
            train = train[make_stratified_order(train.labels, self.seed)[: self.largest]]
        for name in dict.fromkeys(self.classifiers):
            tried = len(list_settings(name, len(train)))
            logger.info("%s: %d settings on %s images …", NAMES[name], tried, f"{len(train):,}")
            choices[name] = choose_classifier(
                name, train, features["val"], num_classes, standardise=self.standardise, seed=self.seed
            )
        return choices

    def _judge(
        self,
        features: Mapping[str, LabelledFeatures],
        choices: Mapping[Name, Choice],
        own: Mapping[str, Tensor] | None,
        classes: list[str],
        other: OtherImages | None,
    ) -> FeatureResults:
        """Judges the classifiers and the last layer.

        Args:
            features: Features and labels by split.
            choices: The fitted classifiers by name.
            own: The net's probabilities on validation and judged images; None where its last layer does not apply.
            classes: Names, by label.
            other: The other set; None for the run's own data.
        """
        judged, val = features[self.split], features["val"]
        head = last_layer = best = None
        if own is not None:
            head = Scores.from_probabilities(own[self.split], judged.labels)
            last_layer = LastLayer(head.estimates, measure_classification(own["val"], val.labels)[CRITERION])
        results = judge_classifiers(choices, judged, len(classes), head)
        words = ""
        if results:
            best = find_best(results)
            words = verdict.summarise(best, last_layer, count_classes(judged.labels), SPLITS[self.split])
        return FeatureResults(
            split=self.split,
            file=FILE,
            dimensions=judged.features.shape[1],
            n={split: len(some) for split, some in features.items()},
            fitted_on=min(len(features["train"]), self.largest) if results else 0,
            standardise=self.standardise,
            classes=classes,
            images=self.images,
            md5=None if other is None else other.md5,
            converted={} if other is None else other.converted,
            last_layer=last_layer,
            classifiers=results,
            best=None if best is None else best.key,
            verdict=words,
            scikit_learn=importlib.metadata.version("scikit-learn"),
        )

    def _report(
        self, results: FeatureResults, features: Mapping[str, LabelledFeatures], provenance: Mapping[str, Any]
    ) -> Report:
        own_data, sizes = self.images is None, ", ".join(f"{split} {n:,}" for split, n in results.n.items())
        numbers = results.flatten()
        group = "features" if own_data else "transfer"  # of another set: never taken for a number of the run's own data
        file = functools.partial(write_features, features=features, classes=results.classes, provenance=provenance)
        values = {
            "words": verdict.WORDS,
            "rule": verdict.RULE,
            "metrics": METRICS,
            "judged": SPLITS[self.split],
            "describe": describe_settings,
        }
        return Report(
            results,
            split=self.split if own_data else None,
            verdict=[f"features: {results.dimensions} of each image ({sizes})", *filter(None, [results.verdict])],
            metrics={"split": self.split, group: numbers} if numbers else {},
            figures=self._draw(results, features),
            files={FILE: file},
            warnings=[FLATTERING] if self.split == "val" and results.classifiers else [],
            page=Page(Path(__file__).with_name("page.html.j2"), values),
        )

    def _draw(self, results: FeatureResults, features: Mapping[str, LabelledFeatures]) -> dict[str, Chart]:
        train, judged = features["train"].features, features[self.split]
        drawn = {"scores": figures.draw_scores(results)} if results.classifiers else {}
        plane = figures.project(train, judged.features, standardise=self.standardise, seed=self.seed)
        if plane is not None:
            drawn["projection"] = figures.draw_projection(plane, judged, results.classes)
        return drawn


def write_features(
    path: Path, features: Mapping[str, LabelledFeatures], classes: Sequence[str], provenance: Mapping[str, Any]
) -> None:
    """Writes an ``.npz``.

    It holds ``<split>_features (N, d) float32`` and ``<split>_labels (N,) int64`` of each split, in the order of its images;
    ``classes (K,)``, names by label; and ``provenance``, JSON text.
    """
    arrays: dict[str, Any] = {"classes": np.array(classes), "provenance": np.array(json.dumps(provenance))}
    for split, some in features.items():
        arrays[f"{split}_features"], arrays[f"{split}_labels"] = some.features.numpy(), some.labels.numpy()
    with path.open("wb") as file:
        np.savez(file, **arrays)
