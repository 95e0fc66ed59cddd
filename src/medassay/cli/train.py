"""The command line ``train``: Hydra around one training, or around a sweep of them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from medassay import config as configuration
from medassay.config.command_line import is_hydra, parse, run_hydra, single_value
from medassay.config.messages import explain
from medassay.core.errors import ConfigError
from medassay.runs.directory import RunDirectory

if TYPE_CHECKING:
    from medassay.runs.run import Run

OK = 0
GROUPS = ("data", "model", "trainer", "callbacks", "logger")
SHOWING = {"--cfg", "-c", "--info", "-i", "--help", "-h", "--hydra-help", "--version", "--shell-completion", "-sc"}
NULL_HINTS = {"logger": "; logger=none logs nothing", "callbacks": "; callbacks.<name>=null switches one off"}


def run_train(argv: list[str]) -> int:
    overrides = parse(argv)
    if any(o.key_or_group == "resume" and o.is_sweep_override() for o in overrides):
        raise ConfigError("resume= continues one run: leave out -m and give one directory")
    if (path := single_value(overrides, "resume")) is not None:
        return _resume(path, overrides, argv)
    for override in overrides:
        if override.key_or_group in GROUPS and override.value() is None:
            raise ConfigError(
                f"{override.key_or_group}=null: choose one, see --help" + NULL_HINTS.get(override.key_or_group, "")
            )
    argv = _with_generators_data(argv, overrides)
    if _is_sweep(argv):
        from medassay.sweeps.multirun import multirun

        return multirun(argv, overrides)
    trained: list[Path] = []
    errors: list[Exception] = []

    def job(cfg: DictConfig) -> None:
        directory = Path(HydraConfig.get().runtime.output_dir)
        try:
            _train_job(cfg, directory)
        except Exception as error:  # raised again outside Hydra, which would print lines of its own
            _leave_nothing_of(directory)
            errors.append(error)
        else:
            trained.append(directory)

    run_hydra("train", job, argv)
    if errors:
        raise errors[0]
    for directory in trained:
        _finished(directory)
    return OK


def _is_sweep(argv: Sequence[str]) -> bool:
    """Whether jobs are to be run, not only shown (``-m --cfg job``).

    Raises:
        ConfigError: with a flag that a sweep does not take.
    """
    flags = [a for a in argv if a.startswith("-")]
    if not {"-m", "--multirun"} & set(flags) or SHOWING & set(flags):
        return False
    for flag in flags:
        if flag not in ("-m", "--multirun"):
            raise ConfigError(f"{flag}: a sweep does not take it; leave it out, or start the jobs one by one")
    return True


def _train_job(cfg: DictConfig, directory: Path) -> None:
    # torch and Lightning take seconds to import: an error in the command line needs neither
    from medassay.runs.check import check_training

    overrides = [str(text) for text in OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False) or []]
    config = check_training(cfg, overrides)
    train_and_assay(config, directory, overrides)


def _leave_nothing_of(directory: Path) -> None:
    """Removes the directory of a job that failed before it began: nothing is in it but Hydra's log."""
    log = directory / f"{HydraConfig.get().job.name}.log"
    with suppress(OSError):  # where the log file is still held open
        if [*directory.iterdir()] == [log]:
            log.unlink()
            directory.rmdir()


def _resume(path: str, overrides: Sequence[Override], argv: Sequence[str]) -> int:
    if "-m" in argv or "--multirun" in argv:
        raise ConfigError("resume= continues one run: leave out -m")
    if any(o.key_or_group == "hydra.run.dir" for o in overrides):
        raise ConfigError("resume= continues in the run's own directory: leave out hydra.run.dir")
    others = {o.key_or_group: o.value() for o in overrides if o.key_or_group != "resume" and not is_hydra(o)}
    from medassay.runs.train import resume

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    directory, _ = resume(path, others)
    _assay(directory)
    _finished(directory)
    return OK


def _with_generators_data(argv: list[str], overrides: Sequence[Override]) -> list[str]:
    """``argv`` with ``data=`` of the generator's own data set, so that the run is named after it."""
    path = single_value(overrides, "data.generator")
    if path is None or any(o.key_or_group == "data" for o in overrides):
        return argv
    from medassay.runs.directory import RunDirectory

    name = RunDirectory(path).config()["data"]["name"]
    return [*argv, f"data={name}"] if (configuration.conf_directory() / "data" / f"{name}.yaml").exists() else argv


def _finished(directory: Path) -> None:
    print(f"run directory: {directory}")
    print(f"look at it:    tensorboard --logdir {directory}")


# --- a run and its assay ---------------------------------------------------------------------------------------------


def train_run(*overrides: str, directory: str | Path | None = None) -> Run:
    """``python train.py`` from Python: ``train_run("model=cgan", "data=blood_phantom", "trainer.max_epochs=2")``.

    Args:
        *overrides: Overrides as on the command line.
        directory: The run directory; None for one under ``outputs``.

    Raises:
        UserError: as on the command line.
    """
    from medassay.runs.check import check_training
    from medassay.runs.load import open_run

    try:
        cfg, usual = configuration.compose("train", overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error) or str(error)) from error
    path = usual if directory is None else Path(directory)
    train_and_assay(check_training(cfg, overrides), path, list(overrides))
    return open_run(path, {})


def train_and_assay(config: dict[str, Any], path: Path, overrides: list[str]) -> None:
    """Trains what ``config`` (checked) says into ``path``, and judges the generator if ``assay`` asks for it."""
    from medassay.runs.train import train

    train(config, path, overrides, test=config["test"] is not False)
    _assay(path)


def _assay(path: Path) -> None:
    """Judges the run in ``path`` as its configuration asks."""
    config = RunDirectory(path).config()
    if config.get("assay", "none") != "none":
        from medassay.evaluation.evaluate import assay_after_training

        assay_after_training(path, config["assay"], test=config["test"])
