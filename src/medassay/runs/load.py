"""A finished run back in memory, from its directory alone."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule

from medassay import config as configuration
from medassay.core.errors import CheckpointError, ConfigError, nearest
from medassay.data.modules import ImageDataModule
from medassay.runs.directory import RunDirectory
from medassay.training.checkpoints import load_weights
from medassay.training.settings import TrainerSettings, devices_for

DATA_KEYS = ("root", "file", "path", "batch_size")  # what may differ on another machine


@dataclass(frozen=True)
class Run:
    """A run and what it made.

    Attributes:
        directory: where it lies.
        config: the configuration as trained, plain values.
        data: its data module; images are read on first use.
        task: the model with the chosen epoch's weights, in evaluation mode, on the device of ``settings``.
        settings: the trainer settings, overrides included.
    """

    directory: RunDirectory
    config: dict[str, Any]
    data: ImageDataModule
    task: LightningModule
    settings: TrainerSettings = field(default_factory=TrainerSettings)

    @property
    def is_generator(self) -> bool:
        return makes_images(self.config)


def data_node(node: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a configuration's ``data`` node that the data module's constructor takes."""
    return {k: v for k, v in node.items() if k not in ("generator", "generator_seed")}


def build_data(node: Mapping[str, Any]) -> ImageDataModule:
    """The data module of a configuration's ``data`` node."""
    data = configuration.build(data_node(node))
    assert isinstance(data, ImageDataModule)
    return data


def task_node(node: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a configuration's ``model`` node that the task's constructor takes."""
    return {k: v for k, v in node.items() if k not in ("name", "recipe")}


def build_task(node: Mapping[str, Any], seed: int = 0) -> LightningModule:
    """The task of a configuration's ``model`` node, its weights drawn by ``seed``."""
    torch.manual_seed(seed)
    task = configuration.build(task_node(node))
    assert isinstance(task, LightningModule)
    return task


def makes_images(config: Mapping[str, Any]) -> bool:
    """Whether the configuration's model is a generator: a task with ``sample``."""
    constructor = configuration.locate(str(config["model"]["_target_"]), "model")
    return inspect.isclass(constructor) and hasattr(constructor, "sample")


def refuse_classifier(path: str | Path, config: Mapping[str, Any]) -> None:
    """Raises :class:`ConfigError` where a generator's run is wanted and ``config`` is of another model."""
    if not makes_images(config):
        raise ConfigError(
            f"data.generator={path} is a classifier's run (model={config['model']['name']}): give a generator's, "
            "e.g. of model=cgan"
        )


def with_overrides(config: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` with the few keys changed that may change after training.

    Raises:
        ConfigError: another key, or a wrong value.
    """
    trainer = [f"trainer.{name}" for name in inspect.signature(TrainerSettings).parameters]
    known = [*(f"data.{name}" for name in DATA_KEYS), *trainer]
    changed = {**config, "data": dict(config["data"]), "trainer": dict(config["trainer"])}
    for key, value in overrides.items():
        group, _, name = key.partition(".")
        if key not in known:
            raise ConfigError(
                f"{key}: a finished run's configuration is fixed;{nearest(key, known)} only data.root, data.file, data.path, "
                "data.batch_size, trainer.* and protocol.* can be given"
            )
        if group == "data" and name not in changed["data"]:
            raise ConfigError(f"{key}: this run's data ({changed['data']['name']}) has no such key")
        changed[group][name] = value
    configuration.check(changed["trainer"], "trainer")
    configuration.check(data_node(changed["data"]), "data")
    return changed


def device_for(settings: TrainerSettings) -> torch.device:
    """The one device that evaluation runs on."""
    accelerator, devices = devices_for(settings, torch.cuda.device_count(), torch.backends.mps.is_available())
    if accelerator in ("cuda", "gpu") or (accelerator == "auto" and torch.cuda.is_available()):
        return torch.device("cuda", devices[0] if isinstance(devices, list) else 0)
    return torch.device("mps" if accelerator == "mps" else "cpu")


def load_run(path: str | Path, **overrides: Any) -> Run:
    """A finished run: its configuration, its data and its model with the chosen epoch's weights.

    Args:
        path: the run directory.
        **overrides: ``data_root``, ``data_file``, ``data_path`` or ``trainer_gpus``…: where things are on this machine, the
            first underscore standing for the dot.

    Raises:
        CheckpointError: no run directory, no checkpoint, or one of another architecture.
        ConfigError: an override of something else.
    """
    return open_run(path, {key.replace("_", ".", 1): value for key, value in overrides.items()})


def open_run(path: str | Path, overrides: Mapping[str, Any]) -> Run:
    """:func:`load_run` with dotted keys."""
    directory = RunDirectory(path)
    config = with_overrides(directory.config(), overrides)
    from medassay.runs.samples import training_data  # which opens the generator's run by this function

    configuration.check(task_node(config["model"]), "model")
    settings: TrainerSettings = configuration.build(config["trainer"])
    data, task = training_data(config), build_task(config["model"])
    if not directory.best.exists():
        status = directory.record().get("status", "unknown")
        raise CheckpointError(
            f"{path} has no checkpoints/best.ckpt (status: {status}): no epoch was finished; continue it with resume={path}"
        )
    load_weights(task, directory.best)
    return Run(directory, config, data, task.to(device_for(settings)).eval(), settings)
