"""Single-label classification: class-weighted cross-entropy, metrics on validation data."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.utilities.distributed import gather_all_tensors

from medassay.attacks.gradient import ascend
from medassay.attacks.norms import draw_start
from medassay.core.errors import ConfigError
from medassay.core.types import PositiveInt, Range
from medassay.metrics.classification import measure_classification
from medassay.tasks.averaged import AveragedTask
from medassay.tasks.ema import EMA
from medassay.tasks.optim import OptimizerFactory, SchedulerFactory, adam, configure_optimizer
from medassay.tasks.steps import EpochMeans, check_finite, ends_epoch
from medassay.tasks.transfer import Transfer

Batch = tuple[Tensor, Tensor]  # images (B, C, H, W) float32 in [0, 1], labels (B,) int64


def compute_balanced_weights(counts: Tensor) -> Tensor:
    """Class weights ``n / (classes * n_class)`` from ``counts (K,) int64``; 0 for a class without images."""
    n = counts.sum()
    return torch.where(counts > 0, n / (len(counts) * counts.clamp(min=1)), torch.zeros(())).float()


@runtime_checkable
class WithAuxiliaries(Protocol):
    """A net with further classifiers that only train it."""

    auxiliary_weight: float

    def classify_with_auxiliaries(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits of the net and of each auxiliary classifier, ``(B, num_classes)`` each."""


class Classification(AveragedTask):
    """Trains ``net: images (B, C, H, W) in [0, 1] -> logits (B, num_classes)`` by cross-entropy.

    Logs ``train/loss`` and ``val/loss, val/accuracy, val/balanced_accuracy, val/auroc`` (macro, one against the rest). Means
    over the classes are over those that the validation images have; with images of one class alone the AUROC is NaN.

    With ``ema_decay`` the net trains as ever while an average of its weights follows; in evaluation mode the average
    answers, and a checkpoint of weights alone holds it as ``net``.

    With ``adversarial_epsilon`` each batch is attacked first, and the loss is that of the attacked images alone (Madry et al.
    2018, arXiv:1706.06083): PGD in L-infinity, from a random start, against the plain cross-entropy. Validation images stay
    plain. Meanwhile the net that trains is in evaluation mode, so that batch normalisation uses its running statistics and
    leaves them alone, nothing is dropped, and an image's attack does not depend on the rest of its batch.

    Args:
        net: The network; it normalises its inputs itself.
        num_classes: Number of outputs of the net.
        optimizer: Factory of the optimizer; Adam with 1e-3 where none is given.
        scheduler: Factory of the learning-rate schedule; no schedule where none is given.
        class_weights: Weights of the classes: ``balanced`` is n / (classes * n_class) of the training set, ``none`` is 1.
        label_smoothing: Share of the target spread evenly over all classes.
        ema_decay: Decay of the averaged weights that are validated, chosen and kept, reached after a warm-up; 0: none.
        transfer: Which of the net's stages learn, when and at which rate; None: all, always, at one rate.
        adversarial_epsilon: Largest change of a pixel, in grey levels of 255, by which training images are attacked; None: they
            are not.
        adversarial_steps: Number of steps of that attack, of 2.5 epsilon / steps each.

    Attributes:
        freezes_for_a_time: Whether some weights get gradients from a later epoch on only; several processes must know.
        is_pretrained: Whether the net has got the weights that ``transfer`` names.
    """

    class_weights: Tensor

    def __init__(
        self,
        net: nn.Module,
        num_classes: Annotated[int, Range(ge=2)],
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        class_weights: Literal["balanced", "none"] = "balanced",
        label_smoothing: Annotated[float, Range(ge=0, lt=1)] = 0.0,
        ema_decay: Annotated[float, Range(ge=0, lt=1)] = 0.0,
        transfer: Transfer | None = None,
        adversarial_epsilon: Annotated[float, Range(gt=0, le=255)] | None = None,
        adversarial_steps: PositiveInt = 7,
    ) -> None:
        super().__init__()
        self.transfer = transfer or Transfer()
        for layer in self.transfer.list_frozen(net):
            layer.requires_grad_(False)
        self.freezes_for_a_time = self.transfer.freeze_epochs > 0
        self.is_pretrained = False
        self.net = net
        self.ema = EMA(net, ema_decay, with_buffers=True) if ema_decay > 0 else None
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        self.adversarial_epsilon, self.adversarial_steps = adversarial_epsilon, adversarial_steps
        self._balanced = class_weights == "balanced"
        self._optimizer = optimizer or adam()
        self._scheduler = scheduler
        self._means = EpochMeans()
        self.register_buffer("class_weights", torch.ones(num_classes))
        self._validated: list[tuple[Tensor, Tensor]] = []  # logits and labels of the epoch's batches

    def setup(self, stage: str) -> None:
        if stage == "fit" and self._balanced:
            counts: Tensor = self.trainer.datamodule.served_class_counts()  # type: ignore[attr-defined]
            self.class_weights = compute_balanced_weights(counts).to(self.class_weights.device)

    def train(self, mode: bool = True) -> Classification:
        """As ever, but frozen layers stay in evaluation mode: their running statistics are frozen, too."""
        super().train(mode)
        for layer in self.transfer.list_frozen(self.net, self.current_epoch) if mode else []:
            layer.eval()
        return self

    def on_fit_start(self) -> None:
        if self.transfer.source is not None and not self.is_pretrained and self.trainer.ckpt_path is None:
            raise ConfigError(
                f"model.transfer.weights={self.transfer.source}: the task still has random weights; call "
                "medassay.load_pretrained(task, data.classes) before medassay.fit"
            )

    def on_train_epoch_start(self) -> None:
        if not self.freezes_for_a_time:
            return
        self._let_waiting_layers_learn(self.current_epoch >= self.transfer.freeze_epochs)
        self.train()

    def _let_waiting_layers_learn(self, learn: bool) -> None:
        """Whether the layers that are frozen at first get gradients; those that are frozen for good never do."""
        for layer in self.transfer.list_frozen(self.net, epoch=0):
            layer.requires_grad_(learn)
        for layer in self.transfer.list_frozen(self.net):
            layer.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, num_classes)`` of images in [0, 1]; in evaluation mode those of the averaged weights, if any."""
        net = self.net if self.training or self.ema is None else self.ema
        return net(images)  # type: ignore[no-any-return]

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The class-weighted cross-entropy, a scalar."""
        return F.cross_entropy(logits, labels, self.class_weights, label_smoothing=self.label_smoothing)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels = batch
        if self.adversarial_epsilon is not None:
            images = self._attack(images, labels, self.adversarial_epsilon / 255)
        loss = self._compute_training_loss(images, labels)
        check_finite(self, batch_idx, loss=loss)
        self._means.add(batch_idx, len(images), {"train/loss": loss})
        return loss

    def _attack(self, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
        """The batch after PGD against the net that trains; drawn from torch's generator, which is seeded every epoch."""
        self.net.eval()
        start = draw_start(images, epsilon, "linf")
        attacked = ascend(self.net, images, labels, epsilon, start, norm="linf", steps=self.adversarial_steps)
        self.train()
        return attacked

    def _compute_training_loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """The loss of the logits and, at the net's own weight, those of its auxiliary classifiers."""
        if not isinstance(self.net, WithAuxiliaries):
            return self.loss(self(images), labels)
        logits, auxiliary = self.net.classify_with_auxiliaries(images)
        losses = [self.loss(own, labels) for own in auxiliary]
        return self.loss(logits, labels) + self.net.auxiliary_weight * sum(losses, torch.zeros(()).to(logits))

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if ends_epoch(self):
            self._means.log(self, prog_bar=["train/loss"])

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        images, labels = batch
        logits = self(images)
        if batch_idx == 0:  # a validation that was broken off leaves nothing to the next
            self._validated = []
        self._validated.append((logits.to(torch.promote_types(logits.dtype, torch.float32)), labels))

    def on_validation_epoch_end(self) -> None:
        logits, labels = (torch.cat(parts) for parts in zip(*self._validated, strict=True))
        self._validated = []
        if self.trainer.world_size > 1:
            logits, labels = (torch.cat(gather_all_tensors(part)) for part in (logits, labels))
        # of all images at once: in a mean over batches, weights would cancel within each
        loss = self.loss(logits, labels)
        probabilities = logits.softmax(1)
        if bool(probabilities.isfinite().all()):
            measured = measure_classification(probabilities, labels)
        else:  # the checkpoint's turn comes next, and refuses weights that are not finite
            measured = {"accuracy": math.nan, "balanced_accuracy": math.nan, "per_class": {"auroc": [math.nan]}}
        areas = [area for area in measured["per_class"]["auroc"] if not math.isnan(area)]
        auroc = sum(areas) / len(areas) if areas else math.nan
        # The same in every process already; said so that Lightning does not warn
        self.log("val/loss", loss, sync_dist=True)
        self.log("val/accuracy", measured["accuracy"], sync_dist=True)
        self.log("val/balanced_accuracy", measured["balanced_accuracy"], sync_dist=True)
        self.log("val/auroc", auroc, prog_bar=True, sync_dist=True)

    def list_undefined(self, images_per_class: Tensor) -> list[str]:
        """The logged values that validation images with ``images_per_class (K,) int64`` leave undefined."""
        return ["val/auroc"] if int((images_per_class > 0).sum()) < 2 else []

    def configure_optimizers(self) -> Any:
        self._let_waiting_layers_learn(True)  # a training before may have ended while they were frozen
        groups = self.transfer.group_parameters(self, self.net)
        return configure_optimizer(self, self._optimizer, self._scheduler, groups)
