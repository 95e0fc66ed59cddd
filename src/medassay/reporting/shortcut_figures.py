"""The shortcut audit's charts and pictures, from its results as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from medassay.reporting.figures import PALETTE, image_grid
from medassay.reporting.gradcam_figures import coloured
from medassay.reporting.html import fixed

_GREY = "#808080"
_SMALL = 8.0  # points
_DPI = 100
_RATES = {  # colour and marker
    "accuracy": ("accuracy", "#000000", "o"),
    "recall": ("recall of the class", PALETTE[0], "s"),
    "false_positive_rate": ("others given to the class", PALETTE[1], "D"),
}
_GRAY_WEIGHTS = (0.299, 0.587, 0.114)  # luma of ITU-R BT.601


def conditions(trial: Mapping[str, Any]) -> tuple[Figure, str]:
    """Rates with their intervals, one line per way the stamp was put on; and a description."""
    rows = trial["conditions"]
    figure = Figure(figsize=(3.8, 1.2 + 0.36 * len(rows)), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    for shift, (key, (label, colour, marker)) in zip((-0.2, 0.0, 0.2), _RATES.items(), strict=True):
        places = np.arange(len(rows)) + shift
        values = [row[key] for row in rows.values()]
        for place, value in zip(places, values, strict=True):
            axes.plot([value["low"], value["high"]], [place, place], color=colour, linewidth=1.6)
        means = [value["mean"] for value in values]
        axes.plot(means, places, marker, color=colour, markersize=5, label=label)
    axes.set_yticks(range(len(rows)), [_short(name) for name in rows])
    axes.set(xlim=(-0.02, 1.02), ylim=(len(rows) - 0.5, -0.5), xlabel="share of images, 95 % interval")
    _plain(axes)
    axes.grid(axis="y", visible=False)
    _legend(figure, 2)
    said = "; ".join(f"{_short(name)}: {_words(row)}" for name, row in rows.items())
    return figure, f"How the class {trial['class']} fares. {said}."


def ranks(trial: Mapping[str, Any]) -> tuple[Figure, str]:
    """How much speaks for the class in its own images, in others, and in others that carry the stamp."""
    looks = {
        "class": (f"{trial['class']}, no stamp", PALETTE[0], "-"),
        "others": ("other classes, no stamp", PALETTE[2], "--"),
        "others_stamped": ("other classes with the stamp", PALETTE[1], "-"),
    }
    figure = Figure(figsize=(3.8, 2.9), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    for key, (label, colour, style) in looks.items():
        values = np.sort(np.asarray(trial["odds"][key]))
        share = np.arange(1, len(values) + 1) / len(values)
        axes.step(values, share, where="post", color=colour, linestyle=style, linewidth=1.6, label=label)
    axes.axvline(0, color=_GREY, linewidth=0.8, linestyle=":")
    axes.set(xlabel=f"log-odds of {trial['class']}", ylabel="share of images up to here", ylim=(0, 1.02))
    _plain(axes)
    _legend(figure, 1)
    rank, clean = trial["outranks"], trial["outranks_clean"]
    text = (
        f"The further right a curve, the more speaks for {trial['class']}. An image of another class lies right of a "
        f"{trial['class']} image in {clean['mean']:.0%} of the pairs without the stamp, in {rank['mean']:.0%} with it."
    )
    return figure, text


def heat(trial: Mapping[str, Any]) -> tuple[Figure, str]:
    """The share of heat-map energy inside the stamp's box, with the stamp and without."""
    groups = {"class": f"{trial['class']} images", "others": "other classes"}
    figure = Figure(figsize=(3.8, 2.2), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    looks = {"energy_clean": ("no stamp", PALETTE[2], "o"), "energy": ("with the stamp", PALETTE[1], "D")}
    for shift, (key, (label, colour, marker)) in zip((-0.12, 0.12), looks.items(), strict=True):
        values = [trial["heat"][group][key] for group in groups]
        for place, value in enumerate(values):
            axes.plot([value["low"], value["high"]], [place + shift] * 2, color=colour, linewidth=1.6)
        places = [place + shift for place in range(len(groups))]
        axes.plot([value["mean"] for value in values], places, marker, color=colour, markersize=5, label=label)
    area = trial["heat"]["area"]
    axes.axvline(area, color=_GREY, linewidth=1, linestyle=":", label="the box’s share of the image")
    axes.set_yticks(range(len(groups)), list(groups.values()))
    axes.set(xlim=(-0.02, 1.02), ylim=(1.5, -0.5), xlabel="share of the heat map in the stamp’s box")
    _plain(axes)
    axes.grid(axis="y", visible=False)
    _legend(figure, 2)
    said = "; ".join(
        f"{name} {fixed(trial['heat'][group]['energy_clean']['mean'], 2)} without and "
        f"{fixed(trial['heat'][group]['energy']['mean'], 2)} with the stamp"
        for group, name in groups.items()
    )
    return figure, f"Heat maps for {trial['class']}: {said}. The box is {fixed(area, 2)} of the image."


def colour_views(images: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """Plain images in several colormaps, by name: ``(N, C, H, W) uint8 -> (N, 3, H, W) uint8`` each.

    An image in colour is shown by its brightness.
    """
    pixels = images.float() / 255
    if images.shape[1] == 3:
        pixels = (pixels * torch.tensor(_GRAY_WEIGHTS)[:, None, None]).sum(1, keepdim=True)
    return {name: coloured(pixels[:, 0], name) for name in names}


def picture_rows(lines: Mapping[str, Tensor], title: str) -> Figure:
    """Rows of pictures ``(n, 3, H, W) uint8``, each with its name."""
    columns = len(next(iter(lines.values())))
    labels = [name.strip() for name in lines]
    return image_grid(torch.cat(list(lines.values())), columns=columns, row_labels=labels, title=title or None)


def _words(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{label} {fixed(row[key]['mean'], 2)}" for key, (label, _, _) in _RATES.items())


def _short(name: str) -> str:
    named = {"clean": "no stamp", "as_trained": "on the class", "other_classes": "on the other classes"}
    return named.get(name, name.replace("moved_", "moved: ").replace("_", " "))


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.85", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=_SMALL)
    axes.xaxis.label.set_size(_SMALL)
    axes.yaxis.label.set_size(_SMALL)


def _legend(figure: Figure, columns: int) -> None:
    place: Any = "outside upper center"  # understood by figures only, and left out of their type hints
    figure.legend(loc=place, ncols=columns, frameon=False, fontsize=_SMALL)
