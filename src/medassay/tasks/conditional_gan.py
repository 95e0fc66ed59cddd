"""The conditional GAN's training: two optimizers by hand, an averaged generator to sample from."""

from __future__ import annotations

import logging
import math
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medassay.core.errors import TrainingError
from medassay.core.types import NonNegative, PositiveInt, Range
from medassay.nets.cgan import CGAN
from medassay.nets.residual_cgan import ResidualCGAN
from medassay.tasks.ema import EMA
from medassay.tasks.gan_losses import GANLoss, discriminator_loss, generator_loss
from medassay.tasks.generator import Batch, ConditionalGenerator
from medassay.tasks.optim import OptimizerFactory, adam
from medassay.tasks.steps import EpochMeans, check_finite, ends_epoch, log_mean

logger = logging.getLogger(__name__)

BATCH_NORM_BATCHES = 8  # of 256 samples each: what the averaged generator's statistics are estimated on, every epoch
LEAST_SPREAD = 0.25  # of real images' spread; a generator that ends below it draws the same image again and again …
YOUNG = 500  # … unless it has made no more steps than these


class Judgement(NamedTuple):
    """What the discriminator says of a batch, on its turn.

    Attributes:
        real, fake: Logits of real and of generated images, ``(B,)``.
        penalty: A scalar beside the players' loss that the discriminator minimises, too; None for none.
    """

    real: Tensor
    fake: Tensor
    penalty: Tensor | None = None


def compute_gradient_norm(net: nn.Module) -> Tensor:
    """The Euclidean norm of all gradients of ``net``, a scalar on its device."""
    norms = torch._foreach_norm([p.grad for p in net.parameters() if p.grad is not None])
    norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return norm


def compute_scatter(images: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Sum over all images and pixels of the squared distance to the mean image of their class in this batch, a scalar.

    Args:
        images: ``(B, C, H, W)``.
        labels: ``(B,) int64``.
        num_classes: Number of classes.
    """
    members = F.one_hot(labels, num_classes).float()  # (B, K)
    flat = images.detach().flatten(1).float()
    means = (members.T @ flat) / members.sum(0).clamp(min=1)[:, None]  # (K, C * H * W)
    return (flat - means[labels]).square().sum()


class ConditionalGAN(ConditionalGenerator):
    """Trains ``net.generator`` against ``net.discriminator`` on images of the batch's own classes.

    Samples come from an exponential moving average of the generator. Logs once per epoch, over images seen: both losses,
    ``d_real`` = D(x) and ``d_fake`` = D(G(z)) as probabilities, both gradient norms; and ``spread``, how much generated images
    of a class differ as a share of how much real ones do (standard deviation over their pixels, within batches): near 0 the
    noise does nothing any more, and every image of a class is the same.

    Args:
        net: The two networks.
        optimizer: Factory of each player's optimizer; Adam with 2e-4 and betas (0.5, 0.999) where none is given.
        loss: Kind of the players' losses.
        ema_decay: Largest decay of the averaged generator.
        collapse_loss: Mean discriminator loss that stops the run if it is lower for ``collapse_epochs`` epochs in a row: the
            generator then gets no gradient worth the name.
        collapse_epochs: Number of such epochs, see ``collapse_loss``.
        grid_rows: Number of images per class of the fixed grid that shows progress.
    """

    net: CGAN | ResidualCGAN
    label_share: Tensor
    grid_noise: Tensor
    collapse_advice: ClassVar[str] = "a lower model.optimizer.lr or another model.loss"
    uniform_advice: ClassVar[str] = "a lower model.optimizer.lr or another seed"

    def __init__(
        self,
        net: CGAN | ResidualCGAN,
        optimizer: OptimizerFactory | None = None,
        loss: GANLoss = "bce",
        ema_decay: Annotated[float, Range(ge=0, lt=1)] = 0.999,
        collapse_loss: NonNegative = 1e-3,
        collapse_epochs: PositiveInt = 2,
        grid_rows: PositiveInt = 8,
    ) -> None:
        super().__init__(net, net.generator.latent, "grid_noise", grid_rows)
        self.automatic_optimization = False
        self.ema = EMA(net.generator, ema_decay)
        self.loss = loss
        self.collapse_loss = collapse_loss
        self.collapse_epochs = collapse_epochs
        self.collapsed_for = 0
        self.images_seen = 0
        self._images_here = 0  # of this process, since the last epoch's end
        self._optimizer = optimizer or adam(lr=2e-4, betas=(0.5, 0.999))
        self._means, self._scatter = EpochMeans(), EpochMeans()
        self.spread = math.nan  # of the last epoch
        self._mean_d_loss = 0.0  # of the last epoch
        self.register_buffer("label_share", torch.full((net.num_classes,), 1 / net.num_classes))

    def draw(self, latent: Tensor, labels: Tensor) -> Tensor:
        return self.net.crop(self.ema(latent, labels))

    def finish(self, drawn: Tensor) -> Tensor:
        return drawn.clamp(0, 1)

    def setup(self, stage: str) -> None:
        if stage == "fit":
            counts: Tensor = self.trainer.datamodule.served_class_counts()  # type: ignore[attr-defined]
            self.label_share = (counts / counts.sum()).to(self.label_share.device)

    def configure_optimizers(self) -> Any:
        return [self._optimizer(self.net.discriminator.parameters()), self._optimizer(self.net.generator.parameters())]

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        images, labels = batch
        noise = torch.randn(len(images), self.latent, device=self.device)
        real = self.net.pad(images)
        fake = self.net.generator(noise, labels)
        d_loss, d_real, d_fake, d_norm = self._discriminator_step(real, fake.detach(), labels, batch_idx)
        g_loss, g_norm = self._generator_step(real, fake, labels)
        self.ema.update(self.net.generator)
        self._images_here += len(images)
        check_finite(self, batch_idx, discriminator_loss=d_loss, generator_loss=g_loss)
        losses = {"train/d_loss": d_loss, "train/g_loss": g_loss}
        probabilities = {"train/d_real": d_real, "train/d_fake": d_fake}
        norms = {"train/d_gradient_norm": d_norm, "train/g_gradient_norm": g_norm}
        self._means.add(batch_idx, len(images), {**losses, **probabilities, **norms})
        both = {"fake": self.net.crop(fake), "real": images}
        scatter = {name: compute_scatter(side, labels, self.num_classes) for name, side in both.items()}
        self._scatter.add(batch_idx, 1, scatter)

    def judge(self, images: Tensor, labels: Tensor) -> Tensor:
        """The discriminator's logits ``(B,)`` of real or of generated images."""
        return self.net.discriminator(images, labels)  # type: ignore[no-any-return]

    def judge_both(self, real: Tensor, fake: Tensor, labels: Tensor, batch_idx: int) -> Judgement:
        """Real and fake images go through the discriminator in separate batches: their statistics differ."""
        return Judgement(self.judge(real, labels), self.judge(fake, labels))

    def _discriminator_step(
        self, real: Tensor, fake: Tensor, labels: Tensor, batch_idx: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``fake`` is detached, so that no gradient reaches the generator."""
        optimizer = self.optimizers()[0]  # type: ignore[index]
        real_logits, fake_logits, penalty = self.judge_both(real, fake, labels, batch_idx)
        loss = discriminator_loss(self.loss, real_logits, fake_logits)
        optimizer.zero_grad()
        self.manual_backward(loss if penalty is None else loss + penalty)
        norm = compute_gradient_norm(self.net.discriminator) / self._loss_scale()
        optimizer.step()
        probabilities = real_logits.detach().sigmoid().mean(), fake_logits.detach().sigmoid().mean()
        return loss, *probabilities, norm

    def _generator_step(self, real: Tensor, fake: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The discriminator's weights are frozen meanwhile: they get no gradient, which also saves computing it."""
        optimizer = self.optimizers()[1]  # type: ignore[index]
        discriminator = self.net.discriminator.requires_grad_(False)
        try:
            with torch.no_grad():  # only the relativistic loss looks at real images here
                real_logits = self.judge(real, labels) if self.loss == "relativistic" else fake.new_zeros(())
            loss = generator_loss(self.loss, real_logits, self.judge(fake, labels))
            optimizer.zero_grad()
            self.manual_backward(loss)
        finally:
            discriminator.requires_grad_(True)
        norm = compute_gradient_norm(self.net.generator) / self._loss_scale()
        optimizer.step()
        return loss, norm

    def _loss_scale(self) -> float:
        """What float16 training multiplies losses by before their gradients are taken; 1 in other precisions."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        return 1.0 if scaler is None else scaler.get_scale()

    def on_train_epoch_start(self) -> None:
        self._images_here = 0  # of an epoch that was broken off

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if ends_epoch(self):
            self._mean_d_loss = self._means.log(self, prog_bar=["train/d_loss", "train/g_loss"])["train/d_loss"]
            scatter = self._scatter.take(self)
            if scatter["real"] > 0:  # not where each batch has one image of a class at most
                spread = (scatter["fake"] / scatter["real"]).sqrt()
                log_mean(self, "train/spread", spread)
                self.spread = float(spread)
            self.ema.refresh_batch_norm(self._run_batch_norm_batches)
            here = torch.tensor(self._images_here, device=self.device)
            self.images_seen += int(self.trainer.strategy.reduce(here, reduce_op="sum"))
            self._images_here = 0

    def on_train_epoch_end(self) -> None:
        self.log(
            "step", float(self.images_seen), sync_dist=True
        )  # Lightning takes this name as the x axis of the epoch's scalars
        self.collapsed_for = self.collapsed_for + 1 if self._mean_d_loss < self.collapse_loss else 0
        if self.collapsed_for >= self.collapse_epochs:
            raise TrainingError(
                f"the discriminator's loss was {self._mean_d_loss:.2g} (under model.collapse_loss={self.collapse_loss:g}) for "
                f"{self.collapsed_for} epochs: the generator learns nothing more; try {self.collapse_advice}; "
                "the checkpoints of earlier epochs are kept"
            )

    def on_train_end(self) -> None:
        steps = self.trainer.global_step // 2  # each player's
        if self.spread < LEAST_SPREAD and steps > YOUNG and self.trainer.is_global_zero:
            logger.warning(
                "warning: generated images of a class differ %.0f %% as much as real ones do: the generator draws nearly the "
                "same image again and again; try %s",
                100 * self.spread,
                self.uniform_advice,
            )

    def _run_batch_norm_batches(self, generator: nn.Module) -> None:
        rng = torch.Generator().manual_seed(0)
        for _ in range(BATCH_NORM_BATCHES):
            labels = torch.multinomial(self.label_share.cpu(), 256, replacement=True, generator=rng)
            noise = torch.randn(256, self.latent, generator=rng)
            generator(self.cast_like_weights(noise), labels.to(self.device))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["images_seen"] = self.images_seen
        checkpoint["collapsed_for"] = self.collapsed_for

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.images_seen = checkpoint["images_seen"]
        self.collapsed_for = checkpoint["collapsed_for"]
