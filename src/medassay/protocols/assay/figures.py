"""The assay's pictures: charts, drawn for a page and for a file alike, and the images that a reader is shown.

Real images are green, generated ones blue; the controls have the palette's other colours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from medassay.core.estimate import Estimate
from medassay.protocols.assay.results import AssayResults, Performance, Row
from medassay.protocols.assay.subjects import Candidate, Real
from medassay.protocols.assay.turned import Suspicion
from medassay.reporting.charts import GREY, PALETTE, Chart, Series, add_legend_below, draw_dot_plot, make_small_axes
from medassay.reporting.figures import draw_image_grid
from medassay.reporting.html import shrink_images
from medassay.reporting.numbers import format_fixed

GALLERY = 24  # most suspicious samples shown
SEARCHED = 10_000  # samples they are looked for among, at most
EXAMPLES = 10  # images of each class shown
GENERATED, REAL = PALETTE[0], PALETTE[2]


class Look(NamedTuple):
    """How a row is drawn; hollow and crossed markers stay visible where rows coincide."""

    name: str
    colour: str
    marker: str
    filled: bool = False


LOOKS = {
    "generator": Look("generator", GENERATED, "o", True),
    "floor": Look("floor", REAL, "s", True),
    "copies": Look("copies", PALETTE[1], "D"),
    "noisy_copies": Look("copies + noise", PALETTE[4], "^"),
    "turned_copies": Look("copies, turned", PALETTE[7], ">"),
    "without_class": Look("class left out", PALETTE[3], "v"),
    "floor_same_m": Look("floor, fewer images", PALETTE[5], "s"),
    "shuffled_labels": Look("shuffled labels", PALETTE[6], "x"),
}


class Examples(NamedTuple):
    """The first images of every class, ``(classes, N, C, H, W) uint8``: real ones (of the test set) and generated ones."""

    real: Tensor
    generated: Tensor


class Gallery(NamedTuple):
    """The most suspicious samples, most suspicious first, each with its nearest training image."""

    samples: Tensor  # (N, C, H, W) uint8, as ``nearest``
    nearest: Tensor
    sample_labels: Tensor  # (N,) int64, as ``nearest_labels``
    nearest_labels: Tensor
    suspicion: Tensor  # (N,): distance to that image over that image's distance to its nearest other training image


def choose_examples(real: Real, candidate: Candidate, n: int = EXAMPLES) -> Examples:
    """The first ``n`` images of every class, nothing selected; fewer where a class has fewer."""
    classes, sets = range(len(real.classes)), (real.test, candidate.images)
    n = min(n, *(int((s.labels == c).sum()) for s in sets for c in classes))
    return Examples(*(torch.stack([s.images[s.labels == c][:n] for c in classes]) for s in sets))


def choose_suspicious(suspicion: Suspicion, real: Real, candidate: Candidate, n: int = GALLERY) -> Gallery:
    """The ``n`` samples nearest to a training image, in units of that image's distance to its own nearest neighbour."""
    order = suspicion.ratio.argsort(stable=True)[:n]
    samples, nearest = candidate.images[order], real.unique[suspicion.nearest[order]]
    return Gallery(samples.images, nearest.images, samples.labels, nearest.labels, suspicion.ratio[order])


def draw(results: AssayResults, examples: Examples, gallery: Gallery) -> dict[str, Figure | Chart]:
    """All pictures of an assay by name: charts, and for files grids of images, if there are some."""
    rows, classes, learned = results.rows, results.classes, results.performance
    own, floor = results.judged.per_class, results.floor.per_class
    drawn: dict[str, Figure | Chart] = {}
    for name, title, labels, judged, reference in (
        ("coverage", "coverage of the class", ("generator", "floor"), own.coverage, floor.coverage),
        ("consistency", "class consistency", ("generator", "floor"), own.class_consistency, floor.class_consistency),
        ("recall", "recall on real images", ("TSTR", "TRTR"), learned.tstr.recall, learned.trtr.recall),
    ):
        triples = zip(classes, judged, reference, strict=True)
        values = "; ".join(f"{c} {format_fixed(mine, 2)} ({format_fixed(beside, 2)})" for c, mine, beside in triples)
        text = f"{title.capitalize()}: {labels[0]} (in brackets: {labels[1]}). {values}."
        drawn[f"class_{name}"] = Chart(draw_per_class(classes, judged, reference, labels, title), text)
    for x, y in (("recall", "precision"), ("coverage", "density")):
        points = ((LOOKS[row.key].name, getattr(row.headline, x).value, getattr(row.headline, y).value) for row in rows)
        values = "; ".join(f"{name} {format_fixed(across, 2)}, {format_fixed(up, 2)}" for name, across, up in points)
        drawn[f"plane_{x}_{y}"] = Chart(draw_plane(rows, x, y), f"{x.capitalize()} and {y} of each row: {values}.")
    for kind, score in (("alpha", "alpha_precision"), ("beta", "beta_recall")):
        mine, best = (format_fixed(getattr(row.headline, score).value) for row in rows[:2])
        text = f"Curves of generator and floor beside the diagonal; integrated scores {mine} and {best}."
        drawn[f"curve_{kind}"] = Chart(draw_curve(rows[:2], kind), text)
    values = "; ".join(
        f"{name} {format_fixed(arm.balanced_accuracy.value)} from {arm.images} images"
        for name, arm in learned.arms.items()
    )
    text = f"Balanced accuracy against the number of images learnt from: {values}."
    drawn["learning_curve"] = Chart(draw_learning_curve(learned, 1 / len(classes)), text)
    if examples.real.shape[1]:
        drawn["examples"] = draw_examples(*examples, classes)
    if len(gallery.samples):
        drawn["suspicious"] = draw_gallery(gallery.samples, gallery.nearest)
    return drawn


def draw_per_class(
    classes: Sequence[str],
    judged: Sequence[float | None],
    reference: Sequence[float | None],
    labels: tuple[str, str],
    x: str,
) -> Figure:
    """The share ``x`` of every class, of what is judged and of its reference; an undefined one is left out."""
    looks = zip(labels, (GENERATED, REAL), ("o", "s"), (judged, reference), strict=True)
    series = [
        Series(label, colour, marker, [Estimate(math.nan if share is None else share) for share in shares])
        for label, colour, marker, shares in looks
    ]
    return draw_dot_plot(classes, series, x)


def draw_plane(rows: Sequence[Row], x: str, y: str) -> Figure:
    """The headline's diversity ``x`` against its fidelity ``y``, a point per row, with bars of a standard deviation."""
    figure, axes = make_small_axes(3.7, 3.7 + 0.21 * -(-len(rows) // 2))
    top = 1.0
    for place, row in enumerate(rows):
        name, colour, marker, filled = LOOKS[row.key]
        across, up = getattr(row.headline, x), getattr(row.headline, y)
        top = max(top, up.value)  # NaN is no larger
        axes.errorbar(
            across.value,
            up.value,
            xerr=across.sd,
            yerr=up.sd,
            color=colour,
            marker=marker,
            markersize=7 if filled else 9,
            markerfacecolor=colour if filled else "none",
            markeredgewidth=1.5,
            linestyle="none",
            capsize=2,
            label=name,
            zorder=(3 if filled else 4) + place / 100,
        )
    axes.set(xlim=(-0.04, 1.04), ylim=(-0.04 * top, 1.06 * top), xlabel=f"{x} (diversity)", ylabel=f"{y} (fidelity)")
    add_legend_below(figure, axes, 2)
    return figure


def draw_curve(rows: Sequence[Row], kind: str) -> Figure:
    """The α-precision (``kind="alpha"``) or β-recall (``"beta"``) curves of some rows, and the diagonal."""
    figure, axes = make_small_axes(3.7, 3.9)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":", label="ideal")
    for row in rows:
        values, look = getattr(row.curves, kind), LOOKS[row.key]
        axes.plot(torch.linspace(0, 1, len(values)).tolist(), values, color=look.colour, label=look.name)
    letter, meaning = {"alpha": ("α", "α-precision"), "beta": ("β", "β-recall")}[kind]
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", xlabel=letter, ylabel=f"{meaning} at {letter}")
    add_legend_below(figure, axes, 3)
    return figure


def draw_learning_curve(performance: Performance, chance: float) -> Figure:
    """Balanced accuracy on real images by the number of images learnt from, with 95 % intervals; guessing has ``chance``."""
    figure, axes = make_small_axes(4.4, 3.8)
    arms, real = performance.arms, performance.trtr.balanced_accuracy
    axes.axhline(real.value, color=REAL, label="TRTR: real images")
    if (span := _shorten(real)) is not None:
        axes.axhspan(*span, color=REAL, alpha=0.15, linewidth=0)
    for start, colour, marker, label, line in (
        ("TSTR", GENERATED, "o", "TSTR: generated images", "-"),
        ("TR+STR", PALETTE[1], "D", "TR+STR: both", "none"),
    ):
        chosen = sorted((arm for name, arm in arms.items() if name.startswith(start)), key=lambda arm: arm.images)
        means, cuts = (
            [arm.balanced_accuracy.value for arm in chosen],
            [_shorten(arm.balanced_accuracy) for arm in chosen],
        )
        lengths = [(mean - cut[0], cut[1] - mean) for mean, cut in zip(means, cuts, strict=True) if cut is not None]
        bars = list(zip(*lengths, strict=True)) if len(lengths) == len(chosen) else None  # all or none
        look: dict[str, Any] = {"color": colour, "marker": marker, "linestyle": line, "label": label}
        if chosen:
            axes.errorbar([arm.images for arm in chosen], means, yerr=bars, capsize=3, **look)
    axes.axhline(chance, color=GREY, linewidth=1, linestyle=":", label=f"chance ({chance:.3g})")
    axes.set_xscale("log")
    ticks = sorted({arm.images for arm in arms.values()})
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks], minor=False)
    axes.set_xticks([], minor=True)
    axes.set(xlim=(ticks[0] / 1.2, ticks[-1] * 1.2), ylim=(0, 1.02))
    axes.set(xlabel="images learnt from", ylabel="balanced accuracy on real images")
    add_legend_below(figure, axes, 2)
    return figure


def draw_examples(real: Tensor, generated: Tensor, classes: Sequence[str]) -> Figure:
    """A row per class: real images, a gap, generated ones; ``real`` and ``generated`` are ``(K, N, C, H, W) uint8``."""
    left, right = (torch.unflatten(shrink_images(i.flatten(0, 1)), 0, i.shape[:2]) for i in (real, generated))
    rows = torch.cat([left, torch.full_like(left[:, :1], 255), right], 1)
    title = "Left: real images. Right: generated images."
    return draw_image_grid(
        rows.flatten(0, 1), columns=rows.shape[1], row_labels=classes, scale=_choose_scale(rows), title=title
    )


def draw_gallery(samples: Tensor, nearest: Tensor, columns: int = 12) -> Figure:
    """Samples, and below each its nearest training image, in lines of at most ``columns``; ``(N, C, H, W) uint8``."""
    columns = min(columns, len(samples))
    padding = (*[0] * 7, -len(samples) % columns)
    pair = [F.pad(shrink_images(images), padding, value=255) for images in (samples, nearest)]
    grid = torch.stack([torch.unflatten(images, 0, (-1, columns)) for images in pair], 1)
    labels = ["sample", "nearest training image"] * len(grid)
    return draw_image_grid(grid.flatten(0, 2), columns=columns, row_labels=labels, scale=_choose_scale(grid))


def _shorten(estimate: Estimate) -> tuple[float, float] | None:
    """The interval cut to [0, 1]; None where there is none."""
    low, high = estimate.low, estimate.high
    return None if low is None or high is None or math.isnan(low) else (max(0.0, low), min(1.0, high))


def _choose_scale(images: Tensor) -> int:
    """Dots per pixel, so that an image is about 56 dots wide."""
    return max(1, 56 // images.shape[-1])
