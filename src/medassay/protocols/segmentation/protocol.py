"""How well a net finds regions and objects: scores with intervals, and every kind of image from the worst to the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor

from medassay.core.types import PositiveInt, SegmentedImages
from medassay.evaluation.protocol import ComputeContext, Page, Protocol, Report
from medassay.metrics.instances import THRESHOLDS
from medassay.metrics.regions import RegionScores, score_regions
from medassay.protocols.segmentation import figures
from medassay.reporting import html, regions
from medassay.reporting.numbers import format_fixed, format_with_bounds
from medassay.runs.region_scores import predict_masks, select_segmented_images
from medassay.runs.run import Run
from medassay.tasks.segmentation import Segmentation

NAMES = {  # of the single numbers, in the order of the page: name, whether larger is better, unit
    "dice": ("Dice coefficient", True, ""),
    "iou": ("intersection over union", True, ""),
    "hd95": ("95th-percentile Hausdorff distance", False, "pixels"),
    "surface_distance": ("mean surface distance", False, "pixels"),
    "ap50": ("average precision of objects at IoU 0.5", True, ""),
    "average_precision": ("average precision, IoU 0.5 to 0.95", True, ""),
    "count_error": ("error of the number of objects", False, "objects an image"),
}


@dataclass(frozen=True)
class SegmentationResults:
    """What was measured.

    Attributes:
        split: The split that was judged.
        scores: All scores; see :class:`medassay.metrics.regions.RegionScores`.
        thresholds: The IoU of each entry of ``scores.per_threshold``.
        order: Indices of the images in the split, the worst first by their Dice coefficient.
        objects: Numbers of true and predicted objects of each image; None where the data do not tell objects apart.
    """

    split: str
    scores: RegionScores
    thresholds: list[float]
    order: list[int]
    objects: list[tuple[int, int]] | None


@dataclass(frozen=True)
class SegmentationScores(Protocol):
    """How well does a net segment images it has not seen?

    Attributes:
        name: Name of the protocol.
        split: Split to judge by.
        n: Number of images shown, the worst first; the tiles are drawn on the first of them.
    """

    requires: ClassVar[type] = Segmentation
    name: str = "segmentation"
    split: Literal["test", "val"] = "test"
    n: PositiveInt = 12

    def run(self, run: Run, context: ComputeContext) -> Report:
        """Judges a run that segments images."""
        assert isinstance(run.task, Segmentation)
        data = run.segmented_data
        images = select_segmented_images(data, self.split, run.settings)
        predicted = predict_masks(run.task, images, context.device)
        results = self.measure(images, predicted, data.num_classes)
        shown = results.order[: self.n]
        views = {i: regions.draw_views(images.images[i], images.masks[i], predicted[i]) for i in shown}
        drawn = {"objects": figures.draw_precisions(results.scores)} if results.scores.per_threshold else {}
        return Report(
            results,
            split=self.split,
            verdict=[describe_scores(results)],
            metrics={"split": self.split, self.split: results.scores.to_json()},
            figures={"scores": figures.draw_dice(results.scores), **drawn},
            files={
                f"figures/image_{index}.png": regions.draw_sheet([row], regions.TITLES, [f"image {index}"])
                for index, row in views.items()
            },
            page=Page(
                Path(__file__).with_name("page.html.j2"),
                {
                    "names": {key: value for key, value in NAMES.items() if key in results.scores.estimates},
                    "cards": [_make_card(results, index, row) for index, row in views.items()],
                    "intervals": figures.describe_intervals(results.scores.estimates["dice"]),
                    "tiles": describe_tiles(run.task, images.images[shown[0]]),
                },
            ),
        )

    def measure(self, images: SegmentedImages, predicted: list[Tensor], num_classes: int) -> SegmentationResults:
        """All numbers of some predicted class maps ``(H, W)``."""
        scores = score_regions(predicted, images, num_classes)
        return SegmentationResults(self.split, scores, list(THRESHOLDS), scores.worst_first, scores.objects)


def describe_scores(results: SegmentationResults) -> str:
    """The most important numbers in a sentence."""
    scores = results.scores
    text = f"segmentation: Dice {format_with_bounds(scores.estimates['dice'])} on {scores.n} {results.split} images"
    if "ap50" in scores.estimates:
        text += f"; objects: average precision {format_with_bounds(scores.estimates['ap50'])} at an IoU of 0.5"
    worst = results.order[0]
    return f"{text}; the worst is image {worst} ({format_fixed(scores.dice[worst], 2)})"


def describe_tiles(task: Segmentation, image: Tensor) -> dict[str, Any]:
    """How an image is cut: its picture with the tiles' borders, their number, and the sides of what a tile sees and answers."""
    tiles = task.list_tiles(*image.shape[1:])
    seen, answered = tiles[0].seen, tiles[0].answered
    return {
        "picture": html.embed_picture(figures.draw_tiles(image, tiles)),
        "count": len(tiles),
        "seen": seen.bottom - seen.top,
        "answered": answered.bottom - answered.top,
    }


def _make_card(results: SegmentationResults, index: int, views: Sequence[Tensor]) -> dict[str, Any]:
    return {
        "index": index,
        "dice": results.scores.dice[index],
        "objects": None if results.objects is None else results.objects[index],
        "pictures": [html.embed_picture(view) for view in views[1:]],
    }
