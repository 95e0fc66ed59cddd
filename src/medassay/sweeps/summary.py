"""A sweep as one table: its configurations over their seeds, the best on validation data, and what became of every job.

Importing this imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from medassay.core.errors import CheckpointError, ConfigError
from medassay.core.estimate import Estimate, mean_over
from medassay.core.paths import find_kind
from medassay.reporting.numbers import DASH, format_compact_spread
from medassay.runs.directory import RunDirectory
from medassay.runs.groups import (
    Group,
    compare_effects,
    find_differing_keys,
    group_over_seeds,
    is_tested,
    make_rank_key,
    shorten_keys,
)
from medassay.runs.table import RunRow, read_job
from medassay.sweeps.directory import SweepDirectory
from medassay.sweeps.objective import choose_objective


@dataclass(frozen=True)
class Summary:
    """What a sweep has come to.

    Attributes:
        path: The sweep's directory.
        record: The content of ``sweep.json``; empty without one.
        metric, mode: The number that ranks, and whether more or less of it is better; ``metric`` is None where no job says
            what it would be.
        swept: The keys whose value differs among the jobs, without the seed and where jobs run.
        rows: The jobs, in their order.
        final: Further seeds of the chosen configuration, trained to be tested; they are in no ranking.
        groups: The configurations: complete ones best first, then incomplete ones, then those without the metric.
        best: The complete configuration with the best mean of the metric; None where there is none.
        chosen: The configuration that was chosen when the sweep ended, else the best.
        effects: For each swept key and each of its values, the metric over all finished runs with that value.
        test: Every test number of the chosen configuration, over its seeds and the further ones.
        notes: What a reader must know of the ranking.
    """

    path: Path
    record: dict[str, Any]
    metric: str | None
    mode: Literal["max", "min"]
    swept: list[str]
    rows: list[RunRow]
    final: list[RunRow]
    groups: list[Group]
    best: Group | None
    chosen: Group | None
    effects: dict[str, dict[str, Estimate]]
    test: dict[str, Estimate]
    notes: list[str]

    @property
    def name(self) -> str:
        return str(self.record.get("name") or self.path.resolve().name)

    def choose_rows(self, *status: str) -> list[RunRow]:
        """The jobs with one of these statuses; final ones too."""
        return [row for row in (*self.rows, *self.final) if row.status in status]

    @property
    def tested(self) -> list[Group]:
        """The configurations of which a run was measured on test images."""
        return [group for group in self.groups if any(map(is_tested, group.counted))]

    @property
    def failed(self) -> list[RunRow]:
        return self.choose_rows("failed")

    @property
    def pruned(self) -> list[RunRow]:
        return self.choose_rows("pruned")

    @property
    def unfinished(self) -> list[RunRow]:
        return self.choose_rows("interrupted", "running")

    @property
    def waiting(self) -> list[RunRow]:
        return self.choose_rows("waiting")

    def lines(self, n: int = 10) -> list[str]:
        """The first ``n`` configurations as aligned columns, then the best and, if it was tested, its test numbers."""
        names = shorten_keys(self.swept)
        heads = ["", *(names[key] for key in self.swept), self.metric or "metric", "seeds"]
        rows = [
            [
                str(place) if c.complete else DASH,
                *map(format_value, c.settings.values()),
                format_cell(c, self.metric),
                list_seeds(c),
            ]
            for place, c in enumerate(self.groups[:n], 1)
        ]
        widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in (heads, *rows)]
        if (left := len(self.groups) - n) > 0:
            lines.append(f"and {left} more in summary.md")
        return [*lines, *describe_verdict(self)]


# --- as text ---------------------------------------------------------------------------------------------------------


def format_value(value: str) -> str:
    """A setting as short as it stays readable: decimals with four significant digits."""
    if "." not in value and "e" not in value.lower():
        return value
    try:
        return f"{float(value):.4g}"
    except ValueError:
        return value


def format_cell(group: Group, name: str | None) -> str:
    """``mean ± sd`` of one of its numbers, or a dash."""
    return format_compact_spread(group.numbers[name]) if name in group.numbers else DASH


def list_seeds(group: Group) -> str:
    """Its finished seeds and the number of their runs, e.g. ``seed 0 (1 run)``; ``incomplete`` where others have more."""
    if not group.counted:
        return "no finished run"
    word, n = ("seed" if len(group.seeds) == 1 else "seeds"), len(group.counted)
    seeds = f"{word} {', '.join(map(str, group.seeds))}" if group.seeds else "seed unknown"
    return f"{seeds} ({n} {'run' if n == 1 else 'runs'}{'' if group.complete else ', incomplete'})"


def describe_verdict(summary: Summary) -> list[str]:
    """The best configuration with its validation number, and what the test images said of the chosen one."""
    best, chosen = summary.best, summary.chosen
    if best is None:
        lines = ["no best configuration yet"]
    else:
        settings = " ".join(best.overrides) or "the only configuration"
        lines = [f"best: {settings}: {summary.metric} {format_cell(best, summary.metric)}, {list_seeds(best)}"]
    if chosen is not None and summary.test:
        names = list(summary.test)
        headline = choose_headlines(names, summary.metric)
        whose = "test" if chosen is best else f"test of the chosen {' '.join(chosen.overrides)}"
        seeds = count_seeds(max(estimate.n or 0 for estimate in summary.test.values()))
        numbers = ", ".join(
            f"{name.partition('/')[2]} {format_compact_spread(summary.test[name])}" for name in headline
        )
        lines.append(f"{whose}: {numbers} ({seeds})")
    return [*lines, *summary.notes]


def describe_testing(summary: Summary) -> str:
    """Whose test numbers there are, in a sentence."""
    tested, finished = len(summary.tested), sum(bool(group.counted) for group in summary.groups)
    if tested > 1:
        whose = "Every configuration was" if tested == finished else f"{tested} of {finished} configurations were"
        return f"{whose} tested; do not choose by these numbers."
    if summary.test:
        return "The test images were looked at afterwards, for the chosen configuration only."
    return "It has not been tested yet."


def count_seeds(n: int | None) -> str:
    """``1 seed``, ``5 seeds``."""
    return f"{n or 0} {'seed' if n == 1 else 'seeds'}"


def choose_headlines(names: Iterable[str], metric: str | None, n: int = 4) -> list[str]:
    """The names to show first: the metric's namesake, then what is commonly reported; all others are left out."""
    usual = ("auroc", "balanced_accuracy", "accuracy", "f1", "tstr_balanced_accuracy", "frechet", "coverage", "ece")
    wanted = [(metric or "").partition("/")[2], *usual]
    by_name = {name.partition("/")[2]: name for name in names}
    return [by_name[name] for name in dict.fromkeys(wanted) if name in by_name][:n] or list(by_name.values())[:n]


# --- reading ---------------------------------------------------------------------------------------------------------


def summarise(path: str | Path, metric: str | None = None, mode: Literal["max", "min"] | None = None) -> Summary:
    """Reads the sweep in ``path``: the jobs that its ``sweep.json`` lists, or without one all runs below.

    Args:
        path: A sweep's directory, or any folder of runs.
        metric: The number that ranks, e.g. ``val/auroc``; None for the sweep's own, else that of its first run.
        mode: Whether more or less of it is better; None for the sweep's own.

    Raises:
        CheckpointError: There is no sweep and no run in ``path``.
        ConfigError: The metric is a test number.
    """
    record = SweepDirectory(path).record()
    rows, final = _read_jobs(SweepDirectory(path), listed=bool(record))
    metric, mode = _describe_ranking(
        rows, metric or record.get("metric"), mode or (record.get("mode") if metric is None else None)
    )
    keys = find_differing_keys(rows)
    groups = group_over_seeds(rows, keys, metric or "")
    groups.sort(key=lambda group: make_rank_key(group, metric, mode))
    notes = _list_notes(groups, metric)
    rankable = bool(groups) and groups[0].complete and not _is_chosen_on_test(groups, metric)
    best = groups[0] if rankable else None
    recorded = record.get("chosen") or {}
    hashed, chosen_by = recorded.get("configuration"), recorded.get("metric") or metric
    chosen = next((g for g in groups if hashed is not None and g.configuration == hashed), best)
    if best is not None and chosen is not best and chosen_by != metric:
        notes.append(f"The tested configuration was chosen by {chosen_by}; by {metric} another one is first.")
    elif best is not None and chosen is not best:
        notes.append(
            "The tested configuration was the best when it was chosen; with the jobs that have run since, another one is."
        )
    effects = compare_effects(groups, keys, metric)
    test = _estimate_test(chosen, final)
    return Summary(Path(path), record, metric, mode, keys, rows, final, groups, best, chosen, effects, test, notes)


def _read_jobs(sweep: SweepDirectory, *, listed: bool) -> tuple[list[RunRow], list[RunRow]]:
    """The jobs that a sweep's ``sweep.json`` lists and its final ones; without one, all runs below.

    Raises:
        CheckpointError: There is no sweep and no run in the directory.
    """
    if listed:
        of_sweep, final = (
            [read_job(job.directory, job.overrides) for job in sweep.jobs(final=f)] for f in (False, True)
        )
        return of_sweep, final
    if find_kind(sweep.path, CheckpointError) != "directory":
        raise CheckpointError(f"{sweep.path} does not exist: give a sweep's directory, or a folder that holds runs")
    runs = [file.parent for file in sorted(sweep.path.rglob("run.json"))]
    if not runs:
        raise CheckpointError(f"no run in {sweep.path}: give a sweep's directory, or a folder that holds runs")
    return [read_job(run) for run in runs], []


def _describe_ranking(
    rows: Sequence[RunRow], metric: str | None, mode: Literal["max", "min"] | None
) -> tuple[str | None, Literal["max", "min"]]:
    if metric is not None and metric.startswith("test/"):
        raise ConfigError(
            f"sweep.metric={metric}: what is chosen is chosen on validation data; use a val/ number, e.g. val/auroc"
        )
    begun = next((row.path for row in rows if row.configuration is not None), None)
    if begun is None:
        return metric, mode or "max"
    objective = choose_objective(RunDirectory(begun).config(), metric, mode)
    return objective.name, mode or objective.mode


def _estimate_test(chosen: Group | None, final: Sequence[RunRow]) -> dict[str, Estimate]:
    """Every test number of the chosen configuration's finished runs, one for each seed."""
    if chosen is None:
        return {}
    runs = [row for row in (*final, *chosen.rows) if row.status == "done"]
    by_seed = {row.seed: row for row in runs if any(name.startswith("test/") for name in row.values)}
    names = dict.fromkeys(name for run in by_seed.values() for name in run.values if name.startswith("test/"))
    columns = {name: [run.values[name] for run in by_seed.values() if name in run.values] for name in names}
    return {name: mean_over("seeds", values) for name, values in columns.items()}


def _is_chosen_on_test(groups: Sequence[Group], metric: str | None) -> bool:
    """Whether the numbers that would rank several configurations are of assays on test images."""
    if len(groups) < 2 or metric is None or not metric.startswith("assay/"):
        return False
    name = metric.replace("assay/", "test/", 1)
    return any(e.values.get(name) == e.values[metric] for g in groups for e in g.counted)


def _list_absent(rows: Sequence[RunRow], split: str) -> list[str]:
    """The classes of which some run had no image in ``split``."""
    recorded = (RunDirectory(row.path).metrics().get(split) for row in rows)
    return list(dict.fromkeys(name for group in recorded for name in (group or {}).get("classes_without_images", ())))


def _list_notes(groups: Sequence[Group], metric: str | None) -> list[str]:
    """What a reader must know of the ranking."""
    ranked = [group for group in groups if group.counted]
    if not ranked:
        done = [e for g in groups for e in g.rows if e.status == "done"]
        if metric is not None and (absent := _list_absent(done, metric.partition("/")[0])):
            return [
                f"{metric} is undefined because the {metric.partition('/')[0]} images lack {', '.join(absent)}: "
                "split the data otherwise, or rank by another number, e.g. sweep.metric=val/accuracy."
            ]
        names = sorted({name for e in done for name in e.values if name.startswith(("val/", "assay/"))})
        there = f"there are {', '.join(names)}" if names else "there is no validation number"
        return [f"No finished run has {metric}: {there}."] if done else ["No run has finished."]
    if _is_chosen_on_test(ranked, metric):
        return [
            "The runs were assayed on test images, which must not decide what is chosen: assay them with protocol.split=val."
        ]
    incomplete = sum(not c.complete for c in ranked)
    if incomplete == len(ranked):
        return ["Every configuration lacks a seed that another one has: none can be called the best."]
    lacking = (
        f"{incomplete} of {len(ranked)} configurations lack seeds that others have, and take no part in the choice."
    )
    return [lacking] if incomplete else []
