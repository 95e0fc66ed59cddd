"""The charts of a domain-shift report: accuracy and confidence over severity, all falls at a glance, and the pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from medassay.core.estimate import Estimate
from medassay.core.types import LabelledImages
from medassay.data.corruptions import SEVERITIES, TABLE, Corruption, corrupt_stored
from medassay.protocols.domain_shift.results import DomainShiftResults
from medassay.protocols.domain_shift.verdict import FALL
from medassay.reporting.charts import GREY, PALETTE, Chart, Series, add_legend_below, draw_dot_plot, make_small_axes
from medassay.reporting.figures import draw_image_grid
from medassay.reporting.numbers import format_fixed

SHOWN_CLASSES = 2  # classes in the pictures, at most


def draw_curve(results: DomainShiftResults, key: str) -> Chart:
    """One corruption: accuracy with its interval, mean confidence and the remedied accuracy over the severities."""
    members = [one for one in results.corrupted if one.key == key]
    conditions = [results.clean, *members]
    severities = [one.severity or 0 for one in conditions]
    figure, axes = make_small_axes(3.4, 2.9)

    def draw(estimates: list[Estimate], label: str, colour: str, style: str, marker: str, *, band: bool) -> None:
        if band and all(one.low is not None for one in estimates):
            low, high = [one.low or 0 for one in estimates], [one.high or 0 for one in estimates]
            axes.fill_between(severities, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(
            severities,
            [one.value for one in estimates],
            linestyle=style,
            marker=marker,
            color=colour,
            linewidth=1.6,
            markersize=4,
            label=label,
        )

    draw([one.scores["accuracy"] for one in conditions], "accuracy", PALETTE[0], "-", "o", band=True)
    draw([one.confidence for one in conditions], "confidence", PALETTE[1], "--", "s", band=True)
    remedied = [one.remedy.accuracy for one in conditions if one.remedy is not None]
    if len(remedied) == len(conditions):
        draw(remedied, "accuracy, remedied", PALETTE[2], ":", "^", band=False)
    axes.set(xlabel="severity", ylim=(0, 1.02), xlim=(-0.2, 5.2))
    axes.set_title(members[0].name, fontsize=9)
    axes.set_xticks(range(6))
    add_legend_below(figure, axes, 2)
    numbers = "; ".join(
        f"severity {one.severity or 0}: {format_fixed(accuracy.value, 2)}, {format_fixed(one.confidence.value, 2)}"
        for one, accuracy in ((one, one.scores["accuracy"]) for one in conditions)
    )
    return Chart(figure, f"{members[0].name}: accuracy and mean confidence. {numbers}.")


def draw_falls(results: DomainShiftResults) -> Chart:
    """Every corruption at its highest severity, and the other set: the falls of accuracy and of confidence."""
    worst = [one for one in results.conditions if one.severity in (None, results.severities[-1])]
    rows = [one.name for one in worst]
    falls = [one.fall for one in worst if one.fall is not None]
    series = [
        Series("accuracy", PALETTE[0], "o", [fall.accuracy for fall in falls]),
        Series("confidence", PALETTE[1], "s", [fall.confidence for fall in falls]),
    ]
    figure = draw_dot_plot(rows, series, "fall, 95 % interval", share=False)
    for place, style in ((0, "-"), (FALL, ":")):
        figure.axes[0].axvline(place, color=GREY, linewidth=0.9, linestyle=style)
    numbers = "; ".join(
        f"{name}: {format_fixed(fall.accuracy.value, 2)}, {format_fixed(fall.confidence.value, 2)}"
        for name, fall in zip(rows, falls, strict=True)
    )
    return Chart(figure, f"Falls of accuracy and of confidence at severity {results.severities[-1]}. {numbers}.")


def make_pictures(
    split: LabelledImages, chosen: Sequence[Corruption], classes: Sequence[str], seed: int
) -> dict[str, dict[str, Tensor]]:
    """By class, by corruption in words: one image unchanged and at each severity, ``(6, C, H, W) uint8``."""
    found: dict[str, dict[str, Tensor]] = {}
    for label, name in enumerate(classes):
        members = (split.labels == label).nonzero()[:, 0]
        if len(found) == SHOWN_CLASSES or not chosen or not len(members):
            continue
        image = split.images[members[:1]]
        found[name] = {
            TABLE[one].name: torch.cat([image, *(corrupt_stored(image, one, s, seed=seed) for s in SEVERITIES)])
            for one in chosen
        }
    return found


def draw_pictures(rows: Mapping[str, Tensor], name: str) -> Figure:
    """One image of a class, unchanged and under every corruption, a row each."""
    columns = ["unchanged", *map(str, range(1, 6))]
    pictures = torch.cat([*rows.values()])
    return draw_image_grid(
        pictures, columns=len(columns), row_labels=list(rows), column_labels=columns, title=f"{name}, severities 1 to 5"
    )
