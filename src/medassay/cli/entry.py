"""The command lines ``train`` and ``evaluate``: Hydra around the jobs, every user error one line, exit codes.

Exit codes: 0; 2 an error the user can mend; 1 a sweep with failures, or an error of our own; 130 or 143 interrupted by
Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from medassay import config as configuration
from medassay.config.command_line import is_hydra, listed_values, paired, parse, run_hydra, single_value
from medassay.config.messages import explain
from medassay.core.errors import ConfigError
from medassay.core.interrupts import terminable
from medassay.sweeps.directory import register_resolvers

OK, FAILED, USER_ERROR = 0, 1, 2
GROUPS = ("data", "model", "trainer", "callbacks", "logger")
SHOWING = {"--cfg", "-c", "--info", "-i", "--help", "-h", "--hydra-help", "--version", "--shell-completion", "-sc"}
NULL_HINTS = {"logger": "; logger=none logs nothing", "callbacks": "; callbacks.<name>=null switches one off"}


def main(command: str, argv: Sequence[str]) -> int:
    """Runs ``command`` (``train`` or ``evaluate``) with the arguments ``argv`` and gives the exit code.

    A user error is one line on standard error; ``hydra.verbose=true`` shows the traceback too.
    """
    register_resolvers()
    action = {"train": _train, "evaluate": _evaluate}[command]
    try:
        with terminable():
            return action(list(argv))
    except KeyboardInterrupt as error:
        run = getattr(error, "run", None)
        _say(f"interrupted; continue with: python train.py resume={run}" if run else "interrupted")
        return 128 + int(getattr(error, "signum", signal.SIGINT))
    except SystemExit as error:  # argparse: --help, or a flag that there is not
        return error.code if isinstance(error.code, int) else USER_ERROR
    except Exception as error:
        message = explain(error)
        if message is None or any(a.lower() in ("hydra.verbose=true", "hydra.verbose=1") for a in argv):
            logging.getLogger(__name__).exception("unexpected error")
        _say(message or f"unexpected {type(error).__name__}: {error}")
        return FAILED if message is None else USER_ERROR


def train_entry() -> None:
    """The console script ``medassay-train``."""
    sys.exit(main("train", sys.argv[1:]))


def evaluate_entry() -> None:
    """The console script ``medassay-evaluate``."""
    sys.exit(main("evaluate", sys.argv[1:]))


def _say(line: str) -> None:
    print(f"medassay: {line}", file=sys.stderr)


# --- train -----------------------------------------------------------------------------------------------------------


def _train(argv: list[str]) -> int:
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
    from medassay.runs import train as jobs
    from medassay.runs.check import checked

    overrides = [str(text) for text in OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False) or []]
    config = checked(cfg, overrides)
    jobs.train(config, directory, overrides, test=config["test"] is not False)


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
    from medassay.runs import train as jobs

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    directory, _ = jobs.resume(path, others)
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


# --- evaluate --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EvaluateSettings:
    """The keys at the top of evaluate.yaml that are not text; see there."""

    resize: bool = False


def _evaluate(argv: list[str]) -> int:
    if "-m" in argv or "--multirun" in argv:
        raise ConfigError("evaluate.py takes one command at a time: leave out -m")
    overrides = parse(argv)
    paths, samples = listed_values(overrides, "run"), single_value(overrides, "samples")
    if not paths and any(o.key_or_group == "run" for o in overrides):
        raise ConfigError("run=: give one run directory, or several as a list: 'run=[a,b]'")
    if paths and samples is not None:
        raise ConfigError("run= and samples= both say what to evaluate: give one of them")
    if not paths and samples is None and not any(argument.startswith("-") for argument in argv):
        raise ConfigError(
            "run= is missing: python evaluate.py run=<run directory>, e.g. run=outputs/pneumonia_cnn/<run>, run=[a,b] or a "
            "sweep's directory; images from elsewhere: samples=<npz or folder> data=<data set>"
        )
    extra: list[str] = []
    from medassay.evaluation import evaluate as evaluation

    if not any(o.key_or_group == "protocol" for o in overrides):
        fitting = "assay" if samples is not None else evaluation.default_protocol(paths) if paths else "classification"
        extra.append(f"protocol={fitting}")
    known = ("run", "samples", "resize", "outputs", "protocol")
    changes = {
        argument: o
        for argument, o in paired(argv)
        if o is not None and not is_hydra(o) and o.key_or_group.partition(".")[0] not in known
    }
    passed = [argument for argument in argv if argument not in changes]
    found: list[DictConfig] = []

    def job(cfg: DictConfig) -> None:
        found.append(cfg)

    run_hydra("evaluate", job, [*passed, *extra])
    if not found:  # --help, --cfg: nothing to run
        return OK
    values = configuration.resolved(found[0])
    configuration.check_arguments({"resize": values["resize"]}, EvaluateSettings, "")
    if values["resize"] and samples is None:
        raise ConfigError("resize=true is for samples=: a run's own images have the size of its data")
    protocol, outputs = values["protocol"], Path(values["outputs"])
    configuration.check(protocol, "protocol")
    if samples is not None:
        print(
            "results:", evaluation.evaluate_samples(samples, protocol, list(changes), outputs, resize=values["resize"])
        )
        return OK
    keys = {o.key_or_group: o.value() for o in changes.values()}
    if not evaluation.is_several(paths):
        print("results:", evaluation.evaluate(paths[0], protocol, keys, outputs))
        return OK
    evaluations = evaluation.evaluate_many(paths, protocol, keys, outputs, evaluation.evaluate)
    for run, reason in evaluations.failed:
        _say(f"{run} failed: {reason}")
    print("results:", evaluations.directory)
    return FAILED if evaluations.failed else OK
