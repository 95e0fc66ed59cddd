"""Accuracy over the size of an attack, the smallest sizes that flip images, and images before and after."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from medassay.attacks.norms import NAMES, Norm
from medassay.data.classes import list_likeliest
from medassay.protocols.adversarial.results import ATTACKS, AdversarialResults, Attack, Pictures
from medassay.reporting.captions import add_captions
from medassay.reporting.charts import GREY, PALETTE, Chart, add_legend_below, make_small_axes
from medassay.reporting.numbers import format_fixed, format_percent, format_with_bounds

ENLARGED = 20  # factor of a change in its picture
SHOWN = 3  # classes whose probability stands below an image

_LOOKS: dict[Attack, tuple[str, str, str]] = {
    "fgsm": (PALETTE[4], "s", "--"),
    "pgd": (PALETTE[1], "o", "-"),
    "noise": (PALETTE[2], "^", "-."),
    "transfer": (PALETTE[0], "D", ":"),
}
_UNITS: dict[Norm, str] = {
    "linf": "largest change of a pixel, in grey levels of 255",
    "l2": "root mean square change of a pixel, in grey levels of 255",
}


def draw_accuracy(results: AdversarialResults, norm: Norm) -> Chart:
    """The balanced accuracy under each attack against its size, with intervals."""
    figure, axes = make_small_axes(4.4, 3.7)
    texts = []
    for attack, (colour, marker, style) in _LOOKS.items():
        found = [one for one in results.attacked if (one.norm, one.attack) == (norm, attack)]
        if not found:
            continue
        sizes = [0.0, *(one.epsilon for one in found)]
        estimates = [results.balanced_accuracy, *(one.balanced_accuracy for one in found)]
        for size, one in zip(sizes, estimates, strict=True):
            if one.low is not None and one.high is not None:
                axes.plot([size, size], [one.low, one.high], color=colour, linewidth=1.2)
        values = [one.value for one in estimates]
        axes.plot(sizes, values, style, marker=marker, color=colour, markersize=4.5, label=ATTACKS[attack])
        pairs = zip(sizes[1:], estimates[1:], strict=True)
        texts.append(f"{ATTACKS[attack]}: {', '.join(f'{s:g} → {format_with_bounds(one)}' for s, one in pairs)}")
    axes.axhline(results.chance.chance, color=GREY, linewidth=1.2, linestyle=":", label="guessing")
    _finish(axes, f"{_UNITS[norm]} ({NAMES[norm]})", "balanced accuracy")
    add_legend_below(figure, axes, 3)
    plain = format_with_bounds(results.balanced_accuracy)
    return Chart(figure, f"Balanced accuracy by grey levels, {NAMES[norm]}; plain images {plain}. {'; '.join(texts)}.")


def draw_smallest(results: AdversarialResults) -> Chart:
    """The share of the rightly classified images that PGD has flipped at a distance, against that."""
    figure, axes = make_small_axes(4.4, 3.7)
    texts = []
    for place, one in enumerate(one for one in results.smallest if one.label is None):
        if not one.n:
            continue
        shares = [k / one.n for k in range(len(one.epsilons) + 1)]
        sizes = [0.0, *one.epsilons, one.largest]
        colour, style = PALETTE[place], ("-", "--")[place]
        axes.step(sizes, [*shares, shares[-1]], style, where="post", color=colour, label=NAMES[one.norm])
        median = one.quartiles[1]
        middle = f"median above {one.largest:g}" if median is None else f"median {format_fixed(median, 2)}"
        texts.append(f"{NAMES[one.norm]}: {middle}, {format_percent(one.unflipped / one.n)} not flipped")
    _finish(axes, "change in grey levels of 255 (L2: root mean square)", "share of the right images flipped")
    if texts:
        add_legend_below(figure, axes, 2)
    return Chart(figure, f"Smallest change that flips an image. {'; '.join(texts)}.")


def _finish(axes: Axes, x: str, y: str) -> None:
    axes.set(xlabel=x, ylabel=y, ylim=(-0.02, 1.02))
    axes.set_xlim(left=-0.1)


def picture_changes(pictures: Pictures) -> Tensor:
    """The changes, 20 times as large, on middle grey: ``(n, C, H, W) uint8``."""
    return to_bytes(0.5 + ENLARGED * (pictures.after - pictures.before))


def to_bytes(images: Tensor) -> Tensor:
    """Images in [0, 1], cut to it, as ``uint8``."""
    return (255 * images).round().clamp(0, 255).to(torch.uint8)


def draw_pictures(results: AdversarialResults, classes: Sequence[str]) -> Figure:
    """A line per example: the image, the change, the result, with what the classifier says."""
    pictures = results.pictures
    tiles = torch.stack([to_bytes(pictures.before), picture_changes(pictures), to_bytes(pictures.after)], 1)
    captions: list[list[str]] = []
    for one in results.examples:
        before, after = (
            [f"{name} {format_percent(p)}" for name, p in list_likeliest(chances, classes, SHOWN)]
            for chances in (one.before, one.after)
        )
        captions += [[f"no. {one.index}", *before], [f"change × {ENLARGED}"], ["after PGD", *after]]
    title = f"PGD, L∞, at most {results.judged_at:g} of 255 grey levels"
    return add_captions(tiles.flatten(0, 1), captions, columns=3, title=title)
