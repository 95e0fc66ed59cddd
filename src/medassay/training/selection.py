"""Choosing a generator's epoch by what its samples are worth, measured every few epochs on validation images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.seed import isolate_rng
from torch import nn

from medassay.core.errors import ConfigError
from medassay.core.types import PositiveInt, Sampler
from medassay.data.modules import LabelledData
from medassay.training.callbacks import History
from medassay.training.epoch_scores import CRITERIA, By, Criterion, EpochScores, Selection

Measure = Callable[[Sampler], Mapping[By, float]]
Prepare = Callable[[LabelledData, torch.device], Measure]  # raises DataError where the data are too few


class EpochSelection(Callback):
    """Measures a generator's samples every few epochs and after the last one; the best epoch's weights become ``best.ckpt``.

    Training goes on as if nothing had been measured: the state of every generator of random numbers is put back. The scores
    are kept in ``last.ckpt``, so that a resumed run chooses among all its epochs.

    Args:
        by: What chooses the epoch; everything else is measured and reported, too.
        prepare: Function from the data set and a device to a function from a generator to its scores.
        every_n_epochs: Number of epochs from one measurement to the next.

    Attributes:
        scores: The scores of the epochs measured so far.
    """

    def __init__(self, by: By, prepare: Prepare, every_n_epochs: PositiveInt = 5) -> None:
        self.by: By = by
        self.every_n_epochs = every_n_epochs
        self.scores: list[EpochScores] = []
        self._prepare = prepare
        self._measure: Measure | None = None

    @property
    def criterion(self) -> Criterion:
        return CRITERIA[self.by]

    @property
    def selection(self) -> Selection | None:
        """What has been measured; None where nothing has."""
        return Selection(self.by, self.scores) if self.scores else None

    def find_value(self, epoch: int) -> float:
        """What chooses the epoch, of ``epoch``; NaN where it was not measured."""
        return next((float(getattr(one, self.by)) for one in self.scores if one.epoch == epoch), math.nan)

    def refuse_unfitting(self, trainer: Trainer, task: LightningModule, monitor: str | None) -> None:
        """Refuses a ``task`` that draws no images, another ``monitor`` that chooses the epoch, and several devices."""
        key = f"callbacks.tstr_selection.by={self.by}"
        if not isinstance(task, Sampler):
            raise ConfigError(f"{key}: {type(task).__name__} makes no images to measure; leave it out")
        if monitor is not None:
            raise ConfigError(
                f"{key}: the epoch is chosen by {monitor} already; give recipe.monitor=null, or leave it out"
            )
        if trainer.world_size > 1:
            raise ConfigError(f"{key}: it measures on one device; give trainer.gpus=1, or leave it out")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data: LabelledData = trainer.datamodule  # type: ignore[attr-defined]
        with leave_undisturbed(pl_module):
            self._measure = self._prepare(data, pl_module.device)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for criterion in CRITERIA.values():  # Lightning keeps the values of earlier epochs
            trainer.callback_metrics.pop(criterion.logged, None)
        epoch = trainer.current_epoch + 1
        if epoch % self.every_n_epochs == 0 or epoch == trainer.max_epochs:
            self._score(pl_module, epoch)

    def measure_last(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures the epoch where it turns out to be the last one: a time limit and early stopping decide after callbacks."""
        epoch = trainer.current_epoch + 1
        if trainer.should_stop and math.isnan(self.find_value(epoch)):
            self._score(pl_module, epoch)
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, History):
                    callback.record(trainer)

    def _score(self, task: LightningModule, epoch: int) -> None:
        assert self._measure is not None
        assert isinstance(task, Sampler)
        with leave_undisturbed(task):
            measured = self._measure(task)
        scores = EpochScores(epoch, measured["tstr"], measured["frechet"])
        self.scores.append(scores)
        for name, value in scores.to_logged().items():
            task.log(name, value)

    def state_dict(self) -> dict[str, Any]:
        return {"scores": [asdict(one) for one in self.scores]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.scores = [EpochScores(**one) for one in state_dict["scores"]]


@contextmanager
def leave_undisturbed(task: nn.Module) -> Iterator[None]:
    """Puts back afterwards what a training inside changes for this one; ``task`` is in evaluation mode meanwhile.

    That is the state of all generators of random numbers, which algorithms are allowed, and which modules are in training mode.
    """
    modes = [(module, module.training) for module in task.modules()]
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    task.eval()
    try:
        with isolate_rng():
            yield
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark
        for module, training in modes:
            module.training = training
