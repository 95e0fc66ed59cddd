"""Command lines: arguments as overrides, the configuration they ask for, and the log of a single run."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import configure_log
from hydra.errors import HydraException
from omegaconf import DictConfig, open_dict, read_write

from medassay.config.checks import list_trusted_targets
from medassay.config.composition import compose_with_hydra, explain_interpolations, find_conf_directory
from medassay.config.messages import explain, explain_unreadable
from medassay.core.errors import ConfigError, UserError, output_error
from medassay.core.paths import expand_home, find_kind

# Hydra's flags: what it does not know it answers with many lines
CONFIG_DIR = ("--config-dir", "-cd")
FLAGS_WITH_VALUE = {"--config-path", "-cp", "--config-name", "-cn", *CONFIG_DIR, "--experimental-rerun"}
SHOWING = {"--cfg", "-c", "--info", "-i", "--help", "-h", "--hydra-help", "--version", "--shell-completion", "-sc"}
FLAGS_WITH_VALUE |= {"--cfg", "-c", "--package", "-p", "--info", "-i"}
FLAGS = {"--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r"}
FLAGS |= {"--multirun", "-m", "--shell-completion", "-sc"}


def compose(name: str, overrides: Sequence[str]) -> DictConfig:
    """The configuration ``name`` (``train``, ``evaluate``) with ``overrides`` as on the command line.

    Raises:
        ConfigError: The overrides or a yaml are wrong; the message says in one line what Hydra says in many.
    """
    try:
        return compose_with_hydra(name, overrides)
    except UserError:
        raise
    except Exception as error:
        if (line := explain(error)) is None:
            raise
        raise ConfigError(line) from error


def list_override_texts(argv: Sequence[str]) -> list[str]:
    """The overrides in ``argv`` as text; ``--config-dir`` as the override that stands for it.

    Raises:
        ConfigError: ``argv`` has another of Hydra's flags, which a single run does not take.
    """
    texts = []
    for argument, override in pair_arguments(replace_config_dir(argv)):
        if override is not None:
            texts.append(argument)
        elif (name := argument.partition("=")[0]) not in ("--run", "-r"):
            raise ConfigError(f"{name}: a single run does not take it; yamls of your own are found by --config-dir")
    return texts


def replace_config_dir(argv: Sequence[str]) -> list[str]:
    """``argv`` with the override that stands for ``--config-dir`` in its place.

    Raises:
        ConfigError: ``--config-dir`` names no directory.
    """
    arguments: list[str] = []
    folder: str | None = None
    expected = False
    for argument, override in pair_arguments(argv):
        name, separator, value = argument.partition("=")
        if expected or (override is None and separator and name in CONFIG_DIR):
            folder, expected = argument if expected else value, False
        elif override is None and name in CONFIG_DIR:
            expected = True
        else:
            arguments.append(argument)
    if folder is None and not expected:
        return arguments
    directory = expand_home(folder or "")
    if not folder or find_kind(directory, ConfigError) != "directory":
        raise ConfigError(f"--config-dir {folder or ''} is not a directory: give one with yamls in <group>/<name>.yaml")
    return [*arguments, f"hydra.searchpath=[{quote_value(f'file://{directory.absolute()}')}]"]


def start_log(cfg: DictConfig, directory: Path) -> None:
    """Sends messages to the terminal and to the log file in ``directory``, as ``hydra.job_logging`` of ``cfg`` says.

    Raises:
        ConfigError: ``cfg`` has a setting of Hydra's that a single run does not follow.
        OutputError: The directory cannot be written.
    """
    if cfg.hydra.callbacks:
        raise ConfigError("hydra.callbacks: a run does not call them; callbacks of the training stand under callbacks.")
    if cfg.hydra.job.chdir:
        raise ConfigError("hydra.job.chdir=true: a run stays where it was started; leave it out")
    os.environ.update({str(name): str(value) for name, value in cfg.hydra.job.env_set.items()})
    with read_write(cfg), open_dict(cfg):
        cfg.hydra.runtime.output_dir = str(directory.absolute())
    HydraConfig.instance().set_config(cfg)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        configure_log(cfg.hydra.job_logging, cfg.hydra.verbose, execution_whitelist=list_trusted_targets())
    except (OSError, ValueError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__  # logging wraps it
        if not isinstance(cause, OSError):
            raise
        raise output_error(cause, cause.filename or directory) from error


def find_run_directory(cfg: DictConfig) -> Path:
    """The directory that ``hydra.run.dir`` of a composed configuration names.

    Raises:
        UserError: The name of the directory depends on a value that cannot be resolved.
    """
    with explain_interpolations():
        return expand_home(str(cfg.hydra.run.dir))


def run_hydra(config_name: str, job: Callable[[DictConfig], object], argv: Sequence[str]) -> None:
    """Lets Hydra show the configuration, or run a sweep of jobs; errors are raised instead of printed."""
    decorated = hydra.main(
        config_path=str(find_conf_directory().resolve()),
        config_name=config_name,
        execution_whitelist=list_trusted_targets(),
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
        ConfigError: A flag does not exist, or an override cannot be read.
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


def quote_value(text: str) -> str:
    """``text`` in single quotes, as Hydra reads it back: a backslash is special before a quote alone."""
    escaped = re.sub(r"(\\*)('|$)", lambda match: 2 * match[1] + ("\\'" if match[2] else ""), text)
    return f"'{escaped}'"


def format_shell_override(key: str, value: object) -> str:
    """``key=value`` as it is typed in a shell: quoted for Hydra where that is needed, and then for the shell."""
    text = str(value)
    if not re.fullmatch(r"[A-Za-z0-9_./-]+", text):
        text = quote_value(text)
    argument = f"{key}={text}"
    if "'" in argument and not re.search(r'["$`\\!]', argument):
        return f'"{argument}"'  # easier to read than single quotes within single quotes
    return shlex.quote(argument)


def is_hydra(override: Override) -> bool:
    """Whether it is one of Hydra's own keys or groups."""
    return override.key_or_group.partition(".")[0].partition("/")[0] == "hydra"


def find_value(overrides: Sequence[Override], key: str) -> str | None:
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
