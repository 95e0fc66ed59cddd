"""A finished run in memory."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule

from medassay import config as configuration
from medassay.core.errors import CheckpointError, ConfigError
from medassay.data.curves.modules import CurveData
from medassay.data.modules import LabelledData
from medassay.data.segmentation.modules import SegmentationData
from medassay.runs.directory import RunDirectory
from medassay.training.settings import TrainerSettings

IMAGENET = "imagenet"  # instead of a run's directory: torchvision's weights


@dataclass(frozen=True)
class Run:
    """A run and what it made.

    Attributes:
        directory: The run directory.
        config: The configuration as trained, plain values.
        data: The data module; its images are read on first use. Of a run that segments images it is a ``SegmentationData``, see
            :attr:`segmented_data`, and of one that fits a curve a ``CurveData``, see :attr:`curve_data`.
        task: The model with the weights of ``checkpoint``, in evaluation mode, on the device of ``settings``.
        settings: The trainer settings, overrides included.
        checkpoint: Which weights the task has: ``best``, ``last`` or a file.
        weights: The file that the weights were read from.
        epoch: The epoch that the weights are of, counted from 1; None where the file does not say.
    """

    directory: RunDirectory
    config: dict[str, Any]
    data: LabelledData
    task: LightningModule
    settings: TrainerSettings = field(default_factory=TrainerSettings)
    checkpoint: str = "best"
    weights: Path | None = None
    epoch: int | None = None

    @property
    def segmented_data(self) -> SegmentationData:
        """The data module of a run that segments images."""
        data: object = self.data
        assert isinstance(data, SegmentationData)
        return data

    @property
    def curve_data(self) -> CurveData:
        """The data module of a run that fits a curve."""
        data: object = self.data
        assert isinstance(data, CurveData)
        return data

    @property
    def is_generator(self) -> bool:
        return makes_images(self.config)


def makes_images(config: Mapping[str, Any]) -> bool:
    """Whether the configuration's model is a generator: a task with ``sample``."""
    constructor = configuration.locate(str(config["model"]["_target_"]), "model")
    return inspect.isclass(constructor) and hasattr(constructor, "sample")


def segments_images(config: Mapping[str, Any]) -> bool:
    """Whether the configuration's model gives each pixel a class: a task with ``segment``."""
    constructor = configuration.locate(str(config["model"]["_target_"]), "model")
    return inspect.isclass(constructor) and hasattr(constructor, "segment")


def fits_curves(config: Mapping[str, Any]) -> bool:
    """Whether the configuration's model gives a number for a number: a task with ``regress``."""
    constructor = configuration.locate(str(config["model"]["_target_"]), "model")
    return inspect.isclass(constructor) and hasattr(constructor, "regress")


def find_data_kind(config: Mapping[str, Any]) -> type:
    """The kind of the configuration's data, as its constructor's annotation says: ``LabelledData`` where that says nothing."""
    constructor = configuration.locate(str(config["data"]["_target_"]), "data")
    kind = typing.get_type_hints(constructor).get("return")
    return kind if kind in (SegmentationData, CurveData) else LabelledData


def describe_kind(config: Mapping[str, Any]) -> str:
    """What a run's model is, in a word."""
    if fits_curves(config):
        return "regression"
    return "segmentation" if segments_images(config) else "generator" if makes_images(config) else "classifier"


def refuse_classifier(path: str | Path, config: Mapping[str, Any]) -> None:
    """Raises :class:`ConfigError` where a generator's run is wanted and ``config`` is of another model."""
    if not makes_images(config):
        raise ConfigError(
            f"data.generator={path} is a {describe_kind(config)}'s run (model={config['recipe']['name']}): give a generator's, "
            "e.g. of model=cgan"
        )


def open_transfer_source(path: str | Path) -> RunDirectory:
    """The classifier's run that ``model.transfer.weights`` names.

    Raises:
        CheckpointError: The path is no run directory.
        ConfigError: The run is a generator's.
    """
    key, run = f"model.transfer.weights={path}", RunDirectory(path)
    try:
        config = run.config()
    except CheckpointError as error:
        raise CheckpointError(f"{key}: {error}, or {IMAGENET}") from error
    if (kind := describe_kind(config)) != "classifier":
        raise ConfigError(f"{key} is a {kind}'s run (model={config['recipe']['name']}): give a classifier's")
    return run
