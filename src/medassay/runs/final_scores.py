"""A classifier's scores and pictures on one split: what training leaves."""

from __future__ import annotations

import logging
from pathlib import Path

from torch import nn

from medassay.data.modules import LabelledData
from medassay.metrics.scores import ClassificationScores, score_classification
from medassay.reporting import figures
from medassay.reporting.classification import draw_predictions, summarise_scores
from medassay.runs.load import choose_device, select_evaluated_images
from medassay.tasks.predictions import predict
from medassay.training.settings import TrainerSettings

logger = logging.getLogger(__name__)


def score_split(
    task: nn.Module, data: LabelledData, split: str, settings: TrainerSettings, directory: Path
) -> tuple[ClassificationScores, list[Path]]:
    """Predicts, measures, draws and says the scores of one split; gives them and the pictures in ``directory``.

    Of a run cut short by ``limit_batches`` the split is cut the same way.
    """
    predictions = predict(task, select_evaluated_images(data, split, settings), choose_device(settings))
    scores = score_classification(predictions.probabilities, predictions.labels)
    drawn = draw_predictions(predictions.probabilities, predictions.labels, scores, data.classes)
    paths = [directory / f"{split}_{name}.png" for name in drawn]
    for path, figure in zip(paths, drawn.values(), strict=True):
        figures.save_figure(figure, path)
    logger.info("%s: %s", split, summarise_scores(scores))
    return scores, paths
