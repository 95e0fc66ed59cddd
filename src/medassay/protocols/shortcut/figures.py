"""The shortcut audit's charts and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from medassay.core.estimate import Estimate
from medassay.protocols.shortcut.measures import Heat, Trial
from medassay.reporting.charts import (
    GREY,
    PALETTE,
    Chart,
    Series,
    add_legend_below,
    draw_dot_plot,
    make_small_axes,
    space_ticks,
)
from medassay.reporting.figures import draw_image_grid
from medassay.reporting.heat_maps import colour_maps
from medassay.reporting.numbers import format_fixed, format_percent

_RATES = {  # colour and marker
    "accuracy": ("accuracy", "#000000", "o"),
    "recall": ("recall of the class", PALETTE[0], "s"),
    "false_positive_rate": ("others called the class", PALETTE[1], "D"),
}
_GRAY_WEIGHTS = (0.299, 0.587, 0.114)  # luma of ITU-R BT.601


def draw_conditions(trial: Trial) -> Chart:
    """Rates with their intervals, one line per way the stamp was put on."""
    rows = {_shorten(name): row for name, row in trial.conditions.items()}
    series = [Series(*look, [row[key] for row in rows.values()]) for key, look in _RATES.items()]
    numbers = "; ".join(f"{name}: {_describe_rates(row)}" for name, row in rows.items())
    figure = draw_dot_plot([*rows], series, "share of images, 95 % interval")
    return Chart(figure, f"How the class {trial.class_name} fares. {numbers}.")


def draw_ranks(trial: Trial) -> Chart:
    """How much speaks for the class in its own images, in others, and in others that carry the stamp."""
    looks = {
        "class": (f"{trial.class_name}, no stamp", PALETTE[0], "-"),
        "others": ("other classes, no stamp", PALETTE[2], "--"),
        "others_stamped": ("other classes with the stamp", PALETTE[1], "-"),
    }
    figure, axes = make_small_axes(3.8, 2.9)
    for key, (label, colour, style) in looks.items():
        values = sorted(trial.odds[key])
        share = [place / len(values) for place in range(1, len(values) + 1)]
        axes.step(values, share, where="post", color=colour, linestyle=style, linewidth=1.6, label=label)
    axes.axvline(0, color=GREY, linewidth=0.8, linestyle=":")
    axes.set(xlabel=f"log-odds of {trial.class_name}", ylabel="share of images up to here", ylim=(0, 1.02))
    space_ticks(axes)
    add_legend_below(figure, axes, 1)
    rank, clean = trial.outranks, trial.outranks_clean
    text = (
        f"The further right a curve, the more speaks for {trial.class_name}. An image of another class lies right of a "
        f"{trial.class_name} image in {format_percent(clean.value)} of the pairs without the stamp, "
        f"in {format_percent(rank.value)} with it."
    )
    return Chart(figure, text)


def draw_heat(heat: Heat, class_name: str) -> Chart:
    """The share of heat-map energy inside the stamp's box, with the stamp and without."""
    groups, area = {f"{class_name} images": heat.own, "other classes": heat.others}, heat.area
    series = [
        Series("no stamp", PALETTE[2], "o", [group.energy_clean for group in groups.values()]),
        Series("with the stamp", PALETTE[1], "D", [group.energy for group in groups.values()]),
    ]
    lines = [("the box’s share of the image", area)]
    numbers = "; ".join(
        f"{name} {format_fixed(group.energy_clean.value, 2)} without and {format_fixed(group.energy.value, 2)} with the stamp"
        for name, group in groups.items()
    )
    figure = draw_dot_plot([*groups], series, "share of the heat map in the stamp’s box", lines)
    return Chart(figure, f"Heat maps for {class_name}: {numbers}. The box is {format_fixed(area, 2)} of the image.")


def colour_views(images: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """The brightness of plain images in several colormaps, by name: ``(N, 3, H, W) uint8`` to the same each."""
    brightness = (images.float() / 255 * torch.tensor(_GRAY_WEIGHTS)[:, None, None]).sum(1)
    return {name: colour_maps(brightness, name) for name in names}


def draw_picture_rows(lines: Mapping[str, Tensor], title: str | None = None) -> Figure:
    """Rows of pictures ``(n, 3, H, W) uint8``, each with its name."""
    pictures, labels = torch.cat([*lines.values()]), [name.strip() for name in lines]
    return draw_image_grid(pictures, columns=len(pictures) // len(lines), row_labels=labels, title=title)


def _describe_rates(row: Mapping[str, Estimate]) -> str:
    return ", ".join(f"{label} {format_fixed(row[key].value, 2)}" for key, (label, _, _) in _RATES.items())


def _shorten(name: str) -> str:
    named = {"clean": "no stamp", "as_trained": "on the class", "other_classes": "on the other classes"}
    return named.get(name, name.replace("moved_", "moved: ").replace("_", " "))
