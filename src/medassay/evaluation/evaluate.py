"""What one `evaluate` does: one protocol on one finished run, or on images from elsewhere."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any

from omegaconf import OmegaConf

from medassay import config as configuration
from medassay.config.command_line import format_shell_override
from medassay.core.errors import ConfigError, advise
from medassay.core.files import refuse_unwritable
from medassay.core.paths import expand_home
from medassay.data.duplicates import describe_provenance
from medassay.evaluation.about import About, describe_run
from medassay.evaluation.protocol import ComputeContext, Protocol, SamplesProtocol
from medassay.evaluation.several import is_several, list_runs
from medassay.evaluation.writer import write_report
from medassay.runs.compose import compose_training
from medassay.runs.directory import RunDirectory
from medassay.runs.load import build_data, join_overrides, open_run
from medassay.runs.recorded_data import is_other_data, refuse_changed_data
from medassay.runs.run import Run, describe_kind
from medassay.runs.samples import find_changed_sampling
from medassay.training.settings import TrainerSettings

logger = logging.getLogger(__name__)

DEFAULTS = {  # what is run where no protocol is named, by the kind of the run
    "generator": "assay",
    "classifier": "classification",
    "segmentation": "segmentation",
    "regression": "curve",
}
CACHES = {
    "full": "free some space, or keep caches on another disk with outputs=<directory>",
    "refused": "keep caches where they can be written, with outputs=<directory>",
}


def evaluate(
    path: str,
    protocol: Mapping[str, Any],
    overrides: Mapping[str, Any],
    outputs: Path,
    here: Mapping[str, Any] | None = None,
    eval_dir: Path | None = None,
    checkpoint: str = "best",
) -> Path:
    """Runs one protocol on a finished run and gives the new directory with the results.

    Args:
        path: The run directory.
        protocol: The checked ``protocol`` node.
        overrides: Overrides of the run's configuration, by dotted key.
        outputs: Folder where caches are kept.
        here: Where data and device are now, as the run itself has recorded; not part of the command.
        eval_dir: The folder that gets the directory with the results; None for the run's own ``eval/``.
        checkpoint: Which of the run's weights: ``best``, ``last`` or a file.

    Raises:
        UserError: no run, another kind of run than the protocol needs, a wrong setting, or no place for the results.
    """
    chosen: Protocol = configuration.build(protocol)
    run = open_run(path, join_overrides(here or {}, overrides), checkpoint)
    _refuse_unfit(chosen, run, path)
    directory = run.directory.new_evaluation(chosen.name, eval_dir)
    refuse_unwritable(directory)  # before hours of computing
    status = run.directory.record().get("status", "unknown")
    if status != "done":
        logger.warning("note: this run's status is %s; its weights are of an epoch before the last", status)
    with advise(**CACHES):
        if chosen.uses_own_data:
            refuse_changed_data(run.data, run.directory.record().get("data", {}), overrides)
        changes = _find_changes(run, chosen, overrides)
        report = chosen.run(run, ComputeContext.from_settings(run.settings, outputs))
    record = {"run": str(path), "checkpoint": checkpoint, "status": status}
    record |= {"protocol": dict(protocol), "overrides": dict(overrides), "changes": changes}
    write_report(report, describe_run(run, report.split), record, directory)
    return directory


def evaluate_samples(
    path: str,
    protocol: Mapping[str, Any],
    overrides: Sequence[str],
    outputs: Path,
    *,
    resize: bool,
    eval_dir: Path | None = None,
) -> Path:
    """Judges images made by any tool; gives the new directory with the results.

    Args:
        path: An ``.npz`` with ``train_*`` keys, or a folder of class folders.
        protocol: The checked ``protocol`` node.
        overrides: Overrides as on the command line of ``train``: ``data=…``, ``data.…``, ``trainer.…``.
        outputs: Folder where results and caches go.
        resize: Whether to bring images of another size to the data set's.
        eval_dir: The folder that gets the directory with the results; None for ``<outputs>/eval/``.

    Raises:
        UserError: files that cannot be used, no data set named, or another protocol.
    """
    chosen = configuration.build(protocol)
    if not isinstance(chosen, SamplesProtocol):
        raise ConfigError(f"protocol={chosen.name}: samples= are judged by protocol=assay")
    for override in overrides:
        if override.lstrip("+~").partition("=")[0].partition(".")[0] not in ("data", "trainer"):
            raise ConfigError(f"{override}: with samples= only data=, data.*, trainer.* and protocol.* can be given")
    if not any(override.startswith("data=") and override != "data=null" for override in overrides):
        raise ConfigError("samples= needs the real data set to compare with: data=bloodmnist, data=folder data.path=…")
    composed = compose_training(["model=tstr", *overrides])
    config = configuration.resolve(composed)
    configuration.check({name: config[name] for name in ("data", "trainer")})
    trainer: TrainerSettings = configuration.build(config["trainer"])
    directory = (eval_dir or outputs / "eval") / f"{protocol['name']}_{secrets.token_hex(3)}"
    refuse_unwritable(directory)  # before hours of computing
    context, data = ComputeContext.from_settings(trainer, outputs), build_data(config)
    with advise(**CACHES):
        report = chosen.run_on_samples(expand_home(path), data, context, resize=resize)
    record = {"samples": path, "protocol": dict(protocol), "overrides": list(overrides), "resize": resize}
    about = About(Path(path).name, None, None, describe_provenance(data), False, data.classes, {})
    write_report(report, about, record, directory)
    return directory


def choose_protocol(paths: Sequence[str]) -> str:
    """The protocol that fits the first run: ``assay``, ``classification``, ``segmentation`` or ``curve``."""
    first = list_runs(paths)[0] if is_several(paths) else Path(paths[0])
    return DEFAULTS[describe_kind(RunDirectory(first).config())]


def assay_after_training(path: Path, budget: str, *, test: bool) -> Path | None:
    """Judges the generator just trained into ``path``, as ``assay=<budget>`` of train.yaml asks; None where it does not.

    Args:
        path: The run directory; a run that was given up is not judged.
        budget: One of ``none``, ``quick`` and ``full``.
        test: Whether the run looks at test images; if not, validation images stand in for them.
    """
    run = RunDirectory(path)
    record = run.record()
    if budget == "none" or record.get("status") == "pruned":
        return None
    outputs = Path(run.config()["outputs"])
    here = record.get("resumed_with", {})  # where data and device are now; the saved configuration does not say
    node = load_protocol_node("assay", budget=budget, split="test" if test else "val")
    again = f"then judge the run with: python evaluate.py {format_shell_override('run', path)}"
    with advise(full=f"free some space, {again}", refused=f"make it writable, {again}"):
        return evaluate(str(path), node, {}, outputs, here)


def load_protocol_node(name: str, **settings: Any) -> dict[str, Any]:
    """The node of conf/protocol/<name>.yaml with some settings, plain values; composes nothing, so a job may ask for it."""
    node = OmegaConf.to_container(OmegaConf.load(configuration.find_conf_directory() / "protocol" / f"{name}.yaml"))
    assert isinstance(node, dict)
    return {**{str(key): value for key, value in node.items()}, **settings}


# --- what is refused -------------------------------------------------------------------------------------------------


def _refuse_unfit(protocol: Protocol, run: Run, path: str) -> None:
    """Raises :class:`ConfigError` where the run's task is none that the protocol works on."""
    if isinstance(run.task, protocol.requires):
        return
    names = sorted(_list_protocols(), key=lambda name: name not in DEFAULTS.values())
    fitting = " or ".join(name for name in names if isinstance(run.task, _find_requirement(name)))
    advice = f"use protocol={fitting}" if fitting else "no protocol here judges it"
    raise ConfigError(
        f"protocol={protocol.name}: {path} is a {describe_kind(run.config)}'s run (model={run.config['recipe']['name']}); "
        f"{advice}"
    )


def _list_protocols() -> list[str]:
    return sorted(file.stem for file in (configuration.find_conf_directory() / "protocol").glob("*.yaml"))


def _find_requirement(name: str) -> type | UnionType:
    requirement: type | UnionType = configuration.locate(load_protocol_node(name)["_target_"], "protocol").requires  # type: ignore[attr-defined]
    return requirement


def _find_changes(run: Run, protocol: Protocol, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ``overrides`` that make the evaluation one of other images, or of fewer, than the run's own."""
    changes = find_changed_sampling(run)
    batches = "trainer.limit_batches"
    if batches in overrides and overrides[batches] != run.directory.config()["trainer"].get("limit_batches"):
        changes[batches] = overrides[batches]
    places = {key: value for key, value in overrides.items() if key in ("data.file", "data.path", "data.root")}
    if places and protocol.uses_own_data and is_other_data(run.data, run.directory.record().get("data", {})):
        changes |= places
    return changes
