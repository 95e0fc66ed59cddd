"""Fitting one task on one data set: plain arguments in, a directory with checkpoints and logs out."""

from __future__ import annotations

import builtins
import logging
import re
import shutil
import signal
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import Logger
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.strategies.launchers.multiprocessing import _MultiProcessingLauncher
from torch import Tensor
from torch.multiprocessing.spawn import ProcessRaisedException

from medassay.core.errors import ConfigError, DataError, Interrupted, OutputError, UserError, system_error
from medassay.core.paths import expand_home
from medassay.core.seeds import derive_seed
from medassay.data.curves.modules import CurveData
from medassay.data.kinds import AnyData
from medassay.reporting.tensorboard import quiet_writers
from medassay.training.callbacks import DeletedDirectory, EpochSeed, History, Patience, Pictures, ProcessSetUp
from medassay.training.checkpoints import Checkpoints, load_weights, read_checkpoint
from medassay.training.epoch_scores import CRITERIA, Selection
from medassay.training.loggers import LoggerFactory, end_logging, log_settings, log_to_csv, log_to_tensorboard
from medassay.training.progress import EpochBar, EpochLines
from medassay.training.selection import EpochSelection
from medassay.training.settings import TrainerSettings
from medassay.training.trainer import filter_warnings, make_trainer, quiet_lightning

logger = logging.getLogger(__name__)

LoggerName = Literal["tensorboard", "csv", "none"]
_LOGGERS: dict[LoggerName, list[LoggerFactory]] = {
    "tensorboard": [log_to_tensorboard()],
    "csv": [log_to_csv()],
    "none": [],
}

OWN = ("checkpoints", "tensorboard", "csv")  # folders of a training in its directory; another one replaces them


class _Reason(Callback):
    """Remembers what ended training: Lightning turns Ctrl-C into a plain exit."""

    def __init__(self) -> None:
        self.exception: BaseException | None = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.exception = exception


@dataclass(frozen=True)
class Fit:
    """What training left: where the weights are, and the numbers of the chosen epoch.

    Attributes:
        best: The file with the chosen epoch's weights, which are also loaded into the task.
        last: The file with everything that resuming needs.
        best_epoch: The chosen epoch, counted from 1; None without a finished epoch.
        epochs: Number of epochs trained, resumed ones included.
        values: The chosen epoch's logged values.
        pruned: Why a callback gave the run up as hopeless; None if none did.
        loggers: The loggers that were used; one of Weights & Biases is still open.
        selection: How a callback chose the epoch by a generator's samples; None if none did.
    """

    best: Path
    last: Path
    best_epoch: int | None
    epochs: int
    values: dict[str, float]
    pruned: str | None = None
    loggers: list[Logger] = field(default_factory=list)
    selection: Selection | None = None


def fit(
    task: LightningModule,
    data: AnyData,
    *,
    directory: str | Path,
    max_epochs: int | None = None,
    settings: TrainerSettings | None = None,
    monitor: str | None = None,
    mode: Literal["min", "max"] = "max",
    callbacks: Iterable[Callback] = (),
    log_to: LoggerName | Sequence[LoggerFactory] = "tensorboard",
    hyperparameters: Mapping[str, Any] | None = None,
    seed: int = 0,
    resume: bool = False,
    log_epochs: bool = True,
    overwrite: bool = False,
    starts_anew: bool = False,
) -> Fit:
    """Trains ``task`` on ``data`` and leaves the chosen epoch's weights in it.

    Args:
        task: The task to train.
        data: The data set to train and validate on.
        directory: The folder that gets ``checkpoints/`` and the logger's files.
        max_epochs: Number of epochs; None takes the one of ``settings``.
        settings: Devices, precision and limits; None takes the defaults.
        monitor: The logged value that chooses the best epoch; None chooses the last.
        mode: Whether a larger (``max``) or smaller (``min``) value is better.
        callbacks: Further callbacks of the training.
        log_to: Where to log: ``tensorboard``, ``csv`` or ``none``; or several of :mod:`medassay.training.loggers`.
        hyperparameters: What distinguishes the run from others, for loggers that list runs by it.
        seed: Seed of dropout and noise; the data module has its own.
        resume: Whether to continue from ``directory/checkpoints/last.ckpt`` where that exists, bit for bit as if uninterrupted.
        log_epochs: Whether to log a line for each epoch where there are no progress bars.
        overwrite: Whether to replace what an earlier training left in ``directory``; otherwise that is refused.
        starts_anew: Whether early stopping and the limit of time count anew in a training that is resumed after its end.

    Raises:
        OutputError: ``directory`` holds a training, and neither ``resume`` nor ``overwrite`` is given.
        UserError: ``resume`` and ``overwrite`` are both given, settings do not fit the machine, the task or what is trained
            already, validation images leave ``monitor`` undefined, a checkpoint cannot be read, or a loss is not finite.
        Interrupted: The user pressed Ctrl-C, or the process got SIGTERM.
    """
    quiet_lightning()
    if resume and overwrite:
        raise ConfigError("fit: resume=True continues the training that overwrite=True removes: give one of them")
    settings = settings or TrainerSettings()
    epochs = settings.max_epochs if max_epochs is None else max_epochs
    if epochs < 1:  # Lightning would train without end for -1
        raise ConfigError(f"fit: max_epochs={epochs}: expected an integer >= 1")
    directory = expand_home(directory)
    if monitor is not None:
        _check_monitor(task, data, monitor, settings)
    callbacks = list(callbacks)
    for callback in callbacks:
        if isinstance(callback, Patience):
            callback.starts_anew = callback.starts_anew or starts_anew
    selection = next((callback for callback in callbacks if isinstance(callback, EpochSelection)), None)
    checkpoints = _make_checkpoints(directory / "checkpoints", monitor, mode, selection)
    if not (resume or overwrite):
        _refuse_training(directory, checkpoints)
    reason = _Reason()
    set_up = ProcessSetUp(settings.threads, settings.compile)
    monitors = [c.logged for c in CRITERIA.values()] if selection is not None else [monitor] if monitor else []
    progress = _list_progress(settings, monitors, log_epochs)
    deleted = DeletedDirectory(directory)  # before what would write into it again
    history = History(directory)
    watching = [deleted, set_up, EpochSeed(seed), reason, *callbacks, history, *progress, checkpoints]
    with warnings.catch_warnings():
        filter_warnings()
        loggers = [make(directory) for make in (_LOGGERS[log_to] if isinstance(log_to, str) else log_to)]
        trainer = make_trainer(task, directory, settings, watching, loggers, epochs, starts_anew=starts_anew)
    if selection is not None:
        selection.refuse_unfitting(trainer, task, monitor)
    if overwrite:
        _remove_training(directory)
    torch.manual_seed(derive_seed(seed, 0))
    start = checkpoints.last if resume and checkpoints.last.exists() else None
    _prepare_weights(task, settings, start, epochs)
    log_settings(loggers, hyperparameters or {})
    try:
        _run(trainer, task, data, start, reason, deleted)
        if start is not None and not history.has_begun and not isinstance(trainer.strategy, DDPStrategy):
            passed = trainer.fit_loop.epoch_progress.current
            passed.completed = max(passed.completed, len(history.rows))  # Lightning forgets an epoch after a Timer
            for callback in callbacks:
                if isinstance(callback, Pictures):  # interrupted after the last epoch, and perhaps before its picture
                    callback.on_train_end(trainer, task)
    except BaseException:
        with suppress(Exception):  # of a server that is gone, say: what ended the training still goes on
            end_logging(loggers, failed=True)
        raise
    return _collect_results(trainer, task, checkpoints, history, loggers)


def _make_checkpoints(
    directory: Path, monitor: str | None, mode: Literal["min", "max"], selection: EpochSelection | None
) -> Checkpoints:
    """What keeps the checkpoints: the chosen epoch is ``monitor``'s, or that of ``selection``."""
    if selection is None:
        return Checkpoints(directory, monitor, mode)
    return Checkpoints(directory, selection.criterion.logged, selection.criterion.mode, selection)


def _refuse_training(directory: Path, checkpoints: Checkpoints) -> None:
    """Raises :class:`OutputError` where ``directory`` holds a training."""
    if checkpoints.last.exists() or (directory / "run.json").exists():
        raise OutputError(
            f"{directory} holds a training already: choose another directory, or give resume=True to continue it or "
            "overwrite=True to replace it"
        )


def _prepare_weights(task: LightningModule, settings: TrainerSettings, start: Path | None, max_epochs: int) -> None:
    """Brings ``task`` into the precision and mode of training, with the weights of the checkpoint ``start``, if any.

    Raises:
        CheckpointError: The checkpoint cannot be read, or is of another architecture.
        ConfigError: It is of a later epoch than training is to end after.
    """
    if settings.precision == "64-true":
        task.double()  # before a checkpoint's weights arrive: Lightning converts only after loading them
    if start is not None:
        trained = load_weights(task, start)  # one of another architecture is one line here, many from Lightning
        if trained is not None and trained > max_epochs:
            raise ConfigError(
                f"trainer.max_epochs={max_epochs}: {trained} epochs are trained already; give {trained} or more"
            )
    task.train()


def _collect_results(
    trainer: Trainer, task: LightningModule, checkpoints: Checkpoints, history: History, loggers: list[Logger]
) -> Fit:
    """What a finished training left; the chosen epoch's weights are loaded into ``task``."""
    epochs = max(
        [trainer.current_epoch, *(int(row["epoch"]) for row in history.rows)]
    )  # Lightning forgets one after a Timer
    if isinstance(trainer.strategy, DDPStrategy):  # this process launched the training ones and saw nothing of theirs
        contents = read_checkpoint(checkpoints.last)
        for callback in (checkpoints, history):
            callback.load_state_dict(contents["callbacks"][callback.state_key])
        epochs = contents["epoch"] + 1
    best_epoch = None if checkpoints.best_epoch is None else checkpoints.best_epoch + 1
    values = {name: float(value) for name, value in trainer.callback_metrics.items() if name != "step"}
    if not values or (best_epoch is not None and best_epoch != epochs):  # none: all epochs were trained before
        values = history.find_values(best_epoch or epochs)
    if checkpoints.monitor is not None and checkpoints.best_value is not None:
        values[checkpoints.monitor] = checkpoints.best_value
    selection = None if checkpoints.selection is None else checkpoints.selection.selection
    if selection is not None:
        values |= selection.chosen.to_logged()
    load_weights(task.float(), checkpoints.best)  # trainer.precision=64-true leaves it in double precision
    pruned = next(filter(None, (getattr(c, "pruned", None) for c in trainer.callbacks)), None)  # type: ignore[attr-defined]
    return Fit(checkpoints.best, checkpoints.last, best_epoch, epochs, values, pruned, loggers, selection)


@runtime_checkable
class _Judged(Protocol):
    """A task some of whose logged values need images of several classes."""

    def list_undefined(self, images_per_class: Tensor) -> list[str]: ...


def _check_monitor(task: LightningModule, data: AnyData, monitor: str, settings: TrainerSettings) -> None:
    """Refuses validation images that leave ``monitor`` undefined; of epochs that are cut short it is only said.

    Raises:
        DataError: The validation images of a whole epoch leave ``monitor`` undefined.
    """
    if not isinstance(task, _Judged) or isinstance(data, CurveData):
        return
    images = data.splits.val
    cut = settings.limit_batches is not None
    validated = images[: (settings.limit_batches or 0) * data.batch_size] if cut else images
    counts = validated.counts(data.num_classes)
    if monitor not in task.list_undefined(counts):
        return
    lacking = ", ".join(name for name, count in zip(data.classes, counts.tolist(), strict=True) if not count)
    if cut:
        logger.warning(
            f"{monitor} is undefined: the {len(validated)} validation images that trainer.limit_batches="
            f"{settings.limit_batches} leaves lack {lacking}; the last epoch is kept"
        )
        return
    raise DataError(
        f"{monitor} chooses the epoch and is undefined: the validation images lack {lacking}. Split the data such that "
        "validation has images of at least two classes, or choose by the loss: recipe.monitor=val/loss recipe.mode=min"
    )


def _list_progress(settings: TrainerSettings, monitors: Sequence[str], log_epochs: bool) -> list[Callback]:
    """What shows how far the training is: bars, lines, or nothing."""
    if sys.stderr.isatty() if settings.progress is None else settings.progress:
        return [EpochBar(refresh_rate=10)]
    return [EpochLines(monitors)] if log_epochs else []


def _remove_training(directory: Path) -> None:
    """Removes what :func:`fit` leaves in its directory."""
    for name in OWN:
        shutil.rmtree(directory / name, ignore_errors=True)
    (directory / "history.json").unlink(missing_ok=True)


def _end_processes(trainer: Trainer) -> None:
    """Ends the training processes of an interrupted run, so that none writes on after this one has gone."""
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _MultiProcessingLauncher):
        launcher.kill(signal.SIGTERM)
        for process in launcher.procs:
            process.join(10)
        launcher.kill(signal.SIGKILL)


def _find_raised(trace: str) -> Exception | None:
    """The error that ended one of several processes, by its traceback's last line; None for one that nobody can mend."""
    name, _, message = trace.strip().splitlines()[-1].partition(": ")
    kinds: list[type[Exception]] = [*UserError.__subclasses__(), torch.OutOfMemoryError, MisconfigurationException]
    known = {f"{kind.__module__}.{kind.__qualname__}": kind for kind in kinds}
    if name in known:
        return known[name](message)
    builtin = getattr(builtins, name, None)
    if not isinstance(builtin, type) or not issubclass(builtin, OSError):
        return None
    told = re.fullmatch(r"\[Errno (\d+)\] (.*?)(?:: (['\"])(.*?)\3(?: -> .*)?)?", message)
    return OSError(message) if told is None else OSError(int(told[1]), told[2], told[4])


def _run(
    trainer: Trainer,
    task: LightningModule,
    data: AnyData,
    start: Path | None,
    reason: _Reason,
    deleted: DeletedDirectory,
) -> None:
    """``trainer.fit``, quiet, with its ways of ending turned into ours."""
    before = signal.getsignal(signal.SIGINT)
    try:
        with warnings.catch_warnings(), quiet_writers():
            filter_warnings()
            try:
                trainer.fit(task, datamodule=data, ckpt_path=None if start is None else str(start), weights_only=True)
            except ProcessRaisedException as error:
                if (raised := _find_raised(str(error))) is None:
                    raise
                raise raised from error
    except SystemExit as error:
        _end_processes(trainer)
        cause = reason.exception
        raise cause if isinstance(cause, Interrupted) else Interrupted() from error
    except MisconfigurationException as error:
        raise ConfigError(f"trainer: {error}") from error
    except OSError as error:
        deleted.refuse()
        raise system_error(error, trainer.default_root_dir) from error
    finally:
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and before is not None:
            signal.signal(signal.SIGINT, before)  # Lightning ignores it from the first Ctrl-C on
