"""A job for the tests of launchers: no training, its seed says what becomes of it. Fresh processes import this module.

``sweep`` runs a sweep of such jobs as a command of its own, which leaves nothing of submitit or Ray in the tests' process.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from omegaconf import DictConfig

from medassay.config.command_line import run_hydra
from medassay.runs.directory import RunDirectory
from medassay.sweeps.directory import register_resolvers
from medassay.sweeps.launchers.ray import RayLauncher
from medassay.sweeps.launchers.slurm import SlurmLauncher

GOES_WELL, FAILS, DIES, TIMES_OUT, TAKES_LONG, FINISHED_BEFORE = range(6)


class SeedJob:
    """Returns its seed as a number; see the constants above for seeds that do otherwise."""

    __name__ = "train"

    def __call__(self, cfg: DictConfig) -> float:
        directory, overrides = Path(HydraConfig.get().runtime.output_dir), list(HydraConfig.get().overrides.task)
        run = RunDirectory(directory)
        starts = [*run.record().get("starts", []), os.getpid()]
        run.update(starts=starts, threads=os.environ.get("OMP_NUM_THREADS"), overrides=overrides)
        with run.record_ending():
            if cfg.seed == FAILS:
                raise ValueError("no such luck")
            if cfg.seed == DIES:
                os.kill(os.getpid(), signal.SIGKILL)
            if cfg.seed == TIMES_OUT and len(starts) == 1:
                os.kill(os.getpid(), signal.SIGUSR2)
                time.sleep(60)
            if cfg.seed == TAKES_LONG:
                time.sleep(60)
        return float(cfg.seed)

    def is_finished(self, cfg: DictConfig, directory: Path) -> bool:
        return cfg.seed == FINISHED_BEFORE or RunDirectory(directory).state() == "done"

    def read_value(self, cfg: DictConfig, directory: Path) -> float:
        return float(cfg.seed)


def main() -> None:
    """The command: a multirun of such jobs with the command line's overrides."""
    from cluster_job import SeedJob as Importable  # by name also where this module is the command

    register_resolvers()
    for launcher in (SlurmLauncher, RayLauncher):
        Plugins.instance().register(launcher)
    run_hydra("train", Importable(), ["-m", *sys.argv[1:]])


def start(directory: Path, seeds: Sequence[int], *overrides: str, **environment: str) -> subprocess.Popen[str]:
    """Starts a sweep of such jobs in ``directory``; warnings are errors."""
    here = str(Path(__file__).parent)
    listed = "seed=" + ",".join(map(str, seeds))
    return subprocess.Popen(
        [sys.executable, "-W", "error", __file__, listed, f"hydra.sweep.dir={directory}", *overrides],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([here, *filter(None, sys.path)]), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def interrupt_once(command: subprocess.Popen[str], directory: Path, *statuses: tuple[int, str]) -> None:
    """Sends Ctrl-C to a command as soon as its jobs have the ``statuses``, and waits for its end."""
    last = time.monotonic() + 120
    try:
        while any(run_of(directory, seed).get("status") != status for seed, status in statuses):
            if command.poll() is not None or time.monotonic() > last:
                raise AssertionError(f"{[run_of(directory, seed) for seed, _ in statuses]}")
            time.sleep(0.1)
    finally:
        command.send_signal(signal.SIGINT)
        said, _ = command.communicate()
        print(said)
        last = time.monotonic() + 30
        runs = [RunDirectory(file.parent) for file in directory.glob("*/run.json")]
        while any(run.state() == "running" for run in runs) and time.monotonic() < last:
            time.sleep(0.1)  # a job on a loaded machine may end a little after the command


def run_of(directory: Path, seed: int) -> dict[str, Any]:
    """What the job with ``seed`` left in its ``run.json``; empty if there is none."""
    found = list(directory.glob(f"*seed-{seed}_*"))
    return RunDirectory(found[0]).record() if found else {}


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores Ctrl-C
    main()
