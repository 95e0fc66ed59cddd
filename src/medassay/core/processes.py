"""Work in processes of its own on this machine: so many at a time, stopped in good order. Importing this imports no torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from medassay.core.interrupts import terminable

PATIENCE = 30.0  # seconds that an interrupted process has to record that it was

Job = TypeVar("Job")


@dataclass(frozen=True)
class Place:
    """Room for one process at a time.

    Attributes:
        threads: Number of threads that a process computes with, and of cores that it takes for its own.
        gpu: The GPU that it sees, as ``CUDA_VISIBLE_DEVICES`` names it; None leaves the choice to the process, an empty
            text hides all.
    """

    threads: int = 1
    gpu: str | None = None

    def environment(self) -> dict[str, str]:
        """The variables of a process here, which also finds the modules that this process finds."""
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "MEDASSAY_CORES")
        visible = {} if self.gpu is None else {"CUDA_VISIBLE_DEVICES": self.gpu}
        modules = os.pathsep.join(filter(None, sys.path))
        return {**dict.fromkeys(names, str(self.threads)), "PYTHONPATH": modules, **visible}


@dataclass(frozen=True)
class Call:
    """What a process is to do.

    Attributes:
        module: The module that it runs as its main one, which ends with :func:`answer_call`.
        payload: Bytes that are handed to the module.
        log: The file that everything it prints is added to; None keeps its standard error alone, until it has ended.
        directory: Working directory of the process; None for the one of this process.
        environment: Variables of the environment; they take precedence over those of the place.
    """

    module: str
    payload: bytes
    log: Path | None = None
    directory: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ending:
    """How a process ended.

    Attributes:
        code: Exit code of the process; below 0, the number of the signal that ended it.
        result: Bytes that its module gave back; empty where it gave nothing.
        error: The last line on its standard error; empty where that went to a log.
    """

    code: int
    result: bytes
    error: str = ""

    @property
    def reason(self) -> str:
        """What to say of a process that failed: its own last words, else its exit code or signal."""
        how = f"signal {-self.code}" if self.code < 0 else f"exit code {self.code}"
        return self.error or f"its process ended with {how}"


# --- where processes are started -------------------------------------------------------------------------------------


def run_in_processes(
    jobs: Iterable[Job],
    places: Iterable[Place],
    make_call: Callable[[Job], Call],
    watch: Callable[[Job], object] = lambda job: None,
) -> Generator[tuple[Job, Ending], None, None]:
    """Runs each job in a fresh process, in their order, and yields it with its ending as soon as it has ended.

    Closed early, or interrupted, it stops the processes that still run and waits for them: use it with
    :func:`contextlib.closing`.

    Args:
        jobs: The jobs to run.
        places: The places where they run; there are never more processes than places.
        make_call: Function that makes a job's call, when there is a place for it.
        watch: Function that is called for each running job, ten times a second.
    """
    waiting, free = list(jobs), list(places)
    running: dict[_Process, tuple[Job, Place]] = {}
    with tempfile.TemporaryDirectory(prefix="medassay-") as folder:
        try:
            while waiting or running:
                while waiting and free:
                    job, place = waiting.pop(0), free.pop(0)
                    running[_Process(make_call(job), place, Path(folder))] = job, place
                for process in [process for process in running if process.has_ended()]:
                    job, place = running.pop(process)
                    free.append(place)
                    yield job, process.take_ending()
                for job, _ in running.values():
                    watch(job)
                time.sleep(0.1)
        finally:
            _stop([process.popen for process in running])


class _Process:
    """A process that works on a call.

    Forked processes would share torch's threads, and spawned ones would need a main module that can be imported twice,
    which a notebook has not.
    """

    def __init__(self, call: Call, place: Place, folder: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(dir=folder))
        (self.folder / "payload").write_bytes(call.payload)
        log = self.folder / "errors" if call.log is None else call.log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", call.module, str(self.folder / "payload"), str(self.folder / "result")],
                env={**os.environ, **place.environment(), **call.environment},
                cwd=call.directory,
                stdin=subprocess.PIPE,  # closed when this process dies
                stdout=None if call.log is None else output,
                stderr=output,
                start_new_session=True,  # Ctrl-C reaches it through this process alone, once
            )

    def has_ended(self) -> bool:
        return self.popen.poll() is not None

    def take_ending(self) -> Ending:
        """How the ended process ended; its files are removed."""
        _stop([self.popen])  # this closes its pipe
        result, errors = (
            path.read_bytes() if path.exists() else b"" for path in (self.folder / "result", self.folder / "errors")
        )
        for path in self.folder.iterdir():
            path.unlink()
        lines = errors.decode(errors="replace").strip().splitlines()
        return Ending(self.popen.returncode, result, lines[-1] if lines else "")


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
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


# --- inside such a process -------------------------------------------------------------------------------------------


def answer_call(work: Callable[[bytes], bytes]) -> int:
    """Hands the payload of this process's call to ``work`` and gives back its result; returns the exit code.

    Interrupted, or left alone by the process that started it, it stops ``work`` as Ctrl-C does and gives nothing back.
    """
    payload, result = map(Path, sys.argv[1:])
    try:
        with terminable():
            _end_with_parent()
            content = work(payload.read_bytes())
    except KeyboardInterrupt:
        return 128 + signal.SIGTERM
    result.write_bytes(content)
    return 0


def _end_with_parent() -> None:
    """Interrupts this process when the one that started it is gone, however that ended."""

    def wait() -> None:
        os.read(0, 1)  # the parent never writes: this returns when the pipe breaks
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()
