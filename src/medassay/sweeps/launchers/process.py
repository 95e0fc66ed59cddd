"""A job in a fresh process: what is handed over, and what that process does. Importing this imports no torch."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import Any

from hydra.core.utils import JobStatus, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from medassay.config.messages import explain
from medassay.core.interrupts import terminable
from medassay.core.processes import Call, Ending
from medassay.runs.directory import RunDirectory
from medassay.sweeps.directory import register_resolvers
from medassay.sweeps.job import record_failure
from medassay.sweeps.launchers.base import Task


def make_payload(context: HydraContext, function: TaskFunction, task: Task) -> bytes:
    """All that another process needs to run ``task``; ``function`` must be importable there."""
    return pickle.dumps((context, function, task.config))


def make_call(context: HydraContext, function: TaskFunction, task: Task, **options: Any) -> Call:
    """The call of a process that runs ``task``; ``options`` are further ones of the call."""
    return Call(f"{__name__}:answer_payload", make_payload(context, function, task), task.log, **options)


def run_payload(payload: bytes) -> Any:
    """Runs a job handed over by :func:`make_payload` and gives what it returned, None where it failed.

    The process should be a fresh one: threads and GPU state of an earlier job would stay.
    """
    register_resolvers()
    setup_globals()
    logging.raiseExceptions = False  # a log on a full disk is not worth a traceback a line
    context, function, config = pickle.loads(payload)
    with terminable():
        return run_here(context, function, config)


def answer_payload(payload: bytes) -> bytes:
    """What :func:`run_payload` gives, in bytes."""
    return pickle.dumps(run_payload(payload))


def run_here(context: HydraContext, function: TaskFunction, config: DictConfig) -> Any:
    """Runs a job in this process and gives what it returned, None where it failed."""
    try:
        returned = run_job(
            hydra_context=context,
            task_function=function,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
    except Exception as error:  # Hydra cannot make the job's directory or its log: the disk is full
        if (reason := explain(error)) is None:
            raise
        directory = Path(str(config.hydra.sweep.dir)) / str(config.hydra.sweep.subdir)
        record_failure(RunDirectory(directory), config, list(config.hydra.overrides.task), reason)
        return None
    return returned.return_value if returned.status == JobStatus.COMPLETED else None


def read_result(task: Task, ending: Ending) -> Any:
    """What a job whose process has ended returned; None where it failed, as it has recorded itself, or was killed."""
    if ending.code == 0 and ending.result:
        return pickle.loads(ending.result)
    task.record_failure(f"{ending.reason}; see {task.log}")
    return None
