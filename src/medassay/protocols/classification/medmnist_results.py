"""Results as MedMNIST has them: its evaluator's numbers, and files of predictions in its naming and format.

Source: Yang et al., "MedMNIST v2", Scientific Data 2023, and ``medmnist.Evaluator``.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from medassay import config as configuration
from medassay.data.modules import LabelledData
from medassay.data.sources import MedMNISTFile
from medassay.metrics.scores import ClassificationScores
from medassay.tasks.predictions import Predictions


@dataclass(frozen=True)
class EvaluatorScores:
    """Numbers by the functions of ``medmnist.Evaluator``: MedMNIST's name of the set, and the package's version."""

    flag: str
    version: str
    AUC: float
    ACC: float


def compute_medmnist_scores(data: LabelledData, split: str, predictions: Predictions) -> EvaluatorScores | None:
    """AUC and ACC by the functions of ``medmnist.Evaluator``; None where the images are of no MedMNIST set.

    None, too, where a class has no images: the AUC is not defined then.
    """
    judged = data.data_of(split)
    source = judged.source
    if not isinstance(source, MedMNISTFile) or len(set(predictions.labels.tolist())) < judged.num_classes:
        return None
    import medmnist  # slow: it imports torchvision, scikit-learn and pandas
    from medmnist.evaluator import getACC, getAUC

    info = medmnist.INFO[source.flag]
    if len(info["label"]) != judged.num_classes:
        return None
    labels, scores = predictions.labels[:, None].numpy(), predictions.probabilities.numpy()
    auc, acc = (float(score(labels, scores, info["task"])) for score in (getAUC, getACC))
    return EvaluatorScores(source.flag, medmnist.__version__, auc, acc)


def name_predictions_file(data: LabelledData, split: str, scores: ClassificationScores, seed: int) -> str:
    """MedMNIST's name of a file of predictions: ``{flag}{_size}_{split}_[AUC]…_[ACC]…@{seed}.csv``."""
    judged = data.data_of(split)
    flag, size = configuration.make_slug(str(data.name)), ""
    if isinstance(judged.source, MedMNISTFile):
        flag, size = judged.source.flag, "" if judged.size == 28 else f"_{judged.size}"
    values = scores.values
    return f"{flag}{size}_{split}_[AUC]{values['auroc']:.3f}_[ACC]{values['accuracy']:.3f}@{seed}.csv"


def format_predictions(probabilities: Tensor) -> str:
    """Lines of index and one probability per class, without a header, as ``medmnist.Evaluator`` writes and reads them."""
    return "".join(f"{','.join(map(str, [i, *row]))}\n" for i, row in enumerate(probabilities.numpy()))
