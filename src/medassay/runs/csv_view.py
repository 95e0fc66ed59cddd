"""The table of runs as comma-separated values: the one form of every comparison. Importing this imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medassay.core.estimate import Estimate
from medassay.reporting.tables import format_csv
from medassay.runs.groups import Group, describe_settings
from medassay.runs.table import RunRow

# what a group has beside its mean, e.g. an ensemble: its numbers by its name
Further = Mapping[str, Mapping[str, Estimate]]


def format_runs_as_csv(
    groups: Sequence[Group],
    rows: Sequence[RunRow],
    *,
    keys: Sequence[str] = (),
    metric: str | None = None,
    top: Path | None = None,
    parts: Mapping[Path, str] | None = None,
    further: Sequence[Further] = (),
) -> str:
    """A line per run, then of each group the mean, the standard deviation, and what it has beside them.

    Args:
        groups: The groups, best first where they are ranked; ``group`` counts them from 1.
        rows: The runs, those in no group too.
        keys: Settings that have a column each.
        metric: The number whose column comes first.
        top: Directory that the runs' own are given relative to.
        parts: The purpose of a run, by its directory, e.g. ``final``: trained to be tested, in no ranking.
        further: For each group, further numbers by their name: a line of values, and one of each bound.
    """
    place = {id(row): number for number, group in enumerate(groups, 1) for row in group.rows}
    names = dict.fromkeys(name for row in rows for name in row.values)
    names |= dict.fromkeys(name for extra in further for numbers in extra.values() for name in numbers)
    ordered = sorted(names, key=lambda name: name != metric)
    heads = ["row", "group", "part", "status", "model", "data", "seed"]
    about_runs = [name for name in ("tags", "notes") if any(getattr(row, name) for row in rows)]
    last = ["seconds", "directory", "reason", *about_runs]
    columns = list(dict.fromkeys([*heads, *keys, *ordered, *last]))  # model is a key, too
    records: list[dict[str, Any]] = []
    for row in rows:
        about = {"row": "run", "group": place.get(id(row)), "part": (parts or {}).get(row.path), "status": row.status}
        ending = {"seconds": row.seconds, "directory": shorten_path(row.path, top), "reason": row.reason}
        ending |= {"tags": " ".join(row.tags), "notes": row.notes}
        settings = describe_settings(row, keys)
        records.append(
            {**about, "model": row.model, "data": row.data, "seed": row.seed, **settings, **row.values, **ending}
        )
    for number, group in enumerate(groups, 1):
        one = group.rows[0]
        about = {"group": number, "model": one.model, "data": one.data, "seed": " ".join(map(str, group.seeds))}
        extra = further[number - 1] if further else {}
        records += [{"row": kind, **about, **group.settings, **values} for kind, values in _lines(group, extra)]
    return format_csv(columns, ([_finite(record.get(name)) for name in columns] for record in records))


def _lines(group: Group, further: Further) -> Iterator[tuple[str, dict[str, float | None]]]:
    yield "mean", {name: estimate.value for name, estimate in group.numbers.items()}
    yield "sd", {name: estimate.sd for name, estimate in group.numbers.items()}
    for title, numbers in further.items():
        yield title, {name: estimate.value for name, estimate in numbers.items()}
        yield f"{title} low", {name: estimate.low for name, estimate in numbers.items()}
        yield f"{title} high", {name: estimate.high for name, estimate in numbers.items()}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def shorten_path(path: Path, top: Path | None) -> str:
    """``path`` relative to ``top`` where it lies in there."""
    return str(path.relative_to(top)) if top is not None and path.is_relative_to(top) else str(path)
