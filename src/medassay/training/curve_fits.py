"""What a net that fits a curve has learnt, every few epochs, and all of it as an animation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger

from medassay.core.types import PositiveInt, Regressor
from medassay.data.curves.modules import CurveData
from medassay.reporting import figures
from medassay.reporting.curves import CurveView, draw_curve, make_grid, write_animation
from medassay.reporting.tensorboard import add_picture
from medassay.training.callbacks import Pictures

NAME = "curve_epoch_"


@dataclass(eq=False)
class CurveFits(Pictures):
    """Shows the net's curve over the training beats, before the first epoch and every few after it; only for a curve.

    The last one comes with an animation of all, ``figures/curve.gif``.

    Args:
        every_n_epochs: Number of epochs from one picture to the next; the last epoch's picture is always drawn.
        points: Number of places where the curve is computed.
        interval: Ends of what is drawn, in the units of x; None for those of the training beats.
    """

    every_n_epochs: PositiveInt = 5
    points: PositiveInt = 400
    interval: tuple[float, float] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trained = not getattr(pl_module, "frozen", False)
        if trained and trainer.current_epoch == 0 and trainer.is_global_zero:
            self.draw(trainer, pl_module, 0)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        folder = Path(trainer.default_root_dir) / "figures"
        drawn = {int(file.stem.removeprefix(NAME)): file for file in folder.glob(f"{NAME}*.png")}
        frames = [drawn[epoch] for epoch in sorted(drawn) if epoch <= trainer.current_epoch]
        if isinstance(pl_module, Regressor) and len(frames) > 1 and trainer.is_global_zero:
            write_animation(frames, folder / "curve.gif")

    def draw(self, trainer: Trainer, pl_module: LightningModule, epoch: int) -> None:
        if not isinstance(pl_module, Regressor):
            return
        data: CurveData = trainer.datamodule  # type: ignore[attr-defined]
        train = data.splits.train
        low, high = self.interval or (float(train.x.min()), float(train.x.max()))
        grid = make_grid(low, high, self.points)
        with torch.inference_mode():
            answers = pl_module.regress(grid.to(pl_module.device)).float().cpu()
        labels, truth = (data.x_axis.label, data.y_axis.label), data.compute_truth(grid)
        view = CurveView(train, grid, answers, *labels, truth, describe_epoch(pl_module, epoch))
        file = Path(trainer.default_root_dir) / "figures" / f"{NAME}{epoch:04d}.png"
        figures.save_figure(draw_curve(view).figure, file)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                add_picture(logger.experiment, "curve", file, trainer.global_step)


def describe_epoch(task: LightningModule, epoch: int) -> str:
    """What the curve is of, for a title."""
    if getattr(task, "frozen", False):
        return "the weights as given"
    return "before training" if epoch == 0 else f"after {epoch} {'epoch' if epoch == 1 else 'epochs'}"
