"""Processes that start in milliseconds: forked from one that has imported what they need. Importing this imports no torch.

Importing torch and Lightning takes five seconds of a core, a tenth or more of a small job. The server imports them once; each
job is still a process of its own, with its own threads, GPU state and ending.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Protocol

LOST = -signal.SIGKILL  # exit code of a process whose server is gone


class Worker(Protocol):
    """A process that was started to work on a call."""

    def poll(self) -> int | None:
        """Its exit code, below 0 the number of the signal that ended it; None while it runs."""

    def wait(self, seconds: float) -> bool:
        """Whether it ends within so many seconds."""

    def interrupt(self) -> None:
        """Asks it to end, by SIGTERM; nothing where it has ended."""

    def kill(self) -> None:
        """Ends it."""

    def close(self) -> None:
        """Gives back what this process holds of it."""


class ForkServer:
    """A process that imports some modules and forks others from itself.

    Args:
        modules: Names of the modules.
        environment: Variables of the server.
    """

    def __init__(self, modules: Sequence[str], environment: Mapping[str, str]) -> None:
        life, self._life = os.pipe()
        self._answers, answers = os.pipe()
        # the linear algebra of NumPy would start threads at import, which no process could take along
        quiet = {"OPENBLAS_NUM_THREADS": "1"}
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "medassay.core.worker", "serve", str(life), str(answers), *modules],
            env={**environment, **quiet},
            stdin=subprocess.PIPE,
            pass_fds=[life, answers],
            start_new_session=True,
        )
        os.close(life)
        os.close(answers)
        self._rest = b""
        # of each process, in the order of their start: a number that the system gives may be given again
        self._pids: list[int] = []
        self._codes: list[int | None] = []  # None: it runs

    @staticmethod
    def is_possible() -> bool:
        """Whether this system can fork a process that has imported torch: macOS and Windows cannot."""
        return sys.platform == "linux"

    def start(
        self,
        arguments: Sequence[str],
        log: Path,
        stdout: bool,
        directory: Path | None,
        environment: Mapping[str, str],
    ) -> Worker | None:
        """Forks a process, see :func:`medassay.core.worker.serve` for what it is told; None where the server has ended."""
        order = {
            "arguments": list(arguments),
            "log": str(log.absolute()),
            "stdout": stdout,
            "directory": None if directory is None else str(directory),
            "environment": dict(environment),
        }
        number = len(self._pids)
        assert self._popen.stdin is not None
        with suppress(BrokenPipeError):
            self._popen.stdin.write(json.dumps(order).encode() + b"\n")
            self._popen.stdin.flush()
        while len(self._pids) == number and self.read_answers(1.0):
            pass
        return _Forked(self, number) if len(self._pids) > number else None

    def read_answers(self, seconds: float) -> bool:
        """Waits so long for answers at most and takes them in; gives whether the server is there."""
        if not select.select([self._answers], [], [], seconds)[0]:
            return True
        read = os.read(self._answers, 65536)
        *lines, self._rest = (self._rest + read).split(b"\n")
        for line in lines:
            answer = json.loads(line)
            if "code" in answer:  # of the latest of this pid: it is given again only once that has ended
                latest = max(number for number, pid in enumerate(self._pids) if pid == answer["pid"])
                self._codes[latest] = answer["code"]
            else:
                self._pids.append(answer["pid"])
                self._codes.append(None)
        return bool(read)

    def find_pid(self, number: int) -> int:
        """What the system calls a process, by its place in the order of their start."""
        return self._pids[number]

    def find_code(self, number: int, seconds: float = 0.0) -> int | None:
        """The exit code of a process, by its place in the order of their start; None if it still runs after so many seconds."""
        last = time.monotonic() + seconds
        there = True
        while there and self._codes[number] is None:
            left = last - time.monotonic()
            there = self.read_answers(max(0.0, left))
            if left <= 0:
                break
        if not there and self._codes[number] is None:  # nobody is left to say how it ended
            with suppress(ProcessLookupError):
                os.kill(self._pids[number], signal.SIGKILL)
            self._codes[number] = LOST
        return self._codes[number]

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._life)
        assert self._popen.stdin is not None
        with suppress(BrokenPipeError):
            self._popen.stdin.close()
        self._popen.terminate()  # it may still be importing
        self._popen.wait()
        os.close(self._answers)


class _Forked:
    """A :class:`Worker` of a fork server."""

    def __init__(self, server: ForkServer, number: int) -> None:
        self.server, self.number = server, number

    def poll(self) -> int | None:
        return self.server.find_code(self.number)

    def wait(self, seconds: float) -> bool:
        return self.server.find_code(self.number, seconds) is not None

    def interrupt(self) -> None:
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    def close(self) -> None:
        """Nothing is held."""

    def _send(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.server.find_pid(self.number), number)
