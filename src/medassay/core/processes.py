"""Work in processes of its own on this machine: so many at a time, stopped in good order. Importing this imports no torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

PATIENCE = 30.0  # seconds that an interrupted process has to record that it was

Job = TypeVar("Job")
Place = TypeVar("Place")


def make_environment(threads: int, gpu: str | None = None) -> dict[str, str]:
    """Variables for a process with so many threads that finds the modules which this one finds.

    Args:
        threads: and cores.
        gpu: the one it sees; None leaves the choice to the process, an empty text hides all.
    """
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "MEDASSAY_CORES")
    seen = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
    return {**dict.fromkeys(names, str(threads)), "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **seen}


def start_module(
    module: str, *arguments: Path, environment: Mapping[str, str], **options: Any
) -> subprocess.Popen[bytes]:
    """Starts ``python -m module``, which calls :func:`end_with_parent`; ``options`` are those of ``Popen``.

    Forked processes would share torch's threads, and spawned ones would need a main module that can be imported twice,
    which a notebook has not.
    """
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,  # closed when this process dies
        start_new_session=True,  # Ctrl-C reaches it through this process alone, once
        **options,
    )


def end_with_parent() -> None:
    """Ends this process in good order when the one that started it is gone, however that ended."""

    def wait() -> None:
        os.read(0, 1)  # the parent never writes: this returns when the pipe breaks
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def run_in_places(
    jobs: Iterable[Job],
    places: Iterable[Place],
    start: Callable[[Job, Place], subprocess.Popen[bytes]],
    watch: Callable[[Job], object] = lambda job: None,
) -> Iterator[tuple[Job, int]]:
    """Runs each job in a process and yields it with its exit code as soon as it has ended.

    Left early, by an error or an interruption, it stops those that still run.

    Args:
        jobs: to run.
        places: for one job at a time each, e.g. GPUs.
        start: starts a job's process in a place, by :func:`start_module`.
        watch: called for each running job, ten times a second.
    """
    waiting, free = list(jobs), list(places)
    running: dict[subprocess.Popen[bytes], tuple[Job, Place]] = {}
    try:
        while waiting or running:
            while waiting and free:
                job, place = waiting.pop(0), free.pop(0)
                running[start(job, place)] = job, place
            for process in [process for process in running if process.poll() is not None]:
                job, place = running.pop(process)
                free.append(place)
                stop([process])  # it has ended: this closes its pipe
                yield job, process.returncode
            for job, _ in running.values():
                watch(job)
            time.sleep(0.1)
    finally:
        stop(list(running))


def stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Interrupts the processes that still run and waits until each has recorded it; kills those that take too long."""
    for process in processes:
        process.terminate()
    last = time.monotonic() + PATIENCE
    for process in processes:
        try:
            process.wait(max(0.0, last - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin is not None:
            process.stdin.close()
