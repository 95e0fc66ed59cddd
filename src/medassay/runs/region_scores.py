"""The scores and pictures of a segmentation on one split: what training leaves."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor, nn

from medassay.core.types import SegmentedImages, Segmenter
from medassay.data.segmentation.modules import SegmentationData
from medassay.metrics.regions import RegionScores, score_regions
from medassay.reporting import figures, regions
from medassay.reporting.numbers import format_with_bounds
from medassay.runs.load import choose_device
from medassay.training.settings import TrainerSettings

logger = logging.getLogger(__name__)

SHOWN = 4  # images, spread from the worst to the best
SAID = ("dice", "iou", "ap50")


def select_segmented_images(data: SegmentationData, split: str, settings: TrainerSettings) -> SegmentedImages:
    """A split's images; of a run cut short by ``limit_batches`` the first ones only, as in training."""
    images = data.split(split)
    return images if settings.limit_batches is None else images[: settings.limit_batches]


@torch.no_grad()
def predict_masks(task: nn.Module, images: SegmentedImages, device: torch.device) -> list[Tensor]:
    """The most probable class of every pixel, ``(H, W) uint8`` each, on the CPU; the task is left in evaluation mode."""
    assert isinstance(task, Segmenter)
    task.to(device).eval()
    return [task.segment(image.to(device).float() / 255).argmax(0).to(torch.uint8).cpu() for image in images.images]


def score_split(
    task: nn.Module, data: SegmentationData, split: str, settings: TrainerSettings, directory: Path
) -> tuple[RegionScores, list[Path]]:
    """Segments, measures, draws and says the scores of one split; gives them and the pictures in ``directory``."""
    images = select_segmented_images(data, split, settings)
    predicted = predict_masks(task, images, choose_device(settings))
    scores = score_regions(predicted, images, data.num_classes)
    order = scores.worst_first
    chosen = [order[round(place * (len(order) - 1) / max(1, SHOWN - 1))] for place in range(min(SHOWN, len(order)))]
    rows, labels = [], []
    for index in dict.fromkeys(chosen):
        rows.append(regions.draw_views(images.images[index], images.masks[index], predicted[index]))
        labels.append(f"image {index}, Dice {scores.dice[index]:.2f}")
    path = directory / f"{split}_segmented.png"
    figures.save_figure(regions.draw_sheet(rows, regions.TITLES, labels), path)
    said = ", ".join(
        f"{name} {format_with_bounds(scores.estimates[name])}" for name in SAID if name in scores.estimates
    )
    logger.info("%s: %s", split, said)
    return scores, [path]
