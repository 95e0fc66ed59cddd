"""A sweep's charts, from plain values: effects of single settings, learning curves, a study of Optuna."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from medassay.core.estimate import Estimate
from medassay.reporting.charts import GREY, PALETTE, add_legend_below, make_small_axes

OTHERS, MEAN, BEST = GREY, PALETTE[0], PALETTE[1]
FEW = 8  # values up to which each has a place of its own
_MARKERS = "osD^vP*X"
_CROWD = 60  # curves from which on each is drawn fainter
_DECADE_AND_HALF = 30  # largest over smallest value from which on an axis is logarithmic


class Curve(NamedTuple):
    """One run's values over its epochs.

    Attributes:
        points: ``(epoch, value)`` of every epoch.
        best: Whether the run belongs to the best configuration.
    """

    points: Sequence[tuple[float, float]]
    best: bool


def draw_effect(key: str, runs: Sequence[tuple[str, float]], metric: str, best: str | None = None) -> Figure:
    """The metric of every run against its value of one key; mean and standard deviation where runs share a value.

    Few values stand side by side, many numbers on an axis, a logarithmic one where they span more than a factor of 30.

    Args:
        key: Name of the horizontal axis.
        runs: ``(value, metric)`` of every run.
        metric: Name of the metric.
        best: The best configuration's value; None where there is none.
    """
    figure, axes = make_small_axes(3.7, 2.9)
    scale = Scale([value for value, _ in runs], few=FEW)
    groups: dict[float, list[float]] = {}
    for value, number in runs:
        groups.setdefault(scale.place(value), []).append(number)
    aside = 0.0 if scale.ticks is None else 0.1
    axes.plot(
        [place - aside for place, numbers in groups.items() for _ in numbers],
        [number for numbers in groups.values() for number in numbers],
        "o", color=OTHERS, markersize=3.5, alpha=0.55, linestyle="none", label="run",
    )  # fmt: skip
    shared = sorted((place, numbers) for place, numbers in groups.items() if len(numbers) > 1)
    if shared:
        places, means = [place + aside for place, _ in shared], [statistics.fmean(numbers) for _, numbers in shared]
        spread = [statistics.stdev(numbers) for _, numbers in shared]
        axes.errorbar(
            places, means, spread, color=MEAN, marker="s", markersize=5, capsize=3, linestyle="none", label="mean ± sd"
        )
    if best is not None:
        axes.axvline(scale.place(best), color=BEST, linewidth=1.2, linestyle="--", zorder=1, label="best configuration")
    scale.draw(axes)
    axes.set_xlabel(key, parse_math=False)
    axes.set_ylabel(metric, parse_math=False)
    add_legend_below(figure, axes, 3)
    return figure


class Cell(NamedTuple):
    """The runs of one pair of settings.

    Attributes:
        along: Value of the key on the horizontal axis.
        line: Value of the key that makes the lines.
        number: The metric, with its standard deviation over seeds.
    """

    along: str
    line: str
    number: Estimate


def draw_interaction(along: str, line: str, cells: Sequence[Cell], metric: str) -> Figure:
    """The metric against one key, a line for each value of another: mean, and standard deviation where there are several runs.

    Args:
        along: Name of the key on the horizontal axis.
        line: Name of the key that makes the lines.
        cells: The runs of every pair that there is.
        metric: Name of the metric.
    """
    figure, axes = make_small_axes(4.4, 3.2)
    scale = Scale([cell.along for cell in cells], few=FEW)
    lines = list(dict.fromkeys(cell.line for cell in sorted(cells, key=lambda cell: _sort_key(cell.line))))
    labels = {name: shorten_tick(label) for name, label in drop_shared_folders(lines).items()}
    for position, name in enumerate(lines):
        own = sorted(((scale.place(c.along), c.number) for c in cells if c.line == name), key=lambda point: point[0])
        shift = 0.0 if scale.ticks is None else 0.06 * (position - (len(lines) - 1) / 2)  # bars beside one another
        axes.errorbar(
            [place + shift for place, _ in own],
            [number.value for _, number in own],
            [number.sd or 0.0 for _, number in own],
            color=PALETTE[position], marker=_MARKERS[position], markersize=5, capsize=3, label=labels[name],
        )  # fmt: skip
    scale.draw(axes)
    axes.set_xlabel(along, parse_math=False)
    axes.set_ylabel(metric, parse_math=False)
    add_legend_below(figure, axes, 3, title=line)
    return figure


def draw_learning_curves(curves: Sequence[Curve], name: str) -> Figure:
    """A value over the epochs of every run: grey ones, and above them those of the best configuration."""
    figure, axes = make_small_axes(4.4, 3.2)
    labelled: set[str] = set()
    faint = 0.45 if len(curves) <= _CROWD else 0.2
    for curve in sorted(curves, key=lambda curve: curve.best):
        label = "best configuration" if curve.best else "other runs"
        axes.plot(
            *zip(*curve.points, strict=True),
            color=BEST if curve.best else OTHERS, linewidth=1.8 if curve.best else 0.8, alpha=1 if curve.best else faint,
            marker="o" if len(curve.points) == 1 else None, markersize=3, label=None if label in labelled else label,
        )  # fmt: skip
        labelled.add(label)
    axes.set_xlabel("epoch")
    axes.set_ylabel(name, parse_math=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    epochs = {epoch for curve in curves for epoch, _ in curve.points}
    if len(epochs) == 1:  # matplotlib would go to thousandths of an epoch
        axes.set_xlim(min(epochs) - 0.5, min(epochs) + 0.5)
    add_legend_below(figure, axes, 3)
    return figure


class Scale:
    """Where values lie on an axis: few ones, or words, side by side; many numbers by size.

    Args:
        values: The values, as text.
        few: Number of different values up to which they stand side by side.

    Attributes:
        ticks: The values that stand side by side; None where they lie by size.
    """

    def __init__(self, values: Sequence[str], few: int) -> None:
        numbers = {value: _parse_number(value) for value in values}
        numeric = all(map(math.isfinite, numbers.values()))
        ordered = sorted(numbers, key=lambda value: (math.isnan(numbers[value]), numbers[value], value))
        merged = {numbers[value] if math.isfinite(numbers[value]) else value: value for value in reversed(ordered)}
        self.ticks = None if numeric and len(merged) > few else list(reversed(merged.values()))
        self._places = {key: place for place, key in enumerate(reversed(merged))}
        finite = [number for number in numbers.values() if math.isfinite(number)]
        self._low, self._high = (min(finite), max(finite)) if finite else (0.0, 0.0)
        self.log = self.ticks is None and self._low > 0 and self._high / self._low >= _DECADE_AND_HALF

    def place(self, value: str) -> float:
        """The value's coordinate: its number, or its turn."""
        number = _parse_number(value)
        if self.ticks is None:
            return number
        return float(self._places[number if math.isfinite(number) else value])

    def share(self, value: str) -> float:
        """How far along the axis the value lies, from 0 to 1."""
        if self.ticks is not None:
            return self.place(value) / (len(self.ticks) - 1) if len(self.ticks) > 1 else 0.5
        if self.log:
            return math.log(self.place(value) / self._low) / math.log(self._high / self._low)
        return (self.place(value) - self._low) / (self._high - self._low)

    def choose_labels(self) -> list[str]:
        """Values to write beside an upright axis."""
        if self.ticks is not None:
            return self.ticks
        middle = math.sqrt(self._low * self._high) if self.log else (self._low + self._high) / 2
        return [f"{value!r}" for value in (self._low, middle, self._high)]

    def draw(self, axes: Axes) -> None:
        """Gives the horizontal axis its scale and ticks."""
        if self.ticks is None:
            axes.set_xscale("log" if self.log else "linear")
            return
        names = [shorten_tick(tick) for tick in self.ticks]
        slanted = sum(map(len, names)) > 34
        axes.set_xticks(range(len(names)), names, parse_math=False)
        axes.set_xlim(-0.5, len(names) - 0.5)
        axes.grid(axis="x", visible=False)
        for label in axes.get_xticklabels() if slanted else ():
            label.set(rotation=30, ha="right", rotation_mode="anchor")


def are_numbers(values: Iterable[str]) -> bool:
    """Whether all of the values are finite numbers."""
    return all(math.isfinite(_parse_number(value)) for value in values)


def drop_shared_folders(paths: Sequence[str]) -> dict[str, str]:
    """Each path without the folders that all of them begin with; what is no path stays as it is."""
    folders = [path.split("/")[:-1] for path in paths]
    levels = itertools.takewhile(lambda level: len(set(level)) == 1, zip(*folders, strict=False))
    shared = len(list(levels))
    return {path: "/".join(path.split("/")[shared:]) for path in paths}


def _sort_key(value: str) -> tuple[bool, float, str]:
    """Numbers by size, then words by name."""
    number = _parse_number(value)
    return (math.isnan(number), 0.0 if math.isnan(number) else number, value)


def _parse_number(value: str) -> float:
    """The value as a number; NaN where it is none."""
    try:
        return float(value)
    except ValueError:
        return math.nan


def shorten_tick(value: str) -> str:
    """A tick's text, cut where it is long; numbers with four significant digits."""
    number = _parse_number(value)
    text = f"{number:.4g}" if math.isfinite(number) else value
    return text if len(text) <= 22 else f"{text[:10]}…{text[-10:]}"


# --- a study of Optuna -----------------------------------------------------------------------------------------------


def draw_study_history(
    trials: Sequence[tuple[int, float, str]], failed: Sequence[int], ranked_by: str, *, maximise: bool
) -> Figure:
    """Each trial's objective, and the best so far.

    Args:
        trials: Number, objective and state (``done`` or ``pruned``) of those that have an objective.
        failed: Numbers of those that failed.
        ranked_by: Name of the objective.
        maximise: Whether more of it is better.
    """
    figure, axes = make_small_axes(6.4, 3.6)
    better = max if maximise else min
    numbers, values = [number for number, *_ in trials], [value for _, value, _ in trials]
    best = list(itertools.accumulate(values, better))
    axes.step(numbers, best, where="post", color=PALETTE[1], linewidth=1.5, label="best so far")
    for state, fill in (("done", PALETTE[0]), ("pruned", "none")):
        x, y = ([trial[place] for trial in trials if trial[2] == state] for place in (0, 1))
        if x:
            axes.scatter(x, y, s=26, zorder=3, facecolors=fill, edgecolors=PALETTE[0], label=state)
    if failed:
        bottom = axes.get_xaxis_transform()  # they have no value: marks at the lower edge
        look: Any = {"marker": "x", "s": 24, "color": "#666666", "clip_on": False, "zorder": 4}
        axes.scatter(failed, [0] * len(failed), transform=bottom, label="failed", **look)
    axes.set(xlabel="Trial", ylabel=ranked_by, xlim=(0.4, max([*numbers, *failed]) + 0.6))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    add_legend_below(figure, axes, 4)
    return figure


def draw_parameter_importance(shares: Mapping[str, float], note: str) -> Figure:
    """A bar for each parameter's share of the objective's variance, the most important first; ``note`` stands above."""
    figure, axes = make_small_axes(6.4, 1.1 + 0.34 * len(shares))
    axes.barh(range(len(shares)), list(shares.values()), color=PALETTE[0], height=0.62)
    for row, share in enumerate(shares.values()):
        axes.annotate(f"{share:.0%}", (share, row), (4, 0), textcoords="offset points", va="center", size=9)
    axes.set_yticks(range(len(shares)), list(shares), parse_math=False)
    axes.invert_yaxis()
    axes.set(xlabel="Share of the objective's variance (fANOVA)", xlim=(0, max(shares.values()) * 1.12))
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_title(note, loc="left", size=10)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    return figure
