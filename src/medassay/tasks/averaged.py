"""A task whose net trains as ever while an average of its weights follows, is validated, chosen and kept."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import LightningModule
from torch import nn

from medassay.tasks.ema import EMA


class AveragedTask(LightningModule):
    """What classification and segmentation share of averaged weights; a sub-class sets both attributes.

    A checkpoint of weights alone holds the average as ``net``; one to resume from holds both.

    Attributes:
        net: The net that is trained.
        ema: The average of its weights; None for none.
    """

    net: nn.Module
    ema: EMA | None

    @property
    def answering_net(self) -> nn.Module:
        """The net that answers in evaluation mode: the averaged weights', if any."""
        return self.net if self.ema is None else self.ema.net

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.ema is not None:  # here and not after each batch: several batches may share one step
            self.ema.update(self.net)

    def use_average(self) -> None:
        """Makes the averaged weights, if any, those of ``net``, as they are in a checkpoint of weights alone."""
        if self.ema is not None:
            self.net.load_state_dict(self.ema.net.state_dict())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.ema is None or "optimizer_states" in checkpoint:  # what resumes needs both nets
            return
        state = checkpoint["state_dict"]
        state.update({f"net.{name}": value for name, value in self.ema.net.state_dict().items()})
