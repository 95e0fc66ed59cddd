"""Parallel coordinates: all settings of a sweep's configurations in one picture."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from medassay.reporting.charts import DPI, SMALL, add_legend_below, make_small_axes
from medassay.reporting.figures import measure_text_width
from medassay.sweeps.figures import BEST, FEW, OTHERS, Scale, shorten_tick

_FAN = 0.1  # how far lines through one value spread, the better ones above, so that none hides another
_SPACING = 88  # dots between two bands, at least
_GAP, _MARGIN = 38, 12  # dots for the lines between two bands, and around a band's values
_LONGEST = 14  # characters of a line of a band's name
_PALEST = 0.5  # where in the colour map the worst line is: as dark as grey text


class Line(NamedTuple):
    """One configuration: the value of each key, the mean of the metric, and whether it is the best."""

    values: Sequence[str]
    metric: float
    best: bool


def draw_parallel(keys: Sequence[str], lines: Sequence[Line], metric: str, lower_is_better: bool = False) -> Figure:
    """An upright band for each key and an axis for the metric, a line for each configuration; lighter ones are worse.

    A key's values stand inside its band, behind which the lines pass: none crosses a value.

    Args:
        keys: Names of the bands.
        lines: The configurations.
        metric: Name of the metric.
        lower_is_better: Whether the metric's axis is turned over, so that better is up.
    """
    scales = [Scale([line.values[i] for line in lines], few=FEW) for i in range(len(keys))]
    numbers = [line.metric for line in lines]
    low, high = min(numbers), max(numbers)
    ends = [(0.5, low)] if high == low else [(0.0, high), (1.0, low)] if lower_is_better else [(0.0, low), (1.0, high)]
    middle = [] if high == low else [(0.5, (low + high) / 2)]
    written = [(share, f"{value:.4g}") for share, value in [*ends, *middle]]
    names = [_break_name(name) for name in (*keys, metric)]
    bands = [_measure_widest(map(shorten_tick, scale.choose_labels())) + _MARGIN for scale in scales]  # widths in dots
    columns = [_measure_widest(name.split("\n")) + _MARGIN for name in names]
    spacing = max(_SPACING, *columns, *(band + _GAP for band in bands))
    left = max(bands[0], columns[0]) / 2
    right = max(columns[-1] / 2, 0.05 * spacing + _measure_widest(text for _, text in written))
    width = 2 * _MARGIN + left + len(keys) * spacing + right
    figure, axes = make_small_axes(width / DPI, 3.4)
    bottom = 0.14 + 0.05 * max(name.count("\n") + 1 for name in names)
    figure.set_layout_engine("none")  # a constrained layout would leave room for names that need none
    axes.set_position((_MARGIN / width, bottom, 1 - 2 * _MARGIN / width, 0.97 - bottom))
    for line in sorted(lines, key=lambda line: (line.best, line.metric)):
        height = 0.5 if high == low else (line.metric - low) / (high - low)
        _draw_line(axes, line, scales, 1 - height if lower_is_better else height, [band / spacing for band in bands])
    for place, (scale, band) in enumerate(zip(scales, bands, strict=True)):
        _draw_band(axes, place, scale, band / spacing)
    axes.plot([len(keys)] * 2, [0, 1], color=OTHERS, linewidth=1, zorder=2.5)
    for share, text in written:
        axes.text(len(keys) + 0.05, share, text, va="center", fontsize=SMALL, parse_math=False)
    axes.set_xticks(range(len(names)), names, parse_math=False, fontsize=SMALL)
    axes.set(xlim=(-left / spacing, len(keys) + right / spacing), ylim=(-0.06, 1.06), yticks=[])
    axes.tick_params(axis="x", length=0, pad=6)
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)
    if any(line.best for line in lines):
        add_legend_below(figure, axes, 3)
    return figure


def choose_shade(height: float) -> tuple[float, float, float, float]:
    """The colour of a line that ends at ``height``, from 0 (worst) to 1: darker is better, the worst readable on white."""
    return matplotlib.colormaps["cividis_r"](_PALEST + (1 - _PALEST) * height)


def _fan_out(scale: Scale, value: str, height: float) -> float:
    """Where a line that ends at ``height`` passes a value's place, from 0 to 1."""
    share = scale.share(value)
    return share if scale.ticks is None else share * (1 - _FAN) + _FAN * height


def _draw_line(axes: Axes, line: Line, scales: Sequence[Scale], height: float, bands: Sequence[float]) -> None:
    """A configuration's line through its values: level behind each band, and ending at ``height`` on the metric's axis."""
    x = [place + side * width / 2 for place, width in enumerate(bands) for side in (-1, 1)]
    y = [_fan_out(scale, value, height) for scale, value in zip(scales, line.values, strict=True) for _ in range(2)]
    look: dict[str, Any] = {"color": choose_shade(height), "linewidth": 1.1, "zorder": 2, "solid_capstyle": "butt"}
    if line.best:
        look |= {"color": BEST, "linewidth": 2.4, "zorder": 3, "label": "best configuration"}
    axes.plot([*x, len(bands)], [*y, height], **look)


def _draw_band(axes: Axes, place: int, scale: Scale, width: float) -> None:
    """One band of the parallel coordinates, in front of the lines, with its values inside."""
    corner = (place - width / 2, -0.03)
    axes.add_patch(Rectangle(corner, width, 1.06, facecolor="white", edgecolor=OTHERS, linewidth=0.8, zorder=4))
    look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": SMALL, "parse_math": False, "zorder": 5}
    for text in scale.choose_labels():
        axes.text(place, _fan_out(scale, text, 0.5), shorten_tick(text), **look)


def _break_name(name: str) -> str:
    """A long name in several lines, broken behind its dots, slashes and underscores."""
    lines = [""]
    for part in re.findall(r"[^._/]+[._/]*|[._/]+", name):
        if lines[-1] and len(lines[-1]) + len(part) > _LONGEST:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def _measure_widest(texts: Iterable[str]) -> int:
    """Width of the widest text in dots."""
    return max(measure_text_width(text) for text in texts)
