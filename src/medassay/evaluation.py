"""What one `evaluate` does: one protocol on one finished run, its results in the run's own directory."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medassay import config as configuration
from medassay.data.modules import SyntheticData
from medassay.errors import ConfigError, DataError
from medassay.files import write_json
from medassay.protocols import classification, sample
from medassay.runs.directory import RunDirectory
from medassay.runs.load import Run, makes_images, open_run
from medassay.types import Sampler

logger = logging.getLogger(__name__)


def evaluate(path: str, protocol: Mapping[str, Any], overrides: Mapping[str, Any]) -> Path:
    """Runs one protocol on a finished run and gives the new directory under its ``eval/`` with the results.

    Raises:
        UserError: no run, another kind of run than the protocol needs, or a wrong setting.
    """
    settings = configuration.build(protocol)
    run = open_run(path, overrides)
    directory = run.directory.path / "eval" / f"{settings.name}_{secrets.token_hex(3)}"
    wants_generator = isinstance(settings, sample.SampleSettings)
    if wants_generator != run.is_generator:
        kind, use = ("generator", "sample") if run.is_generator else ("classifier", "classification")
        raise ConfigError(
            f"protocol={settings.name}: {path} is a {kind}'s run (model={run.config['model']['name']}); use protocol={use}"
        )
    status = run.directory.record().get("status", "unknown")
    if status != "done":
        logger.warning("note: this run's status is %s; its weights are of an epoch before the last", status)
    record = {"run": str(path), "status": status, "protocol": dict(protocol), "overrides": dict(overrides)}
    if isinstance(settings, sample.SampleSettings):
        assert isinstance(run.task, Sampler)
        paths = sample.sample(run.task, run.data.classes, settings, directory, str(path))
        write_json(directory / "sample.json", {**record, "files": [p.name for p in paths]})
        return directory
    _refuse_changed_data(run, overrides)
    values, _ = classification.report(run.task, run.data, settings.split, run.settings, directory)
    write_json(directory / "metrics.json", {**record, settings.split: values})
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


def default_protocol(path: str) -> str:
    """The protocol that fits the run: ``sample`` for a generator, ``classification`` for a classifier."""
    return "sample" if makes_images(RunDirectory(path).config()) else "classification"
