"""The image files below a folder: which are read, what is left out by kind, and what cannot be followed."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from medassay.core.errors import DataError
from medassay.core.paths import find_kind

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
DICOM = frozenset({".dcm", ".dicom"})
ACCEPTED_KINDS = "jpg, jpeg, bmp, tif, tiff, webp, dcm"  # besides png
DICOM_ADVICE = "pip install 'medassay[dicom]' reads them; or convert them to PNG"
HIDDEN, IN_SUB_FOLDERS, OUTSIDE_CLASSES = "hidden", "in sub-folders", "outside the class folders"


class Problem(NamedTuple):
    """A path that cannot be followed, and why with the next step."""

    path: Path
    reason: str


@dataclass
class ImageFiles:
    """What lies below a folder.

    Attributes:
        images: The image files, sorted by their paths below the folder.
        left_out: Number of files that are not read, by kind: an extension, ``hidden`` or ``in sub-folders``.
        problems: Links that lead nowhere or into themselves, and files and folders that cannot be opened.
    """

    images: list[Path] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)

    def refuse_problems(self) -> None:
        """Raises :class:`DataError` with the first problem, if there is one."""
        if self.problems:
            path, reason = self.problems[0]
            raise DataError(f"{path} {reason}")


def is_readable(extension: str) -> bool:
    """Whether files with ``extension`` (lower case, dot included) are read; DICOM files need pydicom."""
    return extension in PICTURES or (extension in DICOM and importlib.util.find_spec("pydicom") is not None)


def list_images(folder: Path, *, nested: bool) -> ImageFiles:
    """The image files of a folder; symbolic links are followed.

    Args:
        folder: A folder.
        nested: Whether to look into the folder's sub-folders, at any depth; otherwise the images there are counted as left out.
    """
    files = ImageFiles()
    _walk(folder, [Path(os.path.realpath(folder))], nested, files)
    files.images.sort(key=lambda file: file.relative_to(folder).as_posix())
    return files


def list_folders(folder: Path) -> list[Path]:
    """The sub-folders of a folder that are not hidden, sorted by name; a link counts as what it leads to.

    Raises:
        DataError: The folder or what is in it cannot be opened, or a link without extension leads nowhere: it may have been a
            sub-folder.
    """
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder} {_explain_unopened(error)}") from error
    inner = []
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if find_kind(entry) == "directory":
            inner.append(entry)
        elif _leads_nowhere(entry) and not entry.suffix:
            raise DataError(f"{entry} {_NOWHERE}")
    return inner


_NOWHERE = "is a link that leads nowhere: restore what it leads to, or remove it"


def _walk(folder: Path, above: Sequence[Path], nested: bool, files: ImageFiles) -> None:
    """Adds what is in ``folder``; ``above`` are the real paths of the folders on the way to it, itself the last."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        files.problems.append(Problem(folder, _explain_unopened(error)))
        return
    for entry in entries:
        try:
            _add(entry, above, nested, files)
        except OSError as error:  # the folder may be listed but not entered
            files.problems.append(Problem(entry, _explain_unopened(error)))


def _add(entry: Path, above: Sequence[Path], nested: bool, files: ImageFiles) -> None:
    """Adds a file, or what is in a folder."""
    extension, hidden = entry.suffix.lower(), entry.name.startswith(".")
    if entry.is_dir():
        if not hidden:
            _enter(entry, above, nested, files)
    elif hidden:
        files.left_out.update([HIDDEN] if is_readable(extension) else [])  # what a Mac leaves holds no image
    elif _leads_nowhere(entry) and (is_readable(extension) or not extension):
        files.problems.append(Problem(entry, _NOWHERE))
    elif is_readable(extension) and entry.is_file():
        files.images.append(entry)
    else:
        files.left_out[extension or "no extension"] += 1


def _enter(entry: Path, above: Sequence[Path], nested: bool, files: ImageFiles) -> None:
    """Adds what is in a sub-folder, or counts it."""
    real = above[-1] / entry.name
    if entry.is_symlink():
        real = Path(os.path.realpath(entry))
        if any(folder.is_relative_to(real) for folder in above):
            reason = f"is a link to {real}, which contains it, so that reading would never end: remove the link"
            files.problems.append(Problem(entry, reason))
            return
    if nested:
        _walk(entry, [*above, real], nested, files)
        return
    inner = ImageFiles()
    _walk(entry, [*above, real], True, inner)
    if inner.images:
        files.left_out[IN_SUB_FOLDERS] += len(inner.images)


def _leads_nowhere(entry: Path) -> bool:
    return entry.is_symlink() and not entry.exists()


def _explain_unopened(error: OSError) -> str:
    return f"cannot be opened ({error.strerror}): make it readable, or remove it"


def compute_fingerprint(top: Path, files: Sequence[Path]) -> str:
    """An md5 over the names of ``files`` below ``top`` and their contents, for a run's record.

    Raises:
        DataError: There are no files, or one cannot be read.
    """
    if not files:
        raise DataError(f"{top} holds no images: there is nothing to take a fingerprint of")
    total = hashlib.md5(usedforsecurity=False)
    for file in sorted(files, key=lambda file: file.relative_to(top).as_posix()):
        try:
            content = file.read_bytes()
        except OSError as error:
            raise DataError(f"cannot read {file} ({error.strerror}): make it readable, or remove it") from error
        name = os.fsencode(file.relative_to(top).as_posix())  # a file's name is bytes, which need not be text
        total.update(name + b"\0" + hashlib.md5(content, usedforsecurity=False).digest())
    return total.hexdigest()


def describe_left_out(left_out: Mapping[str, int]) -> str:
    """``12 .dcm (…), 3 .txt``: what is left out, by kind, with the next step where there is one."""
    return ", ".join(
        f"{count:,} {kind}{f' ({DICOM_ADVICE})' if kind in DICOM else ''}" for kind, count in sorted(left_out.items())
    )
