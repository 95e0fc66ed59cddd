"""An ensemble of classifiers that differ in their seed: their probabilities averaged, judged as one net's.

Source: Lakshminarayanan, Pritzel & Blundell, "Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles",
NeurIPS 2017, equation for classification in section 2.4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from medassay.core.types import LabelledImages
from medassay.data.given import compute_digest
from medassay.evaluation.protocol import Combined
from medassay.metrics.scores import ClassificationScores, score_classification
from medassay.protocols.classification.threshold import NoThreshold, Threshold, choose_threshold, list_threshold_numbers
from medassay.tasks.predictions import Predictions

NOTE = (
    "The ensemble is one classifier: the mean of the nets' softmax probabilities for each image (Lakshminarayanan et al. "
    "2017), with 95 % bootstrap intervals over the images. It is not part of the mean ± sd, and needs all these nets to run."
)
KEPT = "probabilities.npz"  # in the directory of a classifier's evaluation


class Judged(NamedTuple):
    """A net's predictions on one split, and the digest of the images and labels that they are of."""

    predictions: Predictions
    images: str


@dataclass(frozen=True)
class Ensemble:
    """A number of nets as one: scores of their averaged probabilities, and the decision by a threshold that these choose."""

    nets: int
    split: str
    scores: ClassificationScores = field(metadata={"name": "metrics"})
    threshold: Threshold | NoThreshold


def write_probabilities(path: Path, judged: Mapping[str, tuple[Predictions, LabelledImages]]) -> None:
    """Writes what ensembles need: per split ``<split>_probabilities (N, K) float32``, its labels, and its images' digest."""
    arrays: dict[str, Any] = {}
    for split, (predictions, images) in judged.items():
        arrays[f"{split}_probabilities"] = predictions.probabilities.numpy()
        arrays[f"{split}_labels"] = predictions.labels.numpy()
        arrays[f"{split}_images"] = compute_digest(images)
    with path.open("wb") as file:
        np.savez(file, **arrays)


def read_probabilities(directory: Path) -> dict[str, Judged]:
    """What :func:`write_probabilities` left in an evaluation's directory, by split; empty where it left nothing."""
    judged: dict[str, Judged] = {}
    if (directory / KEPT).is_file():
        with np.load(directory / KEPT) as arrays:
            for split in (name for name in ("val", "test") if f"{name}_images" in arrays):
                tensors = (torch.from_numpy(arrays[f"{split}_{name}"]) for name in ("probabilities", "labels"))
                judged[split] = Judged(Predictions(*tensors), str(arrays[f"{split}_images"]))
    return judged


def average_predictions(members: Sequence[Judged | None]) -> Predictions | None:
    """The mean of the members' probabilities; None where one is missing or they are not of the same images."""
    present = [member for member in members if member is not None]
    if len(present) < len(members) or len({member.images for member in present}) != 1:
        return None
    mean = torch.stack([member.predictions.probabilities for member in present]).double().mean(0)
    return Predictions(mean.float(), present[0].predictions.labels)


def combine_evaluations(directories: Sequence[Path], split: str) -> Combined | None:
    """The ensemble of the nets whose evaluations on ``split`` are in ``directories``.

    None of a single net, and where the evaluations left no probabilities.
    """
    members = [read_probabilities(directory) for directory in directories]
    if len(members) < 2 or not all(members):
        return None
    name = f"ensemble of {len(members)} nets (their probabilities averaged)"
    predictions = average_predictions([member.get(split) for member in members])
    if predictions is None:
        return Combined(name, none="No ensemble: the nets were not judged on the same images.")
    threshold = choose_threshold(predictions, average_predictions([member.get("val") for member in members]))
    scores = score_classification(predictions.probabilities, predictions.labels)
    numbers = {f"{split}/{key}": estimate for key, estimate in scores.estimates.items()}
    if isinstance(threshold, Threshold):
        numbers |= list_threshold_numbers(threshold, split)
        chosen = "Its threshold is chosen on validation images by its own probabilities."
    else:
        chosen = threshold.none
    return Combined(name, numbers, note=f"{NOTE} {chosen}", results=Ensemble(len(members), split, scores, threshold))
