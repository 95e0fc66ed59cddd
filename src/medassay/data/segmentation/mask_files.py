"""The mask of an image: class indices in a file, or a folder with a file for each object."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medassay.core.errors import DataError
from medassay.data.decoding import read_orientation
from medassay.data.image_files import HIDDEN, list_images
from medassay.data.segmentation.objects import separate_touching

_Array = np.ndarray[Any, np.dtype[Any]]
Size = tuple[int, int]  # height, width
LOSSY = frozenset({".jpg", ".jpeg"})


def read_mask(file: Path, size: Size, classes: Sequence[str]) -> Tensor:
    """The mask in ``file``, class indices ``(H, W) uint8``; of two classes the second may be written as 255.

    Raises:
        DataError: The mask cannot be read, has another size than its image, or holds values that are no class.
    """
    values = _read_values(file, size)
    if len(classes) == 2 and set(np.unique(values)) <= {0, 255}:
        values = values // 255
    if (high := int(values.max())) >= len(classes) or values.min() < 0:
        raise DataError(
            f"{file} holds the value {high if high >= len(classes) else int(values.min())}, expected class indices "
            f"0..{len(classes) - 1}{' (or 0 and 255)' if len(classes) == 2 else ''}: list every class in data.classes, or save "
            "the mask so"
        )
    return torch.from_numpy(values.astype(np.uint8))


def read_instances(folder: Path, size: Size, classes: Sequence[str]) -> tuple[Tensor, Tensor]:
    """The masks in ``folder``, one file for each object, in which all values but 0 are the object.

    Returns:
        The mask ``(H, W) uint8``, 1 inside an object, with a border of 0 between objects that touch; and the objects' numbers
        ``(H, W) int32``, from 1 in the order of the files' names. A pixel of several objects is of the last one.

    Raises:
        DataError: A mask cannot be read or has another size than its image, the folder holds other files alone, or there are
            more classes than two.
    """
    if len(classes) != 2:
        raise DataError(f"{folder} holds a file for each object, which are 2 classes, not data.classes={list(classes)}")
    files = list_images(folder, nested=False)
    files.refuse_problems()
    others = [f"{count:,} {kind}" for kind, count in sorted(files.left_out.items()) if kind != HIDDEN]
    if others and not files.images:
        raise DataError(
            f"{folder} holds no mask that is read ({', '.join(others)}): save each object as PNG directly in it, or empty it "
            "where there is none"
        )
    numbers = np.zeros(size, dtype=np.int32)
    for number, file in enumerate(files.images, start=1):
        numbers[_read_values(file, size) != 0] = number
    instances = torch.from_numpy(numbers)
    return separate_touching(instances), instances


def _read_values(file: Path, size: Size) -> _Array:
    """The values of a mask file, ``(H, W)``, of any integer type."""
    if file.suffix.lower() in LOSSY:
        raise DataError(f"{file} is a JPEG, which changes the values of a mask: save it as PNG")
    try:
        values = _decode(file)
    except DataError:
        raise
    except Exception as error:  # a damaged file can make a decoder raise anything
        reason = str(error) or type(error).__name__
        raise DataError(
            f"{file} cannot be read as a mask ({reason}): replace it, or remove it with its image"
        ) from error
    if values.shape != size:
        height, width = values.shape
        raise DataError(f"{file} is {width}x{height}, its image {size[1]}x{size[0]}: save both in one size")
    return values


def _decode(file: Path) -> _Array:
    from PIL import Image

    with warnings.catch_warnings(), Image.open(file) as image:
        warnings.simplefilter("ignore")  # Pillow's, about tags that are not needed
        frames = getattr(image, "n_frames", 1)
        if frames > 1:
            raise DataError(f"{file} is a stack of {frames} images: save each as a file of its own")
        image.load()
        turn = read_orientation(image)  # Pillow has turned a TIFF upright while it was loaded
        values = np.array(image if turn is None else image.transpose(turn))
    colours = values[..., None] if values.ndim == 2 else values
    if image.mode in ("LA", "RGBA"):
        colours = colours[..., :-1]  # transparency
    if (colours != colours[..., :1]).any():
        raise DataError(f"{file} is a mask in colours: save it as grey or palette PNG whose values are class indices")
    plane: _Array = colours[..., 0]
    if plane.dtype.kind not in "iub":
        raise DataError(f"{file} holds numbers of type {plane.dtype}: save class indices as 8-bit PNG")
    return plane.astype(np.int64)
