"""A sweep as one table: its configurations over their seeds, the best on validation data, and what became of every job.

Importing this imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from medassay.core.errors import ConfigError
from medassay.runs.directory import RunDirectory
from medassay.sweeps.configurations import Configuration, Spread, effects, grouped, order
from medassay.sweeps.directory import SweepDirectory
from medassay.sweeps.entries import DASH, Entry, read, swept
from medassay.sweeps.objective import objective


@dataclass(frozen=True)
class Summary:
    """What a sweep has found.

    Attributes:
        path: the sweep's directory.
        record: what ``sweep.json`` says; empty without one.
        metric, mode: what ranks; ``metric`` is None where no job says what it would be.
        swept: the keys whose value differs among the jobs, but seed and places.
        entries: the jobs, in their order.
        final: further seeds of the chosen configuration, trained to be tested; in no ranking.
        configurations: complete ones best first, then incomplete ones, then those without the metric.
        best: first by the mean of the metric among the complete ones; None where there is none.
        chosen: the configuration that was chosen when the sweep ended, else the best.
        effects: of each swept key and each of its values: the metric over all finished runs with that value.
        test: every test number of the chosen configuration, over its seeds and the further ones.
        notes: what a reader must know of the ranking.
    """

    path: Path
    record: dict[str, Any]
    metric: str | None
    mode: Literal["max", "min"]
    swept: list[str]
    entries: list[Entry]
    final: list[Entry]
    configurations: list[Configuration]
    best: Configuration | None
    chosen: Configuration | None
    effects: dict[str, dict[str, Spread]]
    test: dict[str, Spread]
    notes: list[str]

    @property
    def name(self) -> str:
        return str(self.record.get("name") or self.path.resolve().name)

    def having(self, *status: str) -> list[Entry]:
        """The jobs with one of these statuses; final ones too."""
        return [entry for entry in (*self.entries, *self.final) if entry.status in status]

    @property
    def failed(self) -> list[Entry]:
        return self.having("failed")

    @property
    def pruned(self) -> list[Entry]:
        return self.having("pruned")

    @property
    def unfinished(self) -> list[Entry]:
        return self.having("interrupted", "running")

    @property
    def waiting(self) -> list[Entry]:
        return self.having("waiting")

    def lines(self, n: int = 10) -> list[str]:
        """The first ``n`` configurations as aligned columns, then the best and, if it was tested, its test numbers."""
        names = labels(self.swept)
        heads = ["", *(names[key] for key in self.swept), self.metric or "metric", "seeds"]
        rows = [
            [str(place) if c.complete else DASH, *map(shown, c.settings.values()), cell(c, self.metric), seeds_of(c)]
            for place, c in enumerate(self.configurations[:n], 1)
        ]
        widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in (heads, *rows)]
        if (left := len(self.configurations) - n) > 0:
            lines.append(f"and {left} more in summary.md")
        return [*lines, *verdict(self)]


# --- as text ---------------------------------------------------------------------------------------------------------


def shown(value: str) -> str:
    """A setting as short as it stays readable: decimals with four significant digits."""
    if "." not in value and "e" not in value.lower():
        return value
    try:
        return f"{float(value):.4g}"
    except ValueError:
        return value


def cell(configuration: Configuration, name: str | None) -> str:
    """``mean ± sd`` of one of its numbers, or a dash."""
    return str(configuration.numbers[name]) if name in configuration.numbers else DASH


def seeds_of(configuration: Configuration) -> str:
    """Its finished seeds; ``incomplete`` where others have more."""
    if not configuration.counted:
        return "none"
    said = " ".join(map(str, configuration.seeds)) or "unknown"
    return said if configuration.complete else f"{said} (incomplete)"


def labels(keys: Sequence[str]) -> dict[str, str]:
    """A short name for each key: its last part, or more of it where two would be alike."""
    parts = {key: key.replace("/", ".").split(".") for key in keys}
    found = {}
    for key, own in parts.items():
        others = [other for name, other in parts.items() if name != key]
        length = next((n for n in range(1, len(own)) if all(o[-n:] != own[-n:] for o in others)), len(own))
        found[key] = ".".join(own[-length:])
    return found


def verdict(summary: Summary) -> list[str]:
    """The best configuration with its validation number, and what the test images said of the chosen one."""
    best, chosen = summary.best, summary.chosen
    if best is None:
        said = ["no best configuration yet"]
    else:
        settings = " ".join(best.overrides) or "the only configuration"
        said = [f"best: {settings}: {summary.metric} {cell(best, summary.metric)} (seeds {seeds_of(best)})"]
    if chosen is not None and summary.test:
        names = list(summary.test)
        headline = headlines(names, summary.metric)
        whose = "test" if chosen is best else f"test of the chosen {' '.join(chosen.overrides)}"
        n = max(spread.n for spread in summary.test.values())
        numbers = ", ".join(f"{name.partition('/')[2]} {summary.test[name]}" for name in headline)
        said.append(f"{whose}: {numbers} (n = {n})")
    return [*said, *summary.notes]


def headlines(names: Iterable[str], metric: str | None, n: int = 4) -> list[str]:
    """The names to show first: the metric's namesake, then what is commonly reported; all others are left out."""
    usual = ("auroc", "balanced_accuracy", "accuracy", "f1", "tstr_balanced_accuracy", "frechet", "coverage", "ece")
    wanted = [(metric or "").partition("/")[2], *usual]
    by_name = {name.partition("/")[2]: name for name in names}
    return [by_name[name] for name in dict.fromkeys(wanted) if name in by_name][:n] or list(by_name.values())[:n]


# --- reading ---------------------------------------------------------------------------------------------------------


def summarise(path: str | Path, metric: str | None = None, mode: Literal["max", "min"] | None = None) -> Summary:
    """Reads the sweep in ``path``: the jobs that its ``sweep.json`` lists, or without one all runs below.

    Args:
        path: a sweep's directory, or any folder of runs.
        metric: the number that ranks, e.g. ``val/auroc``; by default the sweep's own, else that of its first run.
        mode: whether more or less of it is better.

    Raises:
        CheckpointError: there is no sweep and no run in ``path``.
        ConfigError: the metric is a test number.
    """
    record = SweepDirectory(path).record()
    entries, final = read(path)
    metric, mode = _ranked_by(
        entries, metric or record.get("metric"), mode or (record.get("mode") if metric is None else None)
    )
    keys = swept(entries)
    configurations = grouped(entries, keys, metric)
    configurations.sort(key=lambda c: order(c, metric, mode))
    notes = _notes(configurations, metric)
    rankable = bool(configurations) and configurations[0].complete and not _chosen_on_test(configurations, metric)
    best = configurations[0] if rankable else None
    hashed = (record.get("chosen") or {}).get("configuration")
    chosen = next((c for c in configurations if hashed is not None and c.hash == hashed), best)
    if chosen is not best:
        notes.append("The configuration tested was the best when it was chosen; it is not the best of the jobs now.")
    return Summary(
        Path(path),
        record,
        metric,
        mode,
        keys,
        entries,
        final,
        configurations,
        best,
        chosen,
        effects(configurations, keys, metric),
        _test(chosen, final),
        notes,
    )


def _ranked_by(
    entries: Sequence[Entry], metric: str | None, mode: Literal["max", "min"] | None
) -> tuple[str | None, Literal["max", "min"]]:
    if metric is not None and metric.startswith("test/"):
        raise ConfigError(
            f"sweep.metric={metric}: what is chosen is chosen on validation data; use a val/ number, e.g. val/auroc"
        )
    begun = next((entry.path for entry in entries if entry.hash is not None), None)
    if begun is None:
        return metric, mode or "max"
    found = objective(RunDirectory(begun).config(), metric, mode)
    return found.name, mode or found.mode


def _test(chosen: Configuration | None, final: Sequence[Entry]) -> dict[str, Spread]:
    """Every test number of the chosen configuration's finished runs, one for each seed."""
    if chosen is None:
        return {}
    runs = [entry for entry in (*final, *chosen.entries) if entry.status == "done"]
    by_seed = {entry.seed: entry for entry in runs if any(name.startswith("test/") for name in entry.values)}
    names = dict.fromkeys(name for run in by_seed.values() for name in run.values if name.startswith("test/"))
    columns = {name: [run.values[name] for run in by_seed.values() if name in run.values] for name in names}
    return {name: Spread.of(values) for name, values in columns.items()}


def _chosen_on_test(configurations: Sequence[Configuration], metric: str | None) -> bool:
    """Whether the numbers that would rank several configurations are of assays on test images."""
    if len(configurations) < 2 or metric is None or not metric.startswith("assay/"):
        return False
    name = metric.replace("assay/", "test/", 1)
    return any(e.values.get(name) == e.values[metric] for c in configurations for e in c.counted)


def _notes(configurations: Sequence[Configuration], metric: str | None) -> list[str]:
    """What a reader must know of the ranking."""
    ranked = [c for c in configurations if c.counted]
    if not ranked:
        done = [e for c in configurations for e in c.entries if e.status == "done"]
        names = sorted({name for e in done for name in e.values if name.startswith(("val/", "assay/"))})
        there = f"there are {', '.join(names)}" if names else "there is no validation number"
        return [f"No finished run has {metric}: {there}."] if done else ["No run has finished."]
    if _chosen_on_test(ranked, metric):
        return ["The assays were made on test images, which must not choose: assay the runs with protocol.split=val."]
    incomplete = sum(not c.complete for c in ranked)
    if incomplete == len(ranked):
        return ["No configuration has every seed that another one has: none can be called the best."]
    lacking = (
        f"{incomplete} of {len(ranked)} configurations lack seeds that others have, and take no part in the choice."
    )
    return [lacking] if incomplete else []
