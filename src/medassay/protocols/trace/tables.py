"""A trace as tables: every sum written out, for a hand to follow."""

from __future__ import annotations

from collections.abc import Sequence

from medassay.protocols.trace.steps import LayerTrace
from medassay.protocols.trace.subjects import InputTrace, format_number
from medassay.reporting.tables import Table, format_csv

MOST_TERMS = 6  # of a sum that is written out


def make_table(layer: LayerTrace, shown: int, classes: Sequence[str] = ()) -> Table:
    """The shown units of a layer: the sum of each, written out where it is short, and its activation."""
    units = layer.choose_units(shown)
    names = [classes[unit] if classes else f"unit {unit + 1}" for unit in units]
    rows = [
        [name, write_sum(layer, unit), format_number(layer.activations[unit])]
        for name, unit in zip(names, units, strict=True)
    ]
    activation = "as it is" if layer.activation == "linear" else layer.activation
    return Table(layer.name, [layer.name, "sum", activation], rows, describe_left_out(layer, units))


def write_sum(layer: LayerTrace, unit: int) -> str:
    """``3 · (−1) + 0 = −3``; of many inputs the number of terms, the bias and the sum."""
    bias, total = format_number(float(layer.biases[unit])), format_number(layer.sums[unit])
    terms = len(layer.seen)
    if terms > MOST_TERMS:
        return f"{terms} products, and {bias}: {total}"
    written = (
        f"{format_number(float(weight))} · {_bracket(float(value))}"
        for weight, value in zip(layer.weights[unit], layer.seen, strict=True)
    )
    sign, size = ("−", bias.removeprefix("−")) if bias.startswith("−") else ("+", bias)
    return f"{' + '.join(written)} {sign} {size} = {total}".replace("+ −", "− ")


def describe_left_out(layer: LayerTrace, units: Sequence[int]) -> str:
    """What a table leaves out of a layer; empty where that is nothing."""
    count = len(layer.sums)
    if len(units) == count:
        return ""
    active = f"{layer.count_above_zero} hand on more than 0; " if layer.activation != "linear" else ""
    mean = sum(layer.activations) / count
    return (
        f"{count} units, of which the {len(units)} most active are shown and {count - len(units)} are left out; {active}"
        f"mean activation {format_number(mean)}. trace.json and steps.csv have all."
    )


def write_steps(traces: Sequence[InputTrace]) -> str:
    """All sums and activations as comma-separated values, a line for each unit."""
    rows = (
        [trace.given, layer.name, unit + 1, layer.sums[unit], layer.activation, layer.activations[unit]]
        for trace in traces
        for layer in trace.layers
        for unit in range(len(layer.sums))
    )
    return format_csv(["input", "layer", "unit", "sum", "activation", "value"], rows)


def _bracket(value: float) -> str:
    text = format_number(value)
    return f"({text})" if text.startswith("−") else text
