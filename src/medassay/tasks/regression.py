"""Regression of one variable: a curve y(x), learned by its squared error."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from medassay.core.types import Curve
from medassay.metrics.curves import measure_between_beats
from medassay.tasks.optim import OptimizerFactory, SchedulerFactory, adam, configure_optimizer
from medassay.tasks.steps import EpochMeans, check_finite, ends_epoch

Batch = tuple[Tensor, Tensor]  # x (B, 1) float32, y (B, 1) float32


class Regression(LightningModule):
    """Trains ``net: x (B, 1) -> y (B, 1)`` by the squared error.

    Logs ``train/loss`` and ``val/loss``, mean squared errors in the squared unit of y, and ``val/error_over_between_beats``:
    the latter over how far the validation beats lie from the mean of the training beats (see
    :func:`medassay.metrics.curves.measure_between_beats`); it is left out where beats do not differ.

    Args:
        net: The network.
        optimizer: Factory of the optimizer; Adam with 1e-3 where none is given.
        scheduler: Factory of the learning-rate schedule; no schedule where none is given.
        standardise: Whether the net sees ``(x - mean) / sd`` of the training points and its answers are turned back the same
            way: with torch's first weights a net bends near 0 alone, and could not begin with a hundred milliseconds. False:
            x goes in and y comes out as they are.
        frozen: Whether the weights stay what they are: an epoch then measures the error, and nothing is trained.
    """

    x_mean: Tensor
    x_sd: Tensor
    y_mean: Tensor
    y_sd: Tensor

    def __init__(
        self,
        net: nn.Module,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        standardise: bool = True,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        self.net, self.standardise, self.frozen = net, standardise, frozen
        if frozen:
            net.requires_grad_(False)
            self.automatic_optimization = False  # no step is taken, by anybody
        self._optimizer, self._scheduler = optimizer or adam(), scheduler
        self._means, self._val_means = EpochMeans(), EpochMeans()
        for name in ("x_mean", "y_mean"):
            self.register_buffer(name, torch.zeros(()))
        for name in ("x_sd", "y_sd"):
            self.register_buffer(name, torch.ones(()))
        self._between_beats = 0.0

    def setup(self, stage: str) -> None:
        if stage != "fit":
            return
        train, val, _ = self.trainer.datamodule.splits  # type: ignore[attr-defined]
        self._between_beats = measure_between_beats(val, train)
        if self.standardise:
            self._measure_scales(train)

    def _measure_scales(self, train: Curve) -> None:
        """Mean and standard deviation of the training points; the latter 1 where all are alike."""
        for name, values in (("x", train.x), ("y", train.y)):
            sd = values.double().std(correction=0)
            getattr(self, f"{name}_mean").copy_(values.double().mean())
            getattr(self, f"{name}_sd").copy_(sd if sd > 0 else torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """Answers ``(B, 1)`` at ``x (B, 1)``, both in the units of the data."""
        return self.net((x - self.x_mean) / self.x_sd) * self.y_sd + self.y_mean  # type: ignore[no-any-return]

    @torch.no_grad()
    def regress(self, x: Tensor) -> Tensor:
        """Answers ``(N, 1) float32`` at ``x (N, 1) float32``, both in the units of the data; keeps no gradient."""
        x = x.to(self.x_mean.dtype)  # that of the weights, which may be in double precision
        return self(x).float()  # type: ignore[no-any-return]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        x, y = batch
        loss = F.mse_loss(self(x), y)
        check_finite(self, batch_idx, loss=loss)
        self._means.add(batch_idx, len(x), {"train/loss": loss})
        return None if self.frozen else loss / self.y_sd**2  # so that the step does not depend on the unit of y

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if ends_epoch(self):
            self._means.log(self, prog_bar=["train/loss"])

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        x, y = batch
        self._val_means.add(batch_idx, len(x), {"val/loss": F.mse_loss(self(x), y)})

    def on_validation_epoch_end(self) -> None:
        loss = self._val_means.log(self, prog_bar=["val/loss"])["val/loss"]
        if self._between_beats > 0:
            # the same in every process already; said so that Lightning does not warn
            self.log("val/error_over_between_beats", loss / self._between_beats, sync_dist=True)

    def configure_optimizers(self) -> Any:
        return configure_optimizer(self, self._optimizer, self._scheduler)
