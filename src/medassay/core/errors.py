"""Errors that a user can mend.

Each message is one line: the key or file, the value, what is accepted, and the next step. The command line prints that
line and exits with code 2; nothing below the command line calls ``sys.exit``.
"""

from __future__ import annotations

import difflib
import errno
import signal
from collections.abc import Iterable
from pathlib import Path


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
    """Something could not be written: no permission, no space."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM: the signal's number and, where one was being trained, the run that can be resumed."""

    def __init__(self, signum: int = signal.SIGINT, run: Path | None = None) -> None:
        super().__init__(signum)
        self.signum = signum
        self.run = run


def suggest_nearest(word: str, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for the known word nearest to ``word``, or an empty string if none is near."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{found[0]}'?" if found else ""


def output_error(error: OSError | RuntimeError, where: object) -> OutputError:
    """The one-line form of a failed write at ``where``, with the next step."""
    text = str(error)
    code = getattr(error, "errno", None)
    # torch writes checkpoints in C++ and says only where its writer failed, never why
    of_torch = any(
        words in text for words in ("No space left", "file write failed", "inline_container", "PytorchStream")
    )
    if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or of_torch:
        return OutputError(
            f"no space left while writing {where}; what was written before is whole: free some space, then "
            "continue with resume=<run directory>"
        )
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        return OutputError(f"{where} is not writable: choose another place, e.g. hydra.run.dir=<directory>")
    return OutputError(f"cannot write {where} ({text}): choose another place, e.g. hydra.run.dir=<directory>")
