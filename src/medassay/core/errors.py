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
        cause: ``full`` (no space left), ``refused`` (any other reason) or ``unclear`` (it may have been reading that failed);
            None where the message names the next step.
    """

    def __init__(self, message: str, cause: Literal["full", "refused", "unclear"] | None = None) -> None:
        super().__init__(message)
        self.cause = cause
        self.advice = {
            "full": "free some space, then continue",
            "refused": "choose another place",
            "unclear": "see that it is there and that you may read and write it",
            None: "",
        }[cause]
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

    An error of the operating system may be of reading, too: the step is then one for a write alone.

    Args:
        full: The next step where no space is left.
        refused: The next step where the place cannot be written for another reason.
    """
    try:
        yield
    except BrokenPipeError:  # whoever reads what is printed has read enough: no other place is needed
        raise
    except (OutputError, OSError) as error:
        failure = error if isinstance(error, OutputError) else system_error(error)
        if not failure.is_advised:
            steps = {"full": full, "refused": refused, "unclear": f"if it was to be written, {refused}"}
            failure.advice, failure.is_advised = steps[failure.cause or "refused"], True
        if failure is error:
            raise
        raise failure from error


def output_error(error: OSError | RuntimeError, where: object) -> OutputError:
    """The one-line form of a failed write at ``where``."""
    where = os.fsdecode(where) if isinstance(where, bytes) else where
    code = getattr(error, "errno", None)
    if _is_full(error):
        return OutputError(f"no space left while writing {where}; what was written before is whole", "full")
    if (obstacle := _find_obstacle(where, "write", "refused")) is not None:
        return obstacle
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        return OutputError(f"{where} is not writable", "refused")
    return OutputError(f"cannot write {where} ({_explain_system(error)})", "refused")


def system_error(error: OSError, where: object = "the output") -> OutputError:
    """The one-line form of an error of the operating system that may be of reading as well as of writing.

    Args:
        error: The error.
        where: What was being written, if it was a write: for a full disk, which need not name the file.
    """
    if _is_full(error) or error.errno == errno.EROFS:  # which no reading ends in
        return output_error(error, error.filename or where)
    place = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
    if (obstacle := _find_obstacle(place, "read or write", "unclear")) is not None:
        return obstacle
    return OutputError(f"cannot read or write {place or 'a file'} ({_explain_system(error)})", "unclear")


def is_failed_write(error: OSError | RuntimeError) -> bool:
    """Whether an error that ended the writing of a file is of the writing: torch's own is a RuntimeError."""
    return isinstance(error, OSError) or any(words in str(error) for words in (*_OF_TORCH, "Parent directory"))


# torch writes checkpoints in C++ and says where its writer failed, but why only where it could not open the file
_OF_TORCH = ("No space left", "file write failed", "inline_container", "PytorchStream", "iostream error")
_OPENING = "strerror: "


def _is_full(error: OSError | RuntimeError) -> bool:
    text = str(error)
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or "No space left" in text:
        return True
    return _OPENING not in text and any(words in text for words in _OF_TORCH)


def _explain_system(error: OSError | RuntimeError) -> str:
    """Why reading or writing failed, in the system's words."""
    code = getattr(error, "errno", None)
    return os.strerror(code) if code is not None else str(error).rpartition(_OPENING)[2]


def _find_obstacle(where: object, doing: str, cause: Literal["refused", "unclear"]) -> OutputError | None:
    """What stands at or above the path ``where`` in place of a directory; None for nothing, and for what is no path."""
    if not isinstance(where, (str, Path)):
        return None
    for place in (Path(where), *Path(where).parents):
        if os.path.islink(place) and not os.path.exists(place):
            target = os.readlink(place)
            return OutputError(
                f"cannot {doing} {where}: {place} is a link to {target}, which does not exist; remove the link, or make its "
                "target"
            )
        if place != Path(where) and os.path.isfile(place):
            return OutputError(f"cannot {doing} {where}: {place} is a file, no directory", cause)
    return None
