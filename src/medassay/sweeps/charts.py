"""The charts of a sweep, from its summary."""

from __future__ import annotations

import math
from collections.abc import Sequence

from medassay.core.errors import CheckpointError
from medassay.core.estimate import Estimate
from medassay.reporting.charts import Chart
from medassay.reporting.numbers import format_compact_spread
from medassay.runs.directory import RunDirectory
from medassay.runs.groups import Group, shorten_keys
from medassay.sweeps import figures, parallel
from medassay.sweeps.summary import Summary, format_value

MANY = 20  # rows of a table before the rest folds away; values of a key that still make a table


def draw_charts(summary: Summary) -> dict[str, Chart]:
    """All charts that the runs allow: ``{name: Chart}``."""
    drawn: dict[str, Chart] = {}
    names, best = shorten_keys(summary.swept), summary.best
    metric = summary.metric or ""
    for key in summary.swept:
        runs = [(c.settings[key], e.values[metric]) for c in summary.groups for e in c.counted]
        if runs:
            figure = figures.draw_effect(names[key], runs, metric, best.settings[key] if best else None)
            drawn[f"effect_{names[key].replace('.', '_')}"] = Chart(figure, _describe_effect(summary, key))
    ranked = [c for c in summary.groups if metric in c.numbers]
    if len(summary.swept) == 2 and (pair := choose_axes(ranked, summary.swept)) is not None:
        along, line = pair
        cells = [figures.Cell(c.settings[along], c.settings[line], c.numbers[metric]) for c in ranked]
        figure = figures.draw_interaction(names[along], names[line], cells, metric)
        drawn["interaction"] = Chart(
            figure, f"{metric} against {along}, a line for each {line}: mean ± sd of the runs."
        )
    if len(summary.swept) > 1 and len(ranked) > 1:
        lines = [parallel.Line(list(c.settings.values()), c.numbers[metric].value, c is best) for c in ranked]
        figure = parallel.draw_parallel(list(names.values()), lines, metric, summary.mode == "min")
        description = (
            f"Each of {len(lines)} lines is a configuration: its settings from left to right, then its {metric}; darker is "
            "better. Lines through the same value are spread out, the better ones above; a value stands in front of its lines."
        )
        drawn["parallel"] = Chart(figure, description)
    for name, curves in _read_curves(summary).items():
        if curves:
            text = f"{name} over the epochs of {len(curves)} runs" + (
                ", the best configuration's in colour." if best else "."
            )
            drawn[f"curves_{name.replace('/', '_')}"] = Chart(figures.draw_learning_curves(curves, name), text)
    return drawn


def choose_axes(groups: Sequence[Group], keys: Sequence[str]) -> tuple[str, str] | None:
    """Of two keys the one along the horizontal axis and the one that makes lines; None where they make no table.

    Numbers lie along the axis; of two keys of one kind the one with more values.
    """
    values = {key: {group.settings[key] for group in groups} for key in keys}
    pairs = {tuple(group.settings[key] for key in keys) for group in groups}
    if not len(groups) == len(pairs) == math.prod(map(len, values.values())):
        return None
    along, line = sorted(keys, key=lambda key: (not figures.are_numbers(values[key]), -len(values[key])))
    return (along, line) if len(values[along]) > 1 and 1 < len(values[line]) <= figures.FEW else None


def _describe_effect(summary: Summary, key: str) -> str:
    values = summary.effects[key]
    if len(values) > MANY:
        return f"{summary.metric} of every finished run against {key}, which has {len(values)} values."
    effects = "; ".join(
        f"{format_value(value)}: {format_compact_spread(one)} (n = {one.n})" for value, one in values.items()
    )
    return f"{summary.metric} by {key}. {effects}."


def _read_curves(summary: Summary) -> dict[str, list[figures.Curve]]:
    """The ranking number and a training loss over the epochs, of all runs that have kept them."""
    histories = []
    for row in summary.rows:
        try:
            histories.append((row, RunDirectory(row.path).history()))
        except CheckpointError:  # a file cut short by a full disk: the numbers do not need it
            continue
    logged = list(dict.fromkeys(name for _, rows in histories for row in rows for name in row))
    losses = [name for name in logged if name.startswith("train/") and "loss" in name]
    wanted = [summary.metric or "", *sorted(losses, key=lambda name: name != "train/loss")[:1]]
    best = {id(row) for row in summary.best.counted} if summary.best else set()
    curves = {}
    for name in wanted:
        lines = [
            ([(r["epoch"], r[name]) for r in rows if r.get(name) is not None], id(e) in best) for e, rows in histories
        ]
        curves[name] = [figures.Curve(points, colour) for points, colour in lines if points]
    return curves


def choose_tabled_effects(summary: Summary) -> dict[str, dict[str, Estimate]]:
    """The effects of keys with so few values that a table of them says something."""
    return {key: values for key, values in summary.effects.items() if 0 < len(values) <= MANY}
