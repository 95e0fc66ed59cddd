"""Read ``.npz`` files in MedMNIST's layout: ``<split>_images`` and ``<split>_labels``, every array checked."""

from __future__ import annotations

import hashlib
import io
import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch

from medassay.core.errors import DataError
from medassay.core.types import LabelledImages
from medassay.data.decoding import LOST_SCALING, has_lost_scaling

_Array = np.ndarray[Any, np.dtype[Any]]
_REPLACE = "save it anew, or name another with data.file=<path>"
SET_SHAPE = "set data.size and data.channels to what the file holds, or "  # where the file is the data set itself
BLOCK = 512  # images that are resized at a time
UNREADABLE = (  # what numpy and zipfile raise for a damaged file; a header is a line of Python
    *(OSError, ValueError, EOFError, KeyError, RuntimeError, SyntaxError, tokenize.TokenError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
)


def read_splits(
    path: Path, splits: Sequence[str], *, channels: int, size: int, num_classes: int, resize: bool | None = None
) -> list[LabelledImages]:
    """Some splits of a file in MedMNIST's layout, ``<split>_{images,labels}``, in the order asked for.

    Args:
        path: Path of the file.
        splits: Names of the splits.
        channels: 1 for images stored as ``(N, size, size)``, 3 for ``(N, size, size, 3)``.
        size: Side of the images in pixels.
        num_classes: Number of classes; labels must lie in ``0..num_classes-1``.
        resize: Whether to bring square images of another size to ``size`` (bicubic, antialiased); otherwise they are refused,
            with the advice to give data.resize=true unless this is None.

    Returns:
        Images ``(N, C, H, W) uint8``, contiguous; labels ``(N,) int64``.

    Raises:
        DataError: The file is no ``.npz`` or damaged, a key is missing, or an array is not what is described above.
    """
    required = [f"{split}_{what}" for split in splits for what in ("images", "labels")]
    with open_archive(path) as archive:
        missing = [key for key in required if key not in archive.files]
        if missing:
            raise DataError(
                f"{path} has no {', '.join(missing)} (it holds {', '.join(archive.files) or 'nothing'}), expected "
                f"{', '.join(required)}: name another data.file"
            )
        side = _side(path, splits[0], archive) if resize else None  # all splits of a file have one size
        for split in splits:
            _check_headers(path, split, archive, channels, side or size, num_classes, may_resize=resize is False)
        loaded = []
        for split in splits:
            images = torch.from_numpy(_images(path, f"{split}_images", archive, channels))
            labels = _labels(path, f"{split}_labels", archive, num_classes)
            loaded.append(LabelledImages(_resize(images, size), torch.from_numpy(labels)))
    return loaded


def read_side(path: Path, split: str) -> int | None:
    """The side in pixels of a split's square images, by their header; None where they are none."""
    with open_archive(path) as archive:
        return _side(path, split, archive) if f"{split}_images" in archive.files else None


def _side(path: Path, split: str, archive: np.lib.npyio.NpzFile) -> int | None:
    shape = read_header(path, f"{split}_images", archive).shape
    return shape[1] if len(shape) in (3, 4) and shape[1] == shape[2] else None


def read_samples(
    path: Path, *, channels: int, size: int, num_classes: int, resize: bool = False
) -> list[LabelledImages]:
    """The ``train_*`` images of a file and, if it has them, the ``val_*`` ones; see :func:`read_splits`.

    Args:
        path: Path of the file.
        channels, size, num_classes, resize: As in :func:`read_splits`.

    Raises:
        DataError: :func:`read_splits` refuses the file, or images have another size.
    """
    with open_archive(path) as archive:
        splits = ["train", *(["val"] if "val_images" in archive.files else [])]
    side = read_side(path, "train")
    if side not in (None, size) and not resize:
        raise DataError(
            f"{path}: 'train_images' are {side}x{side}, the data set {size}x{size}: give resize=true to resize them"
        )
    return read_splits(path, splits, channels=channels, size=size, num_classes=num_classes, resize=resize or None)


def read_shape(path: Path, key: str) -> tuple[int, ...]:
    """The shape of one array of a file; empty if the file has no such array.

    Raises:
        DataError: The file is no ``.npz`` or damaged.
    """
    with open_archive(path) as archive:
        return read_header(path, key, archive).shape if key in archive.files else ()


def _resize(images: torch.Tensor, size: int) -> torch.Tensor:
    """Square ``images (N, C, H, H) uint8`` of ``size`` pixels a side: bicubic, antialiased; a block at a time, for memory."""
    if images.shape[-1] == size:
        return images
    resized = []
    for block in torch.split(images, BLOCK):
        scaled = torch.nn.functional.interpolate(block.float(), (size, size), mode="bicubic", antialias=True)
        resized.append(scaled.round().clamp(0, 255).to(torch.uint8))
    return torch.cat(resized)


def md5(path: Path) -> str:
    """The md5 of a file, 32 hexadecimal digits, read in blocks.

    Raises:
        DataError: The file cannot be read.
    """
    with _stream(path) as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


@contextmanager
def open_archive(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    """The arrays of an ``.npz`` file, not yet read: :func:`read_header` and :func:`read_array` do that.

    Raises:
        DataError: The file cannot be opened, or is no ``.npz``.
    """
    with _stream(path) as stream, _archive(path, stream) as archive:
        yield archive


def _stream(path: Path) -> io.BufferedReader:
    """The file, opened for reading."""
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(
            f"cannot read {path} ({error.strerror}): make it readable, or name another with data.file=<path>"
        ) from error


def _archive(path: Path, stream: BinaryIO) -> np.lib.npyio.NpzFile:
    """The arrays of an ``.npz`` file, not yet read; pickled objects stay unread."""
    if not zipfile.is_zipfile(stream):
        raise DataError(f"{path} is not an .npz file, or was cut short: {_REPLACE}")
    stream.seek(0)
    try:
        archive: np.lib.npyio.NpzFile = np.load(stream, allow_pickle=False)
    except UNREADABLE as error:
        raise DataError(f"{path} is a damaged .npz file ({error}): {_REPLACE}") from error
    return archive


class ArrayHeader(NamedTuple):
    """What the header of a stored array says of it."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def read_header(path: Path, key: str, archive: np.lib.npyio.NpzFile) -> ArrayHeader:
    """The shape and type of one array of an archive; nothing is unpacked but its header.

    Raises:
        DataError: The array is damaged, holds Python objects, or its size is not what its header says.
    """
    stored = archive.zip
    assert stored is not None
    try:
        member = stored.getinfo(f"{key}.npy" if f"{key}.npy" in stored.namelist() else key)
        with stored.open(member) as stream:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(stream)
            start = stream.tell()
    except (MemoryError, *UNREADABLE) as error:
        raise DataError(f"{path}: '{key}' cannot be read ({error}): expected plain numbers; {_REPLACE}") from error
    if dtype.hasobject:
        raise DataError(f"{path}: '{key}' cannot be read (it holds Python objects): expected plain numbers; {_REPLACE}")
    announced, there = math.prod(shape) * dtype.itemsize, member.file_size - start
    if announced != there:
        raise DataError(f"{path}: '{key}' is damaged ({there:,} bytes, its header says {announced:,}): {_REPLACE}")
    return ArrayHeader(tuple(shape), dtype)


def read_array(path: Path, key: str, archive: np.lib.npyio.NpzFile) -> _Array:
    """One array of the archive, unpacked.

    Raises:
        DataError: The array is damaged, holds Python objects, or does not fit into memory.
    """
    try:
        array: _Array = archive[key]
    except MemoryError as error:
        raise DataError(f"{path}: '{key}' does not fit into memory ({error}): choose a smaller data.size") from error
    except UNREADABLE as error:
        raise DataError(f"{path}: '{key}' cannot be read ({error}): expected plain numbers; {_REPLACE}") from error
    return array


def _check_headers(
    path: Path,
    split: str,
    archive: np.lib.npyio.NpzFile,
    channels: int,
    size: int,
    num_classes: int,
    *,
    may_resize: bool,
) -> None:
    """Refuses arrays of another type or shape by what their headers say, before any of them is unpacked."""
    images, labels = (read_header(path, f"{split}_{what}", archive) for what in ("images", "labels"))
    key = f"{split}_images"
    if images.dtype != np.uint8:
        raise DataError(f"{path}: '{key}' is {images.dtype}, expected uint8: scale it to 0..255 and save it as uint8")
    expected = (size, size) if channels == 1 else (size, size, channels)
    if images.shape[1:] != expected or not images.shape:
        raise DataError(
            f"{path}: '{key}' has shape {images.shape}, {_explain_shape(key, images.shape, expected, may_resize)}"
        )
    if images.shape[0] == 0:
        raise DataError(f"{path}: '{key}' is empty, expected at least one image: name another data.file")
    _check_label_header(path, f"{split}_labels", labels, num_classes)
    if images.shape[0] != labels.shape[0]:
        raise DataError(f"{path}: {images.shape[0]} '{key}', but {labels.shape[0]} '{split}_labels': {_REPLACE}")


def _explain_shape(key: str, shape: tuple[int, ...], expected: tuple[int, ...], may_resize: bool) -> str:
    """What is expected instead of a shape, and what brings it there where that is known."""
    expectation = f"expected (N, {', '.join(map(str, expected))})"
    if len(expected) == 2 and shape[1:] == (*expected, 1):
        return f"{expectation}: a grey image has no axis of channels; save {key}[..., 0]"
    if len(expected) == 2 and shape[1:] == (1, *expected):
        return f"{expectation}: a grey image has no axis of channels; save {key}[:, 0]"
    if len(expected) == 3 and shape[1:] == (expected[2], *expected[:2]):
        return f"{expectation}: channels stand last; save {key}.transpose(0, 2, 3, 1)"
    other_side = len(shape) == len(expected) + 1 and shape[1] == shape[2] != expected[0]
    resize = "give data.resize=true, " if may_resize and other_side else ""
    return f"{expectation}: {resize}{SET_SHAPE}name another data.file"


def _check_label_header(path: Path, key: str, header: ArrayHeader, num_classes: int) -> None:
    if len(header.shape) == 2 and header.shape[1] == num_classes > 1:
        raise DataError(
            f"{path}: '{key}' has shape {header.shape}, expected class indices of shape (N, 1) or (N,): if it is one-hot, save "
            f"{key}.argmax(1); several classes per image (multi-label) are not supported"
        )
    if len(header.shape) == 2 and header.shape[1] > 1:
        raise DataError(
            f"{path}: '{key}' has shape {header.shape}, a multi-label set; expected one class per image, (N, 1) or "
            "(N,): name another data.file"
        )
    if len(header.shape) not in (1, 2) or header.dtype.kind not in "iu":
        raise DataError(
            f"{path}: '{key}' is {header.dtype} of shape {header.shape}, expected integers of shape (N, 1) or (N,): "
            "save the labels as class indices from 0"
        )


def _images(path: Path, key: str, archive: np.lib.npyio.NpzFile, channels: int) -> _Array:
    """The images of one split, ``(N, C, H, W) uint8``."""
    images = read_array(path, key, archive)
    if has_lost_scaling(images):
        raise DataError(f"{path}: '{key}' {LOST_SCALING}")
    channel_first = images[:, None] if channels == 1 else images.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(channel_first)


def _labels(path: Path, key: str, archive: np.lib.npyio.NpzFile, num_classes: int) -> _Array:
    """The labels of one split, ``(N,) int64``."""
    flat = read_array(path, key, archive).reshape(-1)
    if flat.size and (flat.min() < 0 or flat.max() >= num_classes):
        advice = "list every class in data.classes, or name another data.file"
        if flat.min() == 1 and flat.max() == num_classes:
            advice = f"labels count from 0: save {key} - 1"
        raise DataError(
            f"{path}: '{key}' holds labels {flat.min()}..{flat.max()}, expected 0..{num_classes - 1}: {advice}"
        )
    return flat.astype(np.int64)
