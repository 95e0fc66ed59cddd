"""The scores and pictures of a fitted curve on one split: what training leaves."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor, nn

from medassay.core.types import Curve, Regressor
from medassay.data.curves.modules import CurveData
from medassay.metrics.curves import CurveScores, score_curve
from medassay.reporting import figures
from medassay.reporting.curves import CurveView, draw_curve, make_grid
from medassay.reporting.numbers import format_fixed, format_significant
from medassay.runs.load import choose_device
from medassay.training.settings import TrainerSettings

logger = logging.getLogger(__name__)


def select_points(data: CurveData, split: str, settings: TrainerSettings) -> Curve:
    """A split's points; of a run cut short by ``limit_batches`` the first ones only, as in training."""
    curve = data.split(split)
    return curve if settings.limit_batches is None else curve[: settings.limit_batches * data.batch_size]


def predict_values(task: nn.Module, x: Tensor, device: torch.device) -> Tensor:
    """Answers ``(N, 1)`` at ``x (N, 1)``, on the CPU; the task is left in evaluation mode on ``device``."""
    assert isinstance(task, Regressor)
    task.to(device).eval()
    return task.regress(x.to(device)).cpu()


def score_split(
    task: nn.Module, data: CurveData, split: str, settings: TrainerSettings, directory: Path
) -> tuple[CurveScores, list[Path]]:
    """Measures, draws and says the scores of one split; gives them and the pictures in ``directory``."""
    curve, device = select_points(data, split, settings), choose_device(settings)
    scores = score_curve(predict_values(task, curve.x, device), curve, data.splits.train)
    path = directory / f"{split}_curve.png"
    figures.save_figure(draw_curve(view_curve(task, data, curve, device)).figure, path)
    logger.info("%s: %s", split, describe_scores(scores, data))
    return scores, [path]


def view_curve(task: nn.Module, data: CurveData, curve: Curve, device: torch.device) -> CurveView:
    """What a picture shows of a fitted curve beside the points of ``curve``: both over the range of these points."""
    grid = make_grid(float(curve.x.min()), float(curve.x.max()))
    return CurveView(
        curve, grid, predict_values(task, grid, device), data.x_axis.label, data.y_axis.label, data.compute_truth(grid)
    )


def describe_scores(scores: CurveScores, data: CurveData) -> str:
    """The numbers in a line."""
    unit = f" {data.y_axis.unit}" if data.y_axis.unit and data.y_axis.scale == 1 else ""
    return (
        f"root of the mean squared error {format_significant(scores.rmse)}{unit}, squared error "
        f"{format_fixed(scores.ratio, 2)} times the difference between beats ({len(scores.beats)} beats)"
    )
