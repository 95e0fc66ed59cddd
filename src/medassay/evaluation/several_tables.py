"""The tables of several runs: mean ± standard deviation over seeds, and beside it the ensemble of the seeds' nets."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from medassay.reporting.html import DASH, fixed
from medassay.runs.directory import RunDirectory
from medassay.runs.table import Group, Row


class Column(NamedTuple):
    """Repetitions of one experiment and, where their predictions could be averaged, the ensemble of their nets.

    Attributes:
        group: the runs, their mean and standard deviation.
        ensemble: its number of ``nets``, ``split``, ``metrics`` and ``threshold``; ``{"none": why}`` where the nets cannot
            be averaged; None where there is nothing to average: a single run, or no probabilities.
    """

    group: Group
    ensemble: dict[str, Any] | None

    @property
    def scores(self) -> dict[str, tuple[float, float | None, float | None]]:
        """The ensemble's numbers by the names that a run's have, each with the bounds of its interval if it has one."""
        if self.ensemble is None or "none" in self.ensemble:
            return {}
        split, threshold = self.ensemble["split"], self.ensemble["threshold"]
        parts = [(split, self.ensemble["metrics"])]
        if "value" in threshold:
            parts.append((f"{split} by threshold", {"value": threshold["value"], **threshold["metrics"]}))
        return {
            f"{part}/{name}": (value, *numbers["interval_95"].get(name, (None, None)))
            for part, numbers in parts
            for name, value in numbers.items()
            if isinstance(value, float)
        }


def ensemble_name(nets: int) -> str:
    return f"ensemble of {nets} nets (their probabilities averaged)"


def names_of(groups: Sequence[Group]) -> list[str]:
    """The numbers that any of the groups has, in their order."""
    return list(dict.fromkeys(name for group in groups for name in group.mean))


def settings_of(group: Group) -> str:
    """What was given when the group's runs were started, the seed and places left out."""
    given = RunDirectory(group.rows[0].path).record().get("overrides") or []
    left_out = ("seed", "outputs", "trainer.threads", "hydra", "data.root", "logger")
    kept = [text for text in given if not text.lstrip("+~").startswith(left_out)]
    return " ".join(kept) or "no overrides"


def as_csv(columns: Sequence[Column], rows: Sequence[Row]) -> str:
    """A line per run, then of each group the mean, the sd, and the ensemble with the bounds of its intervals.

    A number that there is not is empty.
    """
    groups = [column.group for column in columns]
    names = names_of(groups) or list(dict.fromkeys(name for row in rows for name in row.values))
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(["row", "group", "model", "data", "seed", "runs", "path", *names])
    place = {row.path: number for number, group in enumerate(groups, 1) for row in group.rows}
    for row in rows:
        about = [place.get(row.path, ""), row.model, row.data, row.seed, 1, row.path]
        writer.writerow(["run", *about, *(_plain(row.values.get(name)) for name in names)])
    for number, (group, column) in enumerate(zip(groups, columns, strict=True), 1):
        seeds = " ".join(str(row.seed) for row in group.rows)
        about = [number, group.rows[0].model, group.rows[0].data, seeds, len(group.rows), ""]
        kinds: dict[str, Any] = {"mean": group.mean, "sd": group.sd}
        if scores := column.scores:
            for at, kind in enumerate(("ensemble", "ensemble low", "ensemble high")):
                kinds[kind] = {name: score[at] for name, score in scores.items()}
        for kind, values in kinds.items():
            writer.writerow([kind, *about, *(_plain(values.get(name)) for name in names)])
    return written.getvalue()


def _plain(value: float | None) -> str:
    return "" if value is None or value != value else repr(value)


def as_markdown(columns: Sequence[Column], failed: Sequence[tuple[Path, str]]) -> str:
    """A table of mean ± sd, a column per group, and one for each ensemble beside its group's."""
    heads = []
    for column in columns:
        heads.append(heading(column.group))
        if column.scores and column.ensemble is not None:
            heads.append(ensemble_name(column.ensemble["nets"]))
    lines = [["metric", *heads], ["---"] + ["---:"] * len(heads)] if columns else []
    for name in names_of([column.group for column in columns]):
        cells = []
        for column in columns:
            cells.append(cell(column.group, name))
            if column.scores:
                cells.append(ensemble_cell(column, name))
        lines.append([name, *cells])
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    text += "\n\nMean ± sample standard deviation over the seeds.\n" if columns else "No run to average.\n"
    if any(column.scores for column in columns):
        text += "\nOf an ensemble: its value, and in brackets the 95 % bootstrap interval over the images.\n"
    for column in columns:
        if column.ensemble is not None and "none" in column.ensemble:
            text += f"\n{heading(column.group)}: {column.ensemble['none']}\n"
    return text + "".join(f"\nFailed: {path}: {reason}\n" for path, reason in failed)


def heading(group: Group) -> str:
    """A group's model, data and seeds."""
    row = group.rows[0]
    seeds = sorted(row.seed for row in group.rows)
    several = len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1))
    said = f"{seeds[0]}–{seeds[-1]}" if several else ", ".join(map(str, seeds))
    return f"{row.model} on {row.data}, {'seed' if len(seeds) == 1 else 'seeds'} {said}"


def cell(group: Group, name: str) -> str:
    """``mean ± sd``, or the one number that there is."""
    mean, sd = group.mean.get(name), group.sd.get(name)
    if mean is None or mean != mean:
        return DASH
    return fixed(mean) if sd is None or sd != sd else f"{fixed(mean)} ± {fixed(sd)}"


def ensemble_cell(column: Column, name: str) -> str:
    """``value [low, high]``, or the value of what has no interval."""
    value, low, high = column.scores.get(name, (None, None, None))
    return fixed(value) if low is None else f"{fixed(value)} [{fixed(low)}, {fixed(high)}]"
