"""What one `evaluate` does: one protocol on one finished run, or on images from elsewhere."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from medassay import config as configuration
from medassay.config.messages import explain
from medassay.core.errors import ConfigError, DataError
from medassay.data.modules import SyntheticData
from medassay.evaluation.several import evaluate_many as evaluate_many
from medassay.evaluation.several import is_several as is_several
from medassay.evaluation.several import runs_of
from medassay.protocols.assay import AssaySettings, Workplace, assay, assay_run
from medassay.protocols.assay.subjects import Real, of_files
from medassay.protocols.classification import classification_run
from medassay.protocols.gradcam import gradcam_run
from medassay.protocols.predict import predict_run
from medassay.protocols.sample import sample_run
from medassay.protocols.shortcut import shortcut_run
from medassay.runs.directory import RunDirectory
from medassay.runs.load import Run, build_data, data_node, device_for, makes_images, open_run
from medassay.training.settings import TrainerSettings

logger = logging.getLogger(__name__)

# (run, settings, new directory for the results, the command for the record, where caches are kept)
EvaluateRun = Callable[[Run, Any, Path, dict[str, Any], Path], None]
PROTOCOLS: dict[str, tuple[Literal["generator", "classifier"], EvaluateRun]] = {
    "assay": ("generator", assay_run),
    "sample": ("generator", sample_run),
    "classification": ("classifier", classification_run),
    "gradcam": ("classifier", gradcam_run),
    "shortcut": ("classifier", shortcut_run),
    "predict": ("classifier", predict_run),
}


def evaluate(path: str, protocol: Mapping[str, Any], overrides: Mapping[str, Any], outputs: Path) -> Path:
    """Runs one protocol on a finished run and gives the new directory under its ``eval/`` with the results.

    Args:
        path: the run directory.
        protocol: the checked ``protocol`` node.
        overrides: of the run's configuration, by dotted key.
        outputs: where caches are kept.

    Raises:
        UserError: no run, another kind of run than the protocol needs, or a wrong setting.
    """
    settings = configuration.build(protocol)
    kind, evaluate_run = PROTOCOLS[settings.name]
    run = open_run(path, overrides)
    own = "generator" if run.is_generator else "classifier"
    if kind != own:
        fitting = " or ".join(name for name, (of, _) in PROTOCOLS.items() if of == own)
        raise ConfigError(
            f"protocol={settings.name}: {path} is a {own}'s run (model={run.config['model']['name']}); use protocol={fitting}"
        )
    status = run.directory.record().get("status", "unknown")
    if status != "done":
        logger.warning("note: this run's status is %s; its weights are of an epoch before the last", status)
    if settings.name not in ("sample", "predict"):  # these need none of the run's own images
        _refuse_changed_data(run, overrides)
    record = {"run": str(path), "status": status, "protocol": dict(protocol), "overrides": dict(overrides)}
    directory = run.directory.new_evaluation(settings.name)
    evaluate_run(run, settings, directory, record, outputs)
    return directory


def evaluate_samples(
    path: str, protocol: Mapping[str, Any], overrides: Sequence[str], outputs: Path, *, resize: bool
) -> Path:
    """Assays images made by any tool; gives the new directory under ``<outputs>/eval/``.

    Args:
        path: an ``.npz`` with ``train_*`` keys, or a folder of class folders.
        protocol: the checked ``protocol`` node.
        overrides: as on the command line of ``train``: ``data=…``, ``data.…``, ``trainer.…``.
        outputs: where results and caches go.
        resize: bring images of another size to the data set's.

    Raises:
        UserError: files that cannot be used, no data set named, or another protocol.
    """
    settings = configuration.build(protocol)
    if not isinstance(settings, AssaySettings):
        raise ConfigError(f"protocol={settings.name}: samples= are judged by protocol=assay")
    for override in overrides:
        if override.lstrip("+~").partition("=")[0].partition(".")[0] not in ("data", "trainer"):
            raise ConfigError(f"{override}: with samples= only data=, data.*, trainer.* and protocol.* can be given")
    if not any(override.startswith("data=") and override != "data=null" for override in overrides):
        raise ConfigError("samples= needs the real data set to compare with: data=bloodmnist, data=folder data.path=…")
    try:
        cfg, _ = configuration.compose("train", ["model=tstr", *overrides])
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error) or str(error)) from error
    config = configuration.resolved(cfg)
    configuration.check(data_node(config["data"]), "data")
    configuration.check(config["trainer"], "trainer")
    trainer: TrainerSettings = configuration.build(config["trainer"])
    place = Workplace(device_for(trainer), trainer.gpus, outputs / ".cache")
    data = build_data(config["data"])
    candidate = of_files(Path(path).expanduser(), data, resize=resize)
    directory = outputs / "eval" / f"assay_{secrets.token_hex(3)}"
    record = {"samples": path, "protocol": dict(protocol), "overrides": list(overrides), "resize": resize}
    assay(Real.of(data, settings.split), candidate, settings, place, directory, record)
    return directory


def _refuse_changed_data(run: Run, overrides: Mapping[str, Any]) -> None:
    """Raises :class:`DataError` where the data are not the recorded ones and nobody asked for others."""
    data = run.data.real if isinstance(run.data, SyntheticData) else run.data
    recorded = run.directory.record().get("data", {})
    recorded = recorded.get("real", recorded)
    _ = data.splits
    now = data.provenance()
    if recorded.get("md5") != now.get("md5") and not {"data.file", "data.path"} & set(overrides):
        raise DataError(
            f"the data have changed since training: md5 {recorded.get('md5')} then, {now.get('md5')} now "
            f"({now.get('file', now.get('path'))}); put the old ones back, or name these with data.file= or data.path="
        )


def default_protocol(paths: Sequence[str]) -> str:
    """The protocol that fits the first run: ``assay`` for a generator, ``classification`` for a classifier."""
    first = runs_of(paths)[0] if is_several(paths) else Path(paths[0])
    return "assay" if makes_images(RunDirectory(first).config()) else "classification"
