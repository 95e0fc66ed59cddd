"""The fairness audit's charts: scores of each group, ROC curves of each group, gaps beside their nulls."""

from __future__ import annotations

from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medassay.core.estimate import Estimate
from medassay.protocols.fairness import verdict
from medassay.protocols.fairness.results import Comparison, Gap
from medassay.reporting.charts import (
    GREY,
    PALETTE,
    SMALL,
    STYLE,
    Chart,
    add_legend_below,
    make_small_axes,
    name_line,
)
from medassay.reporting.numbers import format_fixed

METRICS = {  # label, colour, marker
    "accuracy": ("accuracy", "#000000", "o"),
    "sensitivity": ("sensitivity", PALETTE[0], "s"),
    "specificity": ("specificity", PALETTE[1], "D"),
    "auroc": ("AUROC", PALETTE[2], "^"),
    "ece": ("ECE", PALETTE[3], "v"),
}
_STYLES = ("-", "--", "-.", ":")
_MOST_CURVES = 8  # groups in one ROC chart: the largest


def draw_scores(one: Comparison) -> Chart:
    """The metrics with their intervals, a block for each and in it a line for each group, so that groups stand together."""
    lines = len(METRICS) * (1 + len(one.groups))
    figure, axes = make_small_axes(3.8, 0.6 + 0.17 * lines)
    ticks: dict[float, str] = {}
    for block, (name, (label, colour, marker)) in enumerate(METRICS.items()):
        top = block * (1 + len(one.groups))
        ticks[top] = label
        for place, group in enumerate(one.groups, top + 1):
            ticks[place] = f"{group.name} ({group.n})"
            _draw_estimate(axes, place, group.metrics[name], colour, marker)
    axes.set_yticks(list(ticks), list(ticks.values()), parse_math=False, fontsize=SMALL)
    for tick, text in zip(axes.get_yticklabels(), ticks.values(), strict=True):
        tick.set_fontweight("bold" if text in [label for label, _, _ in METRICS.values()] else "normal")
    axes.set(xlim=(-0.02, 1.02), ylim=(lines - 0.3, -0.7))
    axes.set_xlabel("95 % intervals over images", fontsize=SMALL)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    numbers = "; ".join(
        f"{group.name}: "
        + ", ".join(f"{METRICS[name][0]} {format_fixed(e.value, 2)}" for name, e in group.metrics.items())
        for group in one.groups
    )
    return Chart(figure, f"Scores by {one.name}. {numbers}.")


def _draw_estimate(axes: Axes, y: float, estimate: Estimate, colour: str, marker: str) -> None:
    if not estimate.known:
        return
    if estimate.low is not None and estimate.high is not None:
        axes.plot([estimate.low, estimate.high], [y, y], color=colour, linewidth=1.6)
    axes.plot([estimate.value], [y], marker, color=colour, markersize=5)


def draw_curves(one: Comparison) -> Chart | None:
    """The ROC curve of each group, of many the largest groups; None where no group has one."""
    drawn = [group for group in one.judged if group.curve[0]]
    drawn = sorted(drawn, key=lambda group: -group.n)[:_MOST_CURVES]
    if not drawn:
        return None
    figure, axes = make_small_axes(3.8, 3.7 + 0.17 * len(drawn))
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":", label="chance  0.500")
    for place, group in enumerate(drawn):
        area = format_fixed(group.metrics["auroc"].value)
        look: dict[str, Any] = {"color": PALETTE[place % len(PALETTE)], "linestyle": _STYLES[place % len(_STYLES)]}
        axes.plot(*group.curve, label=name_line(f"{group.name}  {area}"), **look)
    axes.set(xlabel="False positive rate", ylabel="True positive rate", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    add_legend_below(figure, axes, 1, "AUROC")
    areas = "; ".join(f"{group.name} {format_fixed(group.metrics['auroc'].value)}" for group in drawn)
    return Chart(figure, f"ROC curves by {one.name}. Areas: {areas}.")


def draw_gaps(one: Comparison) -> Chart | None:
    """Each gap beside the histogram of its null; None where nothing is compared."""
    known = {name: gap for name, gap in one.gaps.items() if gap.value.known}
    if not known:
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.8, 0.7 + 1.15 * len(known)), layout="constrained")
        rows = figure.subplots(len(known), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, gap) in zip(rows, known.items(), strict=True):
        _draw_null(axes, verdict.NAMES[name], gap)
    rows[-1].set_xlabel("gap: largest less smallest rate of a group", fontsize=SMALL)
    rows[-1].set_xlim(left=0)
    add_legend_below(figure, rows[0], 3)
    numbers = "; ".join(
        f"{verdict.NAMES[name]} {format_fixed(gap.value.value)}, by chance {format_fixed(gap.null_mean)} on average"
        for name, gap in known.items()
    )
    return Chart(figure, f"Gaps by {one.name} beside those of groups dealt out at random: {numbers}.")


def _draw_null(axes: Axes, title: str, gap: Gap) -> None:
    axes.hist(gap.null, bins=24, color=GREY, alpha=0.55, linewidth=0, label="by chance")
    if gap.needed == gap.needed:
        axes.axvline(gap.needed, color=GREY, linewidth=1.2, linestyle="--", label="needed")
    axes.axvline(gap.value.value, color=PALETTE[1], linewidth=2, label="this net")
    axes.set_title(f"{title}  {format_fixed(gap.value.value)}", loc="left", size=SMALL)
    axes.set_yticks([])
    axes.grid(axis="y", visible=False)
