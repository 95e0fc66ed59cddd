"""The jobs of a sweep, whatever became of them, and the keys in which they differ. Importing this imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medassay.core.errors import CheckpointError
from medassay.runs.directory import RunDirectory
from medassay.runs.table import CALLBACK_PLACES, DATA_PLACES, PLACES, TRAINER_PLACES, given, row
from medassay.sweeps.directory import Job, SweepDirectory

DASH = "–"
_NO_RESULT = {  # keys that change no result, by the group they are in
    "": (*PLACES, "seed", "hydra", "test", "search"),
    "data": DATA_PLACES,
    "trainer": TRAINER_PLACES,
    "callbacks": CALLBACK_PLACES,
}


@dataclass(frozen=True)
class Entry:
    """One job.

    Attributes:
        path: its run directory, which need not be there yet.
        status: done, pruned, failed, interrupted, running or waiting.
        reason: why, where that is recorded.
        seed: None where nobody has said it.
        given: its overrides, value by key.
        values: single final numbers, as in the table of runs.
        seconds: of work.
        hash: of the configuration, the seed left out; None of a job that has not begun.
    """

    path: Path
    status: str
    reason: str | None
    seed: int | None
    given: dict[str, str]
    values: dict[str, float]
    seconds: float | None
    hash: str | None


def read(path: str | Path) -> tuple[list[Entry], list[Entry]]:
    """The jobs that a sweep's ``sweep.json`` lists and its final ones; without one, all runs below ``path``.

    Raises:
        CheckpointError: there is no sweep and no run in ``path``.
    """
    sweep = SweepDirectory(path)
    listed = bool(sweep.record())
    jobs = sweep.jobs() if listed else [Job(run, []) for run in _runs_below(sweep.path)]
    return [_entry(job) for job in jobs], [_entry(job) for job in sweep.jobs(final=True)]


def _runs_below(path: Path) -> list[Path]:
    if not path.is_dir():
        raise CheckpointError(f"{path} does not exist: give a sweep's directory, or a folder that holds runs")
    runs = [file.parent for file in sorted(path.rglob("run.json"))]
    if not runs:
        raise CheckpointError(f"no run in {path}: give a sweep's directory, or a folder that holds runs")
    return runs


def _entry(job: Job) -> Entry:
    """What there is of a job; one whose files cannot be read counts as failed."""
    run, overrides = RunDirectory(job.directory), given(job.overrides)
    try:
        if (run.path / ".hydra").is_dir() and (run.path / "run.json").is_file():
            r = row(run.path)
            said = overrides or r.overrides
            judged = run.record().get("assay_failed")
            status, reason = ("failed", f"its assay failed: {judged}") if judged else (r.status, r.reason)
            return Entry(run.path, status, reason, r.seed, said, r.values, r.seconds, r.configuration)
        record, status, reason = run.record(), run.state(), None
    except CheckpointError as error:
        record, status, reason = {}, "failed", str(error)
    said = overrides or given(record.get("overrides") or ())
    seed = said.get("seed", "")
    reason = reason or record.get("reason")
    return Entry(
        run.path, status, reason, int(seed) if seed.isdecimal() else None, said, {}, record.get("seconds"), None
    )


# --- in what they differ ---------------------------------------------------------------------------------------------


def swept(entries: Sequence[Entry]) -> list[str]:
    """The keys whose value differs among the jobs, in the order given; seed and places left out."""
    keys = dict.fromkeys(key for entry in entries for key in entry.given if not _is_place(key))
    return [key for key in keys if len({_comparable(entry.given.get(key)) for entry in entries}) > 1]


def _is_place(key: str) -> bool:
    group, _, rest = key.partition(".")
    return group.partition("/")[0] in _NO_RESULT[""] or rest.partition(".")[0] in _NO_RESULT.get(group, ())


def _comparable(value: str | None) -> str | float | None:
    """A value such that different spellings of a number are equal."""
    try:
        return value if value is None else float(value)
    except ValueError:
        return value


def identity(settings: Mapping[str, str]) -> tuple[str | float | None, ...]:
    """Settings such that different spellings of a number are equal."""
    return tuple(map(_comparable, settings.values()))


def settings(entry: Entry, keys: Sequence[str]) -> dict[str, str]:
    """The job's value of each key: as given, else as its configuration has it, else a dash."""
    absent = [key for key in keys if key not in entry.given]
    config = RunDirectory(entry.path).config() if absent and entry.hash is not None else {}
    return {key: _default(config, key) if key in absent else entry.given[key] or DASH for key in keys}


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
