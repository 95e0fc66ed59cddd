"""What happens around training: seeds, threads, early stopping, sample grids."""

from __future__ import annotations

import multiprocessing.util
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import EarlyStopping, Timer
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor

from medassay.core.errors import OutputError, output_error
from medassay.core.files import write_json
from medassay.core.machine import keep_freed_memory
from medassay.core.seeds import derive_seed
from medassay.core.types import NonNegative, PositiveInt, Range
from medassay.data.modules import LabelledData
from medassay.reporting import figures


@dataclass(eq=False)
class ProcessSetUp(Callback):
    """What each training process sets for itself: threads, and compiled nets (neither survives the way to another process).

    Args:
        threads: Number of torch's threads on the CPU; None leaves it as it is.
        compile_net: Whether to compile the net first; of a net that is never called itself, each of its networks is compiled.
    """

    threads: int | None
    compile_net: bool

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        keep_freed_memory()
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # finds faults of code only
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # a process that ends while its group is alive is now and then aborted by the group's own threads
            multiprocessing.util.Finalize(None, torch.distributed.destroy_process_group, exitpriority=100)
        if self.compile_net:
            net = pl_module.net
            assert isinstance(net, torch.nn.Module)
            called = type(net).forward is not torch.nn.Module.forward
            for part in [net] if called else list(net.children()):
                part.compile()


@dataclass(eq=False)
class EpochSeed(Callback):
    """Seeds torch's global generator at every epoch's first batch, by seed, epoch and process alone.

    Dropout and a GAN's noise then do not depend on what was drawn before, so that a run resumed at an epoch's end
    continues as if it had not been interrupted.
    """

    seed: int

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            torch.manual_seed(derive_seed(self.seed, trainer.current_epoch, 3, trainer.global_rank))


@dataclass(eq=False)
class DeletedDirectory(Callback):
    """Ends training whose directory was deleted meanwhile: what is written from then on would be no whole run.

    Args:
        directory: The run directory.
    """

    directory: Path

    @property
    def checkpoints(self) -> Path:
        return self.directory / "checkpoints"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise output_error(error, self.checkpoints) from error

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self.refuse()

    def refuse(self) -> None:
        """Raises :class:`OutputError` where the directory is gone."""
        if not self.checkpoints.is_dir():
            raise OutputError(
                f"{self.directory} was deleted during training: nothing is left of the run; start it again"
            )


class History(Callback):
    """Keeps what was logged in each epoch in ``history.json``: learning curves for sweeps, whatever the logger.

    Args:
        directory: The run directory.

    Attributes:
        has_begun: Whether this process has trained; a training whose epochs were all there already does not.
    """

    def __init__(self, directory: Path) -> None:
        self.file = directory / "history.json"
        self.rows: list[dict[str, float]] = []
        self.has_begun = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.has_begun = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.record(trainer)

    def record(self, trainer: Trainer) -> None:
        """Writes the epoch's row, in the place of an earlier one of this epoch."""
        epoch = trainer.current_epoch + 1
        values = {str(name): float(value) for name, value in trainer.callback_metrics.items() if name != "step"}
        self.rows = [*(row for row in self.rows if row["epoch"] != epoch), {"epoch": epoch, **values}]
        if trainer.is_global_zero:
            write_json(self.file, {"rows": self.rows})

    def find_values(self, epoch: int) -> dict[str, float]:
        """What was logged in ``epoch``, counted from 1; of one without a row nothing."""
        return {
            name: value for row in self.rows if row["epoch"] == epoch for name, value in row.items() if name != "epoch"
        }

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = list(state_dict["rows"])


class Patience(EarlyStopping):
    """Early stopping that ends a continued training at once where it had ended it before.

    Where another number of epochs is asked for meanwhile, it counts anew. An epoch whose value is undefined (NaN) is not
    counted as one without a better value.

    Attributes:
        starts_anew: Whether it counts anew in any case.
    """

    starts_anew = False
    _max_epochs: int | None = None  # that were asked for when it counted

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if self.wait_count >= self.patience:
            if self.starts_anew or self._max_epochs != trainer.max_epochs:
                self.wait_count = 0
            else:
                trainer.should_stop = True
        self._max_epochs = trainer.max_epochs

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        value = trainer.callback_metrics.get(self.monitor)
        if value is None or not bool(value.isnan()):
            super().on_train_epoch_end(trainer, pl_module)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._max_epochs = state_dict.get("max_epochs")

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "max_epochs": self._max_epochs}


class TimeLimit(Timer):
    """Ends training after a time, at an epoch's end: a checkpoint in the middle of one could not be resumed exactly.

    Args:
        max_time: The time, ``DD:HH:MM:SS``; that of earlier parts of a resumed training counts.
        starts_anew: Whether it does not count: a finished run is given more epochs, and more time for them.
    """

    def __init__(self, max_time: str, *, starts_anew: bool = False) -> None:
        super().__init__(max_time, interval="epoch")
        self.starts_anew = starts_anew

    @property
    def state_key(self) -> str:
        return Timer.__qualname__  # as checkpoints of before there was this class have it

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not self.starts_anew:
            super().load_state_dict(state_dict)


def early_stopping(
    monitor: str | None,
    mode: Literal["min", "max"] = "max",
    patience: PositiveInt | None = 15,
    min_delta: NonNegative = 0.0,
) -> EarlyStopping | None:
    """Stops after ``patience`` epochs in a row without a better ``monitor``; None where there is nothing to watch."""
    if monitor is None or patience is None:
        return None
    # not strict: a name that is not logged is refused by Checkpoints, in one line
    return Patience(
        monitor, min_delta, patience, mode=mode, strict=False, check_finite=False, check_on_train_epoch_end=True
    )


@runtime_checkable
class FixedSampler(Protocol):
    """A generator that can show its progress on always the same noise."""

    def fixed_samples(self) -> tuple[Tensor, Tensor]:
        """Images ``(N, C, H, W) float32 in [0, 1]``, sorted by class, equally many each, and their labels ``(N,)``."""
        ...


@runtime_checkable
class Autoencoder(Protocol):
    """A generator that can also encode images."""

    def reconstruct(self, images: Tensor, labels: Tensor) -> Tensor:
        """``images (N, C, H, W)`` in [0, 1] encoded and decoded again."""
        ...

    def interpolate(self, first: Tensor, second: Tensor, labels: Tensor, steps: int) -> Tensor:
        """``(N * steps, C, H, W)``: from each of ``first`` to its partner in ``second``, ends included."""
        ...


@dataclass(eq=False)
class Pictures(Callback, ABC):
    """Draws something every few epochs and after the last one, on disk and in TensorBoard.

    Args:
        every_n_epochs: Number of epochs from one picture to the next; the last epoch's pictures are always drawn.
    """

    every_n_epochs: PositiveInt = 5

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        if epoch % self.every_n_epochs == 0 and trainer.is_global_zero:
            self.draw(trainer, pl_module, epoch)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch = trainer.current_epoch  # all of them, or fewer where a time limit or another callback ended training
        if epoch % self.every_n_epochs and trainer.is_global_zero:
            self.draw(trainer, pl_module, epoch)

    @abstractmethod
    def draw(self, trainer: Trainer, pl_module: LightningModule, epoch: int) -> None:
        """Draws what there is to show after ``epoch`` epochs."""

    def show(self, trainer: Trainer, name: str, images: Tensor, columns: int, epoch: int, **labels: Any) -> None:
        """``images`` as ``figures/<name>_epoch_<epoch>.png`` and in TensorBoard; ``labels`` as for a grid."""
        figure = figures.draw_image_grid(images, columns=columns, title=f"after {epoch} epochs", **labels)
        figures.save_figure(figure, Path(trainer.default_root_dir) / "figures" / f"{name}_epoch_{epoch:04d}.png")
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                step = getattr(trainer.lightning_module, "images_seen", trainer.global_step)  # where the scalars stand
                logger.experiment.add_image(name, figures.tile_images(images, columns=columns), step)


class SampleGrid(Pictures):
    """Shows images of every class, from the same noise each time; only for generators."""

    def draw(self, trainer: Trainer, pl_module: LightningModule, epoch: int) -> None:
        if not isinstance(pl_module, FixedSampler):
            return
        images, labels = pl_module.fixed_samples()
        columns = int((labels == labels[0]).sum())
        names = getattr(trainer.datamodule, "classes", None)  # type: ignore[attr-defined]
        self.show(trainer, "samples", images.cpu(), columns, epoch, row_labels=names)


@dataclass(eq=False)
class Reconstructions(Pictures):
    """Shows validation images beside what encoding and decoding leaves of them, and one of each class turning into another
    of its class; only for autoencoders.

    Args:
        every_n_epochs: Number of epochs from one picture to the next; the last epoch's pictures are always drawn.
        pairs: Number of images of each class, each beside its reconstruction; fewer where a class has fewer.
        steps: Number of images from one end of an interpolation to the other, ends included.
    """

    every_n_epochs: PositiveInt = 25
    pairs: PositiveInt = 4
    steps: Annotated[int, Range(ge=3)] = 9

    def draw(self, trainer: Trainer, pl_module: LightningModule, epoch: int) -> None:
        if not isinstance(pl_module, Autoencoder):
            return
        data: LabelledData = trainer.datamodule  # type: ignore[attr-defined]
        val = data.splits.val
        members = [torch.nonzero(val.labels == label)[:, 0] for label in range(data.num_classes)]
        shown = [(name, own) for name, own in zip(data.classes, members, strict=True) if len(own) >= 2]
        if not shown:
            return
        pairs = min(self.pairs, *(len(own) for _, own in shown))
        names = [name for name, _ in shown]
        chosen = torch.cat([own[:pairs] for _, own in shown])
        images, labels = val.images[chosen].float() / 255, val.labels[chosen]
        both = torch.stack([images, pl_module.reconstruct(images, labels).cpu()], dim=1).flatten(0, 1)
        headings = ["real", "reconstruction"] * pairs
        self.show(trainer, "reconstructions", both, 2 * pairs, epoch, row_labels=names, column_labels=headings)
        first, second = images[::pairs], val.images[torch.stack([own[-1] for _, own in shown])].float() / 255
        line = pl_module.interpolate(first, second, labels[::pairs], self.steps).cpu()
        self.show(trainer, "interpolations", line, self.steps, epoch, row_labels=names)
