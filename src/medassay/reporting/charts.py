"""What pictures share: colours, sizes, a small pair of axes with its legend below, a chart with its description."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis, Tick
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from medassay.core.estimate import Estimate

# Okabe & Ito's colours, strongest on white first; their yellow, too pale for a line, is replaced by a wine red that
# keeps the smallest CIELAB distance under simulated protanopia, deuteranopia and tritanopia above 16.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#882255")
GREY = "#808080"
STYLE = matplotlib.rc_params_from_file(Path(__file__).with_name("charts.mplstyle"), use_default_template=False)
DPI: float = STYLE["figure.dpi"]  # dots per inch of a figure on screen
SMALL: float = STYLE["legend.fontsize"]  # points


class Chart(NamedTuple):
    """A chart, and its numbers in words for those who cannot see it."""

    figure: Figure
    description: str


def make_small_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of so many inches with its only axes, in the charts' style."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.add_subplot()


def add_legend_below(figure: Figure, axes: Axes, columns: int, title: str | None = None) -> None:
    """The legend of ``axes`` under them, in so many columns."""
    place: Any = "outside lower center"  # understood by figures only, and left out of their type hints
    with matplotlib.rc_context(STYLE):
        figure.legend(*axes.get_legend_handles_labels(), loc=place, ncols=columns, title=title)


def name_line(text: str) -> str:
    """``text`` as a label for a legend: matplotlib leaves out those that begin with an underscore."""
    return f" {text}" if text.startswith("_") else text


def show_literally(figure: Figure) -> None:
    """Has all texts of a figure drawn as they are written, also names that hold dollar signs.

    Tick labels are left as they are: matplotlib itself writes powers of ten as mathematics. Names at ticks want
    ``parse_math=False``.
    """
    written = [text for text in figure.findobj(Text) if "$" in text.get_text()]
    if not written:  # as nearly always: finding a figure's ticks takes as long as finding its texts
        return
    own = {id(label) for tick in figure.findobj(Tick) for label in (tick.label1, tick.label2)}
    own |= {id(axis.offsetText) for axis in figure.findobj(Axis)}
    for text in written:
        if id(text) not in own:
            text.set_parse_math(False)


def space_ticks(axes: Axes) -> None:
    """Few ticks along the horizontal axis, a power of ten apart from very small and very large ones: none touches the next."""
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.ticklabel_format(axis="x", scilimits=(-3, 4))


class Series(NamedTuple):
    """What a dot plot shows of each of its rows."""

    label: str | None
    colour: str
    marker: str
    estimates: Sequence[Estimate]


def draw_dot_plot(
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
    figure, axes = make_small_axes(3.8, 1.25 + (0.21 + 0.05 * len(series)) * len(rows))
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
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(x, fontsize=SMALL)
    if share:
        axes.set_xlim(-0.02, 1.02)
    else:
        space_ticks(axes)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    if axes.get_legend_handles_labels()[0]:
        add_legend_below(figure, axes, 2)
    return figure
