"""Several runs evaluated with one protocol, and one table: mean ± standard deviation over seeds, and their ensemble."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from medassay.config.messages import explain
from medassay.core.errors import CheckpointError
from medassay.core.files import read_json, whole, write_json
from medassay.evaluation.several_tables import (
    Column,
    as_csv,
    as_markdown,
    cell,
    ensemble_cell,
    ensemble_name,
    heading,
    settings_of,
)
from medassay.protocols import pages
from medassay.reporting.html import fixed, page
from medassay.runs.directory import RunDirectory, is_current
from medassay.runs.table import Group, Row, configuration_hash, over_seeds, table

logger = logging.getLogger(__name__)

# (run directory, protocol, overrides, outputs) -> the new directory with its results; raises where it cannot
EvaluateOne = Callable[[str, Mapping[str, Any], Mapping[str, Any], Path], Path]
HEADLINE = ("accuracy", "balanced_accuracy", "auroc", "f1", "ece", "tstr_balanced_accuracy", "frechet")


class Evaluations(NamedTuple):
    """What became of several runs.

    Attributes:
        directory: with ``summary.csv``, ``summary.md``, ``report.html`` and, where nets were averaged, ``ensembles.json``.
        done: run and directory of its results.
        failed: run and reason.
    """

    directory: Path
    done: list[tuple[Path, Path]]
    failed: list[tuple[Path, str]]


def is_several(paths: Sequence[str]) -> bool:
    """Whether ``run=`` names more than one run directory: a list, or a folder that is no run itself and holds some."""
    if len(paths) != 1:
        return True
    top = Path(paths[0]).expanduser()
    return not (top / ".hydra").is_dir() and top.is_dir() and any(top.rglob("run.json"))


def runs_of(paths: Sequence[str]) -> list[Path]:
    """The run directories that ``paths`` name, each once: themselves, or all below them, sorted.

    Of a sweep that has chosen a configuration, the runs of that one: no other is to be looked at on test images.

    Raises:
        CheckpointError: a path that does not exist or holds no run.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        top = Path(path).expanduser()
        own = [top] if (top / ".hydra").is_dir() else [file.parent for file in sorted(top.rglob("run.json"))]
        runs = [run for run in own if (run / ".hydra").is_dir() and (run == top or is_current(run))]
        runs = [run for run in runs if run == top or not _passed_over(run)]
        if not runs:
            hint = "it holds no run" if top.exists() else "it does not exist"
            raise CheckpointError(f"run={path}: {hint}; give run directories, or a folder with some below")
        for run in runs:
            found.setdefault(run.resolve(), run)
    return list(found.values())


def _passed_over(run: Path) -> bool:
    """Whether the run's sweep has chosen another configuration."""
    chosen = (read_json(run.parent / "sweep.json").get("chosen") or {}).get("configuration")
    return chosen is not None and configuration_hash(RunDirectory(run).config()) != chosen


def evaluate_many(
    paths: Sequence[str],
    protocol: Mapping[str, Any],
    overrides: Mapping[str, Any],
    outputs: Path,
    evaluate_one: EvaluateOne,
) -> Evaluations:
    """Evaluates every run, each into its own ``eval/``, and leaves one table in ``<outputs>/eval/<protocol>_<id>/``.

    A run that cannot be evaluated is named, and the others go on.

    Args:
        paths: run directories, or folders with runs below.
        protocol: the checked ``protocol`` node.
        overrides: of the runs' configurations, by dotted key.
        outputs: where the table and caches go.
        evaluate_one: evaluates one run.

    Raises:
        CheckpointError: a path without a run.
        OutputError: the table cannot be written.
    """
    runs = runs_of(paths)
    done: list[tuple[Path, Path]] = []
    failed: list[tuple[Path, str]] = []
    for number, run in enumerate(runs, 1):
        logger.info("run %d of %d: %s", number, len(runs), run)
        try:
            done.append((run, evaluate_one(str(run), protocol, overrides, outputs)))
        except Exception as error:
            reason = explain(error) or f"{type(error).__name__}: {error}"
            failed.append((run, reason.removeprefix(f"{run} ")))
            logger.error("%s: %s", *failed[-1])
    directory = outputs / "eval" / f"{protocol['name']}_{secrets.token_hex(3)}"
    named: list[str] | str = list(paths) if len(paths) > 1 else paths[0]
    record = {"run": named, "protocol": dict(protocol), "overrides": dict(overrides)}
    evaluations = Evaluations(directory, done, failed)
    write(evaluations, record)
    return evaluations


# --- numbers ---------------------------------------------------------------------------------------------------------


def measured(done: Sequence[tuple[Path, Path]]) -> list[Row]:
    """The evaluated runs as rows of the table of runs, with the numbers just measured in place of earlier ones.

    A protocol that leaves no ``metrics.json`` leaves the numbers that the table has of the run.
    """
    if not done:
        return []
    results = {run.resolve(): directory for run, directory in done}
    rows = {row.path.resolve(): row for row in table([run for run, _ in done])}
    found = []
    for run, directory in results.items():
        metrics = RunDirectory(directory).metrics()
        groups = {name: values for name, values in metrics.items() if name not in ("protocol", "overrides")}
        values = {
            f"{group}/{name}": value
            for group, numbers in groups.items()
            if isinstance(numbers, dict)
            for name, value in numbers.items()
            if isinstance(value, float)
        }
        values |= _by_threshold(directory)
        found.append(replace(rows[run], values=values) if values else rows[run])
    return found


def _by_threshold(directory: Path) -> dict[str, float]:
    """What a classification leaves of the decision by the threshold chosen on validation images."""
    try:
        found = json.loads((directory / "classification.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    chosen = found["threshold"]
    decided = {"value": chosen["value"], **chosen["metrics"]} if "value" in chosen else {}
    return {f"{found['split']} by threshold/{name}": v for name, v in decided.items() if isinstance(v, float)}


def columns_of(groups: Sequence[Group], done: Sequence[tuple[Path, Path]], protocol: Mapping[str, Any]) -> list[Column]:
    """The groups, those of classifiers' evaluations with the ensemble of their nets."""
    if protocol["name"] != "classification":
        return [Column(group, None) for group in groups]
    from medassay.protocols.ensemble import ensemble  # torch: seconds, which other tables need not wait for

    results = {run.resolve(): directory for run, directory in done}
    return [
        Column(group, ensemble([results[row.path.resolve()] for row in group.rows], protocol.get("split", "test")))
        for group in groups
    ]


# --- what is left behind ---------------------------------------------------------------------------------------------


def write(evaluations: Evaluations, record: dict[str, Any]) -> None:
    """Leaves the tables and the page, and says the headline numbers.

    Raises:
        OutputError: a file cannot be written.
    """
    directory, done, failed = evaluations
    rows = measured(done)
    columns = columns_of(over_seeds(rows), done, record["protocol"])
    files = {
        "summary.csv": as_csv(columns, rows),
        "summary.md": as_markdown(columns, failed),
        "report.html": _page(evaluations, columns, rows, record),
    }
    for name, text in files.items():
        with whole(directory / name) as partial:
            partial.write_text(text, encoding="utf-8", newline="")
    ensembles = [_recorded(column) for column in columns if column.ensemble is not None]
    if ensembles:
        write_json(directory / "ensembles.json", {**record, "ensembles": ensembles})
    for column in columns:
        _say(column)


def _recorded(column: Column) -> dict[str, Any]:
    """An ensemble for ``ensembles.json``."""
    rows = column.group.rows
    about = {"configuration": rows[0].configuration, "runs": [str(row.path) for row in rows]}
    return {**about, "seeds": [row.seed for row in rows], **(column.ensemble or {})}


def _say(column: Column) -> None:
    group, found = column
    shown = [name for name in group.mean if name.rpartition("/")[2] in HEADLINE]
    logger.info("%s: %s", heading(group), ", ".join(f"{name} {cell(group, name)}" for name in shown))
    if found is not None and "none" in found:
        logger.info("%s", found["none"])
    elif found is not None:
        said = ", ".join(f"{name} {ensemble_cell(column, name)}" for name in shown)
        logger.info("%s: %s", ensemble_name(found["nets"]), said)


def _page(evaluations: Evaluations, columns: Sequence[Column], rows: Sequence[Row], record: dict[str, Any]) -> str:
    results = {run.resolve(): directory for run, directory in evaluations.done}
    return page(
        "many.html.j2",
        protocol=record["protocol"]["name"],
        total=len(evaluations.done) + len(evaluations.failed),
        failed=[(str(path), reason) for path, reason in evaluations.failed],
        groups=[_shown(column, results) for column in columns],
        not_done=[(str(row.path), row.status) for row in rows if row.status != "done"],
        repeated=_repeated([column.group for column in columns], rows),
        warnings=_warnings(evaluations),
        command=pages.command(record),
    )


def _shown(column: Column, results: Mapping[Path, Path]) -> dict[str, Any]:
    """One group for the page: a line per number, a column per seed."""
    group, found = column
    members = sorted(group.rows, key=lambda row: row.seed)
    reports = [results[row.path.resolve()] / "report.html" for row in members]
    return {
        "title": heading(group),
        "settings": settings_of(group),
        "ensemble": None if found is None or "none" in found else _described(found),
        "no_ensemble": None if found is None else found.get("none"),
        "seeds": [row.seed for row in members],
        "runs": [
            {"seed": row.seed, "path": str(row.path), "report": report.resolve().as_uri() if report.exists() else None}
            for row, report in zip(members, reports, strict=True)
        ],
        "lines": [
            {
                "name": name.replace("_", " "),
                "cell": cell(group, name),
                "ensemble": ensemble_cell(column, name),
                "values": [fixed(r.values[name]) for r in members],
            }
            for name in group.mean
        ],
    }


def _described(ensemble: Mapping[str, Any]) -> dict[str, str]:
    """An ensemble's name, and how its threshold was chosen."""
    chosen = "Its threshold is chosen on validation images by its own probabilities."
    return {"name": ensemble_name(ensemble["nets"]), "threshold": ensemble["threshold"].get("none", chosen)}


def _repeated(groups: Sequence[Group], rows: Sequence[Row]) -> list[str]:
    """Finished runs that repeat a seed of their group, of which the last counts."""
    counted = {row.path for group in groups for row in group.rows}
    return [str(row.path) for row in rows if row.status == "done" and row.path not in counted]


def _warnings(evaluations: Evaluations) -> list[str]:
    """What a reader must know first: phantoms, data that are not published, runs that failed."""
    origins = []
    for run, _ in evaluations.done:
        data = RunDirectory(run).record().get("data") or {}
        origins.append(pages.origin(data.get("real", data)))
    count = len(evaluations.failed)
    failed = f"{count} of {count + len(evaluations.done)} runs could not be evaluated; they are named below."
    return list(dict.fromkeys(pages.said(*origins, failed if count else None)))
