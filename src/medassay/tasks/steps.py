"""What every training step needs: a look, now and then, at whether the losses are still numbers."""

from __future__ import annotations

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
            f"the {name.replace('_', ' ')} is not finite in epoch {task.current_epoch}: try a lower "
            "model.optimizer.lr or trainer.precision=32-true; the checkpoints of earlier epochs are kept"
        )
