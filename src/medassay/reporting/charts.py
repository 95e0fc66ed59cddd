"""What pictures share: colours, sizes, a small pair of axes with its legend below, a chart with its description."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medassay.core.estimate import Estimate

# Okabe & Ito's colours, strongest on white first; their yellow, too pale for a line, is replaced by a wine red that
# keeps the smallest CIELAB distance under simulated protanopia, deuteranopia and tritanopia above 16.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#882255")
GREY = "#808080"
SMALL = 8.0  # points
DPI = 100  # dots per inch of a figure on screen


class Chart(NamedTuple):
    """A chart, and its numbers in words for those who cannot see it."""

    figure: Figure
    description: str


def small_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of so many inches with its only axes: no frame, faint grid, small type."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    style_axes(axes)
    return figure, axes


def style_axes(axes: Axes) -> None:
    """No frame, faint grid, small type."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_alpha(0.5)
    axes.tick_params(labelsize=SMALL)
    axes.xaxis.label.set_fontsize(9)
    axes.yaxis.label.set_fontsize(9)
    axes.grid(color=GREY, alpha=0.25, linewidth=0.8)
    axes.set_axisbelow(True)


def legend_below(figure: Figure, axes: Axes, columns: int, title: str | None = None) -> None:
    """The legend of ``axes`` under them, in so many columns."""
    place: Any = "outside lower center"  # understood by figures only, and left out of their type hints
    look: dict[str, Any] = {"frameon": False, "fontsize": SMALL, "title_fontsize": SMALL, "title": title}
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc=place, ncols=columns, handletextpad=0.6, columnspacing=1.2, **look)


class Series(NamedTuple):
    """What a dot plot shows of each of its rows."""

    label: str | None
    colour: str
    marker: str
    estimates: Sequence[Estimate]


def dot_plot(
    rows: Sequence[str],
    series: Sequence[Series],
    x: str,
    lines: Sequence[tuple[str, float]] = (),
    *,
    share: bool = True,
) -> Figure:
    """A line per row: dots with their 95 % intervals, one for each series.

    Args:
        rows: Names, from top to bottom.
        series: Estimates of every row; an undefined one is left out.
        x: What is measured.
        lines: Names and places of vertical lines.
        share: Whether the axis goes from 0 to 1; else as far as needed.
    """
    figure, axes = small_axes(3.8, 1.25 + (0.21 + 0.05 * len(series)) * len(rows))
    for place, (label, colour, marker, estimates) in enumerate(series):
        shift = 0.2 * (place - (len(series) - 1) / 2)
        known = [(row + shift, one) for row, one in enumerate(estimates) if one.known]
        for y, one in known:
            if one.low is not None and one.high is not None:
                axes.plot([one.low, one.high], [y, y], color=colour, linewidth=1.6)
        values = [one.value for _, one in known]
        axes.plot(values, [y for y, _ in known], marker, color=colour, markersize=5, label=label)
    for (name, at), style in zip(lines, (":", "--", "-."), strict=False):
        axes.axvline(at, color=GREY if share else PALETTE[1], linewidth=1.2, linestyle=style, label=name)
    axes.set_yticks(range(len(rows)), rows, parse_math=False)
    axes.set(ylim=(len(rows) - 0.5, -0.5), xlabel=x)
    if share:
        axes.set_xlim(-0.02, 1.02)
    axes.xaxis.label.set_fontsize(SMALL)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    if axes.get_legend_handles_labels()[0]:
        legend_below(figure, axes, 2)
    return figure
