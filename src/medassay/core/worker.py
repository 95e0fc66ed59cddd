"""What runs inside a process that another one started: a call's function, or a server that forks such processes.

usage: python -m medassay.core.worker <package.module:function> <payload file> <result file>
       python -m medassay.core.worker serve <pipe> <pipe> <module> ...

Importing this imports nothing else of ours that takes time: it is the first thing that each such process does.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, cast

from medassay.core.interrupts import terminable


def answer(function: str, payload: Path, result: Path) -> int:
    """Hands the content of ``payload`` to ``package.module:name`` and writes what that gives; returns the exit code.

    Interrupted, or left alone by the process that started it, it stops the function as Ctrl-C does and writes nothing.
    """
    module, _, name = function.partition(":")
    try:
        with terminable():
            _end_with_parent()
            work = cast(Callable[[bytes], bytes], getattr(importlib.import_module(module), name))
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


# --- a server of such processes --------------------------------------------------------------------------------------


def serve(life: int, answers: int, modules: list[str]) -> int:
    """Imports ``modules``, then forks a process for each order on standard input; returns the exit code, also in those.

    An order is a line of JSON: ``arguments`` of :func:`answer`, ``log`` (a file), ``stdout`` (whether the log gets that,
    too), ``directory`` and ``environment``. The answers: ``{"pid": …}`` at once, and ``{"pid": …, "code": …}`` when the
    process has ended. The server ends when standard input does.

    Args:
        life: Number of a pipe that breaks when the process that started this one is gone; the processes' standard input.
        answers: Number of the pipe that takes the answers.
        modules: Names of the modules.
    """
    for module in modules:
        importlib.import_module(module)
    sys.stdout.flush()  # what an import printed is not to be printed by each process again
    gc.collect()
    gc.freeze()  # what is there now stays: looking at it would copy its pages into each process
    rest, children = b"", 0
    while True:
        if select.select([0], [], [], 0.02 if children else None)[0]:
            if not (read := os.read(0, 65536)):
                return 0
            *orders, rest = (rest + read).split(b"\n")
            for line in orders:
                order = json.loads(line)
                if (pid := os.fork()) == 0:
                    os.close(answers)
                    _end(_follow(order, life))
                children += 1
                os.write(answers, json.dumps({"pid": pid}).encode() + b"\n")
        while children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            children -= 1
            os.write(answers, json.dumps({"pid": pid, "code": os.waitstatus_to_exitcode(status)}).encode() + b"\n")


def _follow(order: dict[str, Any], life: int) -> int:
    """What a process does that was forked for ``order``."""
    os.setsid()  # Ctrl-C reaches it through the process that gave the order alone, once
    os.dup2(life, 0)
    log = os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.dup2(log, 2)
    if order["stdout"]:
        os.dup2(log, 1)
    os.environ.update(order["environment"])
    if order["directory"] is not None:
        os.chdir(order["directory"])
    threads = order["environment"].get("OMP_NUM_THREADS", "")
    if "torch" in sys.modules and threads.isdecimal():  # it has read the variable when it was imported
        sys.modules["torch"].set_num_threads(int(threads))
    function, payload, result = order["arguments"]
    try:
        return answer(function, Path(payload), Path(result))
    except Exception:  # as an interpreter of its own ends
        traceback.print_exc()
        return 1


def _end(code: int) -> NoReturn:
    """Ends a forked process as ``multiprocessing`` ends its own: exit handlers, no taking apart of the interpreter.

    That takes a second, and libraries print that objects outlive it: those that were frozen.
    """
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads that are no daemons
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def main() -> int:
    """Does what the command line says."""
    if sys.argv[1] == "serve":
        with suppress(KeyboardInterrupt):
            return serve(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
    return answer(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))


if __name__ == "__main__":
    sys.exit(main())
