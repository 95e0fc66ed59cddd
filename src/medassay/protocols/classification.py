"""A classifier's numbers and pictures on one split: the short form, which training leaves too."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from medassay.core.types import LabelledImages, NonNegativeInt
from medassay.data.loader import ResidentLoader
from medassay.data.modules import ImageDataModule
from medassay.metrics.classification import bootstrap_intervals, classification_metrics
from medassay.reporting import figures
from medassay.runs.load import Run, device_for
from medassay.training.settings import TrainerSettings

logger = logging.getLogger(__name__)

BATCH = 256  # images at a time; predictions do not depend on it beyond rounding


@dataclass(frozen=True)
class ClassificationSettings:
    """What to evaluate on.

    Attributes:
        name: of the protocol.
        split: the images to judge by.
        mistakes: the most confident ones that are shown, at most.
    """

    name: Literal["classification"] = "classification"
    split: Literal["test", "val"] = "test"
    mistakes: NonNegativeInt = 16


@dataclass(frozen=True)
class Predictions:
    """Class probabilities ``(N, K) float32`` and labels ``(N,) int64`` of one split, on the CPU."""

    probabilities: Tensor
    labels: Tensor


@torch.no_grad()
def predict(task: nn.Module, split: LabelledImages, device: torch.device) -> Predictions:
    """Softmax probabilities of every image of ``split``; the task is left in evaluation mode on ``device``."""
    task.to(device).eval()
    parts = [
        task(images).softmax(1, dtype=torch.float32).cpu() for images, _ in ResidentLoader(split, BATCH, device=device)
    ]
    return Predictions(torch.cat(parts), split.labels)


def results(predictions: Predictions) -> dict[str, Any]:
    """All metrics with their 95 % bootstrap intervals (1000 resamples of the images), and the number of images."""
    values = classification_metrics(predictions.probabilities, predictions.labels)
    intervals = bootstrap_intervals(predictions.probabilities, predictions.labels)
    return {"n": len(predictions.labels), **values, "interval_95": {k: list(v) for k, v in intervals.items()}}


def pictures(
    directory: Path, split: str, predictions: Predictions, values: dict[str, Any], classes: list[str]
) -> list[Path]:
    """Confusion matrix, ROC and precision-recall curves as ``<split>_*.png`` in ``directory``."""
    drawn = {
        "confusion_matrix": figures.confusion_matrix(values["confusion"], classes),
        "roc": figures.roc_curves(predictions.probabilities, predictions.labels, classes),
        "precision_recall": figures.pr_curves(predictions.probabilities, predictions.labels, classes),
    }
    paths = []
    for name, figure in drawn.items():
        paths.append(directory / f"{split}_{name}.png")
        figures.save(figure, paths[-1])
    return paths


def images_of(data: ImageDataModule, split: str, settings: TrainerSettings) -> LabelledImages:
    """A split's images; of a run cut short by ``limit_batches`` the first ones only, as in training."""
    images = data.split(split)
    return images if settings.limit_batches is None else images[: settings.limit_batches * data.batch_size]


def report(
    task: nn.Module, data: ImageDataModule, split: str, settings: TrainerSettings, directory: Path
) -> tuple[dict[str, Any], list[Path]]:
    """Predicts, measures, draws and says the numbers of one split; gives them and the pictures in ``directory``.

    Of a run cut short by ``limit_batches`` the split is cut the same way.
    """
    predictions = predict(task, images_of(data, split, settings), device_for(settings))
    values = results(predictions)
    paths = pictures(directory, split, predictions, values, data.classes)
    logger.info("%s: %s", split, summary(values))
    return values, paths


def classification_run(
    run: Run, settings: ClassificationSettings, directory: Path, record: dict[str, Any], outputs: Path
) -> None:
    """All numbers of a classifier's finished run, with a page that shows them; training leaves the short form only.

    Raises:
        OutputError: a file cannot be written.
    """
    from medassay.protocols.classification_report import write  # which builds on this module

    write(run, settings, directory, record)


def summary(values: dict[str, Any]) -> str:
    """The headline numbers in one line."""
    shown = []
    for name in ("accuracy", "balanced_accuracy", "auroc", "f1"):
        low, high = values["interval_95"][name]
        shown.append(f"{name.replace('_', ' ')} {values[name]:.3f} [{low:.3f}, {high:.3f}]")
    return f"{', '.join(shown)} (n = {values['n']}, 95 % bootstrap intervals)"
