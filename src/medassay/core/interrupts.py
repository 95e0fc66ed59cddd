"""Signals: SIGTERM stops work the way Ctrl-C does."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from medassay.core.errors import Interrupted


def interrupt(signum: int, frame: Any) -> None:
    """A signal's handler."""
    raise Interrupted(signum)


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM raises :class:`Interrupted` inside, so that it and Ctrl-C both leave a run that can be resumed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C and SIGTERM do nothing inside, where an ending is being recorded: a second signal often follows the first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not one of Python's
