"""Many runs as one table: what every comparison of runs reads."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medassay import config as configuration
from medassay.core.errors import CheckpointError
from medassay.runs.directory import RunDirectory, is_current

PLACES = ("outputs", "resume", "logger", "assay", "sweep")  # keys that do not change what a run computes
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
        status: as in ``run.json``, but interrupted where it says running and no process is at it.
        configuration: a hash of all that may change the result, the seed left out; equal for repetitions of one experiment.
        values: single final numbers, ``<split>/<name>``; a generator's latest assay as ``assay/<name>``, one on validation
            images before one on test images, whose numbers are ``test/<name>`` as well.
        overrides: what was given when it was started, value by key.
        reason: why it ended as it did, where that is recorded.
        seconds: of work, resumed parts included.
    """

    path: Path
    model: str
    data: str
    seed: int
    status: str
    configuration: str
    values: dict[str, float]
    overrides: dict[str, str] = field(default_factory=dict)
    reason: str | None = None
    seconds: float | None = None


def configuration_hash(config: dict[str, Any]) -> str:
    """16 hexadecimal digits of all that may change a run's result but the seed."""
    kept = {key: value for key, value in config.items() if key not in (*PLACES, "seed")}
    stamped = (config["data"].get("stamp") or {}).get("kind", "none") != "none"
    places = (*DATA_PLACES, "seed", *(() if stamped else ("stamp",)))  # no stamp is as if there were none to choose
    kept["data"] = {k: v for k, v in config["data"].items() if k not in places}
    kept["callbacks"] = {k: v for k, v in config["callbacks"].items() if v is not None and k not in CALLBACK_PLACES}
    kept["trainer"] = {k: v for k, v in config["trainer"].items() if k not in TRAINER_PLACES}
    return hashlib.sha256(json.dumps(configuration.first_targets(kept), sort_keys=True).encode()).hexdigest()[:16]


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
            if (file.parent / ".hydra").is_dir() and (file.parent == path or is_current(file.parent)):
                found.setdefault(file.parent.resolve(), row(file.parent))
    if not found:
        raise CheckpointError(
            f"no run in {', '.join(map(str, paths))}: give run directories, or folders that hold some"
        )
    return list(found.values())


def row(path: Path) -> Row:
    """One run's row.

    Raises:
        CheckpointError: this is no run directory, or one of its files cannot be read.
    """
    run = RunDirectory(path)
    config, metrics, record = run.config(), run.metrics(), run.record()
    return Row(
        path,
        config["model"]["name"],
        metrics.get("data", config["data"]["name"]),
        config["seed"],
        run.state() if record else "unknown",
        configuration_hash(config),
        {**_evaluated(run), **_single(metrics, ("train", "val", "test"))},
        given(record.get("overrides") or ()),
        record.get("reason"),
        record.get("seconds"),
    )


def given(overrides: Iterable[str]) -> dict[str, str]:
    """Overrides of a command line as values by key; what is taken away (``~key``) has an empty one."""
    return {key: value for key, _, value in (text.lstrip("+~").partition("=") for text in overrides)}


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
    validated: dict[str, float] = {}
    files = sorted(run.path.glob("eval/*/metrics.json"), key=lambda file: file.stat().st_mtime)
    for file in files:
        metrics = RunDirectory(file.parent).metrics()
        if {"data.file", "data.path"} & set(metrics.get("overrides", ())):
            continue
        values |= _single(metrics, ("val", "test", "assay", "gradcam", "shortcut"))
        if "assay" in metrics:
            judged, split = _single(metrics, ("assay",)), _split(file.parent, metrics)
            if split == "val":
                validated |= judged
            elif split == "test":
                values |= {name.replace("assay/", "test/", 1): value for name, value in judged.items()}
    return values | validated


def _split(directory: Path, metrics: dict[str, Any]) -> str | None:
    """The images that an assay was made on; None where that is not recorded."""
    named: str | None = (metrics.get("protocol") or {}).get("split")
    file = directory / "assay.json"
    if named is None and file.is_file():  # made right after training, by no command
        try:
            named = json.loads(file.read_text(encoding="utf-8"))["split"]
        except (ValueError, OSError, LookupError, TypeError) as error:
            raise CheckpointError(f"{file} cannot be read ({error}): delete it, or assay the run again") from error
    return named


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
