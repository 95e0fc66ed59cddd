"""Pictures of a classifier's predictions: calibration, and images with what was said of them."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from medassay.metrics.calibration import CalibrationBins
from medassay.reporting.figures import PALETTE
from medassay.reporting.gradcam_figures import overlay

_DPI = 100
_LINE = 13  # dots of a caption's line
_CAPTION_SIZE = 7.0  # points
_CHARACTER = 5.4  # dots, about the mean width of a caption's characters
_TILE = 84  # dots that a small image's side is enlarged to, about


def reliability_diagram(bins: CalibrationBins, num_classes: int) -> Figure:
    """Accuracy against confidence, with Wilson's 95 % intervals, above how many predictions are in each bin.

    Args:
        bins: of :func:`medassay.metrics.calibration.calibration_bins`.
        num_classes: no largest probability is below one over that.
    """
    count = len(bins.counts)
    edges = torch.arange(count).double() / count
    lowest = math.floor(count / num_classes) / count
    figure = Figure(figsize=(4, 4.9), dpi=_DPI, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    used = (bins.counts > 0).nonzero().squeeze(1)
    left, width = edges[used].numpy(), 1 / count
    accuracy, confidence = bins.accuracy[used], bins.confidence[used]
    bars: dict[str, Any] = {"width": width * 0.94, "align": "edge", "linewidth": 0}
    upper.bar(left, accuracy.numpy(), color=PALETTE[0], label="accuracy", **bars)
    right = left + width * 0.94
    upper.hlines(confidence.numpy(), left, right, color=PALETTE[1], linewidth=2.5, label="mean confidence", zorder=4)
    low, high = wilson(accuracy, bins.counts[used])
    centre = left + width * 0.47
    upper.vlines(centre, low.numpy(), high.numpy(), color="#000000", linewidth=1, label="95 % interval")
    upper.plot([0, 1], [0, 1], color="#666666", linewidth=1, linestyle=":", label="perfectly calibrated")
    upper.set(ylabel="Accuracy", ylim=(0, 1.02), xlim=(lowest, 1))
    upper.set_title(f"ECE {bins.ece:.3f}", loc="left", size=10)
    place: Any = "outside lower center"  # understood by figures only, and left out of their type hints
    figure.legend(loc=place, ncols=2, frameon=False, fontsize=8)
    share = bins.counts[used] / bins.counts.sum()
    lower.bar(left, share.numpy(), color=PALETTE[0], **bars)
    lower.set(xlabel="Confidence: the largest probability", ylabel="Predictions")
    lower.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="0.92", linewidth=0.8)
        axes.set_axisbelow(True)
    return figure


def wilson(share: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    """Wilson's 95 % interval of shares of ``n`` (Wilson, J. Am. Stat. Assoc. 1927), both bounds."""
    z = 1.959963984540054
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (share * (1 - share) / n + z**2 / (4 * n**2)).sqrt()
    return (centre - half).clamp(min=0), (centre + half).clamp(max=1)


def beside_heat_map(images: Tensor, maps: Tensor) -> Tensor:
    """Images beside themselves under a heat map, small ones enlarged, which keeps their pixels visible.

    Args:
        images: ``(N, C, H, W) uint8``, C 1 or 3.
        maps: ``(N, H, W) float32 in [0, 1]``.

    Returns:
        ``(N, 3, s H, 2 s W + s) uint8`` with a whole s: image, a white gap, image with its map.
    """
    n, _, height, width = images.shape
    scale = enlargement(max(height, width))
    large = images.expand(n, 3, height, width).repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    heat = F.interpolate(maps[:, None], scale_factor=scale, mode="bilinear", align_corners=False)[:, 0]
    gap = torch.full((n, 3, scale * height, scale), 255, dtype=torch.uint8)
    return torch.cat([large, gap, overlay(large, heat)], 3)


def address(image: Tensor) -> str:
    """One image ``(3, H, W) uint8``, as large as it is, as the address of an image that needs no file."""
    written = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(written, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(written.getvalue()).decode("ascii")


def enlargement(side: int) -> int:
    """The whole number that brings a small image's side near 84 dots; 1 for a large one."""
    return max(1, _TILE // side)


def captioned(images: Tensor, captions: Sequence[Sequence[str]], *, columns: int) -> Figure:
    """Images row by row, each with its lines of text below.

    Args:
        images: ``(N, C, H, W) uint8``, C 1 or 3, N at least 1; small ones are enlarged.
        captions: N lists of lines; a long line keeps its beginning and its end.
        columns: images in a row, at most.

    Raises:
        ValueError: no images, or another number of captions.
    """
    n, _, height, width = images.shape
    if n == 0 or len(captions) != n:
        raise ValueError(f"a caption for each of at least one image is needed, not {len(captions)} for {n}")
    scale = enlargement(height)
    shown_height, shown_width = scale * height, scale * width
    longest = min(32, max(len(line) for lines in captions for line in lines))
    cell_width = 12 + max(shown_width, round(_CHARACTER * longest))
    lines_below = max(map(len, captions))
    cell_height = shown_height + 14 + _LINE * lines_below
    columns = min(columns, n)
    rows = -(-n // columns)
    total = (columns * cell_width + 8, rows * cell_height + 8)
    figure = Figure(figsize=(total[0] / _DPI, total[1] / _DPI), dpi=_DPI)
    pixels = images.expand(n, 3, height, width).permute(0, 2, 3, 1).numpy()
    for place, lines in enumerate(captions):
        left = 8 + place % columns * cell_width
        top = 8 + place // columns * cell_height
        box = (left, total[1] - top - shown_height, shown_width, shown_height)
        axes = figure.add_axes((box[0] / total[0], box[1] / total[1], box[2] / total[0], box[3] / total[1]))
        axes.imshow(pixels[place], interpolation="nearest", aspect="auto")
        axes.set_axis_off()
        for number, line in enumerate(lines):
            y = (box[1] - 5 - number * _LINE) / total[1]
            figure.text(left / total[0], y, drawable(line, 32), va="top", size=_CAPTION_SIZE, parse_math=False)
    return figure


def drawable(text: str, length: int) -> str:
    """A text in characters that matplotlib's own font has, at most ``length`` of them: its beginning and its end."""
    plain = "".join(c if c.isprintable() and ord(c) < 0x250 else "→" if c == "→" else "?" for c in text)
    if len(plain) <= length:
        return plain
    tail = (length - 1) * 2 // 3
    return f"{plain[: length - 1 - tail]}…{plain[-tail:]}"
