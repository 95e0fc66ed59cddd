"""Read ``.npz`` files in MedMNIST's layout: ``<split>_images`` and ``<split>_labels``, every array checked."""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from medassay.core.errors import DataError
from medassay.core.types import LabelledImages

_Array = np.ndarray[Any, np.dtype[Any]]
_REPLACE = "delete it so that it is fetched or written anew, or name another with data.file=<path>"
_UNREADABLE = (OSError, ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)


def read_splits(
    path: Path, splits: Sequence[str], *, channels: int, size: int, num_classes: int
) -> list[LabelledImages]:
    """Some splits of a file in MedMNIST's layout, ``<split>_{images,labels}``, in the order asked for.

    Args:
        path: the file.
        splits: their names.
        channels: 1 for images stored as ``(N, size, size)``, 3 for ``(N, size, size, 3)``.
        size: side of the images in pixels.
        num_classes: labels must lie in ``0..num_classes-1``.

    Returns:
        Images ``(N, C, H, W) uint8``, contiguous; labels ``(N,) int64``.

    Raises:
        DataError: not an ``.npz``, damaged, a key is missing, or an array is not what is described above.
    """
    wanted = [f"{split}_{what}" for split in splits for what in ("images", "labels")]
    with _stream(path) as stream, _archive(path, stream) as archive:
        missing = [key for key in wanted if key not in archive.files]
        if missing:
            raise DataError(
                f"{path} has no {', '.join(missing)} (it holds {', '.join(archive.files) or 'nothing'}), expected "
                f"{', '.join(wanted)}: name another data.file"
            )
        found = []
        for split in splits:
            images = _images(path, f"{split}_images", archive, channels, size)
            labels = _labels(path, f"{split}_labels", archive, num_classes)
            if len(images) != len(labels):
                raise DataError(
                    f"{path}: {len(images)} '{split}_images', but {len(labels)} '{split}_labels': {_REPLACE}"
                )
            found.append(LabelledImages(torch.from_numpy(images), torch.from_numpy(labels)))
    return found


def read_samples(
    path: Path, *, channels: int, size: int, num_classes: int, resize: bool = False
) -> list[LabelledImages]:
    """The ``train_*`` images of a file and, if it has them, the ``val_*`` ones; see :func:`read_splits`.

    Args:
        path: the file.
        channels, size, num_classes: what is expected.
        resize: bring square images of another size to ``size`` (bicubic, antialiased); otherwise they are refused.

    Raises:
        DataError: as :func:`read_splits`; images of another size.
    """
    with _stream(path) as stream, _archive(path, stream) as archive:
        splits = ["train", *(["val"] if "val_images" in archive.files else [])]
        held = "train_images" in archive.files
        shape: tuple[int, ...] = tuple(_array(path, "train_images", archive).shape) if held else ()
    square = len(shape) in (3, 4) and shape[1] == shape[2]
    if not square or shape[1] == size:
        return read_splits(path, splits, channels=channels, size=size, num_classes=num_classes)
    if not resize:
        raise DataError(
            f"{path}: 'train_images' are {shape[1]}x{shape[2]}, the data set {size}x{size}: give resize=true to resize them"
        )
    found = read_splits(path, splits, channels=channels, size=shape[1], num_classes=num_classes)
    return [LabelledImages(_resize(split.images, size), split.labels) for split in found]


def _resize(images: torch.Tensor, size: int) -> torch.Tensor:
    scaled = torch.nn.functional.interpolate(images.float(), (size, size), mode="bicubic", antialias=True)
    return scaled.round().clamp(0, 255).to(torch.uint8)


def md5(path: Path) -> str:
    """The md5 of a file, 32 hexadecimal digits, read in blocks.

    Raises:
        DataError: if it cannot be read.
    """
    with _stream(path) as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _stream(path: Path) -> io.BufferedReader:
    """The file, opened for reading."""
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}): {_REPLACE}") from error


def _archive(path: Path, stream: BinaryIO) -> np.lib.npyio.NpzFile:
    """The arrays of an ``.npz`` file, not yet read; pickled objects stay unread."""
    if not zipfile.is_zipfile(stream):
        raise DataError(f"{path} is not an .npz file, or was cut short: {_REPLACE}")
    stream.seek(0)
    try:
        archive: np.lib.npyio.NpzFile = np.load(stream, allow_pickle=False)
    except _UNREADABLE as error:
        raise DataError(f"{path} is a damaged .npz file ({error}): {_REPLACE}") from error
    return archive


def _array(path: Path, key: str, archive: np.lib.npyio.NpzFile) -> _Array:
    """One array of the archive."""
    try:
        array: _Array = archive[key]
    except MemoryError as error:
        raise DataError(f"{path}: '{key}' {explain_lack_of_memory(archive, key)}") from error
    except _UNREADABLE as error:
        raise DataError(f"{path}: '{key}' cannot be read ({error}): expected plain numbers; {_REPLACE}") from error
    return array


def explain_lack_of_memory(archive: np.lib.npyio.NpzFile, key: str) -> str:
    """Why an array cannot be held in memory, and what to do: its header lies about its size, or it is too large."""
    member = archive.zip.getinfo(f"{key}.npy")  # type: ignore[union-attr]
    with archive.zip.open(member) as stream:  # type: ignore[union-attr]
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
    claimed = math.prod(shape) * dtype.itemsize
    if claimed > member.file_size:
        return f"is damaged: its header says {claimed:,} bytes, it has {member.file_size:,}; {_REPLACE}"
    return f"does not fit into memory ({claimed:,} bytes): choose a smaller data.size"


def _images(path: Path, key: str, archive: np.lib.npyio.NpzFile, channels: int, size: int) -> _Array:
    """The images of one split, ``(N, C, H, W) uint8``."""
    images = _array(path, key, archive)
    if images.dtype != np.uint8:
        raise DataError(f"{path}: '{key}' is {images.dtype}, expected uint8: scale it to 0..255 and save it as uint8")
    expected = (size, size) if channels == 1 else (size, size, channels)
    if images.shape[1:] != expected or images.ndim == 0:
        shape = ", ".join(map(str, expected))
        raise DataError(
            f"{path}: '{key}' has shape {images.shape}, expected (N, {shape}): set data.size and data.channels to what "
            "the file holds, or name another data.file"
        )
    if len(images) == 0:
        raise DataError(f"{path}: '{key}' is empty, expected at least one image: name another data.file")
    channel_first = images[:, None] if channels == 1 else images.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(channel_first)


def _labels(path: Path, key: str, archive: np.lib.npyio.NpzFile, num_classes: int) -> _Array:
    """The labels of one split, ``(N,) int64``."""
    labels = _array(path, key, archive)
    if labels.ndim == 2 and labels.shape[1] > 1:
        raise DataError(
            f"{path}: '{key}' has shape {labels.shape}, a multi-label set; expected one class per image, (N, 1) or "
            "(N,): name another data.file"
        )
    if labels.ndim not in (1, 2) or labels.dtype.kind not in "iu":
        raise DataError(
            f"{path}: '{key}' is {labels.dtype} of shape {labels.shape}, expected integers of shape (N, 1) or (N,): "
            "save the labels as class indices from 0"
        )
    flat = labels.reshape(-1)
    if flat.size and (flat.min() < 0 or flat.max() >= num_classes):
        raise DataError(
            f"{path}: '{key}' holds labels {flat.min()}..{flat.max()}, expected 0..{num_classes - 1}: list every class "
            "in data.classes, or name another data.file"
        )
    return flat.astype(np.int64)
