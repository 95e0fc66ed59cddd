"""Results as MedMNIST has them: its evaluator's numbers, and files of predictions in its naming and format.

Source: Yang et al., "MedMNIST v2", Scientific Data 2023, and ``medmnist.Evaluator``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medassay import config as configuration
from medassay.core.files import whole
from medassay.data.modules import ImageDataModule, MedMNISTData, SyntheticData
from medassay.protocols.classification import Predictions


def medmnist_scores(data: ImageDataModule, split: str, predictions: Predictions) -> dict[str, Any] | None:
    """AUC and ACC by the functions of ``medmnist.Evaluator``; None where the images are of no MedMNIST set.

    None, too, where a class has no images: the AUC is not defined then.
    """
    source = source_of(data, split)
    if (
        not isinstance(source, MedMNISTData)
        or int(torch.bincount(predictions.labels, minlength=source.num_classes).min()) == 0
    ):
        return None
    import medmnist  # slow: it imports torchvision, scikit-learn and pandas
    from medmnist.evaluator import getACC, getAUC

    info = medmnist.INFO[source.flag]
    if len(info["label"]) != source.num_classes:
        return None
    labels, scores = predictions.labels[:, None].numpy(), predictions.probabilities.numpy()
    found = {name: float(score(labels, scores, info["task"])) for name, score in (("AUC", getAUC), ("ACC", getACC))}
    return {"flag": source.flag, "version": medmnist.__version__, **found}


def predictions_name(data: ImageDataModule, split: str, values: dict[str, Any], seed: int) -> str:
    """MedMNIST's name of a file of predictions: ``{flag}{_size}_{split}_[AUC]…_[ACC]…@{seed}.csv``."""
    source = source_of(data, split)
    flag, size = configuration.slug(str(data.name)), ""
    if isinstance(source, MedMNISTData):
        flag, size = source.flag, "" if source.size == 28 else f"_{source.size}"
    return f"{flag}{size}_{split}_[AUC]{values['auroc']:.3f}_[ACC]{values['accuracy']:.3f}@{seed}.csv"


def write_predictions(path: Path, probabilities: Tensor) -> None:
    """Lines of index and one probability per class, without a header, as ``medmnist.Evaluator`` writes and reads them."""
    lines = (",".join(map(str, [i, *row])) for i, row in enumerate(probabilities.numpy()))
    with whole(path) as partial:
        partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def source_of(data: ImageDataModule, split: str) -> ImageDataModule:
    """The data set whose images the split's are."""
    return data.real if isinstance(data, SyntheticData) and split == "test" else data
