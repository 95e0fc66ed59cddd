"""The conditional VAE's training: the evidence lower bound, and what can be drawn from the trained net."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from torch import Tensor

from medassay.core.types import NonNegative, NonNegativeInt, PositiveInt
from medassay.nets.cvae import CVAE, make_label_planes
from medassay.tasks.generator import Batch, ConditionalGenerator
from medassay.tasks.optim import OptimizerFactory, SchedulerFactory, adam, configure_optimizer
from medassay.tasks.steps import EpochMeans, check_finite, ends_epoch

logger = logging.getLogger(__name__)

ACTIVE_VARIANCE = 0.01  # Burda et al. 2016, section 5.2


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, I)) summed over the latent ``(B, latent)`` and averaged over the batch, a scalar.

    -1/2 sum(1 + log variance - mean^2 - variance); Kingma & Welling 2014, appendix B.
    """
    return -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1).mean()


def kl_with_free_bits(mean: Tensor, log_variance: Tensor, free: float) -> Tensor:
    """The same with each latent dimension's divergence, averaged over the batch, counted as ``free`` nats at least; a scalar.

    A dimension that carries less is not pushed towards none. Kingma et al. 2016 (arXiv:1606.04934), equation 15, with one
    dimension a group.
    """
    divergences = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).mean(0)
    return divergences.clamp(min=free).sum()


def reconstruction_loss(logits: Tensor, images: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Binary cross-entropy of image and label planes, summed per image and averaged over the batch, a scalar.

    Args:
        logits: Logits of image and label planes, ``(B, C + num_classes, H, W)``, before the sigmoid.
        images: Images, ``(B, C, H, W)`` in [0, 1].
        labels: Class indices, ``(B,) int64``.
        num_classes: Number of label planes.
    """
    target = torch.cat([images, make_label_planes(labels, num_classes, images)], dim=1)
    return F.binary_cross_entropy_with_logits(logits, target, reduction="sum") / len(images)


class Terms(NamedTuple):
    """What the bound is made of: scalars, and the posterior N(mean, variance) of each image, ``(B, latent)``."""

    reconstruction: Tensor
    kl: Tensor
    mean: Tensor
    log_variance: Tensor


class ActiveUnits:
    """Number of latent dimensions that tell images apart: variance of the posterior mean over the images above 0.01.

    Burda et al. 2016 (arXiv:1509.00519), section 5.2. Sums stay on the device until they are asked for.
    """

    def __init__(self) -> None:
        self._sums: Tensor | None = None

    def add(self, mean: Tensor) -> None:
        """Adds a batch of posterior means, ``(B, latent)``."""
        mean = mean.detach().float()
        sums = torch.cat([mean.sum(0), mean.square().sum(0), mean.new_tensor([len(mean)])])
        self._sums = sums if self._sums is None else self._sums + sums

    def count(self, task: LightningModule) -> Tensor:
        """The number over the images of all processes, a scalar; starts anew."""
        assert self._sums is not None
        sums = task.trainer.strategy.reduce(self._sums, reduce_op="sum")
        self._sums = None
        first, second = sums[:-1].chunk(2)
        variance = second / sums[-1] - (first / sums[-1]).square()
        return (variance > ACTIVE_VARIANCE).sum()


class ConditionalVAE(ConditionalGenerator):
    """Trains ``net`` on the evidence lower bound of images given their classes.

    Logs per epoch ``loss``, ``reconstruction`` and ``kl`` under ``train/`` and ``val/``, in nats per image; ``val/loss`` is
    the plain bound (KL weight 1, no free bits), so that runs with different weights can be compared; ``val/active_units``,
    the number of latent dimensions in use, says whether the latent has collapsed.

    Args:
        net: Encoder and decoder.
        optimizer: Factory of the optimizer; Adam with 1e-3 where none is given.
        scheduler: Factory of the learning-rate schedule; no schedule where none is given.
        kl_weight: Weight of the KL divergence: above 1 a beta-VAE (Higgins et al. 2017), below 1 a latent that holds more at
            the price of samples further from the data (Alemi et al. 2018, arXiv:1711.00464).
        kl_annealing_epochs: Number of epochs over which that weight rises linearly from 0; 0 has it in full from the start
            (Bowman et al. 2016, arXiv:1511.06349).
        free_bits: Nats of each latent dimension, as a mean over the batch, that cost nothing; see :func:`kl_with_free_bits`.
        grid_rows: Number of images per class of the fixed grid that shows progress.
    """

    net: CVAE
    grid_latent: Tensor

    def __init__(
        self,
        net: CVAE,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        kl_weight: NonNegative = 1.0,
        kl_annealing_epochs: NonNegativeInt = 0,
        free_bits: NonNegative = 0.0,
        grid_rows: PositiveInt = 8,
    ) -> None:
        super().__init__(net, net.latent, "grid_latent", grid_rows)
        self.kl_weight = kl_weight
        self.kl_annealing_epochs = kl_annealing_epochs
        self.free_bits = free_bits
        self._optimizer = optimizer or adam()
        self._scheduler = scheduler
        self._means, self._val_means = EpochMeans(), EpochMeans()
        self._active_units = ActiveUnits()

    def draw(self, latent: Tensor, labels: Tensor) -> Tensor:
        return self.net.decoder(latent, labels)[:, : self.image_shape[0]]  # type: ignore[no-any-return]  # no planes

    def finish(self, drawn: Tensor) -> Tensor:
        return drawn.sigmoid()

    @torch.no_grad()
    def reconstruct(self, images: Tensor, labels: Tensor) -> Tensor:
        """``images (N, C, H, W)`` in [0, 1] through encoder and decoder by the latent's mean; the same shape, in [0, 1]."""
        return self.decode(self._encode_mean(images, labels), labels)

    @torch.no_grad()
    def interpolate(self, first: Tensor, second: Tensor, labels: Tensor, steps: int) -> Tensor:
        """From ``first`` to ``second`` (both ``(N, C, H, W)`` in [0, 1], classes ``labels (N,)``) on a line in latent space.

        Gives ``(N * steps, C, H, W)`` in [0, 1], the ``steps`` images of one pair (at least 2, ends included) after another.
        """
        ends = self._encode_mean(first, labels), self._encode_mean(second, labels)
        share = torch.linspace(0, 1, steps, device=self.device, dtype=ends[0].dtype)[None, :, None]
        line = torch.lerp(ends[0][:, None], ends[1][:, None], share)
        return self.decode(line.flatten(0, 1), labels.repeat_interleave(steps))

    def _encode_mean(self, images: Tensor, labels: Tensor) -> Tensor:
        mean, _ = self.net.encoder(self.cast_like_weights(images), labels.to(self.device))
        return mean  # type: ignore[no-any-return]

    # --- training ---

    def compute_terms(self, batch: Batch) -> Terms:
        """Reconstruction loss and KL divergence of a batch, one latent drawn per image."""
        images, labels = batch
        mean, log_variance = (
            out.to(images.dtype) for out in self.net.encoder(images, labels)
        )  # bfloat16 is too coarse
        latent = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        logits = self.net.decoder(latent, labels)
        reconstruction = reconstruction_loss(logits.to(images.dtype), images, labels, self.num_classes)
        return Terms(reconstruction, kl_divergence(mean, log_variance), mean, log_variance)

    def on_train_start(self) -> None:
        epochs = self.trainer.max_epochs or 0
        if self.kl_annealing_epochs >= epochs > 0 and self.trainer.is_global_zero:
            logger.warning(
                "warning: training ends after %d epochs, model.kl_annealing_epochs=%d: the KL divergence never gets its full "
                "weight",
                epochs,
                self.kl_annealing_epochs,
            )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        reconstruction, kl, mean, log_variance = self.compute_terms(batch)
        charged = kl_with_free_bits(mean, log_variance, self.free_bits) if self.free_bits else kl
        loss = reconstruction + self._compute_kl_weight(batch_idx) * charged
        check_finite(self, batch_idx, loss=loss)
        self._means.add(
            batch_idx, len(batch[0]), {"train/loss": loss, "train/reconstruction": reconstruction, "train/kl": kl}
        )
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if ends_epoch(self):
            self._means.log(self, prog_bar=["train/loss"])

    def _compute_kl_weight(self, batch_idx: int) -> float:
        """The KL weight at this step."""
        if not self.kl_annealing_epochs:
            return self.kl_weight
        passed = self.current_epoch + batch_idx / self.trainer.num_training_batches
        return self.kl_weight * min(1.0, passed / self.kl_annealing_epochs)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        reconstruction, kl, mean, _ = self.compute_terms(batch)
        self._active_units.add(mean)
        values = {"val/loss": reconstruction + kl, "val/reconstruction": reconstruction, "val/kl": kl}
        self._val_means.add(batch_idx, len(batch[0]), values)

    def on_validation_epoch_start(self) -> None:
        self._active_units = ActiveUnits()  # an epoch that was broken off leaves nothing to the next

    def on_validation_epoch_end(self) -> None:
        self._val_means.log(self)
        units = self._active_units.count(self).float()
        self.log("val/active_units", units, sync_dist=True)  # the same in every process already

    def configure_optimizers(self) -> Any:
        return configure_optimizer(self, self._optimizer, self._scheduler)
