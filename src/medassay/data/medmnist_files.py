"""Find, download and verify MedMNIST ``.npz`` files.

A file is known by its md5: a run records it, and a file under an official name whose md5 is not the published one is
refused, because such files are about and results on them cannot be compared. Sources: Yang et al., "MedMNIST v2",
Scientific Data 2023, and the table ``medmnist.INFO`` of the installed package.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medassay.core.errors import DataError, suggest_nearest
from medassay.core.paths import expand_home, find_kind
from medassay.data.downloads import watch_download
from medassay.data.npz import md5

SIZES = (28, 64, 128, 224)


@dataclass(frozen=True)
class DataFile:
    """The file a run reads, as its record names it.

    Attributes:
        path: Path of the file.
        md5: The md5 of its contents, 32 hexadecimal digits.
        published: Whether this md5 is one that MedMNIST publishes for the data set.
    """

    path: Path
    md5: str
    published: bool


def find_file(flag: str, *, size: int = 28, root: str | Path | None = None, phantom: str) -> DataFile:
    """The published file of a data set, downloaded first if it is not there.

    Args:
        flag: MedMNIST's name of the data set, e.g. ``bloodmnist``.
        size: Side of the images in pixels: 28, 64, 128 or 224.
        root: Folder of the files; None is medmnist's own cache folder.
        phantom: The choice of ``data=`` that runs without any file; error messages name it.

    Raises:
        DataError: The data set is unknown, 3-D or multi-label, or has no such size; the file is not the published one, or
            cannot be read or downloaded.
    """
    info = _info(flag)
    available = [side for side in SIZES if _key("MD5", side) in info]
    if size not in available:
        raise DataError(f"data.size={size}: {flag} is published at {', '.join(map(str, available))} pixels; choose one")
    path = find_root(root) / f"{_key(flag, size)}.npz"
    expected: str = info[_key("MD5", size)]
    if find_kind(path) is None:
        _download(flag, size, path, expected, phantom)
    actual = md5(path)
    if actual != expected:
        raise DataError(
            f"{path} is not the published {flag} file: expected md5 {expected}, found {actual}; delete it so that it is "
            f"downloaded, or, if this file is meant, name it: data.file={path}"
        )
    return DataFile(path, actual, published=True)


def choose_size(size: int) -> int:
    """The published side, in pixels, that images are best brought to ``size`` from: the same or the next larger one."""
    return next((side for side in SIZES if side >= size), SIZES[-1])


def name_file(path: str | Path, flag: str) -> DataFile:
    """A file the user names (``data.file=<path>``); any file laid out like MedMNIST's will do.

    ``published`` is True only if its md5 is the published one of ``flag`` at any size.

    Raises:
        DataError: The file does not exist, is a directory or cannot be read; or ``flag`` is unknown, 3-D or multi-label.
    """
    info = _info(flag)
    path = expand_home(path)
    if (kind := find_kind(path)) == "directory":
        raise DataError(f"data.file={path} is a directory: name an .npz file in MedMNIST's layout")
    if kind is None:
        raise DataError(
            f"data.file={path} does not exist: name an .npz file, or leave data.file out to use {flag}'s own"
        )
    actual = md5(path)
    return DataFile(path, actual, published=actual in {info.get(_key("MD5", side)) for side in SIZES})


def check_names(flag: str, classes: Sequence[str], aliases: Mapping[str, str] | None = None) -> None:
    """Compare our class names with MedMNIST's, in order.

    A name fits if, without regard to case and punctuation, it is the official one or begins at one of its words
    (``myelocytes`` fits ``immature granulocytes(myelocytes, ...)``), or if ``aliases`` says so.

    Args:
        flag: MedMNIST's name of the data set.
        classes: Our names, by class index.
        aliases: MedMNIST's name by our name, where they differ.

    Raises:
        DataError: The number of classes differs, or a name does not fit.
    """
    labels: Mapping[str, str] = _info(flag)["label"]
    official = [labels[str(index)] for index in range(len(labels))]
    if len(classes) != len(official):
        raise DataError(f"data.classes has {len(classes)} names, but {flag} has {len(official)}: {'; '.join(official)}")
    for index, (ours, theirs) in enumerate(zip(classes, official, strict=True)):
        words = _words((aliases or {}).get(ours, ours))
        if not words or f" {words}" not in f" {_words(theirs)}":
            raise DataError(
                f"data.classes[{index}]='{ours}' is not class {index} of {flag}, which is '{theirs}': use that name, "
                f"a word of it, or add an alias data.aliases={{'{ours}': '{theirs}'}}"
            )


def check_channels(flag: str, channels: int) -> None:
    """Compare the declared number of channels with MedMNIST's table.

    Raises:
        DataError: The numbers differ.
    """
    published = _info(flag)["n_channels"]
    if channels != published:
        raise DataError(f"data.channels={channels}, but {flag} has {published}: set data.channels={published}")


def read_licence(flag: str) -> str:
    """Name of a data set's licence.

    Raises:
        DataError: The data set is unknown, 3-D or multi-label.
    """
    return str(_info(flag)["license"])


def _info(flag: str) -> Mapping[str, Any]:
    """MedMNIST's entry of a 2-D single-label data set."""
    import medmnist  # slow: it imports torchvision and scikit-learn

    table: Mapping[str, Mapping[str, Any]] = medmnist.INFO
    usable = [name for name, info in table.items() if not _explain_unusable(name, info)]
    if flag not in table:
        hint = suggest_nearest(flag, usable)
        raise DataError(f"data.flag={flag} is no MedMNIST data set.{hint} Accepted: {', '.join(usable)}")
    if why := _explain_unusable(flag, table[flag]):
        raise DataError(f"data.flag={flag} {why}: choose one of {', '.join(usable)}")
    return table[flag]


def _explain_unusable(flag: str, info: Mapping[str, Any]) -> str:
    """Why a data set cannot be read; empty if it can."""
    if flag.endswith("3d"):
        return "is a set of 3-D volumes, and only 2-D images can be read"
    if str(info["task"]).startswith("multi-label"):
        return "is multi-label (several classes per image), and only sets with one class per image can be read"
    return ""


def _key(name: str, size: int) -> str:
    """How MedMNIST's table and files name something for images of this size: nothing is appended for 28."""
    return name if size == 28 else f"{name}_{size}"


def find_root(root: str | Path | None) -> Path:
    """The folder of the files: ``root``, or medmnist's own cache folder where that is None."""
    if root is not None:
        return expand_home(root)
    from medmnist.info import DEFAULT_ROOT  # not re-exported by the package

    if DEFAULT_ROOT is None:  # the home directory is not writable
        raise DataError("medmnist has no cache folder, the home directory is not writable: set data.root=<folder>")
    return Path(DEFAULT_ROOT)


def _download(flag: str, size: int, path: Path, expected: str, phantom: str) -> None:
    """Put the published file at ``path``; nothing appears there before its md5 is right."""
    new_folders = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Beside the target, so that the last step is a rename on one file system: it happens wholly or not at all.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}-") as temporary:
            _fetch(flag, size, temporary)
            arrived = Path(temporary) / path.name
            actual = md5(arrived)
            if actual != expected:
                raise ValueError(f"what arrived has md5 {actual}")
            os.replace(arrived, path)
    except Exception as error:
        with contextlib.suppress(OSError):
            for folder in new_folders:  # a mistyped data.root leaves nothing behind
                folder.rmdir()
        cause = _cause(error)
        if not isinstance(cause, Exception):
            raise cause from None  # medmnist catches Ctrl-C too and calls it a failed download
        url = _info(flag)[_key("url", size)]
        raise DataError(
            f"{path.name} is not in {path.parent} and could not be downloaded ({str(cause) or type(cause).__name__}): "
            f"get it from {url} and put it at {path} (md5 {expected}), or set data.root=<its folder>, or run without "
            f"it: data={phantom}"
        ) from error


def _fetch(flag: str, size: int, folder: str) -> None:
    """Let the medmnist package download a file into ``folder``."""
    import medmnist

    dataset = getattr(medmnist, medmnist.INFO[flag]["python_class"])
    with watch_download():
        dataset(split="val", download=True, root=folder, size=size)  # it also reads that split, a small one


def _cause(error: BaseException) -> BaseException:
    """What went wrong first: medmnist wraps every failure into many lines of advice."""
    while (inner := error.__cause__ or error.__context__) is not None:
        if not isinstance(error, RuntimeError):
            break
        error = inner
    return error


def _words(name: str) -> str:
    """The words of a name, lower case, one space between them."""
    return " ".join(re.findall(r"[a-z0-9]+", name.casefold()))
