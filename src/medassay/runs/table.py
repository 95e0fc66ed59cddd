"""Many runs as one table: what every comparison of runs reads."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medassay.errors import CheckpointError
from medassay.runs.directory import RunDirectory

PLACES = ("outputs", "resume", "logger", "assay")  # keys that do not change what a run computes
DATA_PLACES = ("root",)
TRAINER_PLACES = ("threads", "progress", "profiler", "gpus", "accelerator", "devices")
CALLBACK_PLACES = ("sample_grid", "reconstructions")


@dataclass(frozen=True)
class Row:
    """One run.

    Attributes:
        path: its directory.
        model, data: by name.
        seed: of the run.
        status: as in ``run.json``.
        configuration: a hash of all that may change the result, the seed left out; equal for repetitions of one experiment.
        values: single final numbers, ``<split>/<name>``; a generator's latest assay as ``assay/<name>``.
    """

    path: Path
    model: str
    data: str
    seed: int
    status: str
    configuration: str
    values: dict[str, float]


def configuration_hash(config: dict[str, Any]) -> str:
    """16 hexadecimal digits of all that may change a run's result but the seed."""
    kept = {key: value for key, value in config.items() if key not in (*PLACES, "seed")}
    stamped = (config["data"].get("stamp") or {}).get("kind", "none") != "none"
    places = (*DATA_PLACES, "seed", *(() if stamped else ("stamp",)))  # no stamp is as if there were none to choose
    kept["data"] = {k: v for k, v in config["data"].items() if k not in places}
    kept["callbacks"] = {k: v for k, v in config["callbacks"].items() if k not in CALLBACK_PLACES}
    kept["trainer"] = {k: v for k, v in config["trainer"].items() if k not in TRAINER_PLACES}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def table(paths: Iterable[str | Path]) -> list[Row]:
    """The runs in ``paths`` (run directories, or folders with runs somewhere below), sorted by path.

    Raises:
        CheckpointError: a path that does not exist, or no run below any of them.
    """
    found: dict[Path, Row] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise CheckpointError(f"{path} does not exist: give run directories, or folders that hold some")
        for file in sorted(path.rglob("run.json")):
            if (file.parent / ".hydra").is_dir():
                found.setdefault(file.parent.resolve(), _row(file.parent))
    if not found:
        raise CheckpointError(
            f"no run in {', '.join(map(str, paths))}: give run directories, or folders that hold some"
        )
    return list(found.values())


def _row(path: Path) -> Row:
    run = RunDirectory(path)
    config, metrics = run.config(), run.metrics()
    values = {**_evaluated(run), **_single(metrics, ("train", "val", "test"))}
    return Row(
        path,
        config["model"]["name"],
        metrics.get("data", config["data"]["name"]),
        config["seed"],
        run.record().get("status", "unknown"),
        configuration_hash(config),
        values,
    )


def _single(metrics: dict[str, Any], groups: Iterable[str]) -> dict[str, float]:
    """The single numbers of some groups of ``metrics``."""
    return {
        f"{group}/{name}": float(value)
        for group in groups
        for name, value in (metrics.get(group) or {}).items()
        if isinstance(value, float)
    }


def _evaluated(run: RunDirectory) -> dict[str, float]:
    """What was measured later, on the run's own data: in ``eval/``, of each number the latest."""
    values: dict[str, float] = {}
    files = sorted(run.path.glob("eval/*/metrics.json"), key=lambda file: file.stat().st_mtime)
    for file in files:
        metrics = RunDirectory(file.parent).metrics()
        if not {"data.file", "data.path"} & set(metrics.get("overrides", ())):
            values |= _single(metrics, ("val", "test", "assay", "gradcam", "shortcut"))
    return values


@dataclass(frozen=True)
class Group:
    """Repetitions of one experiment with different seeds.

    Attributes:
        rows: the finished runs.
        mean, sd: of each number that all of them have; ``sd`` is the sample standard deviation, None for a single run.
    """

    rows: list[Row]
    mean: dict[str, float]
    sd: dict[str, float | None]


def over_seeds(rows: Iterable[Row]) -> list[Group]:
    """The finished runs, grouped by configuration, with mean and standard deviation over their seeds.

    A seed counts once: of several runs with it, the last in order.
    """
    groups: dict[str, dict[int, Row]] = {}
    for row in rows:
        if row.status == "done":
            groups.setdefault(row.configuration, {})[row.seed] = row
    return [_group(list(members.values())) for members in groups.values()]


def _group(rows: list[Row]) -> Group:
    shared = [name for name in rows[0].values if all(name in row.values for row in rows)]
    columns = {name: [row.values[name] for row in rows] for name in shared}
    return Group(
        rows,
        {name: statistics.fmean(values) for name, values in columns.items()},
        {name: statistics.stdev(values) if len(values) > 1 else None for name, values in columns.items()},
    )
