"""Files written whole or not at all, and recognised when they are damaged."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from medassay.core.errors import CheckpointError, UserError, is_failed_write, output_error

logger = logging.getLogger(__name__)

Content = TypeVar("Content")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write to; renamed to ``path`` once that succeeded, removed if it did not.

    Raises:
        OutputError: The file cannot be written; what ``path`` held before is untouched.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")  # one of its own for each writer
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        _remove_partial(partial)
        if not is_failed_write(error):  # of what was to be written
            raise
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
        OutputError: The lock file cannot be made.
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
        CheckpointError: The file cannot be read, or holds something else.
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


def refuse_unwritable(directory: Path) -> None:
    """Tries whether ``directory``, which need not exist, can be written; nothing is left behind.

    Raises:
        OutputError: The directory cannot be written.
    """
    nearest = next(place for place in (directory.absolute(), *directory.absolute().parents) if os.path.exists(place))
    try:
        with tempfile.TemporaryDirectory(dir=nearest, prefix="."):
            return
    except OSError as error:
        raise output_error(error, directory) from error


def sha256(path: Path) -> str:
    """The sha256 of a file, 64 hexadecimal digits, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def describe_zip_damage(path: Path) -> str | None:
    """What is damaged in a zip archive (torch's checkpoints and numpy's ``.npz`` are such); None where it is whole.

    Every member is compared with its checksum, which torch does not do when it loads a checkpoint.

    Raises:
        OSError: The file cannot be opened.
    """
    with path.open("rb") as stream:
        try:
            with zipfile.ZipFile(stream) as archive:
                member = archive.testzip()
        except Exception as error:  # flipped bytes in a header raise many kinds: zlib's, struct's, unknown methods
            return str(error) or type(error).__name__
    return None if member is None else f"the checksum of {member} does not fit"


def read_cached(path: Path, read: Callable[[Path], Content]) -> Content | None:
    """What ``read`` makes of a cached file; None where there is none, or a damaged one, which is said in one line.

    Args:
        path: The file.
        read: Function that reads the file; it raises :class:`UserError` where the file is damaged.
    """
    if not path.exists():
        return None
    try:
        return read(path)
    except UserError:
        logger.warning("%s is damaged and is made anew", path)
        return None


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` as it is, in UTF-8.

    Raises:
        OutputError: The file cannot be written.
    """
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="")


def write_json(path: Path, values: Any) -> None:
    """``values`` as indented JSON; NaN and infinity as null, since JSON has neither."""
    write_text(path, json.dumps(_replace_non_finite(values), indent=2, ensure_ascii=False) + "\n")


def write_checked_json(path: Path, values: dict[str, Any]) -> None:
    """:func:`write_json` with the values' checksum among them, for :func:`read_checked_json`."""
    plain = _replace_non_finite(values)
    write_json(path, {**plain, "sha256": _checksum(plain)})


def read_checked_json(path: Path) -> dict[str, Any]:
    """The values that :func:`write_checked_json` left in a file; those of an older version, which have no checksum, too.

    Raises:
        CheckpointError: The file cannot be read, or its checksum does not fit.
    """
    values = read_json(path)
    checksum = values.pop("sha256", None)
    if checksum is not None and checksum != _checksum(values):
        raise CheckpointError(f"{path} is damaged: restore or delete it")
    return values


def _checksum(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _replace_non_finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _replace_non_finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_replace_non_finite(v) for v in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value
