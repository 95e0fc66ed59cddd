"""The command line ``train``: one training, a sweep of them, or an interrupted one continued."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from medassay import config as configuration
from medassay.cli.help import HELP, describe_command, name_program
from medassay.config.command_line import (
    CONFIG_DIR,
    SHOWING,
    find_value,
    format_shell_override,
    is_hydra,
    list_override_texts,
    parse,
    replace_config_dir,
    run_hydra,
    start_log,
)
from medassay.core.errors import ConfigError, advise
from medassay.core.paths import expand_home
from medassay.runs.compose import choose_samples_in, compose_training
from medassay.runs.directory import RunDirectory

if TYPE_CHECKING:
    from medassay.runs.run import Run

OK = 0
GROUPS = ("data", "model", "trainer", "callbacks", "logger")
NULL_HINTS = {"logger": "; logger=none logs nothing", "callbacks": "; callbacks.<name>=null switches one off"}


def run_train(argv: list[str]) -> int:
    """Does what the arguments ask for and gives the exit code; raises :class:`UserError` where they are wrong."""
    if HELP & set(argv):
        print(describe_command("train", argv))
        return OK
    argv = choose_samples_in(argv)
    flags = {argument.partition("=")[0] for argument in argv if argument.startswith("-")}
    if not flags & SHOWING:  # Hydra shows a configuration with its own flags
        argv = replace_config_dir(argv)
        flags -= set(CONFIG_DIR)
    overrides = parse(argv)
    for override in overrides:
        if override.key_or_group in GROUPS and override.value() is None:
            key = override.key_or_group
            raise ConfigError(f"{key}=null: choose one, see --help" + NULL_HINTS.get(key, ""))
    given = {override.key_or_group for override in overrides}
    if flags & SHOWING and "resume" in given:
        raise ConfigError(
            f"{min(flags & SHOWING)}: a run's configuration lies in its .hydra/config.yaml; leave out resume="
        )
    if (path := _run_to_resume(overrides, flags)) is not None:
        directory = _resume(path, overrides)
    elif flags & SHOWING:
        if flags & {"-m", "--multirun"}:
            raise ConfigError(f"{min(flags & SHOWING)}: it shows one configuration: leave out -m, give one value a key")
        run_hydra("train", lambda cfg: None, argv)
        return OK
    elif flags & {"-m", "--multirun"}:
        if others := flags - {"-m", "--multirun"}:
            raise ConfigError(f"{min(others)}: a sweep does not take it; leave it out, or start the jobs one by one")
        from medassay.sweeps.multirun import multirun

        if "hydra.run.dir" in given:
            raise ConfigError("hydra.run.dir: a sweep's place is named by sweep.name or hydra.sweep.dir")
        return multirun(argv, overrides)
    else:
        if sweeping := sorted(key for key in given if key.partition(".")[0] == "sweep"):
            raise ConfigError(f"{sweeping[0]}: one training has none; for a sweep add -m")
        directory = _train(list_override_texts(argv), None, log=True)
    directory = directory.absolute()  # what is printed may be read, and typed, elsewhere
    print(f"run directory: {directory}")
    if (directory / "tensorboard").is_dir():
        print(f"look at it:    tensorboard --logdir {shlex.quote(str(directory))}")
    print(f"next:          {name_program('evaluate')} {format_shell_override('run', directory)}")
    return OK


def train_run(*overrides: str, directory: str | Path | None = None) -> Run:
    """``python train.py`` from Python: ``train_run("model=cgan", "data=blood_phantom", "trainer.max_epochs=2")``.

    Args:
        *overrides: Overrides as on the command line.
        directory: The run directory; None for one under ``outputs``.

    Raises:
        UserError: Anything that is wrong on the command line is wrong here, too.
    """
    from medassay.runs.load import open_run

    return open_run(_train(overrides, directory), {})


def compose(*overrides: str) -> DictConfig:
    """The configuration of a training, e.g. ``compose("model=cgan").model``; ``medassay.build`` makes objects of its nodes.

    Raises:
        UserError: A key or group does not exist, or a value cannot be read.
    """
    return configuration.drop_hydra(compose_training(overrides))


def _train(overrides: Sequence[str], directory: str | Path | None, *, log: bool = False) -> Path:
    """One training from its command line: compose, check, train, judge; gives the run directory."""
    cfg = compose_training(overrides)
    # torch and Lightning take seconds to import: an error in the command line needs neither
    from medassay.runs.check import check_training
    from medassay.runs.train import train

    config = check_training(cfg)
    path = configuration.find_run_directory(cfg) if directory is None else expand_home(directory)
    placed = any(text.startswith("hydra.run.dir=") for text in overrides)
    key = "directory" if directory is not None else "hydra.run.dir" if placed else "outputs"
    again = "free some space, then start the same command again"
    own = [text for text, override in zip(overrides, parse(overrides), strict=True) if not is_hydra(override)]
    with advise(full=again, refused=f"choose another place with {key}=<directory>"):
        if log:
            start_log(cfg, path)
        train(config, path, own)
    _judge(path)
    return path


def _judge(path: Path) -> None:
    """Judges the generator in ``path`` if its configuration says ``assay=quick`` or ``full``."""
    config = RunDirectory(path).config()
    if config.get("assay", "none") != "none":
        from medassay.evaluation.evaluate import assay_after_training

        assay_after_training(path, config["assay"], test=config["test"])


def _run_to_resume(overrides: Sequence[Override], flags: set[str]) -> str | None:
    """The run directory given as ``resume=``; None where there is none."""
    path = find_value(overrides, "resume")
    if any(o.key_or_group == "resume" and o.is_sweep_override() for o in overrides):
        raise ConfigError("resume= continues one run: leave out -m and give one directory")
    if path is not None and flags & {"-m", "--multirun"}:
        raise ConfigError("resume= continues one run: leave out -m")
    if path is not None and any(o.key_or_group == "hydra.run.dir" for o in overrides):
        raise ConfigError("resume= continues in the run's own directory: leave out hydra.run.dir")
    return path


def _resume(path: str, overrides: Sequence[Override]) -> Path:
    changes = {o.key_or_group: o.value() for o in overrides if o.key_or_group != "resume" and not is_hydra(o)}
    from medassay.runs.train import resume

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    again = "free some space, then start the same command again"
    with advise(full=again, refused=f"make {path} writable, or continue a copy of it with resume=<copy>"):
        directory = resume(path, changes)
    _judge(directory)
    return directory
