"""How far a training is: bars on a terminal, a line for each epoch elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.callbacks.progress.tqdm_progress import Tqdm
from torch import Tensor

logger = logging.getLogger(__name__)


class EpochBar(TQDMProgressBar):
    """Lightning's bars on standard error, with epochs counted from 1 and without the logger's version."""

    def init_train_tqdm(self) -> Tqdm:
        return self._make_bar(self.train_description, position=0, leave=True)

    def init_validation_tqdm(self) -> Tqdm:
        return self._make_bar(self.validation_description, position=1, leave=False)

    def on_train_epoch_start(self, trainer: Trainer, *args: Any) -> None:
        self.train_progress_bar.set_description(f"Epoch {_count(trainer)}", refresh=False)
        self.train_progress_bar.reset(total=self.total_train_batches)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics

    def _make_bar(self, description: str, *, position: int, leave: bool) -> Tqdm:
        return Tqdm(
            desc=description,
            position=position,
            disable=self.is_disabled,
            leave=leave,
            dynamic_ncols=True,
            file=sys.stderr,  # which decides whether there is a bar
            smoothing=0,
            bar_format=self.BAR_FORMAT,
        )


class EpochLines(Callback):
    """Logs a line after each epoch: its number, its losses, a GAN's spread, the monitored values and the seconds it took.

    Args:
        monitors: The logged value that chooses the epoch, and others to show beside it; none where the last one is chosen.
    """

    def __init__(self, monitors: Sequence[str] = ()) -> None:
        self.monitors = monitors
        self.began = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.began = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            values = describe_values(trainer.callback_metrics, self.monitors)
            logger.info("epoch %s: %s%.1f s", _count(trainer), values, time.monotonic() - self.began)


def describe_values(values: Mapping[str, Tensor], monitors: Sequence[str]) -> str:
    """Losses and spread among ``values``, then the monitored ones, ``name value, `` each; empty where there are none."""
    losses = sorted(name for name in values if name.endswith(("loss", "/spread")))
    shown = dict.fromkeys([*losses, *(name for name in monitors if name in values)])
    return "".join(f"{name} {float(values[name]):.4g}, " for name in shown)


def _count(trainer: Trainer) -> str:
    """``3/30`` in the third epoch of 30."""
    return f"{trainer.current_epoch + 1}/{trainer.max_epochs}"
