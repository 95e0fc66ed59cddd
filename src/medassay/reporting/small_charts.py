"""Small charts for reports: one pair of axes, its legend below."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

GREY = "#808080"
SMALL = 8.0  # points


def small_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of so many inches with its only axes: no frame, faint grid, small type."""
    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_alpha(0.5)
    axes.tick_params(labelsize=SMALL)
    axes.xaxis.label.set_fontsize(9)
    axes.yaxis.label.set_fontsize(9)
    axes.grid(color=GREY, alpha=0.25, linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def legend_below(figure: Figure, axes: Axes, columns: int) -> None:
    """The legend of ``axes`` under them, in so many columns."""
    place: Any = "outside lower center"  # understood by figures only, and left out of their type hints
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc=place, ncols=columns, frameon=False, fontsize=SMALL, handletextpad=0.6, columnspacing=1.2
    )
