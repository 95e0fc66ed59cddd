"""Work in processes of its own on this machine: so many at a time, stopped in good order. Importing this imports no torch."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from medassay.core.fork_server import ForkServer, Worker

FIRST_USED = ("torch._dynamo", "torch.utils.tensorboard")  # imported by torch and Lightning when they are first used
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
        function: The function that it calls, ``package.module:name``: payload in, result out, both bytes.
        payload: Bytes that are handed to the function.
        log: The file that everything it prints is added to; None keeps its standard error alone, until it has ended.
        directory: Working directory of the process; None for the one of this process.
        environment: Variables of the environment; they take precedence over those of the place.
    """

    function: str
    payload: bytes
    log: Path | None = None
    directory: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ending:
    """How a process ended.

    Attributes:
        code: Exit code of the process; below 0, the number of the signal that ended it.
        result: Bytes that its function gave back; empty where it gave nothing.
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
    preload: Sequence[str] = (),
    meanwhile: Callable[[], object] = lambda: None,
) -> Generator[tuple[Job, Ending], None, None]:
    """Runs each job in a process of its own, in their order, and yields it with its ending as soon as it has ended.

    Closed early, or interrupted, it stops the processes that still run and waits for them: use it with
    :func:`contextlib.closing`.

    Args:
        jobs: The jobs to run.
        places: The places where they run; there are never more processes than places.
        make_call: Function that makes a job's call, when there is a place for it.
        watch: Function that is called for each running job, ten times a second.
        preload: Modules whose import takes seconds: imported once, by a process that the jobs' are forked from, where the
            system can do that (Linux). Empty starts a fresh interpreter for each.
        meanwhile: Function that is called while such a process imports, on a core that nothing else needs yet.
    """
    waiting, free = list(jobs), list(places)
    running: dict[_Process, tuple[Job, Place]] = {}
    with tempfile.TemporaryDirectory(prefix="medassay-") as folder, ExitStack() as servers:
        server = None
        if waiting and preload and ForkServer.is_possible():
            server = servers.enter_context(ForkServer(preload, {**os.environ, **free[0].environment()}))
            meanwhile()
        try:
            while waiting or running:
                while waiting and free:
                    job, place = waiting.pop(0), free.pop(0)
                    running[_Process(make_call(job), place, Path(folder), server)] = job, place
                for process in [process for process in running if process.has_ended()]:
                    job, place = running.pop(process)
                    free.append(place)
                    yield job, process.take_ending()
                for job, _ in running.values():
                    watch(job)
                time.sleep(0.1)
        finally:
            _stop([process.worker for process in running])


class _Process:
    """A process that works on a call.

    Never forked from this one, whose threads and GPU state it would share, nor spawned as Python's own library does, which
    needs a main module that can be imported twice, as a notebook's cannot.
    """

    def __init__(self, call: Call, place: Place, folder: Path, server: ForkServer | None) -> None:
        self.folder = Path(tempfile.mkdtemp(dir=folder))
        (self.folder / "payload").write_bytes(call.payload)
        log = self.folder / "errors" if call.log is None else call.log
        log.parent.mkdir(parents=True, exist_ok=True)
        arguments = [call.function, str(self.folder / "payload"), str(self.folder / "result")]
        added = {**place.environment(), **call.environment}
        forked = server and server.start(arguments, log, call.log is not None, call.directory, added)
        if forked:
            self.worker: Worker = forked
            return
        with log.open("ab") as output:
            self.worker = _Fresh(
                subprocess.Popen(
                    [sys.executable, "-m", "medassay.core.worker", *arguments],
                    env={**os.environ, **added},
                    cwd=call.directory,
                    stdin=subprocess.PIPE,  # closed when this process dies
                    stdout=None if call.log is None else output,
                    stderr=output,
                    start_new_session=True,  # Ctrl-C reaches it through this process alone, once
                )
            )

    def has_ended(self) -> bool:
        return self.worker.poll() is not None

    def take_ending(self) -> Ending:
        """How the ended process ended; its files are removed."""
        _stop([self.worker])  # this closes its pipe
        result, errors = (
            path.read_bytes() if path.exists() else b"" for path in (self.folder / "result", self.folder / "errors")
        )
        for path in self.folder.iterdir():
            path.unlink()
        lines = errors.decode(errors="replace").strip().splitlines()
        return Ending(self.worker.poll() or 0, result, lines[-1] if lines else "")


@dataclass(frozen=True)
class _Fresh:
    """A :class:`Worker` in an interpreter of its own."""

    popen: subprocess.Popen[bytes]

    def poll(self) -> int | None:
        return self.popen.poll()

    def wait(self, seconds: float) -> bool:
        try:
            self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def interrupt(self) -> None:
        self.popen.terminate()

    def kill(self) -> None:
        self.popen.kill()

    def close(self) -> None:
        if self.popen.stdin is not None:
            self.popen.stdin.close()


def _stop(workers: Sequence[Worker]) -> None:
    """Interrupts the processes that still run and waits until each has recorded it; kills those that take too long."""
    for worker in workers:
        worker.interrupt()
    last = time.monotonic() + PATIENCE
    for worker in workers:
        if not worker.wait(max(0.0, last - time.monotonic())):
            worker.kill()
            worker.wait(PATIENCE)
        worker.close()
