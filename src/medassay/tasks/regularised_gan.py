"""A conditional GAN trained with gradient penalties and differentiable augmentation, after R3GAN (Huang et al. 2024,
arXiv:2501.05441): fewer tricks than a DCGAN, and a loss that converges."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from medassay.core.types import NonNegative, PositiveInt, Probability, Range
from medassay.nets.cgan import CGAN
from medassay.nets.residual_cgan import ResidualCGAN
from medassay.tasks.conditional_gan import ConditionalGAN, Judgement
from medassay.tasks.differentiable_augment import DifferentiableAugment
from medassay.tasks.gan_losses import GANLoss, gradient_penalty
from medassay.tasks.generator import Batch
from medassay.tasks.optim import OptimizerFactory, SchedulerFactory, adam
from medassay.tasks.steps import EpochMeans, check_finite, ends_epoch


def anneal(start: float, final_share: float, progress: float) -> float:
    """Half a cosine from ``start`` to ``final_share * start`` as ``progress`` goes from 0 to 1."""
    share = (1 + math.cos(math.pi * min(1.0, progress))) / 2
    return start * (final_share + (1 - final_share) * share)


class RegularisedGAN(ConditionalGAN):
    """:class:`ConditionalGAN` whose discriminator is held flat around real and generated images, and sees both augmented.

    Logs, beside what :class:`ConditionalGAN` does, ``d_right``: share of the pairs whose real image looks more real (a half:
    undecided; 1: the discriminator wins); ``r1``, ``r2``: both gradient penalties without their weight; ``gamma``: that
    weight. ``d_loss`` and what stops a collapsed run are the players' loss alone: of the relativistic one log 2 is undecided,
    0 says that the discriminator wins every pair, whatever the penalties are.

    Args:
        net: The two networks.
        optimizer: Factory of each player's optimizer; Adam with 2e-4 and betas (0, 0.99) where none is given.
        scheduler: Factory of both players' learning-rate schedule; no schedule where none is given.
        loss: Kind of the players' losses.
        gradient_penalty: Weight of the penalties at the start, gamma; 0 for none.
        gradient_penalty_final: Weight at the end as a share of that; between them half a cosine.
        gradient_penalty_every: Number of discriminator steps from one with penalties to the next, which weigh as much more
            (Karras et al. 2020, arXiv:1912.04958, section 3.1). An epoch's first step is one with penalties.
        gradient_penalty_on: Which images are penalised: ``real`` (R1), ``fake`` (R2) or ``both``.
        augment: What real and generated images go through before the discriminator; None for nothing.
        ema_decay: Largest decay of the averaged generator.
        collapse_loss: Mean discriminator loss that stops the run if it is lower for ``collapse_epochs`` epochs in a row.
        collapse_epochs: Number of such epochs, see ``collapse_loss``.
        grid_rows: Number of images per class of the fixed grid that shows progress.
    """

    collapse_advice: ClassVar[str] = "a larger model.gradient_penalty or a lower model.optimizer.lr"
    uniform_advice: ClassVar[str] = "a larger model.gradient_penalty, model.augment.probability=0 or a longer training"

    def __init__(
        self,
        net: CGAN | ResidualCGAN,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        loss: GANLoss = "relativistic",
        gradient_penalty: NonNegative = 1.0,
        gradient_penalty_final: Probability = 0.1,
        gradient_penalty_every: PositiveInt = 4,
        gradient_penalty_on: Literal["both", "real", "fake"] = "both",
        augment: DifferentiableAugment | None = None,
        ema_decay: Annotated[float, Range(ge=0, lt=1)] = 0.999,
        collapse_loss: NonNegative = 1e-2,
        collapse_epochs: PositiveInt = 2,
        grid_rows: PositiveInt = 8,
    ) -> None:
        optimizer = optimizer or adam(lr=2e-4, betas=(0.0, 0.99))
        super().__init__(net, optimizer, loss, ema_decay, collapse_loss, collapse_epochs, grid_rows)
        self.gradient_penalty = gradient_penalty
        self.gradient_penalty_final = gradient_penalty_final
        self.gradient_penalty_every = gradient_penalty_every
        self.gradient_penalty_on = gradient_penalty_on
        self.augment = augment
        self._scheduler = scheduler
        self._pair_means, self._penalty_means = EpochMeans(), EpochMeans()

    @property
    def differentiates_twice(self) -> bool:
        """Whether training needs second derivatives, which compiled nets have not."""
        return self.gradient_penalty > 0

    def configure_optimizers(self) -> Any:
        optimizers = super().configure_optimizers()
        if self._scheduler is None:
            return optimizers
        steps = int(self.trainer.estimated_stepping_batches)
        return optimizers, [self._scheduler(optimizer, steps) for optimizer in optimizers]

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        super().training_step(batch, batch_idx)
        if self._scheduler is not None:
            for schedule in self.lr_schedulers():  # type: ignore[union-attr]
                schedule.step()

    def judge(self, images: Tensor, labels: Tensor) -> Tensor:
        return super().judge(images if self.augment is None else self.augment(images), labels)

    def judge_both(self, real: Tensor, fake: Tensor, labels: Tensor, batch_idx: int) -> Judgement:
        if self.gradient_penalty and batch_idx % self.gradient_penalty_every == 0:
            judgement = self._judge_and_penalise(real, fake, labels, batch_idx)
        else:
            judgement = super().judge_both(real, fake, labels, batch_idx)
        right = (judgement.real > judgement.fake).float().mean()
        self._pair_means.add(batch_idx, len(real), {"train/d_right": right})
        return judgement

    def _judge_and_penalise(self, real: Tensor, fake: Tensor, labels: Tensor, batch_idx: int) -> Judgement:
        """In the images' own precision throughout: bfloat16 is too coarse for gradients of gradients.

        Gradients are by images before they are augmented, as in StyleGAN2-ADA and R3GAN.
        """
        with torch.autocast(self.device.type, enabled=False):
            real, fake = real.detach(), fake.to(real.dtype)  # tensors of our own: both get a gradient
            sides = {"r1": real, "r2": fake}
            if self.gradient_penalty_on != "both":
                del sides["r2" if self.gradient_penalty_on == "real" else "r1"]
            for images in sides.values():
                images.requires_grad_()
            logits = {"r1": self.judge(real, labels), "r2": self.judge(fake, labels)}
            penalties = {name: gradient_penalty(logits[name], images) for name, images in sides.items()}
        check_finite(self, batch_idx, **{f"gradient_penalty_{name}": value for name, value in penalties.items()})
        gamma = self.compute_gamma(batch_idx)
        values = {f"train/{name}": value for name, value in penalties.items()}
        self._penalty_means.add(batch_idx, len(labels), {**values, "train/gamma": real.new_full((), gamma)})
        steps = self.trainer.num_training_batches
        # gamma in the mean over an epoch's steps
        weight = gamma * steps / math.ceil(steps / self.gradient_penalty_every)
        return Judgement(logits["r1"], logits["r2"], weight * torch.stack(list(penalties.values())).sum())

    def compute_gamma(self, batch_idx: int) -> float:
        """The penalties' weight at this step."""
        passed = self.current_epoch + batch_idx / self.trainer.num_training_batches
        epochs = self.trainer.max_epochs or 1
        return anneal(self.gradient_penalty, self.gradient_penalty_final, passed / epochs)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_end(outputs, batch, batch_idx)
        if ends_epoch(self):
            self._pair_means.log(self)
            if self.gradient_penalty:
                self._penalty_means.log(self)
