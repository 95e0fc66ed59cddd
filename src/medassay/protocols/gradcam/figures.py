"""Heat maps over their images, one heat map step by step, and charts of how far maps can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from medassay.core.estimate import Estimate
from medassay.explain.activation_maps import Steps
from medassay.protocols.gradcam.results import Comparison, ExplainedImage
from medassay.protocols.gradcam.verdict import SIMILAR
from medassay.reporting.captions import add_captions
from medassay.reporting.charts import DPI, GREY, PALETTE, SMALL, Chart, Series, draw_dot_plot
from medassay.reporting.heat_maps import overlay
from medassay.reporting.html import shrink_images
from medassay.reporting.numbers import count_decimals, format_fixed

LARGEST_SUM = 32  # feature maps drawn in the strip
SCORES = {
    "pointing": ("Pointing game", "share of images whose map peaks inside the true mask"),
    "energy": ("Energy inside the mask", "share of the map inside the true mask"),
    "deletion": ("Deletion", "area under the class’s probability; lower is better"),
    "insertion": ("Insertion", "area under the class’s probability; higher is better"),
    "sanity": ("Sanity check", "correlation with maps of random nets; lower is better"),
}


def lay_over(images: Tensor, maps: Tensor, colormap: str = "jet", opacity: float = 0.45) -> Tensor:
    """Every class's heat map over its image: ``(n, C, H, W) uint8, (n, K, H, W) -> (n, K, 3, H, W) uint8``."""
    return torch.stack([overlay(images, of_class, colormap, opacity) for of_class in maps.unbind(1)], 1)


def draw_sheet(
    images: Tensor,
    maps: Tensor,
    explained: Sequence[ExplainedImage],
    classes: Sequence[str],
    title: str,
    colormap: str = "jet",
    opacity: float = 0.45,
) -> Figure:
    """A line per image: what it is and what the classifier says, the image, and its heat map for every class.

    Args:
        images: Images, ``(n, C, H, W) uint8``.
        maps: Heat maps, ``(n, K, H, W)`` in [0, 1].
        explained: What is said of each image.
        classes: Names of the K classes.
        title: Lines above.
        colormap, opacity: Look of the heat maps, as :func:`overlay`.
    """
    over = lay_over(images, maps, colormap, opacity)
    tiles = shrink_images(torch.cat([images.expand(-1, 3, -1, -1)[:, None], over], 1).flatten(0, 1))
    captions: list[list[str]] = []
    for image, of_classes in zip(explained, maps, strict=True):
        wrong = " (wrong)" if image.label != image.predicted else ""
        predicted = f"predicted: {classes[image.predicted]}{wrong}"
        captions.append([f"no. {image.index}", f"true: {classes[image.label]}", predicted])
        for name, p, heat_map in zip(classes, image.probabilities, of_classes, strict=True):
            captions.append([name, f"p = {p:.2f}{'' if heat_map.any() else ', empty'}"])
    figure = add_captions(tiles, captions, columns=1 + len(classes), title=f"{title}\n ")
    width, height = figure.get_size_inches() * DPI
    y = height - 20 - 18 * len(title.splitlines())  # of the title's last line, which is left for the colours
    axes = figure.add_axes((8 / width, y / height, 120 / width, 9 / height))
    axes.imshow(torch.linspace(0, 1, 256)[None].numpy(), cmap=colormap, aspect="auto")
    axes.set_axis_off()
    axes.text(1, 0.5, " 0 to each map’s own largest value", transform=axes.transAxes, va="center", size=SMALL)
    return figure


def draw_steps(image: Tensor, steps: Steps, name: str, colormap: str = "jet", opacity: float = 0.45) -> Figure:
    """The feature maps and their weights, the weighted sum, its positive part, and the heat map on the image.

    Args:
        image: The image, ``(C, H, W) uint8``.
        steps: How its heat map comes about.
        name: Name of the class.
        colormap, opacity: Look of the heat map, as :func:`overlay`.
    """
    order = steps.alphas.abs().argsort(descending=True)[:LARGEST_SUM]
    order = order[steps.alphas[order].argsort(descending=True)]
    rows, count = -(-len(order) // 8), len(steps.alphas)
    figure = Figure(figsize=(9.6, 1.2 * rows + 2.9), dpi=DPI, layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=[1.2 * rows + 0.4, 2.5])
    upper, lower = parts
    shown = f"the {count}" if count == len(order) else f"{len(order)} of {count}"
    text = f"1  Feature maps, {shown}, all on one grey scale; α: the gradient of “{name}”, averaged over the map"
    upper.suptitle(text, size=9, parse_math=False)
    places = count_decimals(float(steps.alphas.abs().max()), 2)
    grey = {"cmap": "gray", "vmin": float(steps.maps.min()), "vmax": float(steps.maps.max())}
    for axes, index in zip_longest(upper.subplots(rows, 8).flat, order.tolist()):
        if index is None:
            axes.set_axis_off()
            continue
        alpha = float(steps.alphas[index])
        _show_picture(axes, steps.maps[index], **grey)
        axes.set_title(f"α = {format_fixed(alpha, places)}", size=SMALL, pad=2, color=PALETTE[0 if alpha > 0 else 1])
    reach = max(float(steps.total.abs().max()), 1e-12)
    over = overlay(image[None], steps.heat[None], colormap, opacity)[0]
    stages: list[tuple[str, Tensor, dict[str, Any]]] = [
        ("2  Sum of α × map\n(orange: below 0)", steps.total, {"cmap": "PuOr", "vmin": -reach, "vmax": reach}),
        ("3  What is above 0", steps.relu, {"cmap": "gray", "vmin": 0, "vmax": reach}),
        ("4  Scaled and enlarged", steps.heat, {"cmap": colormap, "vmin": 0, "vmax": 1}),
        ("The image", image.expand(3, -1, -1).permute(1, 2, 0), {}),
        ("5  Laid over the image", over.permute(1, 2, 0), {}),
    ]
    for axes, (title, picture, look) in zip(lower.subplots(1, 5), stages, strict=True):
        _show_picture(axes, picture, **look)
        axes.set_title(title, size=9, pad=4)
    return figure


def _show_picture(axes: Axes, picture: Tensor, **look: Any) -> None:
    axes.imshow(picture.numpy(), interpolation="none", **look)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(color=GREY, linewidth=0.5)


def draw_charts(comparison: Comparison) -> dict[str, Chart]:
    """A chart per score that was measured, by name: a method a line; baselines, or the sanity check's limit, upright."""
    drawn = {}
    for score, (title, x) in SCORES.items():
        measured, beside = (
            {row.name: row.scores[score] for row in rows if score in row.scores}
            for rows in (comparison.rows, comparison.baselines)
        )
        if measured:
            lines = [(name, one.value) for name, one in beside.items()]
            series = [Series(None, PALETTE[0], "o", [*measured.values()])]
            limit = [("passes below this", SIMILAR)] if score == "sanity" else lines
            text = f"{title}: {_list_means(measured)}.{f' Baselines: {_list_means(beside)}.' if beside else ''}"
            drawn[f"score_{score}"] = Chart(draw_dot_plot([*measured], series, x, limit, share=False), text)
    return drawn


def _list_means(means: dict[str, Estimate]) -> str:
    return "; ".join(f"{name} {format_fixed(mean.value)}" for name, mean in means.items())
