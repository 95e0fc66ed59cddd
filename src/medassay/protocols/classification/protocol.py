"""A classifier's evaluation: decisions, intervals, calibration, mistakes and MedMNIST's numbers, in one report."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from matplotlib.figure import Figure
from torch import Tensor

from medassay.core.types import LabelledImages, NonNegativeInt
from medassay.evaluation.protocol import Combined, ComputeContext, Page, Protocol, Report
from medassay.metrics.calibration import CalibrationBins, bin_by_confidence
from medassay.metrics.chance import compare_with_chance
from medassay.metrics.scores import score_classification
from medassay.protocols.classification import figures
from medassay.protocols.classification.ensemble import KEPT, combine_evaluations, write_probabilities
from medassay.protocols.classification.measures import Calibration, ClassificationResults, find_mistakes, score_classes
from medassay.protocols.classification.medmnist_results import (
    compute_medmnist_scores,
    format_predictions,
    name_predictions_file,
)
from medassay.protocols.classification.threshold import Threshold, choose_threshold, name_group
from medassay.reporting.captions import add_captions
from medassay.reporting.charts import Chart
from medassay.reporting.classification import describe_chance, draw_confusion_matrix, draw_predictions, summarise_scores
from medassay.reporting.numbers import format_fixed
from medassay.runs.load import select_evaluated_images
from medassay.runs.run import Run
from medassay.tasks.predictions import Classifier, Predictions, predict

SCORES = {
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "specificity": "specificity",
    "auroc": "AUROC",
    "average_precision": "average precision",
}
FLATTERING = (
    "Validation images also chose the epoch and the threshold, so their numbers are too good: "
    "use them to compare settings only."
)


@dataclass(frozen=True)
class ClassifierScores(Protocol):
    """How good a classifier is.

    Attributes:
        name: Name of the protocol.
        split: Split to judge by.
        mistakes: Number of the most confident mistakes that are shown, at most.
    """

    requires: ClassVar[type] = Classifier
    name: str = "classification"
    split: Literal["test", "val"] = "test"
    mistakes: NonNegativeInt = 16

    def run(self, run: Run, context: ComputeContext) -> Report:
        """Judges a classifier's finished run."""
        data, split = run.data, self.split
        judged = self._predict(run, context.device)
        predictions, images = judged[split]
        scores = score_classification(predictions.probabilities, predictions.labels)
        per_class, macro = score_classes(predictions, scores)
        bins = bin_by_confidence(predictions.probabilities, predictions.labels)
        results = ClassificationResults(
            split=split,
            n=len(images),
            scores=scores,
            per_class=per_class,
            macro=macro,
            threshold=choose_threshold(predictions, judged["val"][0] if "val" in judged else None),
            calibration=Calibration(bins.ece, *(column.tolist() for column in bins)),
            mistakes=find_mistakes(predictions, data.classes, self.mistakes),
            medmnist=compute_medmnist_scores(data, split, predictions),
            predictions=name_predictions_file(data, split, scores, run.config["seed"]),
        )
        mistaken = images.images[[mistake.index for mistake in results.mistakes.shown]]
        chance = compare_with_chance(scores)
        verdict = [] if chance.passed else [f"not shown to be above chance: {describe_chance(chance)}"]
        verdict.append(f"{split}: {summarise_scores(scores)}")
        metrics: dict[str, Any] = {split: scores}
        if isinstance(results.threshold, Threshold):
            verdict.append(results.threshold.summary)
            decided = results.threshold.scores.to_json()
            metrics[name_group(split)] = {"value": results.threshold.value, **decided}
        return Report(
            results,
            split=split,
            verdict=verdict,
            metrics=metrics,
            figures=_draw(results, predictions, bins, mistaken, data.classes),
            files={
                results.predictions: format_predictions(predictions.probabilities),
                KEPT: functools.partial(write_probabilities, judged=judged),
            },
            warnings=[FLATTERING] if split == "val" else [],
            page=Page(Path(__file__).with_name("page.html.j2"), {"scores": SCORES, "mistaken": mistaken}),
            outcome="good" if chance.passed else "bad" if chance.enough else "undecided",
        )

    def combine(self, directories: Sequence[Path]) -> Combined | None:
        """The ensemble of the nets, see :mod:`medassay.protocols.classification.ensemble`."""
        return combine_evaluations(directories, self.split)

    def _predict(self, run: Run, device: torch.device) -> dict[str, tuple[Predictions, LabelledImages]]:
        """Predictions and images of the split, and of the validation images where a threshold is chosen on them."""
        splits = [self.split, *(["val"] if run.data.num_classes == 2 and self.split != "val" else [])]
        judged = {}
        for name in splits:
            images = select_evaluated_images(run.data, name, run.settings)
            judged[name] = predict(run.task, images, device), images
        return judged


def _draw(
    results: ClassificationResults,
    predictions: Predictions,
    bins: CalibrationBins,
    mistaken: Tensor,
    classes: Sequence[str],
) -> dict[str, Figure | Chart]:
    """The charts of the page and the pictures that are files only, by file name."""
    areas = zip(classes, results.per_class["auroc"], strict=True)
    described = {
        "roc": f"ROC curves. Areas: {'; '.join(f'{name} {format_fixed(area.value)}' for name, area in areas)}.",
        "precision_recall": "Precision against recall.",
        "calibration": f"Accuracy against confidence; ECE {format_fixed(results.calibration.ece)}.",
    }
    drawn = draw_predictions(predictions.probabilities, predictions.labels, results.scores, classes)
    drawn["calibration"] = figures.draw_reliability_diagram(bins, len(classes))
    if isinstance(results.threshold, Threshold):
        drawn["confusion_matrix_youden"] = draw_confusion_matrix(results.threshold.scores.confusion, classes)
    if shown := results.mistakes.shown:
        captions = [
            (f"true: {one.true}", f"predicted: {one.predicted}", f"p = {one.probability:.4f}   (image {one.index})")
            for one in shown
        ]
        drawn["mistakes"] = add_captions(mistaken, captions, columns=8)
    return {
        f"{results.split}_{name}": Chart(figure, described[name]) if name in described else figure
        for name, figure in drawn.items()
    }
