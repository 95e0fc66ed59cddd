"""Checkpoints: written whole at epoch ends, read back as tensors and plain values alone."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from medassay.core.errors import CheckpointError, ConfigError, TrainingError, suggest_nearest
from medassay.core.files import atomic_write, describe_zip_damage
from medassay.training.selection import EpochSelection


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its final name and then renames it: an interrupted or failed save leaves the old one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with atomic_write(Path(path)) as partial:
            torch.save(checkpoint, partial)


@dataclass(eq=False)
class Checkpoints(Checkpoint):
    """Keeps ``last.ckpt`` (all that resuming needs) and ``best.ckpt`` (weights alone), both written at epoch ends.

    Args:
        directory: The folder that gets the checkpoints.
        monitor: The logged value that chooses the best epoch; None makes every epoch the best so far, and so does a value that
            is undefined (NaN) until there is a number.
        mode: Whether a larger (``max``) or smaller (``min``) value is better; of equal ones the first stays.
        selection: What measures ``monitor`` in some epochs only; the value of the others is undefined. None for a value that is
            logged in every epoch.

    Attributes:
        best_value: The chosen epoch's value; None where there is no number.
        best_epoch: The chosen epoch, counted from 0 as in Lightning.
    """

    directory: Path
    monitor: str | None
    mode: Literal["min", "max"] = "max"
    selection: EpochSelection | None = None
    best_value: float | None = field(default=None, init=False)
    best_epoch: int | None = field(default=None, init=False)

    @property
    def best(self) -> Path:
        return self.directory / "best.ckpt"

    @property
    def last(self) -> Path:
        return self.directory / "last.ckpt"

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not all(bool(p.isfinite().all()) for p in pl_module.parameters()):
            raise TrainingError(
                f"weights are not finite after epoch {trainer.current_epoch + 1}: try a lower model.optimizer.lr or "
                "trainer.precision=32-true; the checkpoints of earlier epochs are kept"
            )
        if self.selection is not None:
            self.selection.measure_last(trainer, pl_module)
        if self._is_best(trainer, pl_module):
            self.best_epoch = trainer.current_epoch
            trainer.save_checkpoint(self.best, weights_only=True)
        trainer.save_checkpoint(self.last)

    def _is_best(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        value = self._read_value(trainer)
        if math.isnan(value):
            # what was good before a collapse stays the best
            perhaps_the_end = getattr(pl_module, "collapsed_for", 0) > 0 and self.best_epoch is not None
            return self.best_value is None and not perhaps_the_end
        sign = 1 if self.mode == "max" else -1
        if self.best_value is not None and sign * value <= sign * self.best_value:
            return False
        self.best_value = value
        return True

    def _read_value(self, trainer: Trainer) -> float:
        """The epoch's value; NaN where there is none, or where a cut-short epoch has images of one class only."""
        if self.monitor is None:
            return math.nan
        if self.selection is not None:
            return self.selection.find_value(trainer.current_epoch + 1)
        if self.monitor not in trainer.callback_metrics:
            known = sorted(str(name) for name in trainer.callback_metrics)
            raise ConfigError(
                f"recipe.monitor={self.monitor}: nothing of that name is logged.{suggest_nearest(self.monitor, known)} "
                f"Accepted: {', '.join(known)}"
            )
        return float(trainer.callback_metrics[self.monitor])

    def state_dict(self) -> dict[str, Any]:
        return {"best_value": self.best_value, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_value = state_dict["best_value"]
        self.best_epoch = state_dict["best_epoch"]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's contents: tensors and plain values alone.

    Raises:
        CheckpointError: The file is missing or damaged (every checksum is compared), or holds anything else.
    """
    try:
        damage = describe_zip_damage(path)
        if damage is not None:
            raise CheckpointError(
                f"{path} cannot be read ({damage}): it is damaged or no checkpoint of this program; restore it from a copy, "
                "or train anew"
            )
        contents: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} is missing: this run has no finished epoch; continue it with resume=<its directory>, with a later "
            "trainer.max_time where that ended it"
        ) from error
    except Exception as error:  # torch raises many kinds here: pickle, end of file, its own
        raise CheckpointError(
            f"{path} cannot be read ({explain_load_error(error)}): use a checkpoint of this program"
        ) from error
    if not isinstance(contents, dict) or "state_dict" not in contents:
        raise CheckpointError(f"{path} holds no weights: it is no checkpoint of this program")
    return contents


def explain_load_error(error: Exception) -> str:
    """Why ``torch.load(weights_only=True)`` failed, without torch's advice to switch its check off."""
    text = str(error).strip()
    if named := re.search(r"(?:GLOBAL|[Uu]nsupported (?:global|class):)\s+(\w+\.[\w.]*\w)", text):
        return f"it contains code, {named.group(1)}, which is refused"
    if "Weights only load failed" in text:
        return "it is damaged, or no file of tensors alone"
    return text.splitlines()[0] if text else type(error).__name__


def load_weights(task: LightningModule, path: Path) -> int | None:
    """Puts the checkpoint's weights into ``task``; gives the epoch they are of, from 1, where the file says it.

    Raises:
        CheckpointError: The file cannot be read, or holds the weights of another architecture.
    """
    contents = read_checkpoint(path)
    try:
        task.load_state_dict(contents["state_dict"])
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise CheckpointError(
            f"{path} holds the weights of another architecture ({' '.join(lines[1:2])}): use the configuration it was "
            "trained with"
        ) from error
    task.on_load_checkpoint(contents)
    return int(contents["epoch"]) + 1 if "epoch" in contents else None
