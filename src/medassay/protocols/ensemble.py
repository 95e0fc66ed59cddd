"""An ensemble of classifiers that differ in their seed: their probabilities averaged, judged as one net's.

Source: Lakshminarayanan, Pritzel & Blundell, "Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles",
NeurIPS 2017, equation for classification in section 2.4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from medassay.core.files import whole
from medassay.core.types import LabelledImages
from medassay.data.given import digest
from medassay.protocols.classification import Predictions, results
from medassay.protocols.decision import by_threshold

KEPT = "probabilities.npz"  # in the directory of a classifier's evaluation


class Judged(NamedTuple):
    """A net's predictions on one split, and the digest of the images and labels that they are of."""

    predictions: Predictions
    images: str


def keep(directory: Path, judged: Mapping[str, tuple[Predictions, LabelledImages]]) -> None:
    """Leaves the probabilities for ensembles in ``directory``: per split ``<split>_probabilities (N, K) float32``, its
    labels, and the digest of its images.

    Raises:
        OutputError: the file cannot be written.
    """
    arrays: dict[str, Any] = {}
    for split, (predictions, images) in judged.items():
        arrays[f"{split}_probabilities"] = predictions.probabilities.numpy()
        arrays[f"{split}_labels"] = predictions.labels.numpy()
        arrays[f"{split}_images"] = digest(images)
    with whole(directory / KEPT) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)


def kept(directory: Path) -> dict[str, Judged]:
    """What :func:`keep` left, by split; empty where it left nothing."""
    if not (directory / KEPT).is_file():
        return {}
    with np.load(directory / KEPT) as arrays:
        return {
            split: Judged(
                Predictions(*(torch.from_numpy(arrays[f"{split}_{name}"]) for name in ("probabilities", "labels"))),
                str(arrays[f"{split}_images"]),
            )
            for split in ("val", "test")
            if f"{split}_images" in arrays
        }


def averaged(members: Sequence[Judged | None]) -> Predictions | None:
    """The mean of the members' probabilities; None where one is missing or they are not of the same images."""
    found = [member for member in members if member is not None]
    if len(found) < len(members) or len({member.images for member in found}) != 1:
        return None
    mean = torch.stack([member.predictions.probabilities for member in found]).double().mean(0)
    return Predictions(mean.float(), found[0].predictions.labels)


def ensemble(directories: Sequence[Path], split: str) -> dict[str, Any] | None:
    """The ensemble of the nets whose evaluations on ``split`` are in ``directories``, with a single net's numbers.

    None of a single net, and where the evaluations left no probabilities; ``{"none": why}`` of nets that cannot be
    averaged. The threshold is chosen on validation images by the ensemble's own probabilities.
    """
    members = [kept(directory) for directory in directories]
    if len(members) < 2 or not all(members):
        return None
    predictions = averaged([member.get(split) for member in members])
    if predictions is None:
        return {"none": "No ensemble: the nets were not judged on the same images."}
    validation = averaged([member.get("val") for member in members])
    return {
        "nets": len(members),
        "split": split,
        "metrics": results(predictions),
        "threshold": by_threshold(predictions, validation),
    }
