"""Rows of the table of runs grouped over their seeds. Importing this imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medassay.core.estimate import Estimate, mean_over
from medassay.reporting.numbers import DASH
from medassay.runs.directory import RunDirectory
from medassay.runs.table import CALLBACK_PLACES, DATA_PLACES, PLACES, TRAINER_PLACES, RunRow

_NO_RESULT = {  # keys that change no result, by the group they are in
    "": (*PLACES, "seed", "hydra", "test", "search"),
    "data": DATA_PLACES,
    "trainer": TRAINER_PLACES,
    "callbacks": CALLBACK_PLACES,
}


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone: repetitions of one experiment.

    Attributes:
        settings: Value of each key in which groups differ, as text.
        configuration: Hash of the configuration; None where no run has begun.
        rows: All its runs, unfinished ones included.
        counted: The finished ones that have the metric, one for each seed, the last in order, sorted by seed.
        numbers: Mean and standard deviation over ``counted``, of every number that all of them have.
        complete: Every seed that any group has finished is among its own.
    """

    settings: dict[str, str]
    configuration: str | None
    rows: list[RunRow]
    counted: list[RunRow]
    numbers: dict[str, Estimate]
    complete: bool

    @property
    def seeds(self) -> list[int]:
        return [row.seed for row in self.counted if row.seed is not None]

    @property
    def overrides(self) -> list[str]:
        """What to type for these settings."""
        return [f"{key}={value}" for key, value in self.settings.items() if value != DASH]


def group_over_seeds(rows: Sequence[RunRow], keys: Sequence[str] = (), metric: str | None = None) -> list[Group]:
    """The runs grouped over their seeds, in the order of the runs.

    Args:
        rows: The runs.
        keys: Keys of the settings in which groups differ, see :func:`find_differing_keys`.
        metric: A number that a counted run must have; it comes first in ``numbers``, and beside it only validation numbers,
            those of its own group, and test numbers where several groups have some: where one has, it was chosen, and its
            test is told with its further seeds. None counts every finished run, and keeps all numbers.
    """
    groups: dict[tuple[Any, ...], dict[str | None, list[RunRow]]] = {}
    first: dict[tuple[Any, ...], dict[str, str]] = {}
    for row in rows:
        settings = describe_settings(row, keys)
        first.setdefault(make_group_key(settings), settings)
        groups.setdefault(make_group_key(settings), {}).setdefault(row.configuration, []).append(row)
    members = []
    for key, hashed in groups.items():
        begun = [name for name in hashed if name is not None]
        if begun and None in hashed:  # a run that has not begun belongs to those of its settings that have
            hashed[begun[0]] += hashed.pop(None)
        members += [(first[key], name, group) for name, group in hashed.items()]
    finished = [_choose_counted(group, metric) for _, _, group in members]
    every = {row.seed for counted in finished for row in counted}
    kept = ["val/", f"{(metric or '').partition('/')[0]}/"]
    if sum(any(map(is_tested, counted)) for counted in finished) > 1:
        kept.append("test/")
    return [
        Group(
            settings,
            name,
            group,
            counted,
            _numbers(counted, metric, tuple(kept)),
            bool(counted) and {row.seed for row in counted} >= every,
        )
        for (settings, name, group), counted in zip(members, finished, strict=True)
    ]


def _choose_counted(rows: Sequence[RunRow], metric: str | None) -> list[RunRow]:
    """The finished runs that have the metric, the last of each seed."""
    finished = (row for row in rows if row.status == "done")
    by_seed = {row.seed: row for row in finished if metric is None or find_number(row, metric) is not None}
    return [by_seed[seed] for seed in sorted(by_seed, key=lambda seed: -1 if seed is None else seed)]


def find_number(row: RunRow, metric: str | None) -> float | None:
    """The run's metric, where it is a number."""
    value = row.values.get(metric or "")
    return value if value is not None and math.isfinite(value) else None


def is_tested(row: RunRow) -> bool:
    """Whether the run has a number of test images."""
    return any(name.startswith("test/") for name in row.values)


def _numbers(counted: Sequence[RunRow], metric: str | None, kept: tuple[str, ...]) -> dict[str, Estimate]:
    """What all of them have; with a metric it alone, and numbers whose names begin as ``kept`` says."""
    if not counted:
        return {}
    names = list(counted[0].values)
    if metric is not None:
        names = [metric, *(name for name in names if name.startswith(kept) and name != metric)]
    shared = [name for name in names if all(name in row.values for row in counted)]
    if metric is not None:
        shared = [name for name in shared if all(math.isfinite(row.values[name]) for row in counted)]
    return {name: mean_over("seeds", [row.values[name] for row in counted]) for name in shared}


def make_rank_key(group: Group, metric: str | None, mode: str) -> tuple[bool, bool, float]:
    """A key to sort by: complete groups with the best mean first, then incomplete ones, then those without the metric."""
    estimate = group.numbers.get(metric or "")
    mean = math.inf if estimate is None else -estimate.value if mode == "max" else estimate.value
    return (estimate is None, not group.complete, mean)


def compare_effects(groups: Sequence[Group], keys: Sequence[str], metric: str | None) -> dict[str, dict[str, Estimate]]:
    """Of each key and each of its values: the metric over all finished runs with that value."""
    effects: dict[str, dict[str, Estimate]] = {}
    for place, key in enumerate(keys):
        values: dict[Any, tuple[str, list[float]]] = {}
        for group in groups:
            numbers = values.setdefault(make_group_key(group.settings)[place], (group.settings[key], []))[1]
            numbers += [row.values[metric or ""] for row in group.counted]
        ordered = sorted(values.items(), key=lambda item: (isinstance(item[0], str), item[0]))
        effects[key] = {text: mean_over("runs", numbers) for _, (text, numbers) in ordered if numbers}
    return effects


# --- in what runs differ ---------------------------------------------------------------------------------------------


def find_differing_keys(rows: Sequence[RunRow]) -> list[str]:
    """The keys whose value differs among the runs, in the order given; seed and places left out."""
    keys = dict.fromkeys(key for row in rows for key in row.overrides if not is_place(key))
    return [key for key in keys if len({_strip_places(row.overrides.get(key)) for row in rows}) > 1]


def is_place(key: str) -> bool:
    """Whether a key changes no result: where files lie, on what device, how it is logged, or the seed."""
    group, _, rest = key.partition(".")
    return group.partition("/")[0] in _NO_RESULT[""] or rest.partition(".")[0] in _NO_RESULT.get(group, ())


def _strip_places(value: str | None) -> str | float | None:
    """A value such that different spellings of a number are equal."""
    try:
        return value if value is None else float(value)
    except ValueError:
        return value


def make_group_key(settings: Mapping[str, str]) -> tuple[str | float | None, ...]:
    """Settings such that different spellings of a number are equal."""
    return tuple(map(_strip_places, settings.values()))


def describe_settings(row: RunRow, keys: Sequence[str]) -> dict[str, str]:
    """The run's value of each key: as given, else as its configuration has it, else a dash."""
    absent = [key for key in keys if key not in row.overrides]
    config = RunDirectory(row.path).config() if absent and row.configuration is not None else {}
    return {key: _default(config, key) if key in absent else row.overrides[key] or DASH for key in keys}


def _default(config: Any, key: str) -> str:
    """A single value of the configuration as text, the name of a group that has one, or a dash."""
    for part in key.replace("/", ".").split("."):
        if not isinstance(config, dict) or part not in config:
            return DASH
        config = config[part]
    if isinstance(config, dict):
        return str(config.get("name", DASH))
    if isinstance(config, list):
        return f"[{','.join(map(_plain, config))}]"
    return _plain(config)


def _plain(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def shorten_keys(keys: Sequence[str]) -> dict[str, str]:
    """A short name for each key: its last part, or more of it where two would be alike."""
    parts = {key: key.replace("/", ".").split(".") for key in keys}
    short_names = {}
    for key, own in parts.items():
        others = [other for name, other in parts.items() if name != key]
        length = next((n for n in range(1, len(own)) if all(o[-n:] != own[-n:] for o in others)), len(own))
        short_names[key] = ".".join(own[-length:])
    return short_names
