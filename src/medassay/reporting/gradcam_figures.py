"""Heat maps over their images, one heat map step by step, and charts of how far maps can be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from medassay.reporting.figures import PALETTE, grid_array
from medassay.reporting.html import decimals, fixed, known, reduced

LARGEST_SUM = 32  # feature maps drawn in the strip
SCORES = {
    "pointing": ("Pointing game", "share of images whose map peaks inside the true mask"),
    "energy": ("Energy inside the mask", "share of the map inside the true mask"),
    "deletion": ("Deletion", "area under the class’s probability; lower is better"),
    "insertion": ("Insertion", "area under the class’s probability; higher is better"),
    "sanity": ("Sanity check", "correlation with maps of random nets; lower is better"),
}
_DPI = 100
_TILE = 84  # dots of an image's side, about
_SMALL = 8.0  # points
_GREY = "#808080"


# --- heat maps over images -------------------------------------------------------------------------------------------


def coloured(maps: Tensor, colormap: str) -> Tensor:
    """``(N, H, W)`` in [0, 1] in matplotlib's colours: ``(N, 3, H, W) uint8``."""
    colours = colormaps[colormap](maps.clamp(0, 1).numpy())[..., :3]
    return torch.from_numpy(colours).permute(0, 3, 1, 2).mul(255).round().to(torch.uint8)


def overlay(images: Tensor, maps: Tensor, colormap: str = "jet", opacity: float = 0.45) -> Tensor:
    """Heat maps laid over images, everywhere with the same opacity.

    Args:
        images: ``(N, C, H, W) uint8``, C 1 or 3.
        maps: ``(N, H, W)`` in [0, 1].
        colormap: matplotlib's name.
        opacity: of the heat map, from 0 to 1.

    Returns:
        ``(N, 3, H, W) uint8``.
    """
    mixed = (1 - opacity) * images.expand(-1, 3, -1, -1) + opacity * coloured(maps, colormap)
    return mixed.round().to(torch.uint8)


def colour_bar(colormap: str) -> Tensor:
    """The colours from 0 to 1, left to right, ``(1, 3, 4, 64) uint8``."""
    return coloured(torch.linspace(0, 1, 64).expand(1, 4, -1), colormap)


def sheet(
    images: Tensor,
    maps: Tensor,
    described: Sequence[Mapping[str, Any]],
    classes: Sequence[str],
    *,
    colormap: str = "jet",
    opacity: float = 0.45,
    title: str = "",
) -> Figure:
    """A line per image: what it is and what the classifier says, the image, and its heat map for every class.

    Args:
        images: ``(n, C, H, W) uint8``.
        maps: ``(n, K, H, W)`` in [0, 1].
        described: of each image ``index, label, predicted, probabilities``.
        classes: K names.
        colormap, opacity: as :func:`overlay`.
        title: above.
    """
    n, k = maps.shape[:2]
    picture, pitch_x, pitch_y, tile = _mosaic(images, maps, colormap, opacity, classes)
    says = [_line(image, classes) for image in described]
    left, top, bottom = 24 + _width(says), 70 if title else 36, 36
    heading = title.splitlines()
    width, height = max(left + (k + 1) * pitch_x, 20 + round(1.2 * _width(heading)), 400), top + n * pitch_y + bottom
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
    axes = figure.add_axes((left / width, bottom / height, picture.shape[1] / width, picture.shape[0] / height))
    axes.imshow(picture, interpolation="nearest", aspect="auto", extent=(0, picture.shape[1], picture.shape[0], 0))
    axes.set_axis_off()
    centre = tile[1] / 2
    for column, name in enumerate(["image", *classes]):
        axes.text(column * pitch_x + centre, -6, name, ha="center", va="bottom", size=_SMALL, parse_math=False)
    for row, image in enumerate(described):
        place = row * pitch_y + tile[0] / 2
        axes.text(-10, place, says[row], ha="right", va="center", size=_SMALL, parse_math=False, linespacing=1.4)
        for label, probability in enumerate(image["probabilities"]):
            look = "bold" if label == image["predicted"] else "normal"
            x, y = (label + 1) * pitch_x + centre, row * pitch_y + tile[0] + 3
            note = "" if maps[row, label].any() else ", empty"
            axes.text(x, y, f"p = {probability:.2f}{note}", ha="center", va="top", size=_SMALL, weight=look)
    if title:
        axes.text(10 - left, 12 - top, title, va="top", size=9, weight="bold", parse_math=False)
    _colour_bar(figure, colormap, 10 / width, 10 / height, 120 / width, 9 / height)
    return figure


def _line(image: Mapping[str, Any], classes: Sequence[str]) -> str:
    wrong = " (wrong)" if image["label"] != image["predicted"] else ""
    return f"no. {image['index']}\ntrue: {classes[image['label']]}\nsays: {classes[image['predicted']]}{wrong}"


def _width(texts: Sequence[str]) -> int:
    """Dots that the longest line takes, about."""
    return round(6.6 * max((len(line) for text in texts for line in text.splitlines()), default=0))


def _mosaic(
    images: Tensor, maps: Tensor, colormap: str, opacity: float, classes: Sequence[str]
) -> tuple[Any, int, int, tuple[int, int]]:
    """Images and overlays on white, ``(height, width, 3)``, the pitch across and down, and a tile's height and width."""
    k = maps.shape[1]
    over = [overlay(images, maps[:, label], colormap, opacity) for label in range(k)]
    tiles = reduced(torch.stack([images.expand(-1, 3, -1, -1), *over], 1).flatten(0, 1))
    scale = max(1, _TILE // tiles.shape[-1])
    tiles = tiles.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    height, width = tiles.shape[2:]
    pitch_x = max(width + 10, 12 + _width(classes), 112)  # 112: the longest text below a tile
    pitch_y = height + 24
    white = torch.full((len(tiles), 3, pitch_y, pitch_x), 255, dtype=torch.uint8)
    white[:, :, :height, :width] = tiles
    picture = grid_array(white, columns=k + 1, padding=0).permute(1, 2, 0).numpy()
    return picture, pitch_x, pitch_y, (height, width)


def _colour_bar(figure: Figure, colormap: str, x: float, y: float, width: float, height: float) -> None:
    axes = figure.add_axes((x, y, width, height))
    axes.imshow(torch.linspace(0, 1, 256)[None].numpy(), cmap=colormap, aspect="auto")
    axes.set_axis_off()
    text = " 0 to each map’s own largest value"
    axes.text(1, 0.5, text, transform=axes.transAxes, ha="left", va="center", size=_SMALL)


# --- step by step ----------------------------------------------------------------------------------------------------


def steps(image: Tensor, made: Any, name: str, *, colormap: str = "jet", opacity: float = 0.45) -> Figure:
    """The feature maps and their weights, the weighted sum, its positive part, and the heat map on the image.

    Args:
        image: ``(C, H, W) uint8``.
        made: :class:`medassay.explain.activation_maps.Steps` of that image.
        name: of the class.
        colormap, opacity: as :func:`overlay`.
    """
    order = made.alphas.abs().argsort(descending=True)[:LARGEST_SUM]
    order = order[made.alphas[order].argsort(descending=True)]
    columns = 8
    rows = -(-len(order) // columns)
    figure = Figure(figsize=(9.6, 1.14 * rows + 2.9), dpi=_DPI)
    parts: Any = figure.subfigures(2, 1, height_ratios=[1.14 * rows + 0.45, 2.45])
    upper, lower = parts
    count = len(made.alphas)
    shown = f"the {count}" if count == len(order) else f"{len(order)} of {count}"
    _heading(
        upper, f"1  Feature maps, {shown}, all on one grey scale; α: the gradient of “{name}”, averaged over the map"
    )
    top = 1 - 0.46 / (1.14 * rows + 0.45)
    grid = upper.add_gridspec(rows, columns, left=0.02, right=0.98, top=top, bottom=0.02, wspace=0.12, hspace=0.3)
    places = decimals(float(made.alphas.abs().max()), 2)
    low, high = float(made.maps.min()), float(made.maps.max())
    for place, index in enumerate(order.tolist()):
        axes = upper.add_subplot(grid[place // columns, place % columns])
        alpha = float(made.alphas[index])
        _picture(axes, made.maps[index], cmap="gray", vmin=low, vmax=high)
        colour = PALETTE[0] if alpha > 0 else PALETTE[1]
        axes.set_title(f"α = {fixed(alpha, places)}", size=_SMALL, pad=2, color=colour)
    _sums(lower, image, made, colormap, opacity)
    return figure


def _sums(figure: Any, image: Tensor, made: Any, colormap: str, opacity: float) -> None:
    """The lower row: from the weighted sum to the overlay."""
    grid = figure.add_gridspec(1, 5, left=0.02, right=0.98, top=0.8, bottom=0.02, wspace=0.12)
    reach = max(float(made.total.abs().max()), 1e-12)
    over = overlay(image[None], made.heat[None], colormap, opacity)[0].permute(1, 2, 0)
    plain = image.expand(3, -1, -1).permute(1, 2, 0)
    parts: list[tuple[str, Tensor, dict[str, Any]]] = [
        (
            "2  Sum of α × map\n(orange: below 0)",
            made.total,
            {"cmap": "PuOr", "vmin": -reach, "vmax": reach},
        ),
        ("3  What is above 0", made.relu, {"cmap": "gray", "vmin": 0, "vmax": reach}),
        ("4  Scaled and enlarged", made.heat, {"cmap": colormap, "vmin": 0, "vmax": 1}),
        ("The image", plain, {}),
        ("5  Laid over the image", over, {}),
    ]
    for place, (title, picture, look) in enumerate(parts):
        axes = figure.add_subplot(grid[0, place])
        _picture(axes, picture, **look)
        axes.set_title(title, size=9, pad=4)


def _heading(figure: Any, text: str) -> None:
    figure.text(0.02, 0.995, text, ha="left", va="top", size=9, parse_math=False)


def _picture(axes: Axes, picture: Tensor, **look: Any) -> None:
    axes.imshow(picture.numpy(), interpolation="none", **look)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color(_GREY)
    axes.spines[:].set_linewidth(0.5)


# --- charts ----------------------------------------------------------------------------------------------------------


def charts(scores: Mapping[str, Any]) -> dict[str, tuple[Figure, str]]:
    """A chart per score that was measured: ``{name: (figure, description)}``."""
    drawn = {}
    for key, (title, _) in SCORES.items():
        measured = [row for row in scores["rows"] if key in row]
        if measured:
            values = "; ".join(f"{row['name']} {fixed(row[key]['mean'])}" for row in measured)
            beside = [f"{row['name']} {fixed(row[key]['mean'])}" for row in scores["baselines"] if key in row]
            text = f"{title}: {values}. {'Baselines: ' + '; '.join(beside) + '.' if beside else ''}".strip()
            drawn[f"score_{key}"] = (score_chart(measured, scores["baselines"], key), text)
    return drawn


def score_chart(rows: Sequence[Mapping[str, Any]], baselines: Sequence[Mapping[str, Any]], score: str) -> Figure:
    """A method a line, its mean and 95 % interval; baselines, or the sanity check's limit, as vertical lines.

    Args:
        rows, baselines: of :func:`medassay.protocols.gradcam.scores.scores`.
        score: one of ``SCORES``.
    """
    figure = Figure(figsize=(3.7, 1.5 + 0.25 * len(rows)), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    for place, row in enumerate(rows):
        value = row[score]
        if known(value["mean"]):
            axes.plot([value["low"], value["high"]], [place, place], color=PALETTE[0], linewidth=2)
            axes.plot(value["mean"], place, "o", color=PALETTE[0], markersize=6)
    limits: list[tuple[str, Any]] = [(row["name"], row[score]["mean"]) for row in baselines if score in row]
    if score == "sanity":
        limits = [("passes below this", 0.5)]
    for (name, x), style in zip(limits, (":", "--"), strict=False):
        axes.axvline(x, color=PALETTE[1], linewidth=1.4, linestyle=style, label=name)
    ends = [row[score][end] for row in (*rows, *baselines) if score in row for end in ("low", "high")]
    reach = [0.0, *(value for value in ends if known(value)), *(x for _, x in limits if known(x))]
    span = max(max(reach) - min(reach), 0.1)
    axes.set(ylim=(len(rows) - 0.5, -0.5), xlim=(min(reach) - 0.04 * span, max(reach) + 0.04 * span))
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes.set_xlabel(SCORES[score][1], size=_SMALL)
    axes.tick_params(labelsize=_SMALL, length=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color=_GREY, alpha=0.25, linewidth=0.8)
    place_of: Any = "outside lower center"  # understood by figures only, and left out of their type hints
    figure.legend(loc=place_of, ncols=2, frameon=False, fontsize=_SMALL)
    return figure
