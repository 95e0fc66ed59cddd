"""Paths as users write them."""

from __future__ import annotations

from pathlib import Path

from medassay.core.errors import ConfigError


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
