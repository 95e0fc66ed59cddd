"""A job in a fresh process: what is handed over, and what that process does. Importing this imports no torch."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from hydra.core.utils import JobStatus, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from medassay.core.interrupts import terminable
from medassay.core.processes import end_with_parent, start_module
from medassay.sweeps.directory import register_resolvers
from medassay.sweeps.launchers.base import Task


def make_payload(context: HydraContext, function: TaskFunction, task: Task) -> bytes:
    """All that another process needs to run ``task``; ``function`` must be importable there."""
    return pickle.dumps((context, function, task.config))


def run_payload(given: bytes) -> Any:
    """Runs a job handed over by :func:`make_payload` and gives what it returned, None where it failed.

    The process should be a fresh one: threads and GPU state of an earlier job would stay.
    """
    register_resolvers()
    setup_globals()
    context, function, config = pickle.loads(given)
    with terminable():
        return run_here(context, function, config)


def run_here(context: HydraContext, function: TaskFunction, config: DictConfig) -> Any:
    """Runs a job in this process and gives what it returned, None where it failed."""
    returned = run_job(
        hydra_context=context,
        task_function=function,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
    return returned.return_value if returned.status == JobStatus.COMPLETED else None


def start_job(
    given: bytes, directory: Path, environment: dict[str, str], result: Path, where: Path | None = None
) -> subprocess.Popen[bytes]:
    """Starts the process of a job handed over by :func:`make_payload`.

    Args:
        given: all it needs.
        directory: of the run, which gets what the job prints.
        environment: variables that differ from those here.
        result: gets what the job returned, pickled; None where it failed.
        where: its working directory; None for the one here.
    """
    file = result.with_name(f"{result.name}.job")
    file.write_bytes(given)
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "output.log").open("ab") as log:
        options = {"stdout": log, "stderr": log, "cwd": where}
        return start_module("medassay.sweeps.launchers.process", file, result, environment=environment, **options)


def read_result(task: Task, code: int, result: bytes) -> Any:
    """What a job whose process ended with ``code`` returned; None where it failed or was killed."""
    if code == 0 and result:
        return pickle.loads(result)
    if not result:  # a job that fails leaves None there
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        task.record_failure(f"its process ended with {how}; see {task.directory / 'output.log'}")
    return None


def _main(given: str, result: str) -> int:
    with terminable():
        end_with_parent()
        try:
            value = run_payload(Path(given).read_bytes())
        except KeyboardInterrupt:
            return 128 + signal.SIGTERM
    Path(result).write_bytes(pickle.dumps(value))
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
