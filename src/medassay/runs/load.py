"""A finished run back in memory, from its directory alone."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from pytorch_lightning import LightningModule

from medassay import config as configuration
from medassay.config.command_line import format_shell_override
from medassay.config.messages import explain_foreign_key
from medassay.config.moved import DEVICE_KEYS, PLACES
from medassay.core.errors import CheckpointError, ConfigError, suggest_nearest
from medassay.core.paths import expand_home, find_kind
from medassay.core.types import LabelledImages
from medassay.data.curves.modules import CurveData
from medassay.data.kinds import AnyData
from medassay.data.modules import LabelledData
from medassay.data.segmentation.modules import SegmentationData
from medassay.runs.compose import DATA_KEYS
from medassay.runs.directory import RunDirectory
from medassay.runs.run import Run
from medassay.tasks.averaged import AveragedTask
from medassay.training.checkpoints import load_weights
from medassay.training.settings import TrainerSettings, choose_devices

LATER_KEYS = ("groups",)  # of the data: what may be known of the images only after a training
SAMPLING_DEVICE = [f"trainer.{name}" for name in DEVICE_KEYS]


def build_data(config: Mapping[str, Any]) -> LabelledData:
    """The data set of a run's configuration; its images are read, rendered or drawn on first use.

    Raises:
        ConfigError: Its images have a class for each pixel, or it is a curve.
    """
    data = build_any_data(config)
    if isinstance(data, SegmentationData):
        raise ConfigError(
            f"data={data.name}: its images have a class for each pixel, and images with one class are needed"
        )
    if isinstance(data, CurveData):
        raise ConfigError(f"data={data.name} is a curve, and images with one class are needed")
    return data


def build_any_data(config: Mapping[str, Any]) -> AnyData:
    """:func:`build_data`, also of images that have a class for each pixel, and of curves."""
    data = configuration.build(config["data"])
    assert isinstance(data, AnyData)
    return data


def build_task(config: Mapping[str, Any], seed: int = 0) -> LightningModule:
    """The task of a run's configuration, its weights drawn by ``seed``."""
    torch.manual_seed(seed)
    task = configuration.build(config["model"])
    assert isinstance(task, LightningModule)
    return task


def apply_overrides(
    config: dict[str, Any], overrides: Mapping[str, Any], sampling: Sequence[str] = ()
) -> dict[str, Any]:
    """``config`` with the few keys changed that may change after training.

    Args:
        config: The run's configuration.
        overrides: Values by dotted key. One way of saying on what device takes the place of the saved other one.
        sampling: Keys of the model that may change, too.

    Raises:
        ConfigError: A key may not change after training, or a value is wrong.
    """
    trainer = [f"trainer.{name}" for name in inspect.signature(TrainerSettings).parameters]
    accepted = [*(f"data.{name}" for name in (*DATA_KEYS, *LATER_KEYS)), *trainer, *sampling]
    copies = {group: dict(config[group]) for group in ("data", "trainer", "model") if group in config}
    changed = config | copies
    for key in _list_other_device_keys(overrides):
        name = key.partition(".")[2]
        for node in (changed["trainer"], changed["data"]):
            if node.get(name) is not None:
                node[name] = None
    for key, value in overrides.items():
        group, _, name = key.partition(".")
        if key not in accepted:
            if (elsewhere := explain_foreign_key(key)) is not None:
                raise ConfigError(elsewhere)
            raise ConfigError(
                f"{key}: a finished run's configuration is fixed;{suggest_nearest(key, accepted)} only data.root, data.file, "
                "data.path, data.batch_size, data.groups, trainer.* and protocol.* can be given"
                f"{' and, of sampling, ' + ', '.join(sampling) if sampling else ''}"
            )
        if group == "data" and name not in changed["data"] and not _takes_later_key(changed["data"], name):
            raise ConfigError(f"{key}: this run's data ({changed['data']['name']}) has no such key")
        changed[group][name] = value
        if key in SAMPLING_DEVICE and name in changed["data"]:  # a generator's samples are drawn where the run computes
            changed["data"][name] = value
    changed = cast(dict[str, Any], configuration.expand_paths(changed))
    configuration.check(changed["trainer"], "trainer")
    configuration.check(changed["data"], "data")
    return changed


def join_overrides(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides of an earlier time with those of ``now``, which also say alone on what device, where they do."""
    others = _list_other_device_keys(now)
    return {**{key: value for key, value in before.items() if key not in others}, **now}


def _list_other_device_keys(overrides: Mapping[str, Any]) -> list[str]:
    """``trainer.accelerator`` and ``trainer.devices`` where ``overrides`` say by ``trainer.gpus`` alone on what device to
    compute, and the reverse; where both or neither are given, none."""
    gpus, *pair = SAMPLING_DEVICE
    given = {key for key in SAMPLING_DEVICE if overrides.get(key) is not None}
    if given == {gpus}:
        return pair
    return [gpus] if given and gpus not in given else []


def make_places_absolute(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """``overrides`` with absolute paths of data: what a run records is read from other working directories later.

    Raises:
        ConfigError: A path names the home directory of a user who does not exist.
    """
    keys = [f"data.{name}" for name in (*PLACES, *LATER_KEYS)]
    return {
        key: str(expand_home(value).absolute()) if key in keys and isinstance(value, str) else value
        for key, value in overrides.items()
    }


def list_sampling_keys(config: Mapping[str, Any]) -> list[str]:
    """Keys of the run's model that say how a generator's images are drawn: they may change after training."""
    constructor = configuration.locate(str(config["model"]["_target_"]), "model")
    return [f"model.{name}" for name in getattr(constructor, "sampling_settings", ())]


def _takes_later_key(node: Mapping[str, Any], name: str) -> bool:
    """Whether the data can be given this key, which runs of before there was it do not have."""
    return name in LATER_KEYS and configuration.takes_argument(str(node["_target_"]), name)


def select_evaluated_images(data: LabelledData, split: str, settings: TrainerSettings) -> LabelledImages:
    """A split's images; of a run cut short by ``limit_batches`` the first ones only, as in training."""
    images = data.split(split)
    return images if settings.limit_batches is None else images[: settings.limit_batches * data.batch_size]


def choose_device(settings: TrainerSettings) -> torch.device:
    """The one device that evaluation runs on."""
    accelerator, devices = choose_devices(settings, torch.cuda.device_count(), torch.backends.mps.is_available())
    if accelerator in ("cuda", "gpu") or (accelerator == "auto" and torch.cuda.is_available()):
        return torch.device("cuda", devices[0] if isinstance(devices, list) else 0)
    return torch.device("mps" if accelerator == "mps" else "cpu")


def load_run(path: str | Path, *, checkpoint: str = "best", **overrides: Any) -> Run:
    """A finished run: its configuration, its data and its model with the chosen epoch's weights.

    Args:
        path: The run directory.
        checkpoint: Which weights to load: ``best``, those that training chose; ``last``; a file; or the name of one in the
            run's ``checkpoints/``.
        **overrides: ``data_root``, ``data_file``, ``data_path`` or ``trainer_gpus``…: where things are on this machine, the
            first underscore standing for the dot.

    Raises:
        CheckpointError: The path is no run directory, or the checkpoint is missing, damaged, or of another architecture.
        ConfigError: An override changes something else.
    """
    return open_run(path, {key.replace("_", ".", 1): value for key, value in overrides.items()}, checkpoint)


def open_run(path: str | Path, overrides: Mapping[str, Any], checkpoint: str = "best") -> Run:
    """:func:`load_run` with dotted keys."""
    directory = RunDirectory(path)
    saved = directory.config()
    config = apply_overrides(saved, overrides, list_sampling_keys(saved))
    configuration.check(config["model"], "model")
    settings: TrainerSettings = configuration.build(config["trainer"])
    data, task = build_any_data(config), build_task(config)
    weights = find_weights(directory, checkpoint)
    directory.refuse_damaged(weights)
    epoch = load_weights(task, weights)
    if weights != directory.best and isinstance(task, AveragedTask):
        task.use_average()
    device = choose_device(settings)
    return Run(
        directory, config, cast(LabelledData, data), task.to(device).eval(), settings, checkpoint, weights, epoch
    )


def find_weights(run: RunDirectory, checkpoint: str) -> Path:
    """The file that ``checkpoint=`` names for a run: ``best``, ``last``, a file, or the name of one in ``checkpoints/``.

    Raises:
        CheckpointError: The file does not exist, or cannot be read.
    """
    if checkpoint == "best":
        if find_kind(run.best, CheckpointError) is None:
            status = run.record().get("status", "unknown")
            if status == "done":
                raise CheckpointError(
                    f"{run.path} has no checkpoints/best.ckpt: it was removed after the run was done, as sweep.keep=none does; "
                    f"restore it from a copy, or {run.explain_new_start()}"
                )
            raise CheckpointError(
                f"{run.path} has no checkpoints/best.ckpt (status: {status}): no epoch was finished; continue it with "
                f"{format_shell_override('resume', run.path)}"
            )
        return run.best
    inside = run.last if checkpoint == "last" else run.best.parent / checkpoint
    candidates = [inside] if checkpoint == "last" else [expand_home(checkpoint), inside]
    for file in candidates:
        if find_kind(file, CheckpointError) == "file":
            return file
    present = sorted(file.name for file in run.best.parent.glob("*.ckpt"))
    raise CheckpointError(
        f"checkpoint={checkpoint}: {run.path} has no such checkpoint; give best, last or a file"
        f" (there {'is' if len(present) == 1 else 'are'} {', '.join(present) or 'none'})"
    )
