"""Composing the configuration of a training, its data those of a generator where the command line names one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from medassay import config as configuration
from medassay.config.command_line import pair_arguments, parse
from medassay.config.moved import OWN_KEYS, PLACES
from medassay.core.errors import ConfigError
from medassay.data.class_folders import list_class_names
from medassay.runs.directory import RunDirectory

DATA_KEYS = (*PLACES, "batch_size")  # what may differ on another machine
SAMPLES_KEYS = {*OWN_KEYS, *DATA_KEYS, "steps", "generator", "generator_seed"}


def compose_training(overrides: Sequence[str]) -> DictConfig:
    """The configuration of ``train`` with ``overrides`` as on its command line, Hydra's own node included; not yet checked.

    Raises:
        UserError: A key or group does not exist, a value cannot be read, or the generator is no run.
    """
    register_resolvers()
    return configuration.compose("train", choose_samples(overrides))


def choose_samples(overrides: Sequence[str]) -> list[str]:
    """``overrides`` with ``data=samples`` where ``data.generator`` names a run: its images are the data then.

    Raises:
        ConfigError: The command line asks for other data, too.
        CheckpointError: The generator is no run directory.
    """
    parsed = list(zip(overrides, parse(overrides), strict=True))
    named = [override for _, override in parsed if override.key_or_group == "data.generator"]
    if not named:
        return list(overrides)
    if named[-1].value() is None:  # what data sets of real images have anyway
        return [text for text, override in parsed if override.key_or_group != "data.generator"]
    name = None if named[-1].is_sweep_override() else data_of_run(str(named[-1].value()), "name")
    for text, override in parsed:
        if _asks_for_other_data(override, name):
            own = "" if name is None else f" ({name})"
            raise ConfigError(f"{text}: with data.generator the data are the generator's own{own}; leave it out")
    return [*(text for text, override in parsed if override.key_or_group != "data"), "data=samples"]


def choose_samples_in(argv: Sequence[str]) -> list[str]:
    """:func:`choose_samples` on a command line with flags."""
    pairs = list(pair_arguments(argv))
    chosen = choose_samples([argument for argument, override in pairs if override is not None])
    return [*chosen, *(argument for argument, override in pairs if override is None)]


def _asks_for_other_data(override: Override, name: str | None) -> bool:
    key = override.key_or_group
    if key == "data":
        return override.value() not in ("samples", name)
    return key.startswith("data.") and key.split(".")[1] not in SAMPLES_KEYS


def data_of_run(path: str, key: str | None = None) -> Any:
    """The ``data`` node of the run in ``path``, or one value of it; ``${medassay.data_of_run:…}`` in a configuration.

    Raises:
        CheckpointError: The path is no run directory.
    """
    node: Mapping[str, Any] = RunDirectory(path).config()["data"]
    return dict(node) if key is None else node[key]


@cache
def register_resolvers() -> None:
    """Makes a run's data and the class folders of a data set known to OmegaConf, once per process."""
    configuration.register_resolvers()
    OmegaConf.register_resolver("medassay.class_folders", list_class_names)
    OmegaConf.register_resolver("medassay.data_of_run", data_of_run)
