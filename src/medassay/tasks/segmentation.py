"""Segmentation: a class for each pixel, learned on patches, judged on whole images."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor

from medassay.core.types import NonNegativeInt, PositiveInt, Range
from medassay.metrics.segmentation import compute_dice
from medassay.nets.unet import UNet
from medassay.tasks.averaged import AveragedTask
from medassay.tasks.ema import EMA
from medassay.tasks.optim import OptimizerFactory, SchedulerFactory, adam, configure_optimizer
from medassay.tasks.segmentation_losses import SegmentationLoss, segmentation_loss
from medassay.tasks.steps import EpochMeans, check_finite, ends_epoch
from medassay.tasks.tiles import Tile, list_tiles, predict_tiled

Batch = tuple[
    Tensor, Tensor, Tensor
]  # images (B, C, H, W) float32 in [0, 1], masks (B, h, w) int64, weights (B, h, w) float32


class Segmentation(AveragedTask):
    """Trains ``net: images (B, C, H, W) in [0, 1] -> logits (B, num_classes, h, w)`` on patches.

    Logs ``train/loss`` and ``val/loss, val/dice``: means over the validation images, of Dice's coefficient the mean over an
    image's classes, the background left out. Each image is segmented whole, by tiles where it is larger than one.

    Args:
        net: The network; it normalises its inputs itself.
        num_classes: Number of classes, the background, class 0, included.
        optimizer: Factory of the optimizer; Adam with 1e-3 where none is given.
        scheduler: Factory of the learning-rate schedule; no schedule where none is given.
        loss: What is minimised; see :mod:`medassay.tasks.segmentation_losses`.
        tile: Largest side of what the net predicts of an image at once, in pixels: more needs more memory, and less time.
        overlap: Pixels of a tile's prediction that are discarded on each side; with padding ``same`` its border is the worst.
        ema_decay: Decay of the averaged weights that are validated, chosen and kept, reached after a warm-up; 0: none.
    """

    def __init__(
        self,
        net: UNet,
        num_classes: Annotated[int, Range(ge=2)],
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        loss: SegmentationLoss = "cross_entropy",
        tile: PositiveInt = 388,
        overlap: NonNegativeInt = 0,
        ema_decay: Annotated[float, Range(ge=0, lt=1)] = 0.0,
    ) -> None:
        super().__init__()
        self.net = net
        self.ema = EMA(net, ema_decay, with_buffers=True) if ema_decay > 0 else None
        self.num_classes, self.loss_name, self.tile, self.overlap = num_classes, loss, tile, overlap
        self._optimizer = optimizer or adam()
        self._scheduler = scheduler
        self._means, self._val_means = EpochMeans(), EpochMeans()

    @property
    def answering_net(self) -> UNet:
        """The net that answers in evaluation mode: the averaged weights', if any."""
        answering = super().answering_net
        assert isinstance(answering, UNet)
        return answering

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, num_classes, h, w)`` of images in [0, 1] of a size that the net takes."""
        return (self.net if self.training else self.answering_net)(images)  # type: ignore[no-any-return]

    def segment(self, image: Tensor) -> Tensor:
        """Probabilities ``(num_classes, H, W) float32`` of an image of any size, ``(C, H, W) float32`` in [0, 1]."""
        image = image.to(next(self.answering_net.parameters()).dtype)  # they may be in double precision
        return predict_tiled(self.answering_net, image, self._tile_of(image), self.overlap).softmax(0)

    def list_tiles(self, height: int, width: int) -> list[Tile]:
        """The tiles in which an image of this size is segmented."""
        return list_tiles(self.answering_net, height, width, self._find_tile(height, width), self.overlap)

    def _tile_of(self, image: Tensor) -> int:
        return self._find_tile(image.shape[1], image.shape[2])

    def _find_tile(self, height: int, width: int) -> int:
        """Side of the net's input: one tile where the image is no larger than that."""
        net = self.answering_net
        aligned = -(-max(height, width) // net.alignment) * net.alignment
        return net.find_input_size(min(aligned, self.tile) + 2 * self.overlap)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, masks, weights = batch
        loss = segmentation_loss(self.loss_name, self(images), masks, weights)
        check_finite(self, batch_idx, loss=loss)
        self._means.add(batch_idx, len(images), {"train/loss": loss})
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if ends_epoch(self):
            self._means.log(self, prog_bar=["train/loss"])

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        images, masks, weights = batch
        (image,) = images
        logits = predict_tiled(self.answering_net, image, self._tile_of(image), self.overlap)[None]
        classes = torch.arange(1, self.num_classes, device=masks.device)[:, None, None]
        dice = compute_dice(logits[0].argmax(0) == classes, masks[0] == classes)
        values = {"val/loss": segmentation_loss(self.loss_name, logits, masks, weights), "val/dice": dice.mean()}
        self._val_means.add(batch_idx, 1, values)

    def on_validation_epoch_end(self) -> None:
        self._val_means.log(self, prog_bar=["val/dice"])

    def configure_optimizers(self) -> Any:
        return configure_optimizer(self, self._optimizer, self._scheduler)
