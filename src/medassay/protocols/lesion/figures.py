"""The lesion study's charts: the error without each block, and without several at once."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from medassay.protocols.lesion.measures import LesionResults
from medassay.reporting.charts import GREY, PALETTE, Chart, add_legend_below, make_small_axes
from medassay.reporting.numbers import format_fixed, format_spread, format_with_bounds

_KINDS = {False: ("without another block", PALETTE[0], "o"), True: ("without a downsampling block", PALETTE[1], "D")}


def draw_lesions(results: LesionResults) -> Chart:
    """The error without each block, in the order of the blocks, with its interval."""
    figure, axes = make_small_axes(4.4, 3.5)
    for kind, (label, colour, marker) in _KINDS.items():
        errors = [(place, one.error) for place, one in enumerate(results.lesions, 1) if one.downsampling == kind]
        for place, error in errors:
            if error.low is not None and error.high is not None:
                axes.plot([place, place], [error.low, error.high], color=colour, linewidth=1.6)
        values = [error.value for _, error in errors]
        axes.plot([place for place, _ in errors], values, marker, color=colour, markersize=5, label=label)
    axes.set(xlabel="number of the removed block, from input to output", xlim=(0.5, len(results.lesions) + 0.5))
    _finish(axes, results)
    add_legend_below(figure, axes, 2)
    numbers = "; ".join(f"{one.name} {format_with_bounds(one.error)}" for one in results.lesions)
    return Chart(
        figure, f"Error of the whole net {format_fixed(results.error.value)}. Error without a block: {numbers}."
    )


def draw_several(results: LesionResults) -> Chart:
    """The error against the number of blocks removed at once, with its deviation over the random orders."""
    figure, axes = make_small_axes(4.4, 3.5)
    means = [results.error.value, *(one.value for one in results.several)]
    deviations = [0.0, *(one.sd or 0.0 for one in results.several)]
    low, high = (
        [min(1.0, max(0.0, mean + sign * sd)) for mean, sd in zip(means, deviations, strict=True)] for sign in (-1, 1)
    )
    axes.fill_between(range(len(means)), low, high, color=PALETTE[0], alpha=0.2, linewidth=0, label="± 1 sd")
    axes.plot(means, "o-", color=PALETTE[0], linewidth=1.6, markersize=4, label="mean over random orders")
    axes.set(xlabel="number of blocks removed at once", xlim=(-0.2, len(results.several) + 0.2))
    _finish(axes, results)
    add_legend_below(figure, axes, 2)
    numbers = "; ".join(f"{count} {format_spread(one)}" for count, one in enumerate(results.several, 1))
    return Chart(figure, f"Error by number of blocks removed at once, mean ± standard deviation: {numbers}.")


def _finish(axes: Axes, results: LesionResults) -> None:
    """What both charts share: lines for the whole net and for guessing, an axis of errors from 0, whole numbers below."""
    axes.axhline(results.error.value, color="#000000", linewidth=1, linestyle="--", label="whole net")
    axes.axhline(results.guessing, color=GREY, linewidth=1.2, linestyle=":", label="always the most frequent class")
    axes.set_ylabel("error")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
