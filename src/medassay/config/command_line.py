"""Hydra's command line: arguments as overrides, and composing with errors raised instead of printed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig

from medassay import config as configuration
from medassay.config.messages import explain_unreadable
from medassay.core.errors import ConfigError

# Hydra's flags: what it does not know it answers with many lines
FLAGS_WITH_VALUE = {"--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd", "--experimental-rerun"}
FLAGS_WITH_VALUE |= {"--cfg", "-c", "--package", "-p", "--info", "-i"}
FLAGS = {"--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r"}
FLAGS |= {"--multirun", "-m", "--shell-completion", "-sc"}


def run_hydra(config_name: str, job: Callable[[DictConfig], object], argv: Sequence[str]) -> None:
    """Composes and runs ``job`` with Hydra; its errors are raised instead of printed."""
    decorated = hydra.main(
        config_path=str(configuration.conf_directory().resolve()),
        config_name=config_name,
        execution_whitelist=configuration.trusted_targets(),
    )(job)
    before, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = [before[0] if before and before[0] else config_name, *argv]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        decorated()
    finally:
        sys.argv = before
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full_error
        GlobalHydra.instance().clear()


def parse(argv: Sequence[str]) -> list[Override]:
    """The overrides in ``argv``, flags left out."""
    return [override for _, override in pair_arguments(argv) if override is not None]


def pair_arguments(argv: Sequence[str]) -> Iterator[tuple[str, Override | None]]:
    """Each argument with its parsed override; None for Hydra's flags and their values.

    Raises:
        ConfigError: a flag that there is not, or an override that cannot be read.
    """
    parser = OverridesParser.create()
    value_next = False
    for argument in argv:
        if value_next:
            value_next = False
            yield argument, None
        elif argument.startswith("-"):
            name = argument.partition("=")[0]
            if name not in FLAGS | FLAGS_WITH_VALUE:
                raise ConfigError(
                    f"{argument}: there is no such flag; values are given as key=value, see --help and --cfg job"
                )
            value_next = argument in FLAGS_WITH_VALUE
            yield argument, None
        else:
            try:
                override = parser.parse_override(argument)
            except HydraException as error:
                raise ConfigError(explain_unreadable(argument)) from error
            yield argument, override


def is_hydra(override: Override) -> bool:
    """Whether it is one of Hydra's own keys or groups."""
    return override.key_or_group.partition(".")[0].partition("/")[0] == "hydra"


def single_value(overrides: Sequence[Override], key: str) -> str | None:
    """The single value given for ``key``, as text."""
    for override in reversed(overrides):
        if override.key_or_group == key and not override.is_sweep_override():
            value = override.value()
            return None if value is None else str(value)
    return None


def list_values(overrides: Sequence[Override], key: str) -> list[str]:
    """What is given for ``key``, one value or a list of them, as text; empty where nothing is."""
    for override in reversed(overrides):
        if override.key_or_group == key and not override.is_sweep_override():
            value = override.value()
            return [str(item) for item in value] if isinstance(value, list) else [] if value is None else [str(value)]
    return []


def find_swept_keys(overrides: Sequence[Override]) -> set[str]:
    """The keys given several values, for a multirun."""
    return {o.key_or_group for o in overrides if o.is_sweep_override()}
