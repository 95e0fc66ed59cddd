"""Segmentation data sets from a folder of images and a folder of their masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from medassay.core.errors import ConfigError, DataError
from medassay.core.paths import expand_home, find_kind
from medassay.core.progress import track
from medassay.core.types import SegmentedImages, SegmentedSplits
from medassay.data.decoding import LOST_SCALING, ImageReader, has_lost_scaling
from medassay.data.image_files import (
    DICOM,
    DICOM_ADVICE,
    IN_SUB_FOLDERS,
    ImageFiles,
    compute_fingerprint,
    list_folders,
    list_images,
)
from medassay.data.random_split import Shares, check_shares
from medassay.data.segmentation.mask_files import read_instances, read_mask
from medassay.data.segmentation.modules import PixelFormat, SegmentationSource
from medassay.data.segmentation.splitting import split_segmented
from medassay.data.window import Window, check_window

LAYOUT = (
    "expected <path>/images/x.png with <path>/masks/x.png, or these two folders in each of <path>/train, val and test"
)
SPLIT_NAMES = SegmentedSplits._fields
IMAGES, MASKS = "images", "masks"  # folders


class Pair(NamedTuple):
    """An image file and its mask: a file, or a folder with a file for each object."""

    image: Path
    mask: Path


@dataclass
class ImageMaskFolders(SegmentationSource):
    """Images and masks with the same names: ``path/images/x.png`` with ``path/masks/x.png``.

    A mask is a file of class indices, one of 0 and 255 where there are two classes, or a folder ``path/masks/x`` with a file
    for each object. If ``path`` has a folder ``train``, ``val`` or ``test``, it must have all three, each with ``images`` and
    ``masks``; otherwise the images are split at random, nearly identical ones together. A random split knows nothing of
    patients: where several images are of one, sort them yourself.

    Attributes:
        path: The top folder; None is refused when the images are needed.
        shares: Shares of train, val and test where the folder has no such sub-folders.
        split_seed: Seed of the split by these shares.
        window: Range of the values that are shown of images of more than 8 bits; None refuses these.
    """

    path: str | None
    shares: Shares = (0.7, 0.15, 0.15)
    split_seed: int = 0
    window: Window | None = None

    def check(self, declared: PixelFormat) -> None:
        check_window(self.window, "data.window")
        check_shares(self.shares)

    @property
    def shown_values(self) -> Window | None:
        return self.window

    def read(self, declared: PixelFormat) -> SegmentedSplits:
        top = self._open_top()
        parts = [folder for folder in list_folders(top) if folder.name in SPLIT_NAMES]
        if parts:
            if missing := [name for name in SPLIT_NAMES if name not in {folder.name for folder in parts}]:
                raise DataError(f"{top} has {parts[0].name}, but no {' and no '.join(missing)}: {LAYOUT}")
            pairs = {name: list_pairs(top / name) for name in SPLIT_NAMES}
            self._split: dict[str, Any] = {"split": "by folders"}
            splits = SegmentedSplits(*(self._read_pairs(pairs[name], declared) for name in SPLIT_NAMES))
        else:
            pairs = {"all": list_pairs(top)}
            split = split_segmented(self._read_pairs(pairs["all"], declared), self.shares, self.split_seed)
            self._split, splits = split.describe(self.shares, self.split_seed), split.splits
        self._pairs = [pair for own in pairs.values() for pair in own]
        return splits

    def provenance(self) -> dict[str, Any]:
        files = [pair.image for pair in self._pairs]
        left_out: Counter[str] = Counter()
        for pair in self._pairs:
            objects = list_images(pair.mask, nested=False) if pair.mask.is_dir() else ImageFiles([pair.mask])
            files += objects.images
            left_out.update(objects.left_out)
        for folder in dict.fromkeys(folder for pair in self._pairs for folder in (pair.image.parent, pair.mask.parent)):
            beside = list_images(folder, nested=False).left_out
            if folder.name == MASKS:
                del beside[IN_SUB_FOLDERS]  # the objects' files, which are read
            left_out.update(beside)
        md5 = compute_fingerprint(self._open_top(), files)
        found = {"left_out": dict(left_out)} if left_out else {}
        return {"path": self.path, "md5": md5, "published": False, **found, **self._split}

    def _open_top(self) -> Path:
        if self.path is None:
            raise ConfigError(f"data.path is not set: {LAYOUT}")
        top = expand_home(self.path)
        if find_kind(top) != "directory":
            raise ConfigError(f"data.path={self.path} is not a directory: {LAYOUT}")
        return top

    def _read_pairs(self, pairs: Sequence[Pair], declared: PixelFormat) -> SegmentedImages:
        """The images and masks of one split; objects where every mask is a folder of them."""
        reader = ImageReader(None, declared.channels, window=self.window)
        images: list[Tensor] = []
        masks: list[Tensor] = []
        instances: list[Tensor] = []
        for pair in track(pairs, "reading", "images"):
            image = reader.read(pair.image).contiguous()
            size = (image.shape[1], image.shape[2])
            if pair.mask.is_dir():
                mask, numbers = read_instances(pair.mask, size, declared.classes)
                instances.append(numbers)
            else:
                mask = read_mask(pair.mask, size, declared.classes)
            images.append(image)
            masks.append(mask)
        if has_lost_scaling(torch.stack([torch.stack(image.aminmax()) for image in images])):
            raise DataError(f"{pairs[0].image.parent} {LOST_SCALING}")
        return SegmentedImages(images, masks, instances if len(instances) == len(images) else None)


def list_pairs(folder: Path) -> list[Pair]:
    """The images of ``folder/images``, sorted by name, each with its mask in ``folder/masks``.

    Raises:
        DataError: A folder is missing or empty, or an image or a mask has no partner, or two.
    """
    for name in (IMAGES, MASKS):
        if find_kind(folder / name) != "directory":
            raise DataError(f"{folder} has no folder {name}: {LAYOUT}")
    files = _list_files(folder / IMAGES)
    images = _index_by_name(files.images)
    masks = _index_by_name(_list_files(folder / MASKS).images + list_folders(folder / MASKS))
    advice = f" ({DICOM_ADVICE})" if any(files.left_out[kind] for kind in DICOM) else ""
    if not images:
        raise DataError(f"{folder / IMAGES} holds no images{advice}: add some; {LAYOUT}")
    for own, others, place in ((images, masks, MASKS), (masks, images, IMAGES)):
        if alone := sorted(own.keys() - others.keys()):
            more = f" (nor have {len(alone) - 1} more)" if len(alone) > 1 else ""
            raise DataError(
                f"{own[alone[0]]} has no partner in {folder / place}{more}: add {alone[0]}.png there, or remove it"
                f"{advice if place == IMAGES else ''}"
            )
    return [Pair(images[name], masks[name]) for name in sorted(images)]


def _list_files(folder: Path) -> ImageFiles:
    files = list_images(folder, nested=False)
    files.refuse_problems()
    return files


def _index_by_name(paths: Sequence[Path]) -> dict[str, Path]:
    """Paths by their names without extension."""
    named: dict[str, Path] = {}
    for path in paths:
        name = path.name if path.is_dir() else path.stem
        if name in named:
            raise DataError(f"{named[name]} and {path} have the same name: remove or rename one")
        named[name] = path
    return named
