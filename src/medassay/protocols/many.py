"""Several runs evaluated with one protocol, and one table: mean ± standard deviation over seeds."""

from __future__ import annotations

import csv
import io
import json
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from medassay.errors import CheckpointError
from medassay.files import whole
from medassay.messages import explain
from medassay.protocols import pages
from medassay.reporting.html import DASH, fixed, page
from medassay.runs.directory import RunDirectory
from medassay.runs.table import Group, Row, over_seeds, table

logger = logging.getLogger(__name__)

# (run directory, protocol, overrides, outputs) -> the new directory with its results; raises where it cannot
EvaluateOne = Callable[[str, Mapping[str, Any], Mapping[str, Any], Path], Path]
HEADLINE = ("accuracy", "balanced_accuracy", "auroc", "f1", "ece", "tstr_balanced_accuracy", "frechet")


class Evaluations(NamedTuple):
    """What became of several runs.

    Attributes:
        directory: with ``summary.csv``, ``summary.md`` and ``report.html``.
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

    Raises:
        CheckpointError: a path that does not exist or holds no run.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        top = Path(path).expanduser()
        own = [top] if (top / ".hydra").is_dir() else [file.parent for file in sorted(top.rglob("run.json"))]
        runs = [run for run in own if (run / ".hydra").is_dir()]
        if not runs:
            hint = "it holds no run" if top.exists() else "it does not exist"
            raise CheckpointError(f"run={path}: {hint}; give run directories, or a folder with some below")
        for run in runs:
            found.setdefault(run.resolve(), run)
    return list(found.values())


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


def names_of(groups: Sequence[Group]) -> list[str]:
    """The numbers that any of the groups has, in their order."""
    return list(dict.fromkeys(name for group in groups for name in group.mean))


def settings_of(group: Group) -> str:
    """What was given when the group's runs were started, the seed and places left out."""
    given = RunDirectory(group.rows[0].path).record().get("overrides") or []
    left_out = ("seed", "outputs", "trainer.threads", "hydra", "data.root", "logger")
    kept = [text for text in given if not text.lstrip("+~").startswith(left_out)]
    return " ".join(kept) or "no overrides"


def as_csv(groups: Sequence[Group], rows: Sequence[Row]) -> str:
    """A line per run, then mean and sd of each group; empty where there is no number."""
    names = names_of(groups) or list(dict.fromkeys(name for row in rows for name in row.values))
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(["row", "group", "model", "data", "seed", "runs", "path", *names])
    place = {row.path: number for number, group in enumerate(groups, 1) for row in group.rows}
    for row in rows:
        about = [row.status, place.get(row.path, ""), row.model, row.data, row.seed, 1, row.path]
        writer.writerow(["run", *about[1:], *(_plain(row.values.get(name)) for name in names)])
    for number, group in enumerate(groups, 1):
        seeds = " ".join(str(row.seed) for row in group.rows)
        about = [number, group.rows[0].model, group.rows[0].data, seeds, len(group.rows), ""]
        for kind, values in (("mean", group.mean), ("sd", group.sd)):
            writer.writerow([kind, *about, *(_plain(values.get(name)) for name in names)])
    return written.getvalue()


def _plain(value: float | None) -> str:
    return "" if value is None or value != value else repr(value)


def as_markdown(groups: Sequence[Group], failed: Sequence[tuple[Path, str]]) -> str:
    """A table of mean ± sd, a column per group."""
    heads = [heading(group) for group in groups]
    lines = [["metric", *heads], ["---"] + ["---:"] * len(heads)] if groups else []
    for name in names_of(groups):
        lines.append([name, *(cell(group, name) for group in groups)])
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    text += "\n\nMean ± sample standard deviation over the seeds.\n" if groups else "No run to average.\n"
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


# --- what is left behind ---------------------------------------------------------------------------------------------


def write(evaluations: Evaluations, record: dict[str, Any]) -> None:
    """Leaves ``summary.csv``, ``summary.md`` and ``report.html``, and says the headline numbers.

    Raises:
        OutputError: a file cannot be written.
    """
    directory, done, failed = evaluations
    rows = measured(done)
    groups = over_seeds(rows)
    files = {
        "summary.csv": as_csv(groups, rows),
        "summary.md": as_markdown(groups, failed),
        "report.html": _page(evaluations, groups, rows, record),
    }
    for name, text in files.items():
        with whole(directory / name) as partial:
            partial.write_text(text, encoding="utf-8", newline="")
    for group in groups:
        shown = [name for name in group.mean if name.rpartition("/")[2] in HEADLINE]
        logger.info("%s: %s", heading(group), ", ".join(f"{name} {cell(group, name)}" for name in shown))


def _page(evaluations: Evaluations, groups: Sequence[Group], rows: Sequence[Row], record: dict[str, Any]) -> str:
    results = {run.resolve(): directory for run, directory in evaluations.done}
    return page(
        "many.html.j2",
        protocol=record["protocol"]["name"],
        total=len(evaluations.done) + len(evaluations.failed),
        failed=[(str(path), reason) for path, reason in evaluations.failed],
        groups=[_shown(group, results) for group in groups],
        not_done=[(str(row.path), row.status) for row in rows if row.status != "done"],
        repeated=_repeated(groups, rows),
        warnings=_warnings(evaluations),
        command=pages.command(record),
    )


def _shown(group: Group, results: Mapping[Path, Path]) -> dict[str, Any]:
    """One group for the page: a line per number, a column per seed."""
    members = sorted(group.rows, key=lambda row: row.seed)
    reports = [results[row.path.resolve()] / "report.html" for row in members]
    return {
        "title": heading(group),
        "settings": settings_of(group),
        "seeds": [row.seed for row in members],
        "runs": [
            {"seed": row.seed, "path": str(row.path), "report": report.resolve().as_uri() if report.exists() else None}
            for row, report in zip(members, reports, strict=True)
        ],
        "lines": [
            {
                "name": name.replace("_", " "),
                "cell": cell(group, name),
                "values": [fixed(r.values[name]) for r in members],
            }
            for name in group.mean
        ],
    }


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
