"""Charts of a segmentation's scores, and an image with its tiles."""

from __future__ import annotations

import torch
from torch import Tensor

from medassay.core.estimate import Estimate
from medassay.metrics.instances import THRESHOLDS
from medassay.metrics.regions import RegionScores
from medassay.reporting import regions
from medassay.reporting.charts import PALETTE, Chart, make_small_axes
from medassay.reporting.numbers import format_fixed, format_with_bounds
from medassay.tasks.tiles import Tile


def draw_dice(scores: RegionScores) -> Chart:
    """The Dice coefficient of every image, sorted, and their mean."""
    figure, axes = make_small_axes(4.4, 3.2)
    values = sorted(scores.dice)
    axes.plot(range(1, len(values) + 1), values, "o-", color=PALETTE[0], markersize=3)
    mean = scores.estimates["dice"]
    axes.axhline(mean.value, color=PALETTE[1], linestyle="--", linewidth=1.2)
    axes.set(xlabel="image, the worst first", ylabel="Dice coefficient", ylim=(-0.02, 1.02))
    worst, best = format_fixed(values[0], 2), format_fixed(values[-1], 2)
    return Chart(
        figure, f"Dice coefficient of each image, from {worst} to {best}; mean {format_with_bounds(mean)} (dashed)."
    )


def draw_precisions(scores: RegionScores) -> Chart:
    """The average precision of objects against the IoU that counts as found, with its interval."""
    assert scores.per_threshold is not None
    figure, axes = make_small_axes(4.4, 3.2)
    values = [one.value for one in scores.per_threshold]
    bounds = [(one.low, one.high) for one in scores.per_threshold if one.low is not None and one.high is not None]
    if len(bounds) == len(values):  # one image has no interval
        low, high = zip(*bounds, strict=True)
        axes.fill_between(THRESHOLDS, low, high, color=PALETTE[0], alpha=0.2, linewidth=0)
    axes.plot(THRESHOLDS, values, "o-", color=PALETTE[0], markersize=4)
    axes.set(xlabel="IoU from which an object counts as found", ylabel="average precision", ylim=(-0.02, 1.02))
    numbers = "; ".join(f"{t:.2f}: {format_fixed(value, 2)}" for t, value in zip(THRESHOLDS, values, strict=True))
    band = ", with its 95 % interval" if bounds else ""
    return Chart(figure, f"Average precision of objects, TP / (TP + FP + FN){band}. {numbers}.")


def describe_intervals(mean: Estimate) -> str:
    """What stands behind the bounds of a table's means, for its caption."""
    if mean.kind == "bootstrap":
        return "with 95 % bootstrap intervals"
    if mean.low is None:
        return "without intervals: there is one image"
    return "with 95 % intervals by Student’s t, as of so few images a bootstrap’s would be too narrow"


def draw_tiles(image: Tensor, tiles: list[Tile]) -> Tensor:
    """An image ``(C, H, W) uint8`` as ``(3, H, W) uint8`` with a line around the pixels that each tile answers for.

    Around the first tile's input there is a line of another colour, as far as it lies inside of the image.
    """
    picture = regions.to_rgb(image)
    height, width = image.shape[1:]
    for tile in tiles:
        _frame(picture, *tile.answered, colour=regions.INVENTED)
    top, left, bottom, right = tiles[0].seen
    _frame(picture, max(top, 0), max(left, 0), min(bottom, height), min(right, width), colour=regions.MISSED)
    return picture


def _frame(picture: Tensor, top: int, left: int, bottom: int, right: int, *, colour: tuple[int, int, int]) -> None:
    ink = torch.tensor(colour, dtype=torch.uint8)
    picture[:, top:bottom, [left, right - 1]] = ink[:, None, None]
    picture[:, [top, bottom - 1], left:right] = ink[:, None, None]
