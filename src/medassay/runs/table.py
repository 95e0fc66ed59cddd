"""Many runs as one table: what every comparison of runs reads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medassay import config as configuration
from medassay.core.errors import CheckpointError
from medassay.core.paths import find_kind
from medassay.runs.directory import RunDirectory, is_current

PLACES = (
    "outputs",
    "resume",
    "logger",
    "assay",
    "sweep",
    "tags",
    "notes",
)  # keys that do not change what a run computes
DATA_PLACES = ("root",)
TRAINER_PLACES = ("threads", "progress", "profiler", "gpus", "accelerator", "devices")
COMMAND = ("protocol", "overrides")  # groups of metrics.json that hold no numbers
CALLBACK_PLACES = ("sample_grid", "reconstructions", "segmentations", "curve_fits")


@dataclass(frozen=True)
class RunRow:
    """One run.

    Attributes:
        path: The run directory, which need not exist yet.
        status: ``done``, ``pruned``, ``failed``, ``interrupted``, ``running`` or ``waiting``.
        model, data: Names of model and data set; empty for a run that has not begun.
        seed: Seed of the run; None where nobody has said it.
        configuration: A hash of all that may change the result, the seed left out; equal for repetitions of one experiment;
            None of a run that has not begun.
        values: Single final numbers, ``<group>/<name>``; a generator's latest assay as ``assay/<name>``, one on validation
            images before one on test images, whose numbers are ``test/<name>`` as well.
        overrides: Overrides that the run was started with, value by key.
        reason: Why the run ended as it did, where that is recorded.
        seconds: Time of work, resumed parts included.
        tags, notes: Tags and notes of the run's owner.
    """

    path: Path
    status: str
    model: str = ""
    data: str = ""
    seed: int | None = None
    configuration: str | None = None
    values: dict[str, float] = field(default_factory=dict)
    overrides: dict[str, str] = field(default_factory=dict)
    reason: str | None = None
    seconds: float | None = None
    tags: tuple[str, ...] = ()
    notes: str | None = None

    @property
    def data_provenance(self) -> dict[str, Any]:
        """Where the images came from that test numbers are of, as recorded, and the duplicates in the run's own data."""
        data = RunDirectory(self.path).record().get("data") or {}
        duplicates = {key: value for key, value in data.items() if key == "duplicates"}
        return {**data.get("real", data), **duplicates}


# keys of later versions, by their place, with the value that changes nothing
_NO_TRANSFER = {"weights": None, "scratch": False, "freeze_epochs": 0, "frozen_stages": 0, "layer_decay": 1.0}
_UNUSED: tuple[tuple[tuple[str, ...], Any], ...] = (
    (("data", "steps"), None),
    (("data", "resize"), False),
    (("data", "groups"), None),
    (("data", "balance"), "none"),
    (("data", "augment", "quarter_turn"), 0.0),
    (("model", "transfer"), {"_target_": "medassay.tasks.transfer.Transfer", **_NO_TRANSFER}),
    (("model", "adversarial_epsilon"), None),
    (("model", "adversarial_steps"), 7),
)


def _drop_unused(node: dict[str, Any], place: tuple[str, ...], value: Any) -> dict[str, Any]:
    """``node`` without the key at ``place`` if it has this value: a run of before and one of now are the same experiment."""
    key, *rest = place
    if rest:
        return {**node, key: _drop_unused(node[key], tuple(rest), value)} if isinstance(node.get(key), dict) else node
    return {name: own for name, own in node.items() if name != key or own != value}


def _reduce_selection(node: dict[str, Any] | None) -> dict[str, Any] | None:
    """What may change a result of a selection's node; None of one that is off, as of a run of before there was one."""
    if node is None or node.get("by") is None:
        return None
    return {key: value for key, value in node.items() if key != "outputs"}  # where it keeps its classifiers


def hash_configuration(config: dict[str, Any]) -> str:
    """16 hexadecimal digits of all that may change a run's result but the seed."""
    first = configuration.restore_config(config)
    for place, value in _UNUSED:
        first = _drop_unused(first, place, value)
    computed = {key: value for key, value in first.items() if key not in (*PLACES, "seed")}
    optional = ("stamp", "group", "second_group")  # of kind none as if there were none to choose
    unused = [key for key in optional if (first["data"].get(key) or {}).get("kind", "none") == "none"]
    places = (*DATA_PLACES, "seed", *unused)
    computed["data"] = {k: v for k, v in first["data"].items() if k not in places}
    callbacks = {**first["callbacks"], "tstr_selection": _reduce_selection(first["callbacks"].get("tstr_selection"))}
    computed["callbacks"] = {k: v for k, v in callbacks.items() if v is not None and k not in CALLBACK_PLACES}
    computed["trainer"] = {k: v for k, v in first["trainer"].items() if k not in TRAINER_PLACES}
    return hashlib.sha256(json.dumps(computed, sort_keys=True).encode()).hexdigest()[:16]


def read_rows(paths: Iterable[str | Path]) -> list[RunRow]:
    """The runs in ``paths`` (run directories, or folders with runs somewhere below), sorted by path.

    Raises:
        CheckpointError: A path does not exist, or there is no run below any of them.
    """
    rows: dict[Path, RunRow] = {}
    for path in map(Path, paths):
        for run in find_runs(path):
            rows.setdefault(run.resolve(), read_row(run))
    if not rows:
        raise CheckpointError(
            f"no run in {', '.join(map(str, paths))}: give run directories, or folders that hold some"
        )
    return list(rows.values())


def find_runs(path: Path) -> list[Path]:
    """The run directories at and below ``path``, sorted; of a sweep those that it lists.

    Raises:
        CheckpointError: ``path`` does not exist, or cannot be read.
    """
    if find_kind(path, CheckpointError) is None:
        raise CheckpointError(f"{path} does not exist: give run directories, or folders that hold some")
    runs = (file.parent for file in sorted(path.rglob("run.json")))
    found = [run for run in runs if find_kind(run / ".hydra", CheckpointError) == "directory"]
    return [run for run in found if run == path or is_current(run)]


def read_row(path: Path) -> RunRow:
    """One run's row.

    Raises:
        CheckpointError: The path is no run directory, or one of its files cannot be read.
    """
    run = RunDirectory(path)
    config, metrics, record = run.config(), run.metrics(), run.record()
    return RunRow(
        path,
        run.state() if record else "unknown",
        config["recipe"]["name"],
        metrics.get("data", config["data"]["name"]),
        config["seed"],
        hash_configuration(run.config_at_end()),
        {**_read_evaluations(run), **collect_single_numbers(metrics, ("train", "val", "test"))},
        map_overrides(record.get("overrides") or ()),
        record.get("reason"),
        record.get("seconds"),
        tuple(record.get("tags") or ()),
        record.get("notes"),
    )


def read_job(path: Path, overrides: Iterable[str] = ()) -> RunRow:
    """The row of a run that may not have begun; one whose files cannot be read counts as failed.

    Args:
        path: The run directory, which need not be there yet.
        overrides: Overrides that the run is to be started with.
    """
    run, settings = RunDirectory(path), map_overrides(overrides)
    try:
        if [find_kind(path / name, CheckpointError) for name in (".hydra", "run.json")] == ["directory", "file"]:
            row = read_row(path)
            judged = run.record().get("assay_failed")
            row = replace(row, overrides=settings or row.overrides)
            return replace(row, status="failed", reason=f"its assay failed: {judged}") if judged else row
        record, status, reason = run.record(), run.state(), None
    except CheckpointError as error:
        record, status, reason = {}, "failed", str(error)
    settings = settings or map_overrides(record.get("overrides") or ())
    seed = settings.get("seed", "")
    return RunRow(
        path,
        status,
        seed=int(seed) if seed.isdecimal() else None,
        overrides=settings,
        reason=reason or record.get("reason"),
        seconds=record.get("seconds"),
    )


def map_overrides(overrides: Iterable[str]) -> dict[str, str]:
    """Overrides of a command line as values by key; what is taken away (``~key``) has an empty one."""
    return {key: value for key, _, value in (text.lstrip("+~").partition("=") for text in overrides)}


def collect_single_numbers(metrics: dict[str, Any], groups: Iterable[str] | None = None) -> dict[str, float]:
    """The single numbers of some groups of ``metrics`` as ``<group>/<name>``, of all groups by default."""
    chosen = metrics if groups is None else {group: metrics.get(group) for group in groups}
    return {
        f"{group}/{name}": float(value)
        for group, numbers in chosen.items()
        if isinstance(numbers, dict) and group not in COMMAND
        for name, value in numbers.items()
        if isinstance(value, float)
    }


def _read_evaluations(run: RunDirectory) -> dict[str, float]:
    """What was measured later, on the run's own data: in ``eval/``, of each number the latest.

    Numbers on validation images stand behind those on test images, but for an assay's, which choose among generators.
    """
    values: dict[str, float] = {}
    substitutes: dict[str, float] = {}
    validated: dict[str, float] = {}
    for directory in run.evaluations():
        metrics = RunDirectory(directory).metrics()
        if _is_of_other_images(metrics):
            continue
        split, numbers = _split(directory, metrics), collect_single_numbers(metrics)
        if "assay" not in metrics:
            (substitutes if split == "val" else values).update(numbers)
            continue
        values |= numbers
        judged = collect_single_numbers(metrics, ("assay",))
        if split == "val":
            validated |= judged
        elif split == "test":
            values |= {name.replace("assay/", "test/", 1): value for name, value in judged.items()}
    return substitutes | values | validated


def _is_of_other_images(metrics: dict[str, Any]) -> bool:
    """Whether an evaluation that records no change of the run's data may be of other images all the same."""
    images = (metrics.get("protocol") or {}).get("images")
    if isinstance(images, str):  # a path; of some protocols it is a number of the run's own
        return True
    # one of before changes were always recorded does not say whether the data named anew are the run's own
    return "changes" not in metrics and bool({"data.file", "data.path"} & set(metrics.get("overrides", ())))


def _split(directory: Path, metrics: dict[str, Any]) -> str | None:
    """The images that an assay was made on; None where that is not recorded."""
    named: str | None = (metrics.get("protocol") or {}).get("split") or metrics.get(
        "split"
    )  # an audit's is that of its parts
    file = directory / "assay.json"
    if named is None and file.is_file():  # made right after training, by no command
        try:
            named = json.loads(file.read_text(encoding="utf-8"))["split"]
        except (ValueError, OSError, LookupError, TypeError) as error:
            raise CheckpointError(f"{file} cannot be read ({error}): delete it, or assay the run again") from error
    return named
