"""Writing files whole or not at all."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from medassay.core.errors import CheckpointError, output_error


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write to; renamed to ``path`` once that succeeded, removed if it did not.

    Raises:
        OutputError: the file cannot be written; what ``path`` held before is untouched.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")  # one of its own for each writer
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        _remove_partial(partial)
        raise output_error(error, path) from error
    except BaseException:
        _remove_partial(partial)
        raise


def _remove_partial(partial: Path) -> None:
    try:
        partial.unlink(missing_ok=True)
    except OSError:  # its folder is no folder: there is nothing to forget
        return


@contextmanager
def file_lock(path: Path, wait: float = 5.0) -> Iterator[bool]:
    """Holds the lock file ``path`` for this process alone; gives whether that succeeded within ``wait`` seconds.

    The operating system frees it when the process ends, even if it is killed. On a network file system it holds between
    machines where that passes locks on (NFS 4 does).

    Raises:
        OutputError: the file cannot be made.
    """
    lock = FileLock(path, timeout=wait)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(Timeout):
            lock.acquire()
    except OSError as error:
        raise output_error(error, path) from error
    try:
        yield lock.is_locked
    finally:
        lock.release()


def read_json(path: Path) -> dict[str, Any]:
    """The table of names and values in a JSON file; empty if there is no such file.

    Raises:
        CheckpointError: it cannot be read, or holds something else.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it holds no table of names and values")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): restore or delete it") from error
    return values


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` as it is, in UTF-8.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="")


def write_json(path: Path, values: Any) -> None:
    """``values`` as indented JSON; NaN and infinity as null, since JSON has neither."""
    write_text(path, json.dumps(_replace_non_finite(values), indent=2, ensure_ascii=False) + "\n")


def _replace_non_finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _replace_non_finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_replace_non_finite(v) for v in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value
