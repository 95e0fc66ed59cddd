"""The configurations of a sweep: jobs grouped over their seeds, with mean and standard deviation.

Importing this imports no torch.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medassay.sweeps.entries import DASH, Entry, identity, settings

_PLACES = 4  # decimals: configurations of one sweep often differ in the third


def number(value: float | None) -> str:
    """A number with four decimals, or four significant digits from 10 on; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return DASH
    return f"{value:.{_PLACES}f}" if abs(value) < 10 else f"{value:.4g}"


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation of ``n`` numbers; ``sd`` is None for a single one."""

    mean: float
    sd: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))

    def __str__(self) -> str:
        return number(self.mean) if self.sd is None else f"{number(self.mean)} ± {number(self.sd)}"


@dataclass(frozen=True)
class Configuration:
    """The jobs that differ in their seed alone.

    Attributes:
        settings: value of each swept key, as text.
        hash: of the configuration; None where no job has begun.
        entries: its jobs, whatever became of them.
        counted: the finished ones that have the metric, one for each seed, in the order of the seeds.
        numbers: mean and sd over ``counted``, of every validation number that all of them have; the metric comes first.
        complete: every seed that any configuration has finished is among its own.
    """

    settings: dict[str, str]
    hash: str | None
    entries: list[Entry]
    counted: list[Entry]
    numbers: dict[str, Spread]
    complete: bool

    @property
    def seeds(self) -> list[int]:
        return [entry.seed for entry in self.counted if entry.seed is not None]

    @property
    def overrides(self) -> list[str]:
        """What to type for this configuration."""
        return [f"{key}={value}" for key, value in self.settings.items() if value != DASH]


def grouped(entries: Sequence[Entry], keys: Sequence[str], metric: str | None) -> list[Configuration]:
    """The jobs grouped over their seeds, in the order of the jobs."""
    groups: dict[tuple[Any, ...], dict[str | None, list[Entry]]] = {}
    first: dict[tuple[Any, ...], dict[str, str]] = {}
    for entry in entries:
        values = settings(entry, keys)
        first.setdefault(identity(values), values)
        groups.setdefault(identity(values), {}).setdefault(entry.hash, []).append(entry)
    members = []
    for key, hashed in groups.items():
        begun = [name for name in hashed if name is not None]
        if begun and None in hashed:  # a job that has not begun belongs to those of its settings that have
            hashed[begun[0]] += hashed.pop(None)
        members += [(first[key], name, group) for name, group in hashed.items()]
    finished = {id(group): _counted(group, metric) for _, _, group in members}
    every = {entry.seed for group in finished.values() for entry in group}
    found = []
    for values, name, group in members:
        counted = finished[id(group)]
        complete = bool(counted) and {entry.seed for entry in counted} >= every
        found.append(Configuration(values, name, group, counted, _numbers(counted, metric), complete))
    return found


def _counted(entries: Sequence[Entry], metric: str | None) -> list[Entry]:
    """The finished jobs that have the metric, the last of each seed."""
    by_seed = {entry.seed: entry for entry in entries if entry.status == "done" and known(entry, metric) is not None}
    return [by_seed[seed] for seed in sorted(by_seed, key=lambda seed: -1 if seed is None else seed)]


def known(entry: Entry, metric: str | None) -> float | None:
    """The job's metric, where it is a number."""
    value = entry.values.get(metric or "")
    return value if value is not None and math.isfinite(value) else None


def _numbers(counted: Sequence[Entry], metric: str | None) -> dict[str, Spread]:
    if not counted or metric is None:
        return {}
    groups = ("val/", f"{metric.partition('/')[0]}/")
    names = [name for name in counted[0].values if name.startswith(groups) and name != metric]
    shared = [name for name in names if all(math.isfinite(e.values.get(name, math.nan)) for e in counted)]
    return {name: Spread.of([entry.values[name] for entry in counted]) for name in (metric, *shared)}


def order(configuration: Configuration, metric: str | None, mode: str) -> tuple[bool, bool, float]:
    spread = configuration.numbers.get(metric or "")
    mean = math.inf if spread is None else -spread.mean if mode == "max" else spread.mean
    return (spread is None, not configuration.complete, mean)


def effects(
    configurations: Sequence[Configuration], keys: Sequence[str], metric: str | None
) -> dict[str, dict[str, Spread]]:
    found: dict[str, dict[str, Spread]] = {}
    for place, key in enumerate(keys):
        values: dict[Any, tuple[str, list[float]]] = {}
        for configuration in configurations:
            numbers = values.setdefault(identity(configuration.settings)[place], (configuration.settings[key], []))[1]
            numbers += [entry.values[metric or ""] for entry in configuration.counted]
        ordered = sorted(values.items(), key=lambda item: (isinstance(item[0], str), item[0]))
        found[key] = {text: Spread.of(numbers) for _, (text, numbers) in ordered if numbers}
    return found
