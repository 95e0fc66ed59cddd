"""A job in a fresh process: what is handed over, and what that process does. Importing this imports no torch."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from hydra.core.utils import JobStatus, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from medassay.core.interrupts import terminable
from medassay.sweeps.directory import register_resolvers
from medassay.sweeps.launchers.base import Task


def payload(context: HydraContext, function: TaskFunction, task: Task) -> bytes:
    """All that another process needs to run ``task``; ``function`` must be importable there."""
    return pickle.dumps((context, function, task.config))


def run_payload(given: bytes) -> Any:
    """Runs a job handed over by :func:`payload` and gives what it returned, None where it failed.

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


def _stop_with_parent() -> None:
    """Ends this process in good order when the one that started it is gone, however that ended."""

    def wait() -> None:
        os.read(0, 1)  # the parent never writes: this returns when the pipe breaks
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def _main(given: str, result: str) -> int:
    with terminable():
        _stop_with_parent()
        try:
            value = run_payload(Path(given).read_bytes())
        except KeyboardInterrupt:
            return 128 + signal.SIGTERM
    Path(result).write_bytes(pickle.dumps(value))
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
