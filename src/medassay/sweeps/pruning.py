"""Giving up a run of a search that lags behind the finished ones."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Sequence, Set
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pytorch_lightning import Callback, LightningModule, Trainer

from medassay.core.errors import CheckpointError, ConfigError, suggest_nearest
from medassay.core.types import NonNegativeInt, PositiveInt
from medassay.runs.directory import RunDirectory
from medassay.sweeps.directory import SweepDirectory

logger = logging.getLogger(__name__)

Rows = Sequence[dict[str, float]]


class MedianPruning(Callback):
    """Ends a run whose best value so far is worse than the median of its finished siblings' best values at that epoch.

    The median stopping rule of Golovin et al. (Google Vizier, KDD 2017), as Optuna's ``MedianPruner`` applies it, with
    every sibling's best value so far where those take its running mean and its value at the epoch. Siblings are the runs
    beside this one, done or pruned. One that was pruned before the epoch has no part in the median; one that was done
    before it takes part with its best. Further seeds of a configuration that was chosen already are not given up.

    Args:
        monitor: The logged value to compare.
        mode: Whether more or less of it is better.
        startup_runs: The least number of siblings to compare with.
        warmup_epochs: Number of first epochs in which no run is given up.
        interval_epochs: Number of epochs from one comparison to the next.

    Attributes:
        pruned: The reason for which the run was given up; None if it was not.
    """

    def __init__(
        self,
        monitor: str,
        mode: Literal["min", "max"] = "max",
        startup_runs: PositiveInt = 5,
        warmup_epochs: NonNegativeInt = 5,
        interval_epochs: PositiveInt = 1,
    ) -> None:
        self.monitor = monitor
        self.mode: Literal["min", "max"] = mode
        self.startup_runs = startup_runs
        self.warmup_epochs = warmup_epochs
        self.interval_epochs = interval_epochs
        self.pruned: str | None = None
        self.best: float | None = None
        self._finished: dict[Path, tuple[bool, Rows]] = {}  # read once: a finished run does not change

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.pruned is not None:  # interrupted after it was given up, before it was recorded
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        self.best = find_best((self.best, self._value(trainer)), self.mode)
        since = epoch - self.warmup_epochs - 1
        if since < 0 or since % self.interval_epochs or epoch == trainer.max_epochs:
            return
        reason = self._reason(trainer, epoch) if trainer.is_global_zero else None
        self.pruned = trainer.strategy.broadcast(reason)  # the first process reads and decides, for all of them
        if self.pruned is not None:
            trainer.should_stop = True
            if trainer.is_global_zero:
                logger.info("pruned: %s", self.pruned)

    def _value(self, trainer: Trainer) -> float:
        if self.monitor not in trainer.callback_metrics:
            known = sorted(str(name) for name in trainer.callback_metrics)
            raise ConfigError(
                f"callbacks.pruning.monitor={self.monitor}: nothing of that name is logged."
                f"{suggest_nearest(self.monitor, known)} Accepted: {', '.join(known)}"
            )
        return float(trainer.callback_metrics[self.monitor])

    def _reason(self, trainer: Trainer, epoch: int) -> str | None:
        if self.best is None or trainer.should_stop:  # early stopping has ended it already
            return None
        directory = Path(trainer.default_root_dir).resolve()
        final = {job.directory.name for job in SweepDirectory(directory.parent).jobs(final=True)}
        others = self._siblings(directory, final, epoch)
        if directory.name in final or len(others) < self.startup_runs:
            return None
        median = statistics.median(others)
        if self.best >= median if self.mode == "max" else self.best <= median:
            return None
        side = "under" if self.mode == "max" else "over"
        return (
            f"epoch {epoch}: best {self.monitor} {self.best:.5g} is {side} the median {median:.5g} "
            f"of {len(others)} finished runs"
        )

    def _siblings(self, own: Path, left_out: Set[str], epoch: int) -> list[float]:
        """The best value up to ``epoch`` of every finished run beside ``own`` that has one."""
        for file in own.parent.glob("*/run.json"):
            run = RunDirectory(file.parent)
            if run.path != own and run.path.name not in left_out and run.path not in self._finished:
                with suppress(CheckpointError):  # a sibling's damaged file is no reason to stop this run
                    if (status := run.record().get("status")) in ("done", "pruned"):
                        self._finished[run.path] = (status == "done", run.history())
        best_values = []
        for done, rows in self._finished.values():
            if done or any(row["epoch"] >= epoch for row in rows):
                best_values.append(
                    find_best([row.get(self.monitor) for row in rows if row["epoch"] <= epoch], self.mode)
                )
        return [value for value in best_values if value is not None]

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "pruned": self.pruned}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]
        self.pruned = state_dict["pruned"]


def find_best(values: Sequence[float | None], mode: Literal["min", "max"]) -> float | None:
    """The best of ``values``, those missing and not a number left out; None if there is no other."""
    known = [value for value in values if value is not None and value == value]
    return None if not known else max(known) if mode == "max" else min(known)


def median_pruning(
    monitor: str | None,
    mode: Literal["min", "max"] = "max",
    startup_runs: PositiveInt = 5,
    warmup_epochs: NonNegativeInt = 5,
    interval_epochs: PositiveInt = 1,
) -> MedianPruning | None:
    """:class:`MedianPruning`; None where there is nothing to watch."""
    return None if monitor is None else MedianPruning(monitor, mode, startup_runs, warmup_epochs, interval_epochs)
