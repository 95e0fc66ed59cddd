"""Images that a user names, brought to what a model takes: one file, a folder of files, or the arrays of an ``.npz``."""

from __future__ import annotations

import os
import sys
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from medassay.core.errors import DataError
from medassay.core.types import Splits
from medassay.data import folder, npz

ACCEPTED = "a png (also jpg, jpeg, bmp, tif, tiff), a folder of them, or an npz of images"
_MODES = {"1": "black and white", "L": "grey", "P": "palette", "LA": "grey with transparency", "PA": "palette"}
_MODES |= {"RGBA": "RGB with transparency", "RGBa": "RGB with transparency", "La": "grey with transparency"}
_DAMAGED = (OSError, ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)
_Array = np.ndarray[Any, np.dtype[Any]]


class Unreadable(NamedTuple):
    """An image that could not be read, and why."""

    name: str
    reason: str

    def to_json(self) -> dict[str, str]:
        return self._asdict()


@dataclass
class GivenImages:
    """What could be read, and how.

    Attributes:
        names: of the images: paths below the folder, or ``<array>/<index>``.
        parts: the images, ``(n, C, size, size) uint8``.
        converted: how many images each conversion was done to.
        unreadable: what could not be read.
        left_out: files that are no images by their extension, by extension.
    """

    names: list[str] = field(default_factory=list)
    parts: list[Tensor] = field(default_factory=list)
    converted: Counter[str] = field(default_factory=Counter)
    unreadable: list[Unreadable] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def images(self) -> Tensor:
        return torch.cat(self.parts)

    def add(self, names: list[str], images: Tensor, steps: tuple[str, ...]) -> None:
        """Images ``(n, C, size, size) uint8`` that were all brought here by the same steps."""
        self.names += names
        self.parts.append(images)
        self.converted.update(dict.fromkeys(steps, len(names)))


def read(path: str | Path, *, size: int, channels: int) -> GivenImages:
    """Reads what is at ``path``; what cannot be read is named, and the rest goes on.

    Args:
        path: an image file, a folder that is searched at any depth, or an ``.npz`` with ``train_images``, ``val_images`` or
            ``test_images`` in MedMNIST's layout or with one array of images.
        size: pixels a side that the model takes.
        channels: 1 (grey) or 3 (RGB).

    Raises:
        DataError: nothing there, or no image that can be read.
    """
    top = Path(path).expanduser()
    if not top.exists():
        raise DataError(f"protocol.images={path} does not exist: give {ACCEPTED}")
    found, kind = GivenImages(), top.suffix.lower()
    if top.is_dir():
        files = sorted(top.rglob("*"), key=lambda file: file.relative_to(top).as_posix())
        _read_files(files, top, size, channels, found)
    elif kind == ".npz":
        _read_npz(top, size, channels, found)
    elif kind in folder.EXTENSIONS:
        _read_files([top], top.parent, size, channels, found)
    else:
        raise DataError(
            f"protocol.images={path}: a {top.suffix or 'file without extension'} is not read; give {ACCEPTED}"
        )
    if not found.names:
        raise DataError(f"protocol.images={path}: {_why_none(found)}; give {ACCEPTED}")
    return found


def _why_none(found: GivenImages) -> str:
    if not found.unreadable:
        kinds = f" (it has {', '.join(sorted(found.left_out))} files)" if found.left_out else ""
        return f"no image in it{kinds}"
    count, (name, reason) = len(found.unreadable), found.unreadable[0]
    several = f"none of {count} images can be read, the first being {name} ({reason})"
    return several if count > 1 else f"{name}: {reason}"


# --- files -----------------------------------------------------------------------------------------------------------


def _read_files(files: list[Path], top: Path, size: int, channels: int, found: GivenImages) -> None:
    from tqdm import tqdm

    for file in tqdm(files, desc="reading", unit="file", disable=len(files) < 2 or not sys.stderr.isatty()):
        if not file.is_file() or any(part.startswith(".") for part in file.relative_to(top).parts):
            continue
        if file.suffix.lower() not in folder.EXTENSIONS:
            found.left_out[file.suffix.lower() or "no extension"] += 1
            continue
        name = os.fsencode(file.relative_to(top).as_posix()).decode(errors="replace")  # any bytes can name a file
        try:
            image = folder.read_image(file, size, channels)
            with Image.open(file) as header:
                steps = conversions(header, size, channels)
        except (DataError, OSError) as error:
            found.unreadable.append(Unreadable(name, _reason(error, file)))
        else:
            found.add([name], image[None], steps)


def _reason(error: Exception, file: Path) -> str:
    """An error without the file's path, which the reader has."""
    return str(error).removeprefix(f"{file} ").removesuffix(": replace it, or remove it").replace(f" '{file}'", "")


def conversions(image: Image.Image, size: int, channels: int) -> tuple[str, ...]:
    """What :func:`medassay.data.folder.read_folder` does to an image, as opened, to bring it to size and channels, in words."""
    steps = []
    if image.getexif().get(0x0112, 1) in range(2, 9):
        steps.append("turned upright, as its orientation tag says")
    wanted, target = ("L", "grey") if channels == 1 else ("RGB", "RGB")
    if image.mode != wanted:
        dropped = " (transparency dropped)" if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") else ""
        steps.append(f"{_MODES.get(image.mode, image.mode)} to {target}{dropped}")
    side = min(image.size)
    if side != max(image.size):
        steps.append("largest centred square cut out")
    if side != size:
        steps.append(f"{'reduced' if side > size else 'enlarged'} to {size}×{size} (bicubic, antialiased)")
    return tuple(steps)


# --- arrays ----------------------------------------------------------------------------------------------------------


def _read_npz(path: Path, size: int, channels: int, found: GivenImages) -> None:
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it is a single array without a name; save it with numpy.savez")
    except _DAMAGED as error:
        raise DataError(f"protocol.images={path} cannot be read as npz ({error}): give {ACCEPTED}") from error
    with archive:
        keys: list[str] = [f"{split}_images" for split in Splits._fields if f"{split}_images" in archive.files]
        if not keys and len(archive.files) == 1:
            keys = list(archive.files)
        if not keys:
            raise DataError(
                f"protocol.images={path} holds {', '.join(archive.files) or 'nothing'}: expected train_images, val_images or "
                "test_images, or one array of images"
            )
        for key in keys:
            try:
                pixels, steps = _pixels(archive[key])
            except DataError as error:
                found.unreadable.append(Unreadable(key, str(error)))
            except MemoryError:
                found.unreadable.append(Unreadable(key, npz.explain_lack_of_memory(archive, key)))
            except _DAMAGED as error:
                found.unreadable.append(Unreadable(key, f"cannot be read ({error})"))
            else:
                steps = (*steps, *conversions(_image(pixels[0]), size, channels))
                if pixels.shape[1:] == (size, size, channels):
                    images = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
                else:
                    mode = "L" if channels == 1 else "RGB"
                    images = torch.stack([folder.fit_to_square(_image(one).convert(mode), size) for one in pixels])
                found.add([f"{key}/{index}" for index in range(len(pixels))], images, steps)


def _image(pixels: _Array) -> Image.Image:
    """``(H, W, C) uint8`` as a picture."""
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels))


def _pixels(array: _Array) -> tuple[_Array, tuple[str, ...]]:
    """An array as ``(N, H, W, C) uint8``, and what was done to its values.

    Raises:
        DataError: another shape or type.
    """
    steps: tuple[str, ...] = ()
    colour = (1, 3, 4)
    if array.ndim == 2:
        array = array[None]
    if array.ndim == 3:  # many grey images, or a single one in colour
        array = array[None] if array.shape[-1] in colour and min(array.shape[:2]) > 4 else array[..., None]
    if array.ndim == 4 and array.shape[-1] not in colour and array.shape[1] in colour:
        array, steps = array.transpose(0, 2, 3, 1), ("channels put last",)
    if array.ndim != 4 or array.shape[-1] not in colour or 0 in array.shape:
        raise DataError(f"has shape {array.shape}, expected (N, H, W) or (N, H, W, 3) with at least one image")
    if array.dtype == np.uint8:
        return array, steps
    if array.dtype == np.bool_ or (
        array.dtype.kind == "f" and np.isfinite(array).all() and 0 <= array.min() <= array.max() <= 1
    ):
        return (array * 255.0).round().astype(np.uint8), (*steps, "values from 0 to 1 scaled to 8 bits")
    raise DataError(f"is {array.dtype}, expected uint8 (or numbers from 0 to 1): choose the range of values to show")
