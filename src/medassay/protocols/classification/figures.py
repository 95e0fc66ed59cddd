"""Pictures of a classifier's predictions: calibration, and images with what was said of them."""

from __future__ import annotations

import math
from typing import Any

import matplotlib
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from medassay.metrics.calibration import CalibrationBins
from medassay.reporting.charts import GREY, PALETTE, STYLE, add_legend_below


def draw_reliability_diagram(bins: CalibrationBins, num_classes: int) -> Figure:
    """Accuracy against confidence, with Wilson's 95 % intervals, above how many predictions are in each bin.

    Args:
        bins: Bins by :func:`medassay.metrics.calibration.bin_by_confidence`.
        num_classes: Number of classes; no largest probability is below one over it.
    """
    count = len(bins.counts)
    edges = torch.arange(count).double() / count
    lowest = math.floor(count / num_classes) / count
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4, 4.9), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    used = (bins.counts > 0).nonzero().squeeze(1)
    left, width = edges[used].numpy(), 0.94 / count
    accuracy, confidence = bins.accuracy[used], bins.confidence[used].numpy()
    bars: dict[str, Any] = {"width": width, "align": "edge", "linewidth": 0, "color": PALETTE[0]}
    upper.bar(left, accuracy.numpy(), label="accuracy", **bars)
    upper.hlines(confidence, left, left + width, label="mean confidence", color=PALETTE[1], linewidth=2.5, zorder=4)
    low, high = wilson_interval(accuracy, bins.counts[used])
    upper.vlines(left + width / 2, low.numpy(), high.numpy(), color="#000000", linewidth=1, label="95 % interval")
    upper.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":", label="perfectly calibrated")
    upper.set(ylabel="Accuracy", ylim=(0, 1.02), xlim=(lowest, 1))
    upper.set_title(f"ECE {bins.ece:.3f}", loc="left", size=10)
    add_legend_below(figure, upper, 2)
    lower.bar(left, (bins.counts[used] / bins.counts.sum()).numpy(), **bars)
    lower.set(xlabel="Confidence: the largest probability", ylabel="Predictions")
    lower.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    for axes in (upper, lower):
        axes.grid(axis="x", visible=False)
    return figure


def wilson_interval(share: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    """Wilson's 95 % interval of shares of ``n`` (Wilson, J. Am. Stat. Assoc. 1927), both bounds."""
    z = 1.959963984540054
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (share * (1 - share) / n + z**2 / (4 * n**2)).sqrt()
    return (centre - half).clamp(min=0), (centre + half).clamp(max=1)
