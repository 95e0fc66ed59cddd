"""Images that a user names, brought to what a model takes: one file, a folder of files, or the arrays of an ``.npz``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from medassay.core.errors import DataError
from medassay.core.paths import expand_home, find_kind
from medassay.core.progress import track
from medassay.core.types import Splits
from medassay.data import npz
from medassay.data.decoding import LOST_SCALING, ImageReader, has_lost_scaling
from medassay.data.image_files import ACCEPTED_KINDS, DICOM, DICOM_ADVICE, describe_left_out, is_readable, list_images
from medassay.data.window import Window, apply_window, describe_window
from medassay.protocols.predict.reading import Part, Reading, Unreadable

ACCEPTED = f"a png (also {ACCEPTED_KINDS}), a folder of them, or an npz of images"
WINDOW_KEY = "protocol.window"
_MODES = {"1": "black and white", "L": "grey", "P": "palette", "LA": "grey with transparency", "PA": "palette"}
_MODES |= {"RGBA": "RGB with transparency", "RGBa": "RGB with transparency", "La": "grey with transparency"}
_COLOURS = (1, 3, 4)  # channels of an array
_EXPECTED = "expected (N, H, W) or (N, H, W, 3) with at least one image"
_OTHER_VALUES = f"expected uint8 (or numbers from 0 to 1): choose the range of values to show, {WINDOW_KEY}=[low,high]"
_Array = np.ndarray[Any, np.dtype[Any]]


@dataclass
class GivenImages(Reading):
    """All that could be read.

    Attributes:
        images: The images, ``(N, C, size, size) uint8``.
    """

    images: Tensor = field(default_factory=lambda: torch.empty(0))


def read(path: str | Path, *, size: int, channels: int, window: Window | None = None) -> GivenImages:
    """Reads what is at ``path`` for a model of images of one size; the rest as in :func:`iterate`.

    Args:
        path: As in :func:`iterate`.
        size: Pixels a side that the model takes.
        channels: Number of channels that the model takes: 1 (grey) or 3 (RGB).
        window: Range of values that is shown of images of more than 8 bits; None leaves these out as unreadable.
    """
    given = GivenImages()
    reader = ImageReader(size, channels, window=window, window_key=WINDOW_KEY)
    given.images = torch.cat([part.images for part in iterate(path, reader, given)])
    return given


def iterate(path: str | Path, reader: ImageReader, reading: Reading) -> Iterator[Part]:
    """Reads what is at ``path``, a file or an array at a time; what cannot be read is named, and the rest goes on.

    Args:
        path: An image file, a folder that is searched at any depth, or an ``.npz`` with ``train_images``, ``val_images`` or
            ``test_images`` in MedMNIST's layout, with an array ``images``, or with one array of images.
        reader: What the model takes.
        reading: What is known so far; it is filled on the way.

    Raises:
        DataError: nothing there, or (at the end) no image that can be read.
    """
    top = expand_home(path)
    if (what := find_kind(top)) is None:
        raise DataError(f"protocol.images={path} does not exist: give {ACCEPTED}")
    kind = top.suffix.lower()
    if what == "directory":
        listed = list_images(top, nested=True)
        reading.left_out = listed.left_out
        reading.unreadable = [Unreadable(_name(file, top), reason) for file, reason in listed.problems]
        yield from _read_files(listed.images, top, reader, reading)
    elif kind == ".npz":
        yield from _read_npz(top, reader, reading)
    elif is_readable(kind):
        yield from _read_files([top], top.parent, reader, reading)
    else:
        advice = DICOM_ADVICE if kind in DICOM else f"give {ACCEPTED}"
        raise DataError(f"protocol.images={path}: a {top.suffix or 'file without extension'} is not read; {advice}")
    if not reading.names:
        raise DataError(f"protocol.images={path}: {_explain_none(reading)}; give {ACCEPTED}")


def _explain_none(reading: Reading) -> str:
    if not reading.unreadable:
        kinds = f" (left out: {describe_left_out(reading.left_out)})" if reading.left_out else ""
        return f"no image in it{kinds}"
    count, (name, reason) = len(reading.unreadable), reading.unreadable[0]
    several = f"none of {count} images can be read, the first being {name} ({reason})"
    return several if count > 1 else f"{name}: {reason}"


# --- files -----------------------------------------------------------------------------------------------------------


def _read_files(files: list[Path], top: Path, reader: ImageReader, reading: Reading) -> Iterator[Part]:
    for file in track(files, "reading", "files"):
        name = _name(file, top)
        try:
            picture, steps = reader.decode(file)
            image = reader.fit(picture, file)[None]
            if has_lost_scaling(image):
                raise DataError(LOST_SCALING)
        except DataError as error:
            reading.unreadable.append(Unreadable(name, _describe_reason(error, file)))
        else:
            yield reading.add([name], image, (*steps, *list_conversions(picture, reader.size, reader.channels)))


def _name(file: Path, top: Path) -> str:
    """The path of a file below ``top``; any bytes can name a file, so that what is no text is replaced."""
    return os.fsencode(file.relative_to(top).as_posix()).decode(errors="replace")


def _describe_reason(error: DataError, file: Path) -> str:
    """An error without the file's path, which the reader has."""
    return (
        str(error)
        .removeprefix(f"{DataError(str(file))} ")
        .removesuffix(": replace it, or remove it")
        .replace(f" '{file}'", "")
    )


def list_conversions(picture: Image.Image, size: int | None, channels: int) -> tuple[str, ...]:
    """What :meth:`ImageReader.fit` does to a picture to bring it to size and channels, in words."""
    steps = []
    wanted, target = ("L", "grey") if channels == 1 else ("RGB", "RGB")
    if picture.mode != wanted:
        dropped = " (transparency dropped)" if picture.mode in ("LA", "La", "PA", "RGBA", "RGBa") else ""
        steps.append(f"{_MODES.get(picture.mode, picture.mode)} to {target}{dropped}")
    if size is None:
        return tuple(steps)
    side = min(picture.size)
    if side != max(picture.size):
        steps.append("largest centred square cut out")
    if side != size:
        steps.append(f"{'reduced' if side > size else 'enlarged'} to {size}×{size} (bicubic, antialiased)")
    return tuple(steps)


# --- arrays ----------------------------------------------------------------------------------------------------------


def _read_npz(path: Path, reader: ImageReader, reading: Reading) -> Iterator[Part]:
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it is a single array without a name; save it with numpy.savez")
    except npz.UNREADABLE as error:
        raise DataError(f"protocol.images={path} cannot be read as npz ({error}): give {ACCEPTED}") from error
    with archive:
        keys: list[str] = [f"{split}_images" for split in Splits._fields if f"{split}_images" in archive.files]
        if not keys:
            keys = ["images"] if "images" in archive.files else archive.files[: len(archive.files) == 1]
        if not keys:
            raise DataError(
                f"protocol.images={path} holds {', '.join(archive.files) or 'nothing'}: expected train_images, val_images or "
                "test_images, or one array of images"
            )
        for key in keys:
            try:
                _check_header(npz.read_header(path, key, archive), reader.window)
                pixels, steps = _read_pixels(npz.read_array(path, key, archive), reader.window)
            except DataError as error:
                reason = str(error).removeprefix(f"{path}: '{key}' ").replace("data.file=", "protocol.images=")
                reading.unreadable.append(Unreadable(key, reason))
            else:
                yield _add_arrays(key, pixels, steps, reader, reading)


def _add_arrays(key: str, pixels: _Array, steps: tuple[str, ...], reader: ImageReader, reading: Reading) -> Part:
    """Adds images ``(N, H, W, C) uint8``."""
    size, channels = reader.size, reader.channels
    steps = (*steps, *list_conversions(_make_image(pixels[0]), size, channels))
    height, width = pixels.shape[1:3] if size is None else (size, size)
    if pixels.shape[1:] == (height, width, channels):
        images = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
    else:
        images = torch.stack([reader.fit(_make_image(one), Path(key)) for one in pixels])
    return reading.add([f"{key}/{index}" for index in range(len(pixels))], images, steps)


def _make_image(pixels: _Array) -> Image.Image:
    """``(H, W, C) uint8`` as a picture."""
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels))


def _check_header(header: npz.ArrayHeader, window: Window | None) -> None:
    """Refuses what :func:`_read_pixels` would refuse by shape and type alone, before it is unpacked.

    Raises:
        DataError: another shape or type.
    """
    shape, dtype = header
    if len(shape) not in (2, 3, 4) or 0 in shape:
        raise DataError(f"has shape {shape}, {_EXPECTED}")
    if len(shape) == 4 and shape[-1] not in _COLOURS and shape[1] not in _COLOURS:
        raise DataError(f"has shape {shape}, {_EXPECTED}")
    if dtype not in (np.uint8, np.bool_) and dtype.kind != "f" and (window is None or dtype.kind not in "iu"):
        raise DataError(f"is {dtype}, {_OTHER_VALUES}")


def _read_pixels(array: _Array, window: Window | None) -> tuple[_Array, tuple[str, ...]]:
    """An array as ``(N, H, W, C) uint8``, and what was done to its values.

    Raises:
        DataError: another shape or type.
    """
    steps: tuple[str, ...] = ()
    if array.ndim == 2:
        array = array[None]
    if array.ndim == 3:  # many grey images, or a single one in colour
        array = array[None] if array.shape[-1] in _COLOURS and min(array.shape[:2]) > 4 else array[..., None]
    if array.ndim == 4 and array.shape[-1] not in _COLOURS and array.shape[1] in _COLOURS:
        array, steps = array.transpose(0, 2, 3, 1), ("channels put last",)
    if array.ndim != 4 or array.shape[-1] not in _COLOURS or 0 in array.shape:
        raise DataError(f"has shape {array.shape}, {_EXPECTED}")
    if array.dtype == np.uint8:
        if has_lost_scaling(array):
            raise DataError(LOST_SCALING)
        return array, steps
    if array.dtype == np.bool_ or (
        array.dtype.kind == "f" and np.isfinite(array).all() and 0 <= array.min() <= array.max() <= 1
    ):
        return (array * 255.0).round().astype(np.uint8), (*steps, "values from 0 to 1 scaled to 8 bits")
    if window is None:
        raise DataError(f"is {array.dtype}, {_OTHER_VALUES}")
    shown = np.stack([apply_window(image, window) for image in array])
    return shown, (*steps, describe_window(window))
