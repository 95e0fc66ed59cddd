"""The assay's charts, from its results as plain values; each is drawn for a page and for a file alike.

Real images are green, generated ones blue; the controls have the palette's other colours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from medassay.reporting.figures import PALETTE, image_grid
from medassay.reporting.html import fixed, known, reduced
from medassay.reporting.small_charts import GREY, legend_below, small_axes

GENERATED, REAL = PALETTE[0], PALETTE[2]
# Colour, marker, and whether it is filled: hollow and crossed ones stay visible where rows coincide
_LOOKS: dict[str, tuple[str, str, bool]] = {
    "generator": (GENERATED, "o", True),
    "floor": (REAL, "s", True),
    "copies": (PALETTE[1], "D", False),
    "noisy_copies": (PALETTE[4], "^", False),
    "without_class": (PALETTE[3], "v", False),
    "floor_same_m": (PALETTE[5], "s", False),
    "shuffled_labels": (PALETTE[6], "x", False),
}

SHORT = {
    "generator": "generator",
    "floor": "floor",
    "copies": "(b) copies",
    "noisy_copies": "(c) copies + noise",
    "without_class": "(d) class left out",
    "floor_same_m": "floor for (d)",
    "shuffled_labels": "(e) shuffled labels",
}


def charts(results: dict[str, Any]) -> dict[str, tuple[Figure, str]]:
    """All charts of an assay: ``{name: (figure, description)}``."""
    rows, arms = results["rows"], results["performance"]["arms"]
    encoder = next(iter(results["encoders"]))
    drawn = _class_charts(results)
    for x, y in (("recall", "precision"), ("coverage", "density")):
        points = [(SHORT[row["key"]], *(row["encoders"][encoder][name]["mean"] for name in (x, y))) for row in rows]
        values = "; ".join(f"{name} {fixed(across, 2)}, {fixed(up, 2)}" for name, across, up in points)
        text = f"{x.capitalize()} and {y} of each row: {values}."
        drawn[f"plane_{x}_{y}"] = (plane(rows, encoder, x, y), text)
    for kind, score in (("alpha", "alpha_precision"), ("beta", "beta_recall")):
        own, best = (fixed(row["encoders"][encoder][score]["mean"]) for row in rows[:2])
        text = f"Curves of generator and floor beside the diagonal; integrated scores {own} and {best}."
        drawn[f"curve_{kind}"] = (curve(rows[:2], kind), text)
    means = [(name, fixed(arm["balanced_accuracy"]["mean"]), arm["images"]) for name, arm in arms.items()]
    values = "; ".join(f"{name} {mean} from {images} images" for name, mean, images in means)
    drawn["learning_curve"] = (
        learning_curve(results["performance"], 1 / len(results["classes"])),
        f"Balanced accuracy against the number of images learnt from: {values}.",
    )
    return drawn


def _class_charts(results: dict[str, Any]) -> dict[str, tuple[Figure, str]]:
    """Generator beside floor, and TSTR beside TRTR, class by class."""
    mine, floor = (row["per_class"] for row in results["rows"][:2])
    arms = results["performance"]["arms"]
    sets, nets = ("generator", "floor"), ("TSTR", "TRTR")
    drawn = {}
    for name, title, labels, judged, reference in (
        ("coverage", "coverage of the class", sets, mine["coverage"], floor["coverage"]),
        ("consistency", "class consistency", sets, mine["class_consistency"], floor["class_consistency"]),
        ("recall", "recall on real images", nets, arms["TSTR"]["recall"], arms["TRTR"]["recall"]),
    ):
        triples = zip(results["classes"], judged, reference, strict=True)
        values = "; ".join(f"{c} {fixed(own, 2)} ({fixed(beside, 2)})" for c, own, beside in triples)
        text = f"{title.capitalize()}: {labels[0]} (in brackets: {labels[1]}). {values}."
        drawn[f"class_{name}"] = (per_class(results["classes"], judged, reference, labels, title), text)
    return drawn


def per_class(
    classes: Sequence[str],
    judged: Sequence[float | None],
    reference: Sequence[float | None],
    labels: tuple[str, str],
    x: str,
) -> Figure:
    """One line per class from what is judged to its reference, both shares; a number that there is not is left out.

    Args:
        classes: names, from top to bottom.
        judged, reference: a share per class.
        labels: what the two are, for the legend.
        x: what the share is.
    """
    figure, axes = small_axes(3.7, 1.25 + 0.25 * len(classes))
    rows = range(len(classes))
    pairs = [(_nan(a), _nan(b)) for a, b in zip(judged, reference, strict=True)]
    for row, (a, b) in zip(rows, pairs, strict=True):
        axes.plot([a, b], [row, row], color=GREY, linewidth=1.2, alpha=0.6, zorder=1)
    axes.plot([b for _, b in pairs], rows, "s", color=REAL, markersize=6, label=labels[1], clip_on=False)
    axes.plot([a for a, _ in pairs], rows, "o", color=GENERATED, markersize=6, label=labels[0], clip_on=False)
    axes.set_yticks(rows, classes, parse_math=False)
    axes.set(xlim=(-0.02, 1.02), ylim=(len(classes) - 0.5, -0.5), xlabel=x)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    legend_below(figure, axes, 2)
    return figure


def plane(rows: Sequence[Mapping[str, Any]], encoder: str, x: str, y: str) -> Figure:
    """Diversity against fidelity, a point per row, with bars of one standard deviation where there is one.

    Args:
        rows: of the comparison table.
        encoder: whose numbers.
        x, y: metrics of diversity and fidelity.
    """
    figure, axes = small_axes(3.7, 3.7 + 0.21 * -(-len(rows) // 2))
    for place, row in enumerate(rows):
        colour, marker, filled = _LOOKS.get(row["key"], (GREY, "*", True))
        across, up = (row["encoders"][encoder][metric] for metric in (x, y))
        axes.errorbar(
            _nan(across["mean"]),
            _nan(up["mean"]),
            xerr=across["sd"],
            yerr=up["sd"],
            color=colour,
            marker=marker,
            markersize=7 if filled else 9,
            markerfacecolor=colour if filled else "none",
            markeredgewidth=1.5,
            linestyle="none",
            capsize=2,
            label=SHORT[row["key"]],
            zorder=3 + place / 100 if filled else 4 + place / 100,
        )
    values = [_nan(row["encoders"][encoder][y]["mean"]) for row in rows]
    top = max([1.0, *(value for value in values if not math.isnan(value))])
    axes.set(xlim=(-0.04, 1.04), ylim=(-0.04 * top, 1.06 * top), xlabel=_axis(x), ylabel=_axis(y))
    legend_below(figure, axes, 2)
    return figure


def curve(rows: Sequence[Mapping[str, Any]], kind: str) -> Figure:
    """The α-precision (``kind="alpha"``) or β-recall (``"beta"``) curves of some rows, and the diagonal."""
    figure, axes = small_axes(3.7, 3.9)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":", label="ideal")
    for row in rows:
        values = [_nan(value) for value in row["curves"][kind]]
        colour, _, _ = _LOOKS.get(row["key"], (GREY, "", True))
        axes.plot(torch.linspace(0, 1, len(values)).tolist(), values, color=colour, label=SHORT[row["key"]])
    letter, meaning = {"alpha": ("α", "α-precision"), "beta": ("β", "β-recall")}[kind]
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", xlabel=letter, ylabel=f"{meaning} at {letter}")
    legend_below(figure, axes, 3)
    return figure


def learning_curve(performance: Mapping[str, Any], chance: float) -> Figure:
    """Balanced accuracy on real images against the number of images learnt from, with 95 % intervals.

    Args:
        performance: the arms.
        chance: what guessing reaches.
    """
    arms, metric = performance["arms"], "balanced_accuracy"
    figure, axes = small_axes(4.4, 3.8)
    sizes = sorted((a["images"], a[metric]) for name, a in arms.items() if name == "TSTR" or name.startswith("TSTR "))
    real = arms["TRTR"][metric]
    axes.axhline(_nan(real["mean"]), color=REAL, label="TRTR: real images")
    if known(real["low"]):
        axes.axhspan(max(0, _nan(real["low"])), min(1, _nan(real["high"])), color=REAL, alpha=0.15, linewidth=0)
    _interval(axes, sizes, GENERATED, "o", "TSTR: generated images", "-")
    if "TR+STR" in arms:
        _interval(axes, [(arms["TR+STR"]["images"], arms["TR+STR"][metric])], PALETTE[1], "D", "TR+STR: both", "none")
    axes.axhline(chance, color=GREY, linewidth=1, linestyle=":", label=f"chance ({chance:.3g})")
    axes.set_xscale("log")
    ticks = sorted({arms["TRTR"]["images"], *(arm["images"] for arm in arms.values())})
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_xlim(ticks[0] / 1.2, ticks[-1] * 1.2)
    axes.set(ylim=(0, 1.02), xlabel="images learnt from", ylabel="balanced accuracy on real images")
    legend_below(figure, axes, 2)
    return figure


def example_grid(real: Tensor, generated: Tensor, classes: Sequence[str]) -> Figure:
    """A row per class: real images, a gap, generated ones; ``real`` and ``generated`` are ``(K, N, C, H, W) uint8``."""
    k, n = real.shape[:2]
    left, right = (reduced(images.flatten(0, 1)) for images in (real, generated))
    left, right = (images.reshape(k, n, *images.shape[1:]) for images in (left, right))
    rows = torch.cat([left, torch.full_like(left[:, :1], 255), right], 1)
    return image_grid(
        rows.flatten(0, 1),
        columns=2 * n + 1,
        row_labels=classes,
        scale=_scale(rows),
        title="Left: real images. Right: generated images.",
    )


def gallery_grid(samples: Tensor, nearest: Tensor, columns: int = 12) -> Figure:
    """Samples, and below each its nearest training image, in lines of at most ``columns``; ``(N, C, H, W) uint8``."""
    samples, nearest = reduced(samples), reduced(nearest)
    columns = min(columns, len(samples))
    missing = -len(samples) % columns
    lines = []
    for images in (samples, nearest):
        blank = torch.full_like(images[:1], 255).expand(missing, -1, -1, -1)
        lines.append(torch.cat([images, blank]).reshape(-1, columns, *images.shape[1:]))
    grid = torch.stack(lines, 1)
    return image_grid(
        grid.flatten(0, 2),
        columns=columns,
        row_labels=["sample", "nearest training image"] * len(grid),
        scale=_scale(samples),
    )


def _interval(axes: Axes, points: Sequence[tuple[int, Any]], colour: str, marker: str, label: str, line: str) -> None:
    """Means with their intervals, cut to [0, 1]; without bars where there is no interval."""
    means = [_nan(value["mean"]) for _, value in points]
    bars = None
    if all(known(value["low"]) for _, value in points):
        low = [mean - max(0.0, _nan(value["low"])) for mean, (_, value) in zip(means, points, strict=True)]
        high = [min(1.0, _nan(value["high"])) - mean for mean, (_, value) in zip(means, points, strict=True)]
        bars = (low, high)
    axes.errorbar(
        [x for x, _ in points], means, yerr=bars, color=colour, marker=marker, linestyle=line, capsize=3, label=label
    )


def _scale(images: Tensor) -> int:
    """Dots per pixel, so that an image is about 56 dots wide."""
    return max(1, 56 // images.shape[-1])


def _axis(metric: str) -> str:
    return {"recall": "recall (diversity)", "coverage": "coverage (diversity)"}.get(metric, f"{metric} (fidelity)")


def _nan(value: float | None) -> float:
    return math.nan if value is None else float(value)
