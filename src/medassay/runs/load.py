"""A finished run back in memory, from its directory alone."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule

from medassay import config as configuration
from medassay.core.errors import CheckpointError, ConfigError, suggest_nearest
from medassay.core.types import LabelledImages
from medassay.data.modules import ImageDataModule, SyntheticData
from medassay.runs.directory import RunDirectory
from medassay.runs.run import Run, refuse_classifier
from medassay.runs.samples import write_run_samples
from medassay.training.checkpoints import load_weights
from medassay.training.settings import TrainerSettings, devices_for

DATA_KEYS = ("root", "file", "path", "batch_size")  # what may differ on another machine


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
                f"{key}: a finished run's configuration is fixed;{suggest_nearest(key, known)} only data.root, data.file, "
                "data.path, data.batch_size, trainer.* and protocol.* can be given"
            )
        if group == "data" and name not in changed["data"]:
            raise ConfigError(f"{key}: this run's data ({changed['data']['name']}) has no such key")
        changed[group][name] = value
    configuration.check(changed["trainer"], "trainer")
    configuration.check(data_node(changed["data"]), "data")
    return changed


def evaluated_images(data: ImageDataModule, split: str, settings: TrainerSettings) -> LabelledImages:
    """A split's images; of a run cut short by ``limit_batches`` the first ones only, as in training."""
    images = data.split(split)
    return images if settings.limit_batches is None else images[: settings.limit_batches * data.batch_size]


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


# --- what a run trains on --------------------------------------------------------------------------------------------


def training_data(config: Mapping[str, Any]) -> ImageDataModule:
    """The data module that a run trains on: the configured one, or a generator's samples with its real test images.

    A generator's samples are drawn, or found in the cache, once they are needed.
    """
    node = config["data"]
    real = build_data(node)
    if node.get("generator") is None:
        return real
    here = {f"trainer.{key}": config["trainer"][key] for key in ("gpus", "accelerator", "devices")}
    here |= {f"data.{key}": node[key] for key in DATA_KEYS if key in node}
    file = functools.partial(
        samples_for_training,
        node["generator"],
        cache=Path(config["outputs"]) / ".cache",
        seed=node["generator_seed"],
        overrides=here,
    )
    shared = {key: getattr(real, key) for key in ("batch_size", "augment", "seed", "subset")}
    return SyntheticData(f"synthetic_{node['name']}", file, real, **shared)


def samples_for_training(
    run_path: str | Path, *, cache: Path, seed: int = 0, overrides: Mapping[str, Any] | None = None
) -> Path:
    """A file with as many generated training and validation images as the generator's own data set has real ones.

    Labels are in the training set's proportions in both. The file is made once per checkpoint, count, proportions and seed.

    Raises:
        ConfigError: the run is no generator.
    """
    run = open_run(run_path, overrides or {})
    refuse_classifier(run_path, run.config)
    return write_run_samples(
        run, cache, {"train": int(run.data.class_counts().sum()), "val": len(run.data.splits.val)}, seed
    )
