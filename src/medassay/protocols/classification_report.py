"""The long form of a classifier's evaluation: decisions, intervals, calibration, mistakes, MedMNIST's numbers; a page."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from medassay.core.files import whole, write_json
from medassay.core.types import LabelledImages
from medassay.data.modules import SyntheticData
from medassay.metrics.calibration import CalibrationBins, calibration_bins
from medassay.metrics.classification import class_intervals
from medassay.protocols import ensemble, pages
from medassay.protocols.classification import (
    ClassificationSettings,
    Predictions,
    images_of,
    logger,
    pictures,
    predict,
    results,
    summary,
)
from medassay.protocols.decision import DECISIONS, by_threshold, threshold_summary
from medassay.protocols.medmnist_results import medmnist_scores, predictions_name, source_of, write_predictions
from medassay.reporting import classification_figures, figures, html
from medassay.reporting.tensorboard import add_results
from medassay.runs.directory import environment
from medassay.runs.load import Run, device_for

SCORES = {
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "specificity": "specificity",
    "auroc": "AUROC",
    "average_precision": "average precision",
}


def write(run: Run, settings: ClassificationSettings, directory: Path, record: dict[str, Any]) -> None:
    """Judges ``run`` and leaves all numbers, tables, pictures and the page in ``directory``.

    ``metrics.json`` has the record and the split's values, as a run's own; ``classification.json`` has all; then
    ``report.html``, ``figures/``, ``tensorboard/``, the probabilities in MedMNIST's format and those that ensembles need.

    Raises:
        OutputError: a file cannot be written.
    """
    split, data, device = settings.split, run.data, device_for(run.settings)
    images = images_of(data, split, run.settings)
    predictions = predict(run.task, images, device)
    judged: dict[str, tuple[Predictions, LabelledImages]] = {split: (predictions, images)}
    if data.num_classes == 2 and split != "val":  # which a threshold is chosen on
        val = images_of(data, "val", run.settings)
        judged["val"] = predict(run.task, val, device), val
    values = results(predictions)
    per_class, macro = class_intervals(predictions.probabilities, predictions.labels)
    bins = calibration_bins(predictions.probabilities, predictions.labels)
    wrong = confident_mistakes(predictions)
    shown = wrong[: settings.mistakes]
    found: dict[str, Any] = {
        **record,
        **_about(run, split),
        "split": split,
        "n": len(images),
        "metrics": values,
        "class_intervals_95": per_class,
        "macro": macro_scores(values, macro),
        "threshold": by_threshold(predictions, judged["val"][0] if "val" in judged else None),
        "calibration": {"ece": bins.ece, **{name: column.tolist() for name, column in bins._asdict().items()}},
        "mistakes": {"count": len(wrong), "shown": [_mistake(predictions, i, data.classes) for i in shown.tolist()]},
        "medmnist": medmnist_scores(data, split, predictions),
        "predictions": predictions_name(data, split, values, run.config["seed"]),
    }
    write_json(directory / "metrics.json", {**record, split: values})
    write_json(directory / "classification.json", found)
    write_predictions(directory / found["predictions"], predictions.probabilities)
    ensemble.keep(directory, judged)
    drawn = pictures(directory / "figures", split, predictions, values, data.classes)
    page = Page(found, predictions, bins, images.images[shown])
    drawn += _pictures(directory / "figures", page)
    _tensorboard(directory / "tensorboard", found, drawn)
    with whole(directory / "report.html") as partial:
        partial.write_text(page.html(), encoding="utf-8", newline="\n")
    logger.info("%s: %s", split, summary(values))
    if "value" in found["threshold"]:
        logger.info("%s", threshold_summary(found["threshold"]))
    logger.info("report: %s", directory / "report.html")


def _about(run: Run, split: str) -> dict[str, Any]:
    """What was judged and where."""
    trained = run.directory.metrics()
    return {
        "name": run.directory.path.resolve().name,
        "model": run.config["model"]["name"],
        "data": source_of(run.data, split).provenance(),  # known once the images were read
        "generated": isinstance(run.data, SyntheticData),
        "classes": run.data.classes,
        "seed": run.config["seed"],
        "weights": {"epoch": trained.get("best_epoch"), "chosen_by": trained.get("chosen_by")},
        "environment": environment(),
    }


# --- decisions -------------------------------------------------------------------------------------------------------


def macro_scores(values: dict[str, Any], intervals: dict[str, tuple[float, float]]) -> dict[str, dict[str, float]]:
    """The means over the classes that have images, ``{name: {"mean", "low", "high"}}``."""
    scores = {}
    for name, (low, high) in intervals.items():
        known = [value for value in values["per_class"][name] if not math.isnan(value)]
        scores[name] = {"mean": sum(known) / len(known) if known else math.nan, "low": low, "high": high}
    return scores


def confident_mistakes(predictions: Predictions) -> Tensor:
    """The indices of wrong decisions, the most confident first, equal ones in the order of the images."""
    confidence, decision = predictions.probabilities.max(1)
    wrong = (decision != predictions.labels).nonzero().squeeze(1)
    return wrong[confidence[wrong].sort(descending=True, stable=True).indices]


def _mistake(predictions: Predictions, index: int, classes: list[str]) -> dict[str, Any]:
    probabilities = predictions.probabilities[index]
    decision = int(probabilities.argmax())
    return {
        "index": index,
        "true": classes[int(predictions.labels[index])],
        "predicted": classes[decision],
        "probability": float(probabilities[decision]),
        "probabilities": probabilities.tolist(),
    }


# --- what is left behind ---------------------------------------------------------------------------------------------


def _pictures(directory: Path, page: Page) -> list[Path]:
    """The pictures that training does not leave."""
    split, classes, threshold = page.found["split"], page.found["classes"], page.found["threshold"]
    drawn: dict[str, Figure] = {"calibration": page.calibration()}
    if "value" in threshold:
        drawn["confusion_matrix_youden"] = figures.confusion_matrix(threshold["metrics"]["confusion"], classes)
    if mistakes := page.found["mistakes"]["shown"]:
        captions = [
            (f"true: {m['true']}", f"said: {m['predicted']}", f"p = {m['probability']:.4f}   (image {m['index']})")
            for m in mistakes
        ]
        drawn["mistakes"] = classification_figures.captioned(page.mistaken, captions, columns=8)
    paths = []
    for name, figure in drawn.items():
        paths.append(directory / f"{split}_{name}.png")
        figures.save(figure, paths[-1])
    return paths


def _tensorboard(directory: Path, found: dict[str, Any], drawn: list[Path]) -> None:
    values, split = found["metrics"], found["split"]
    threshold = {"threshold": threshold_summary(found["threshold"])} if "value" in found["threshold"] else {}
    add_results(
        directory,
        step=0,
        pictures=drawn,
        text={"summary": summary(values), **threshold},
        hyperparameters={"model": found["model"], "data": found["data"]["name"], "seed": found["seed"], "split": split},
        metrics={f"{split}/{name}": value for name, value in values.items() if isinstance(value, float)},
    )


@dataclass(frozen=True)
class Page:
    """What ``report.html`` shows.

    Attributes:
        found: the results as plain values.
        predictions: of the split.
        bins: of its confidences.
        mistaken: ``(M, C, H, W) uint8``, the mistakes shown.
    """

    found: dict[str, Any]
    predictions: Predictions
    bins: CalibrationBins
    mistaken: Tensor

    def calibration(self) -> Figure:
        return classification_figures.reliability_diagram(self.bins, len(self.found["classes"]))

    def html(self) -> str:
        """The page."""
        found, classes = self.found, self.found["classes"]
        probabilities, labels = self.predictions.probabilities, self.predictions.labels
        auroc = "; ".join(
            f"{name} {html.fixed(value)}"
            for name, value in zip(classes, found["metrics"]["per_class"]["auroc"], strict=True)
        )
        charts = {
            "roc": (figures.roc_curves(probabilities, labels, classes), f"ROC curves. Areas: {auroc}."),
            "pr": (figures.pr_curves(probabilities, labels, classes), "Precision against recall."),
            "calibration": (
                self.calibration(),
                f"Accuracy against confidence; ECE {html.fixed(found['calibration']['ece'])}.",
            ),
        }
        return html.page(
            "classification.html.j2",
            found=found,
            values=found["metrics"],
            warnings=self.warnings(),
            scores=SCORES,
            decisions=decision_rows(found),
            charts={name: html.svg(figure, name, text) for name, (figure, text) in charts.items()},
            mistaken=self.mistaken,
            command=pages.command(found),
            provenance=dict(pages.flat(found["data"])),
            environment=dict(pages.flat(found["environment"])),
        )

    def warnings(self) -> list[str]:
        """What a reader must know before any number."""
        found = self.found
        synthetic = val = other = None
        if found["generated"]:
            judged = (
                "the validation images are generated too" if found["split"] == "val" else "the test images are real"
            )
            synthetic = f"The model learnt from generated images only; {judged}."
        if found["split"] == "val":
            val = "Validation images chose the epoch and the threshold: their numbers are too good, use them for a search only."
        if {"data.file", "data.path"} & set(found.get("overrides") or {}):
            other = "The data were named anew for this evaluation; they may be others than the run's own."
        return list(pages.said(pages.origin(found["data"]), other, synthetic, val, pages.unfinished(found)))


def decision_rows(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of the table of decisions: a metric, by the largest probability and, where there is one, by the threshold."""
    columns = [found["metrics"]]
    if "value" in found["threshold"]:
        columns.append(found["threshold"]["metrics"])
    names = [*DECISIONS, *(f"macro_{name}" for name in DECISIONS if f"macro_{name}" in found["metrics"])]
    return [
        {
            "name": name.replace("_", " ").replace("f1", "F1"),
            "cells": [
                {"mean": c[name], "low": c["interval_95"][name][0], "high": c["interval_95"][name][1]} for c in columns
            ],
        }
        for name in names
    ]
