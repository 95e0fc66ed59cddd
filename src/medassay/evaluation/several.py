"""Several runs evaluated with one protocol, and one table: mean ± standard deviation over seeds."""

from __future__ import annotations

import logging
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medassay import config as configuration
from medassay.config.messages import explain
from medassay.core.errors import CheckpointError
from medassay.core.estimate import Estimate
from medassay.core.files import read_json, write_json, write_text
from medassay.core.paths import expand_home, find_kind
from medassay.core.results import to_json
from medassay.evaluation.about import format_command, list_data_warnings
from medassay.evaluation.protocol import Combined, Protocol
from medassay.reporting import html
from medassay.reporting.numbers import DASH, format_fixed, format_spread, format_with_bounds
from medassay.reporting.tables import Table, format_markdown
from medassay.runs.csv_view import format_runs_as_csv
from medassay.runs.directory import RunDirectory
from medassay.runs.groups import Group, describe_settings, find_differing_keys, group_over_seeds, is_place
from medassay.runs.table import RunRow, collect_single_numbers, find_runs, hash_configuration, read_row

logger = logging.getLogger(__name__)

# (run directory, protocol, overrides, outputs) -> the new directory with its results; raises where it cannot
EvaluateOne = Callable[[str, Mapping[str, Any], Mapping[str, Any], Path], Path]
HEADLINE = (
    "accuracy",
    "balanced_accuracy",
    "auroc",
    "f1",
    "ece",
    "tstr_balanced_accuracy",
    "frechet",
    "dice",
    "ap50",
    "error_over_between_beats",
)


@dataclass(frozen=True)
class Evaluations:
    """What became of several runs.

    Attributes:
        directory: With ``summary.csv``, ``summary.md``, ``report.html`` and, where runs give something together, its JSON.
        done: Run and directory of its results.
        failed: Run and reason.
    """

    directory: Path
    done: list[tuple[Path, Path]]
    failed: list[tuple[Path, str]]


@dataclass(frozen=True)
class Column:
    """Repetitions of one experiment and what they give together; None where that is nothing."""

    group: Group
    combined: Combined | None
    difference: str = ""  # from columns of the same model, data and seeds

    @property
    def heading(self) -> str:
        """The group's model, data and seeds, and what tells it from others with the same."""
        row, seeds = self.group.rows[0], sorted(self.group.seeds)
        consecutive = len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1))
        listed = f"{seeds[0]}–{seeds[-1]}" if consecutive else ", ".join(map(str, seeds))
        about = f"{row.model} on {row.data}, {'seed' if len(seeds) == 1 else 'seeds'} {listed}"
        return f"{about}, {self.difference}" if self.difference else about

    @property
    def numbers(self) -> Mapping[str, Estimate]:
        """What they give together, empty where that is nothing."""
        return self.combined.numbers if self.combined is not None else {}

    @property
    def together(self) -> list[str]:
        """The heading of what they give together, where there is that."""
        return [self.combined.name] if self.combined is not None and self.numbers else []

    def format_cells(self, name: str) -> list[str]:
        """``mean ± sd``, and beside it the number of what the runs give together, where there is that."""
        estimates = [self.group.numbers.get(name), *(self.numbers.get(name) for _ in self.together)]
        texts = (
            DASH if e is None else form(e)
            for e, form in zip(estimates, (format_spread, format_with_bounds), strict=False)
        )
        return [text.replace("\N{NO-BREAK SPACE}", " ") for text in texts]

    @property
    def settings(self) -> str:
        """What was given when the runs were started, the seed and places left out."""
        overrides = RunDirectory(self.group.counted[0].path).record().get("overrides") or []
        shown = (text for text in overrides if not is_place(text.lstrip("+~").partition("=")[0]))
        return " ".join(shown) or "no overrides"

    def make_table(self) -> Table:
        """A line per number, a column per seed."""
        members = self.group.counted
        rows = [
            [name.replace("_", " "), *self.format_cells(name), *(format_fixed(row.values[name]) for row in members)]
            for name in self.group.numbers
        ]
        header = ["metric", "mean ± sd", *self.together, *(f"seed {seed}" for seed in self.group.seeds)]
        return Table(self.heading, header, rows)


# --- which runs ------------------------------------------------------------------------------------------------------


def is_several(paths: Sequence[str]) -> bool:
    """Whether ``run=`` names more than one run directory: a list, or a folder that is no run itself and holds some."""
    if len(paths) != 1:
        return True
    top = expand_home(paths[0])
    return not _is_run(top) and find_kind(top, CheckpointError) == "directory" and any(top.rglob("run.json"))


def list_runs(paths: Sequence[str]) -> list[Path]:
    """The run directories that ``paths`` name, each once: themselves, or all below them, sorted.

    Of a sweep that has chosen a configuration, the runs of that one: no other is to be looked at on test images.

    Raises:
        CheckpointError: a path that does not exist, cannot be read or holds no run.
    """
    runs_by_place: dict[Path, Path] = {}
    for path in paths:
        top = expand_home(path)
        is_there = find_kind(top, CheckpointError) is not None
        below = find_runs(top) if is_there and not _is_run(top) else []
        runs = [top] if _is_run(top) else [run for run in below if not _is_not_chosen(run)]
        if not runs:
            hint = "it holds no run" if is_there else "it does not exist"
            raise CheckpointError(f"run={path}: {hint}; give run directories, or a folder with some below")
        for run in runs:
            runs_by_place.setdefault(run.resolve(), run)
    return list(runs_by_place.values())


def _is_run(path: Path) -> bool:
    return find_kind(path / ".hydra", CheckpointError) == "directory"


def _is_not_chosen(run: Path) -> bool:
    """Whether the run's sweep has chosen another configuration."""
    chosen = (read_json(run.parent / "sweep.json").get("chosen") or {}).get("configuration")
    return chosen is not None and hash_configuration(RunDirectory(run).config_at_end()) != chosen


# --- evaluation ------------------------------------------------------------------------------------------------------


def evaluate_many(
    paths: Sequence[str],
    protocol: Mapping[str, Any],
    overrides: Mapping[str, Any],
    outputs: Path,
    evaluate_one: EvaluateOne,
    eval_dir: Path | None = None,
    checkpoint: str = "best",
) -> Evaluations:
    """Evaluates every run, and leaves one table in ``<outputs>/eval/<protocol>_<id>/``.

    A run that cannot be evaluated is named, and the others go on.

    Args:
        paths: Run directories, or folders with runs below.
        protocol: The checked ``protocol`` node.
        overrides: Overrides of the runs' configurations, by dotted key.
        outputs: Where the table and caches go.
        evaluate_one: Evaluates one run with the weights of ``checkpoint``.
        eval_dir: The folder that gets the directory with the table; None for ``<outputs>/eval``.
        checkpoint: Which weights those are, for the record.

    Raises:
        CheckpointError: a path without a run.
        OutputError: the table cannot be written.
    """
    runs = list_runs(paths)
    done: list[tuple[Path, Path]] = []
    failed: list[tuple[Path, str]] = []
    for number, run in enumerate(runs, 1):
        logger.info("run %d of %d: %s", number, len(runs), run)
        try:
            done.append((run, evaluate_one(str(run), protocol, overrides, outputs)))
        except Exception as error:
            if explain(error) is None:  # no mistake of the user's: whoever looks into it needs the traceback
                logger.exception("unexpected error")
            reason = explain(error) or f"{type(error).__name__}: {error}"
            failed.append((run, reason.removeprefix(f"{run} ")))
            logger.error("%s: %s", *failed[-1])
    directory = (eval_dir or outputs / "eval") / f"{protocol['name']}_{secrets.token_hex(3)}"
    named: list[str] | str = list(paths) if len(paths) > 1 else paths[0]
    record = {"run": named, "checkpoint": checkpoint, "protocol": dict(protocol), "overrides": dict(overrides)}
    evaluations = Evaluations(directory, done, failed)
    write_table(evaluations, configuration.build(protocol), record)
    return evaluations


def collect_rows(done: Sequence[tuple[Path, Path]]) -> list[RunRow]:
    """The evaluated runs as rows of the table of runs, with the numbers just measured in place of earlier ones.

    A protocol that leaves no ``metrics.json`` leaves the numbers that the table has of the run.
    """
    rows = []
    for run, directory in {run.resolve(): (run, directory) for run, directory in done}.values():
        row, values = read_row(run), collect_single_numbers(RunDirectory(directory).metrics())
        rows.append(replace(row, values=values) if values else row)
    return rows


def write_table(evaluations: Evaluations, protocol: Protocol, record: dict[str, Any]) -> None:
    """Leaves the tables and the page, and says the headline numbers.

    Raises:
        OutputError: a file cannot be written.
    """
    results = {run.resolve(): directory for run, directory in evaluations.done}
    rows = collect_rows(evaluations.done)
    groups = [group for group in group_over_seeds(rows) if group.counted]
    columns = tell_apart(
        [Column(group, protocol.combine([results[row.path.resolve()] for row in group.counted])) for group in groups]
    )
    further = [{column.combined.row: column.numbers} if column.combined else {} for column in columns]
    files = {
        "summary.csv": format_runs_as_csv(
            groups, rows, further=[{k: v for k, v in one.items() if v} for one in further]
        ),
        "summary.md": write_markdown(columns, evaluations.failed),
        "report.html": _render_page(evaluations, columns, rows, record),
    }
    for name, text in files.items():
        write_text(evaluations.directory / name, text)
    if combined := [_describe_column(column) for column in columns if column.combined is not None]:
        write_json(evaluations.directory / "ensembles.json", {**record, "ensembles": combined})
    for line in _format_headlines(columns):
        logger.info("%s", line)


def tell_apart(columns: Sequence[Column]) -> list[Column]:
    """``columns`` whose headings all differ: alike ones get the settings in which they differ, else a run's directory."""
    alike = {column.heading: [one for one in columns if one.heading == column.heading] for column in columns}
    named = [replace(column, difference=_describe_difference(column, alike[column.heading])) for column in columns]
    counts = Counter(column.heading for column in named)
    return [
        column
        if counts[column.heading] == 1
        else replace(column, difference=" ".join(filter(None, [column.difference, str(column.group.counted[0].path)])))
        for column in named
    ]


def _describe_difference(column: Column, alike: Sequence[Column]) -> str:
    """The settings in which ``column`` differs from those ``alike``, itself among them; empty where no such was typed."""
    keys = find_differing_keys([one.group.counted[0] for one in alike])
    settings = describe_settings(column.group.counted[0], keys)
    return " ".join(f"{key}={value}" for key, value in settings.items())


def _describe_column(column: Column) -> dict[str, Any]:
    """What the runs of a column give together, as plain values."""
    group, combined = column.group, column.combined
    assert combined is not None
    about = {"configuration": group.configuration, "runs": [str(row.path) for row in group.counted]}
    results = {"none": combined.none} if combined.none is not None else to_json(combined.results or {})
    return {**about, "seeds": group.seeds, **results}


def _format_headlines(columns: Sequence[Column]) -> Iterator[str]:
    for column in columns:
        shown = [name for name in column.group.numbers if name.rpartition("/")[2] in HEADLINE]
        for place, heading in enumerate((column.heading, *column.together)):
            yield f"{heading}: {', '.join(f'{name} {column.format_cells(name)[place]}' for name in shown)}"
        if column.combined is not None and column.combined.none is not None:
            yield column.combined.none


# --- as text ---------------------------------------------------------------------------------------------------------


def write_markdown(columns: Sequence[Column], failed: Sequence[tuple[Path, str]]) -> str:
    """A table of mean ± sd, a column per group, and one for what its runs give together beside it; and what failed."""
    names = dict.fromkeys(name for column in columns for name in column.group.numbers)
    header = ["metric", *(head for column in columns for head in (column.heading, *column.together))]
    rows = [[name, *(cell for column in columns for cell in column.format_cells(name))] for name in names]
    parts = ["No run to average."]
    if columns:
        table = format_markdown(header, rows, ["---", *["---:"] * (len(header) - 1)])
        parts = [table, "Mean ± sample standard deviation over the seeds."]
    if any(column.numbers for column in columns):
        parts.append("Of an ensemble: its value, and in brackets the 95 % bootstrap interval over the images.")
    none = ((column.heading, column.combined.none) for column in columns if column.combined is not None)
    parts += [f"{heading}: {why}" for heading, why in none if why is not None]
    return "\n\n".join([*parts, *(f"Failed: {path}: {reason}" for path, reason in failed)]) + "\n"


def _render_page(
    evaluations: Evaluations, columns: Sequence[Column], rows: Sequence[RunRow], record: dict[str, Any]
) -> str:
    results = {run.resolve(): directory for run, directory in evaluations.done}
    counted = {row.path for column in columns for row in column.group.counted}
    lost, total = len(evaluations.failed), len(evaluations.done) + len(evaluations.failed)
    failed = f"{lost} of {total} runs could not be evaluated; they are named below." if lost else None
    checkpoint = record.get("checkpoint", "best")
    other = f"The weights are those of checkpoint={checkpoint}, not the ones that training chose."
    warnings = [
        *(text for row in rows for text in list_data_warnings(row.data_provenance)),
        failed,
        None if checkpoint == "best" else other,
    ]
    return html.render_page(
        Path(__file__).with_name("several.html.j2"),
        protocol=record["protocol"]["name"],
        total=total,
        failed=evaluations.failed,
        columns=columns,
        reports={
            row.path: (results[row.path.resolve()] / "report.html").resolve().as_uri()
            for row in rows
            if (results[row.path.resolve()] / "report.html").exists()
        },
        not_done=[row for row in rows if row.status != "done"],
        repeated=[row for row in rows if row.status == "done" and row.path not in counted],
        warnings=list(dict.fromkeys(text for text in warnings if text is not None)),
        command=format_command(record),
    )
