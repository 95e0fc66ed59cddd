"""How files are fetched: not for ever, and without a progress bar where nobody watches."""

from __future__ import annotations

import contextlib
import io
import socket
import sys
from collections.abc import Iterator

CONNECTION_TIMEOUT = 30.0  # seconds without a byte; downloaders set none and would hang where packets are dropped


@contextlib.contextmanager
def watch_download() -> Iterator[None]:
    """Downloads inside end after :data:`CONNECTION_TIMEOUT` of silence; a progress bar is shown on a terminal only.

    In a log file each step of the bar would be a line.
    """
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(CONNECTION_TIMEOUT)
    quiet = contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO())
    try:
        with quiet:
            yield
    finally:
        socket.setdefaulttimeout(timeout)
