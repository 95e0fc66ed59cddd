"""Paths as users write them."""

from __future__ import annotations

import errno
import stat
from pathlib import Path
from typing import Literal

from medassay.core.errors import ConfigError, DataError, UserError


def expand_home(path: str | Path) -> Path:
    """``path`` with a ``~`` or ``~user`` at its beginning replaced by that home directory.

    Raises:
        ConfigError: The path names a user who does not exist.
    """
    if not str(path).startswith("~"):  # ./~ is a folder of that name
        return Path(path)
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{path}: there is no such home directory; write the path in full, or ./{path}") from error


def find_kind(path: Path, error: type[UserError] = DataError) -> Literal["directory", "file", "other"] | None:
    """What there is at ``path``, a link being what it leads to; None where there is nothing.

    Args:
        path: The path.
        error: What is raised where that cannot be known, as below a folder that may not be entered.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    except OSError as cause:
        if cause.errno == errno.ELOOP:
            return None
        closed = cause.errno in (errno.EACCES, errno.EPERM)
        advice = "make it and its folder readable, or name another" if closed else "name another"
        raise error(f"cannot read {path} ({cause.strerror}): {advice}") from cause
    return "directory" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "other"
