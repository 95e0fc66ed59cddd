"""Another data set's images and labels, brought to the size and the channels that a net takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from medassay.core.errors import DataError
from medassay.core.paths import expand_home, find_kind
from medassay.core.types import LabelledImages, Splits
from medassay.data import npz
from medassay.data.decoding import ImageReader
from medassay.protocols.predict.given_images import list_conversions

MOST_CLASSES = 1000  # a label above is taken for a mistake


@dataclass(frozen=True)
class OtherImages:
    """Another set's images.

    Attributes:
        splits: Images as the net takes them, and the set's own labels.
        classes: A name for each label; the file has none.
        md5: The md5 of the file.
        converted: By conversion, the number of images that it was done to.
    """

    splits: Splits
    classes: list[str]
    md5: str
    converted: dict[str, int]


def read_other_images(path: str, *, size: int, channels: int) -> OtherImages:
    """The three splits of an ``.npz`` in MedMNIST's layout; its images may have another size, and be grey or RGB.

    Args:
        path: The file.
        size: Pixels a side that the net takes.
        channels: Number of channels that the net takes: 1 (grey) or 3 (RGB).

    Raises:
        DataError: There is no such file, or it has another layout.
    """
    file = expand_home(path)
    if find_kind(file) != "file":
        raise DataError(f"protocol.images={path} is no file: give an .npz in MedMNIST's layout, labels included")
    try:
        stored, md5 = _read_as_stored(file), npz.md5(file)
    except DataError as error:
        message = str(error).replace("data.file", "protocol.images")
        raise DataError(message.replace(npz.SET_SHAPE, "")) from error
    classes = 1 + max(int(split.labels.max()) for split in stored)
    reader = ImageReader(size, channels)
    splits = Splits(*(LabelledImages(_fit(split.images, reader, file), split.labels) for split in stored))
    steps = list_conversions(_make_picture(stored.train.images[0]), size, channels)
    converted = dict.fromkeys(steps, sum(map(len, stored)))
    return OtherImages(splits, [f"class {label}" for label in range(classes)], md5, converted)


def _read_as_stored(file: Path) -> Splits:
    shape = npz.read_shape(file, "train_images")
    in_colour = len(shape) == 4 and 3 in (
        shape[1],
        shape[3],
    )  # wherever the channels stand: a wrong place is refused by name
    channels, size = (3 if in_colour else 1), (shape[2] if len(shape) > 2 else 0)
    return Splits(*npz.read_splits(file, Splits._fields, channels=channels, size=size, num_classes=MOST_CLASSES))


def _fit(images: Tensor, reader: ImageReader, file: Path) -> Tensor:
    """Images ``(N, C, H, W) uint8`` as the net takes them, by the same steps as in protocol=predict."""
    if images.shape[1:] == (reader.channels, reader.size, reader.size):
        return images
    return torch.stack([reader.fit(_make_picture(image), file) for image in images])


def _make_picture(image: Tensor) -> Image.Image:
    """One image ``(C, H, W) uint8`` as a picture."""
    return Image.fromarray((image[0] if len(image) == 1 else image.permute(1, 2, 0).contiguous()).numpy())
