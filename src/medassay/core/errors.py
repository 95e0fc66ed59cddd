"""Errors that a user can mend.

Each message is one line: the key or file, the value, what is accepted, and the next step. The command line prints that
line and exits with code 2; nothing below the command line calls ``sys.exit``.
"""

from __future__ import annotations

import difflib
import errno
import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal


class UserError(Exception):
    """Something the user can mend; ``str(error)`` is one line that says how."""

    def __init__(self, message: str) -> None:
        text = " ".join(message.split())
        super().__init__(text.encode("utf-8", "backslashreplace").decode())  # a file's name may be no text


class ConfigError(UserError):
    """A key, group or value of the configuration is wrong."""


class DataError(UserError):
    """A data file is missing, damaged, or not what the configuration says it is."""


class CheckpointError(UserError):
    """A run directory or checkpoint cannot be read, or belongs to another architecture."""


class TrainingError(UserError):
    """Training cannot go on (a loss that is not finite, or one that collapsed)."""


class OutputError(UserError):
    """Something could not be written: no permission, no space.

    Args:
        message: What is wrong. Where a ``cause`` is given, :func:`advise` adds the next step; otherwise the message names it.
        cause: ``full`` (no space left) or ``refused`` (any other reason); None where the message names the next step.
    """

    def __init__(self, message: str, cause: Literal["full", "refused"] | None = None) -> None:
        super().__init__(message)
        self.cause = cause
        self.advice = {"full": "free some space, then continue", "refused": "choose another place", None: ""}[cause]
        self.is_advised = cause is None

    def __str__(self) -> str:
        return f"{super().__str__()}: {self.advice}" if self.advice else super().__str__()


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM: the signal's number and, where one was being trained, the run that can be resumed."""

    def __init__(self, signum: int = signal.SIGINT, run: Path | None = None) -> None:
        super().__init__(signum)
        self.signum = signum
        self.run = run


def suggest_nearest(word: str, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for the known word nearest to ``word``, or an empty string if none is near."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{matches[0]}'?" if matches else ""


@contextmanager
def advise(*, full: str, refused: str) -> Iterator[None]:
    """Names the next step where something inside cannot be written; the innermost advice stays.

    Args:
        full: The next step where no space is left.
        refused: The next step where the place cannot be written for another reason.
    """
    try:
        yield
    except (OutputError, OSError) as error:
        failure = error if isinstance(error, OutputError) else output_error(error, error.filename or "the output")
        if not failure.is_advised:
            failure.advice, failure.is_advised = full if failure.cause == "full" else refused, True
        if failure is error:
            raise
        raise failure from error


def output_error(error: OSError | RuntimeError, where: object) -> OutputError:
    """The one-line form of a failed write at ``where``."""
    text = str(error)
    where = os.fsdecode(where) if isinstance(where, bytes) else where
    code = getattr(error, "errno", None)
    # torch writes checkpoints in C++ and says only where its writer failed, never why
    of_torch = any(
        words in text for words in ("No space left", "file write failed", "inline_container", "PytorchStream")
    )
    if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or of_torch:
        return OutputError(f"no space left while writing {where}; what was written before is whole", "full")
    if isinstance(where, (str, Path)) and (obstacle := _find_obstacle(Path(where))) is not None:
        return obstacle
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        return OutputError(f"{where} is not writable", "refused")
    reason = os.strerror(code) if code is not None else text
    return OutputError(f"cannot write {where} ({reason})", "refused")


def _find_obstacle(where: Path) -> OutputError | None:
    """What stands at or above the path ``where`` in place of a directory; None for nothing."""
    for place in (where, *where.parents):
        if os.path.islink(place) and not os.path.exists(place):
            target = os.readlink(place)
            return OutputError(
                f"cannot write {where}: {place} is a link to {target}, which does not exist; remove the link, or make its "
                "target"
            )
        if place != where and os.path.isfile(place):
            return OutputError(f"cannot write {where}: {place} is a file, no directory", "refused")
    return None
