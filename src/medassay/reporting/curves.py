"""Pictures of a fitted curve: the beats, the curve, the truth where it is known; and several of them as an animation."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from medassay.core.files import atomic_write
from medassay.core.types import Curve
from medassay.reporting.charts import GREY, PALETTE, Chart, add_legend_below, make_small_axes
from medassay.reporting.numbers import format_significant

POINTS = 400  # of a drawn curve
WIDTH = 800  # pixels of an animation


@dataclass(frozen=True)
class CurveView:
    """What a picture shows.

    Attributes:
        curve: The measured points.
        x: Where the fitted curve is drawn, ``(P, 1)``, sorted.
        y: The fitted curve there, ``(P, 1)``.
        x_label, y_label: What the axes show.
        truth: What is true at ``x``, ``(P, 1)``; None where that is not known.
        title: A line above.
        marked: Points of the curve to mark, ``(M, 2)``; None for none.
    """

    curve: Curve
    x: Tensor
    y: Tensor
    x_label: str
    y_label: str
    truth: Tensor | None = None
    title: str = ""
    marked: Tensor | None = None


def make_grid(low: float, high: float, points: int = POINTS) -> Tensor:
    """So many places at equal distances from ``low`` to ``high``, ``(points, 1) float32``."""
    return torch.linspace(low, high, points)[:, None]


def draw_curve(view: CurveView, width: float = 5.6, height: float = 3.6) -> Chart:
    """The beats as thin lines, the fitted curve over them, and the truth where it is known.

    The vertical axis is that of the beats and the truth, with room above and below: what a bad fit does outside is cut off.
    """
    figure, axes = make_small_axes(width, height)
    beats = view.curve.list_beats()
    for place, beat in enumerate(beats):
        own = view.curve.beats == beat
        label = f"{len(beats)} beats" if place == 0 else None
        axes.plot(view.curve.x[own, 0], view.curve.y[own, 0], color=GREY, linewidth=0.8, alpha=0.6, label=label)
    if view.truth is not None:
        axes.plot(view.x[:, 0], view.truth[:, 0], color=PALETTE[2], linewidth=1.4, linestyle="--", label="truth")
    axes.plot(view.x[:, 0], view.y[:, 0], color=PALETTE[1], linewidth=2, label="the net")
    if view.marked is not None:
        axes.plot(view.marked[:, 0], view.marked[:, 1], "o", color=PALETTE[0], markersize=6, label="traced inputs")
    axes.set_ylim(*find_range(view))
    axes.set_xlim(float(view.x.min()), float(view.x.max()))
    axes.set(xlabel=view.x_label, ylabel=view.y_label)
    if view.title:
        axes.set_title(view.title)
    add_legend_below(figure, axes, 4)
    low, high = float(view.y.min()), float(view.y.max())
    numbers = f"from {format_significant(low)} to {format_significant(high)}"
    return Chart(figure, f"{len(beats)} beats and the net’s curve, {view.y_label}, {numbers}, against {view.x_label}.")


def find_range(view: CurveView) -> tuple[float, float]:
    """Ends of the vertical axis: those of the points, the truth and what is marked, and a tenth more."""
    shown = [view.curve.y[:, 0], *([] if view.truth is None else [view.truth[:, 0]])]
    shown += [] if view.marked is None else [view.marked[:, 1]]
    values = torch.cat(shown)
    low, high = float(values.min()), float(values.max())
    room = 0.1 * (high - low) or 1.0
    return low - room, high + room


def write_animation(frames: Sequence[Path], path: Path, milliseconds: int = 300, last: int = 2000) -> None:
    """PNG files of one size as one animated GIF that begins anew after its last frame.

    Args:
        frames: The files, at least one.
        path: The GIF.
        milliseconds: Time of each frame.
        last: Time of the last one.

    Raises:
        OutputError: The file cannot be written.
    """
    pictures = []
    for frame in frames:
        with Image.open(frame) as opened:
            size = (WIDTH, round(opened.height * WIDTH / opened.width))
            pictures.append(opened.convert("RGB").resize(size).quantize(64, dither=Image.Dither.NONE))
    written = io.BytesIO()
    times = [milliseconds] * (len(pictures) - 1) + [last]
    pictures[0].save(
        written, format="GIF", save_all=True, append_images=pictures[1:], duration=times, loop=0, optimize=False
    )
    with atomic_write(path) as partial:
        partial.write_bytes(written.getvalue())
