"""A fully connected net, drawn with the values of one input on its units and edges."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from matplotlib.axes import Axes

from medassay.protocols.trace.steps import LayerTrace, choose_largest
from medassay.protocols.trace.subjects import InputTrace, format_number
from medassay.reporting.charts import GREY, PALETTE, SMALL, Chart, make_small_axes

MOST_LABELS = 16  # edges between two columns that are labelled
GAP = 2.3  # inches from a column to the next
BOX = {"boxstyle": "round,pad=0.35", "linewidth": 1.2, "facecolor": "white"}


@dataclass(frozen=True)
class Column:
    """What is drawn of one layer: its shown units and their texts.

    Attributes:
        heading: Name, and activation or number of units.
        units: Indices of the units shown.
        texts: What stands in each.
        values: What each hands on.
        total: Number of units.
    """

    heading: str
    units: list[int]
    texts: list[str]
    values: list[float]
    total: int


def draw_net(trace: InputTrace, shown: int, classes: list[str]) -> Chart:
    """Every unit with its sum and its activation, every edge with its weight and what it carries.

    Of a layer with more than 12 units the ``shown`` most active ones are drawn, of an image no pixel; edges are labelled where
    at most 16 of them lie between two columns, blue ones carry a number above 0, orange ones one below, grey ones 0.
    """
    columns = [_make_input_column(trace, shown), *(_make_column(layer, shown, classes) for layer in trace.layers)]
    tallest = max(len(column.units) for column in columns)
    labelled = all(len(a.units) * len(b.units) <= MOST_LABELS for a, b in pairwise(columns))
    figure, axes = make_small_axes(
        GAP * (len(columns) - 1) + 1.8, max(2.4, (1.05 if labelled else 0.62) * tallest + 0.9)
    )
    axes.set_axis_off()
    axes.set(xlim=(-0.9, GAP * (len(columns) - 1) + 0.9), ylim=(-0.6 - tallest / 2, tallest / 2 + 0.2))
    for place, (column, layer) in enumerate(zip(columns[1:], trace.layers, strict=True)):
        _draw_edges(axes, place, columns[place], column, layer)
    for place, column in enumerate(columns):
        for text, height in zip(column.texts, _spread(column), strict=True):
            edge = PALETTE[0] if text else GREY
            axes.text(
                GAP * place,
                height,
                text,
                ha="center",
                va="center",
                size=SMALL,
                bbox={**BOX, "edgecolor": edge},
                zorder=3,
            )
        axes.text(GAP * place, -0.35 - tallest / 2, column.heading, ha="center", va="center", size=SMALL)
    return Chart(figure, describe_net(trace, columns, labelled))


def describe_net(trace: InputTrace, columns: list[Column], labelled: bool) -> str:
    """What the drawing shows, and what it leaves out."""
    left_out = [
        f"{c.total - len(c.units)} of {c.total} ({c.heading.splitlines()[0]})"
        for c in columns
        if c.total > len(c.units)
    ]
    text = f"The net at {trace.name}: each unit with its sum Σ, bias included, and what it hands on."
    text += (
        " On the edges: weight × value = what is carried."
        if labelled
        else " Edges are not labelled: there are too many."
    )
    return f"{text} Not drawn: units {', '.join(left_out)}." if left_out else text


def _make_input_column(trace: InputTrace, shown: int) -> Column:
    seen = trace.layers[0].seen
    if trace.entered is None:
        return Column(f"input\n{len(seen)} pixels", [], [], [], len(seen))
    units = choose_largest(seen, shown)
    return Column(
        "input", units, [format_number(float(seen[i])) for i in units], [float(seen[i]) for i in units], len(seen)
    )


def _make_column(layer: LayerTrace, shown: int, classes: list[str]) -> Column:
    is_output = layer.name == "output"
    units = layer.choose_units(shown)
    texts = []
    for unit in units:
        total, passed = format_number(layer.sums[unit]), format_number(layer.activations[unit])
        name = f"{classes[unit]}\n" if is_output and classes else ""
        texts.append(f"{name}Σ = {total}" if layer.activation == "linear" else f"Σ = {total}\n→ {passed}")
    count = f"\n{len(units)} of {len(layer.sums)} units" if len(layer.sums) > len(units) else ""
    heading = layer.name if layer.activation == "linear" else f"{layer.name}, {layer.activation}"
    return Column(heading + count, units, texts, [layer.activations[u] for u in units], len(layer.sums))


def _spread(column: Column) -> list[float]:
    """Heights of the units, from top to bottom, one apart."""
    count = len(column.units)
    return [(count - 1) / 2 - place for place in range(count)]


def _draw_edges(axes: Axes, place: int, before: Column, after: Column, layer: LayerTrace) -> None:
    """Edges between the shown units of two columns; those of more than 16 without labels."""
    labelled = len(before.units) * len(after.units) <= MOST_LABELS
    strongest = float((layer.weights * layer.seen).abs().max()) or 1.0
    for row, (unit, end) in enumerate(zip(after.units, _spread(after), strict=True)):
        for source, value, start in zip(before.units, before.values, _spread(before), strict=True):
            weight = float(layer.weights[unit, source])
            carried = weight * value
            colour = GREY if carried == 0 else PALETTE[0] if carried > 0 else PALETTE[1]
            left, right = GAP * place, GAP * (place + 1)
            axes.plot([left, right], [start, end], color=colour, linewidth=0.8 + 2 * abs(carried) / strongest, zorder=1)
            if labelled:
                share = 0.5 if len(after.units) * len(before.units) <= 4 else (0.38, 0.5, 0.62)[row % 3]
                text = f"{format_number(weight)} × {format_number(value)} = {format_number(carried)}"
                look = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
                height = start + share * (end - start)
                axes.text(left + share * GAP, height, text, ha="center", va="center", size=SMALL, bbox=look, zorder=2)
