"""What every training step needs: means over the epoch's images, and a look, now and then, at whether losses are numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from medassay.core.errors import TrainingError

CHECK_EVERY = 50  # steps; each look waits for the device, so not at every step


def check_finite(task: LightningModule, batch_idx: int, **losses: Tensor) -> None:
    """Raises :class:`TrainingError` where a loss is NaN or infinite; looks every 50 steps and at an epoch's last batch."""
    last = task.trainer.num_training_batches - 1
    if batch_idx % CHECK_EVERY and batch_idx != last:
        return
    values = torch.stack([loss.detach().float() for loss in losses.values()])
    if not bool(values.isfinite().all()):
        name = next(name for name, loss in losses.items() if not bool(loss.isfinite()))
        raise TrainingError(
            f"the {name.replace('_', ' ')} is not finite in epoch {task.current_epoch + 1}: try a lower "
            "model.optimizer.lr or trainer.precision=32-true; the checkpoints of earlier epochs are kept"
        )


def ends_epoch(task: LightningModule) -> bool:
    """Whether no batch follows in this epoch: for ``on_train_batch_end``.

    What is logged there is seen by callbacks at the epoch's end, which come before the task's own hook of that name.
    """
    return bool(task.trainer.is_last_batch or task.trainer.should_stop)


class EpochMeans:
    """Means of some values over the images of an epoch: summed on the device, logged once.

    Logging each step through Lightning costs about a millisecond, a tenth of a small net's step.
    """

    def __init__(self) -> None:
        self._names: list[str] = []
        self._sums: Tensor | None = None
        self._images = 0

    def add(self, batch_idx: int, images: int, values: Mapping[str, Tensor]) -> None:
        """Adds a batch of so many ``images``, whose means are ``values``, scalars; every batch has the same names.

        An epoch's first batch, number 0, starts anew: an epoch that was broken off leaves nothing to the one that follows.
        """
        sums = torch.stack([value.detach().float() for value in values.values()]) * images
        if batch_idx == 0:
            self._sums, self._images = None, 0
        self._sums = sums if self._sums is None else self._sums + sums
        self._names, self._images = list(values), self._images + images

    def take(self, task: LightningModule) -> dict[str, Tensor]:
        """The means over all processes by name, scalars; starts anew."""
        assert self._sums is not None
        totals = torch.cat([self._sums, self._sums.new_tensor([self._images])])
        totals = task.trainer.strategy.reduce(totals, reduce_op="sum")
        self._sums, self._images = None, 0
        return dict(zip(self._names, totals[:-1] / totals[-1], strict=True))

    def log(self, task: LightningModule, prog_bar: Sequence[str] = ()) -> dict[str, float]:
        """Logs what :meth:`take` gives, and gives it as numbers.

        Args:
            task: The task that logs.
            prog_bar: Names that a progress bar shows.
        """
        means = self.take(task)
        for name, value in means.items():
            log_mean(task, name, value, prog_bar=name in prog_bar)
        return {name: float(value) for name, value in means.items()}


def log_mean(task: LightningModule, name: str, value: Tensor, *, prog_bar: bool = False) -> None:
    """Logs an epoch's scalar that is the same in every process already; said so, that Lightning does not warn."""
    task.log(name, value, prog_bar=prog_bar, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)
