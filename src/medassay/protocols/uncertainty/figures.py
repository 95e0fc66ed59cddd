"""Charts of a classifier's certainty: accuracy of the surest images, and how sure it is of images of none of its classes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from medassay.protocols.uncertainty.results import KINDS, UncertaintyResults
from medassay.reporting.charts import GREY, PALETTE, Chart, add_legend_below, make_small_axes
from medassay.reporting.numbers import format_percent, format_with_bounds

_BINS = 20


def draw_kept(results: UncertaintyResults) -> Chart:
    """Accuracy against the share of the surest images that is kept, with exact 95 % intervals."""
    figure, axes = make_small_axes(4.4, 3.2)
    rows = results.kept
    shares, values = [row.share for row in rows], [row.accuracy.value for row in rows]
    for row in rows:
        assert row.accuracy.low is not None
        assert row.accuracy.high is not None
        axes.plot([row.share] * 2, [row.accuracy.low, row.accuracy.high], color=PALETTE[0], linewidth=1.6)
    axes.plot(shares, values, "o-", color=PALETTE[0], markersize=4, linewidth=1.2, label="the surest are kept")
    axes.axhline(values[0], color=GREY, linewidth=1.2, linestyle=":", label="any others are kept")
    axes.set(xlabel="share of the images that is kept", ylabel="accuracy on them", xlim=(1.02, min(shares) - 0.03))
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    add_legend_below(figure, axes, 2)
    numbers = "; ".join(f"{format_percent(row.share)} {format_with_bounds(row.accuracy)}" for row in rows)
    return Chart(figure, f"Accuracy by share of the surest images that is kept: {numbers}.")


def draw_confidence(own: Tensor, foreign: Mapping[str, Tensor], sure: float) -> Chart:
    """Shares of images by largest probability: the data set's own ``(N,)`` beside each kind of foreign ones."""
    figure, axes = make_small_axes(4.4, 3.2)
    lowest = min(float(one.min()) for one in (own, *foreign.values()))
    edges = torch.linspace(max(0.0, lowest - 0.02), 1, _BINS + 1).double()
    named = {"the data set’s own": own, **{KINDS[kind]: one for kind, one in foreign.items()}}
    for (name, confidence), colour in zip(named.items(), PALETTE, strict=False):
        counts = torch.histogram(confidence.double().contiguous(), edges).hist / len(confidence)
        axes.stairs(counts.numpy(), edges.numpy(), color=colour, linewidth=1.6, label=name)
    axes.axvline(sure, color=GREY, linewidth=1.2, linestyle=":", label="sure from here on")
    axes.set(xlabel="largest probability", ylabel="share of the images")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    add_legend_below(figure, axes, 2)
    shares = "; ".join(f"{name} {format_percent(float((one >= sure).double().mean()))}" for name, one in named.items())
    return Chart(figure, f"Share of images with a largest probability of at least {sure:g}: {shares}.")
