"""Originals and reconstructions side by side, and curves over batch size and defences."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from medassay.protocols.inversion.cases import Case
from medassay.protocols.inversion.measures import CaseResult, InversionResults, Originals
from medassay.protocols.inversion.verdict import format_epsilon
from medassay.reporting.charts import GREY, PALETTE, Chart, add_legend_below, make_small_axes
from medassay.reporting.figures import draw_image_grid
from medassay.reporting.numbers import format_with_bounds


def list_pictures(originals: Originals, cases: Sequence[CaseResult]) -> dict[str, Tensor]:
    """Rows of pictures ``(N, 3, H, W) uint8`` by name, all of one length: originals, both nulls, and each case's images."""
    rows = {
        "original": originals.images,
        "nearest other training image": originals.nearest,
        "mean training image": originals.mean,
        **{one.name: one.images for one in cases},
    }
    return {name: _fill(images, len(originals)) for name, images in rows.items()}


def _fill(images: Tensor, count: int) -> Tensor:
    """``(n, C, H, W)`` float images as ``count`` pictures, white where an image was not attacked."""
    pictures = images.mul(255).round().to(torch.uint8).expand(-1, 3, -1, -1)
    return torch.cat([pictures, pictures.new_full((count - len(pictures), *pictures.shape[1:]), 255)])


def draw_pictures(rows: dict[str, Tensor], title: str) -> Figure:
    """All rows in one picture."""
    count = len(next(iter(rows.values())))
    return draw_image_grid(torch.cat([*rows.values()]), columns=count, row_labels=[*rows], title=title)


def draw_curves(results: InversionResults) -> dict[str, Chart]:
    """PSNR by name of what changes: batch size, noise, pruning; a curve where there are two points at least."""
    base = results.cases[0].case
    axes: dict[str, tuple[str, Callable[[Case], object], Callable[[CaseResult], str]]] = {
        "batch": ("images in the batch", lambda case: case.batch, lambda one: str(one.case.batch)),
        "noise": (
            "noise multiplier, and epsilon of one step",
            lambda case: case.noise,
            lambda one: "none" if one.case.noise is None else f"{one.case.noise:g}\nε {format_epsilon(one.epsilon)}",
        ),
        "pruning": (
            "share of the entries set to 0",
            lambda case: case.pruned,
            lambda one: f"{100 * one.case.pruned:g} %",
        ),
    }
    charts = {}
    for name, (label, value, text) in axes.items():
        field = "pruned" if name == "pruning" else name
        points = [one for one in results.cases if _differs_only_in(one.case, base, field)]
        if len(points) > 1:
            points = [points[0], *sorted(points[1:], key=lambda one: value(one.case) or 0)]  # type: ignore[arg-type, return-value]
            charts[name] = _draw_curve(results, points, [text(one) for one in points], label)
    return charts


def _differs_only_in(case: Case, base: Case, field: str) -> bool:
    return all(value == getattr(base, name) for name, value in vars(case).items() if name != field)


def _draw_curve(results: InversionResults, points: Sequence[CaseResult], ticks: Sequence[str], label: str) -> Chart:
    figure, axes = make_small_axes(3.8, 3.1)
    estimates = [one.reconstruction.psnr for one in points]
    for place, one in enumerate(estimates):
        if one.low is not None and one.high is not None:
            axes.plot([place, place], [one.low, one.high], color=PALETTE[0], linewidth=1.4)
    axes.plot(
        [one.value for one in estimates], "o-", color=PALETTE[0], linewidth=1.6, markersize=4, label="reconstruction"
    )
    nulls = (
        ("nearest other image", results.nearest_other, PALETTE[1], "--"),
        ("mean image", results.mean_image, GREY, ":"),
    )
    for name, null, colour, style in nulls:
        axes.axhline(null.psnr.value, color=colour, linewidth=1.2, linestyle=style, label=name)
    axes.set_xticks(range(len(points)), ticks)
    axes.set(xlabel=label, ylabel="PSNR in dB", xlim=(-0.4, len(points) - 0.6))
    add_legend_below(figure, axes, 3)
    numbers = "; ".join(
        f"{' '.join(tick.split())}: {format_with_bounds(one, 1)}" for tick, one in zip(ticks, estimates, strict=True)
    )
    return Chart(figure, f"PSNR in dB by {label}: {numbers}.")
