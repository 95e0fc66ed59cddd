"""What a segmentation net makes of a few validation images while it trains."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger

from medassay.core.types import PositiveInt, Segmenter
from medassay.data.segmentation.modules import SegmentationData
from medassay.reporting import figures, regions
from medassay.reporting.tensorboard import add_picture
from medassay.training.callbacks import Pictures


@dataclass(eq=False)
class SegmentedImages(Pictures):
    """Shows always the same validation images with the outlines of truth and prediction, and what is wrong; only for
    segmentation.

    Args:
        every_n_epochs: Number of epochs from one picture to the next; the last epoch's picture is always drawn.
        images: Number of images, the first ones of the validation images.
    """

    every_n_epochs: PositiveInt = 5
    images: PositiveInt = 4

    def draw(self, trainer: Trainer, pl_module: LightningModule, epoch: int) -> None:
        if not isinstance(pl_module, Segmenter):
            return
        data: SegmentationData = trainer.datamodule  # type: ignore[attr-defined]
        shown = data.splits.val[: self.images]
        modes = {
            module: module.training for module in pl_module.modules()
        }  # segmenting leaves the net in evaluation mode
        rows = []
        for image, mask in zip(shown.images, shown.masks, strict=True):
            with torch.inference_mode():
                predicted = pl_module.segment(image.to(pl_module.device).float() / 255).argmax(0).cpu()
            rows.append(regions.draw_views(image, mask, predicted))
        for module, mode in modes.items():
            module.training = mode
        sheet = regions.draw_sheet(rows, regions.TITLES, [f"validation image {i}" for i in range(len(rows))])
        file = Path(trainer.default_root_dir) / "figures" / f"segmentations_epoch_{epoch:04d}.png"
        figures.save_figure(sheet, file)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                add_picture(logger.experiment, "segmentations", file, trainer.global_step)
