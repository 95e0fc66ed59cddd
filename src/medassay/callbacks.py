"""What happens around training: seeds, threads, early stopping, sample grids."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor

from medassay.data.loader import derived_seed
from medassay.reporting import figures
from medassay.types import NonNegative, PositiveInt


class ProcessSetUp(Callback):
    """What each training process sets for itself: threads, and compiled nets (neither survives the way to another process).

    Args:
        threads: of torch on the CPU; None leaves them.
        compile_net: compile the net first; a net of several networks, itself never called, has each of them compiled.
    """

    def __init__(self, threads: int | None, compile_net: bool) -> None:
        self.threads = threads
        self.compile_net = compile_net

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        if self.compile_net:
            net = pl_module.net
            assert isinstance(net, torch.nn.Module)
            called = type(net).forward is not torch.nn.Module.forward
            for part in [net] if called else list(net.children()):
                part.compile()


class EpochSeed(Callback):
    """Seeds torch's global generator at every epoch's first batch, by seed, epoch and process alone.

    Dropout and a GAN's noise then do not depend on what was drawn before, so that a run resumed at an epoch's end
    continues as if it had not been interrupted.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            torch.manual_seed(derived_seed(self.seed, trainer.current_epoch, 3, trainer.global_rank))


class Patience(EarlyStopping):
    """Early stopping that a continued run starts anew where it had already ended training."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if self.wait_count >= self.patience:
            self.wait_count = 0


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


class SampleGrid(Callback):
    """Shows images of every class, from the same noise each time, on disk and in TensorBoard; only for generators.

    Args:
        every_n_epochs: how often; the last epoch's grid is always drawn.
    """

    def __init__(self, every_n_epochs: PositiveInt = 5) -> None:
        self.every_n_epochs = every_n_epochs

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        if epoch % self.every_n_epochs == 0:
            self._draw(trainer, pl_module, epoch)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch = trainer.current_epoch  # all of them, or fewer where a time limit or another callback ended training
        if epoch % self.every_n_epochs:
            self._draw(trainer, pl_module, epoch)

    def _draw(self, trainer: Trainer, pl_module: LightningModule, epoch: int) -> None:
        if not trainer.is_global_zero or not isinstance(pl_module, FixedSampler):
            return
        images, labels = pl_module.fixed_samples()
        columns = int((labels == labels[0]).sum())
        names = getattr(trainer.datamodule, "classes", None)  # type: ignore[attr-defined]
        figure = figures.image_grid(images.cpu(), columns=columns, row_labels=names, title=f"after {epoch} epochs")
        figures.save(figure, Path(trainer.default_root_dir) / "figures" / f"samples_epoch_{epoch:04d}.png")
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                grid = figures.grid_array(images.cpu(), columns=columns)
                logger.experiment.add_image("samples", grid, getattr(pl_module, "images_seen", epoch))
