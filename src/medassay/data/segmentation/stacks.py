"""Segmentation data sets from ``.npz`` files: a stack of images with class maps or with numbered objects."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from medassay.core.errors import ConfigError, DataError
from medassay.core.paths import expand_home, find_kind
from medassay.core.types import SegmentedImages, SegmentedSplits
from medassay.data import npz
from medassay.data.decoding import LOST_SCALING, has_lost_scaling
from medassay.data.random_split import Shares, check_shares
from medassay.data.segmentation.modules import PixelFormat, SegmentationSource
from medassay.data.segmentation.objects import separate_touching
from medassay.data.segmentation.splitting import RandomSplit, split_segmented
from medassay.metrics.instances import label_components

_Array = np.ndarray[Any, np.dtype[Any]]
_OTHER = "name another with data.file=<path>"


@dataclass
class Stack(SegmentationSource):
    """An ``.npz`` file with ``images (N, H, W) uint8``, or ``(N, H, W, 3)``, and an array of the same N, H and W.

    Attributes:
        file: Path of the file; None is refused when the images are needed.
    """

    file: str | None

    key: ClassVar[str]
    """Name of the other array."""

    def find_file(self) -> Path:
        """The path of the file, which is there.

        Raises:
            DataError: No file is named, or it is not there.
        """
        if self.file is None:
            raise DataError(
                f"data.file is not set: name an .npz file with 'images' and '{self.key}', or use data=cell_phantom, which "
                "needs no file"
            )
        path = expand_home(self.file)
        if find_kind(path) != "file":
            raise DataError(f"data.file={self.file} is no file: name an .npz file with 'images' and '{self.key}'")
        return path

    def read_arrays(self, channels: int) -> tuple[_Array, _Array]:
        """The images ``(N, C, H, W) uint8`` and the other array ``(N, H, W)``, of integers."""
        path = self.find_file()
        with npz.open_archive(path) as archive:
            if missing := [key for key in ("images", self.key) if key not in archive.files]:
                held = ", ".join(archive.files) or "nothing"
                raise DataError(f"{path} has no {' and no '.join(missing)} (it holds {held}): {_OTHER}")
            self._check_headers(path, archive, channels)
            images, other = npz.read_array(path, "images", archive), npz.read_array(path, self.key, archive)
        if has_lost_scaling(images):
            raise DataError(f"{path}: 'images' {LOST_SCALING}")
        return images[:, None] if channels == 1 else images.transpose(0, 3, 1, 2), other

    def _check_headers(self, path: Path, archive: np.lib.npyio.NpzFile, channels: int) -> None:
        """Refuses arrays of another type or shape by what their headers say, before they are unpacked."""
        images, other = npz.read_header(path, "images", archive), npz.read_header(path, self.key, archive)
        expected = "(N, H, W)" if channels == 1 else "(N, H, W, 3)"
        fits = len(images.shape) == 3 if channels == 1 else len(images.shape) == 4 and images.shape[3] == 3
        if images.dtype != np.uint8 or not fits or 0 in images.shape:
            raise DataError(
                f"{path}: 'images' is {images.dtype} of shape {images.shape}, expected uint8 of shape {expected}: save it so, "
                "or set data.channels to what the file holds"
            )
        if other.dtype.kind not in "iub" or other.shape != images.shape[:3]:
            raise DataError(
                f"{path}: '{self.key}' is {other.dtype} of shape {other.shape}, expected integers of shape "
                f"{images.shape[:3]}, as the images have: save it so, or {_OTHER}"
            )

    @abstractmethod
    def describe_split(self) -> dict[str, Any]:
        """How the images were split, for a run's record."""

    def provenance(self) -> dict[str, Any]:
        path = self.find_file()
        return {"file": str(path), "md5": npz.md5(path), "published": False, **self.describe_split()}


@dataclass
class Sections(Stack):
    """Consecutive sections of a volume with ``labels (N, H, W)``, class indices from 0, split by position.

    Neighbouring sections look alike, so that a random split would test on what was learned: the first sections are for
    training, those after them for validation, those after them for the test. Objects are the connected regions that are not of
    class 0.

    Attributes:
        lengths: Numbers of sections in train, val and test; what is left of the file is not used.
    """

    lengths: tuple[int, int, int] = (20, 5, 5)

    key = "labels"

    def read(self, declared: PixelFormat) -> SegmentedSplits:
        images, labels = self.read_arrays(declared.channels)
        if len(images) < sum(self.lengths):
            train, val, test = self.lengths
            raise DataError(
                f"{self.find_file()} holds {len(images)} images, data.train={train}, data.val={val} and data.test={test} need "
                f"{sum(self.lengths)}: ask for fewer"
            )
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= len(declared.classes):
            expected = f"expected 0..{len(declared.classes) - 1}: list every class in data.classes"
            raise DataError(f"{self.find_file()}: 'labels' holds classes {low}..{high}, {expected}, or {_OTHER}")
        masks = [torch.from_numpy(mask.astype(np.uint8)) for mask in labels]
        every = SegmentedImages(_to_tensors(images), masks, [label_components(mask != 0) for mask in masks])
        first, second, third = np.cumsum(self.lengths).tolist()
        return SegmentedSplits(every[:first], every[first:second], every[second:third])

    def describe_split(self) -> dict[str, Any]:
        return {"split": "by position", "lengths": list(self.lengths)}


@dataclass
class NumberedObjects(Stack):
    """Images with ``instances (N, H, W)``, 0 for background and a number for each object, split at random.

    Nearly identical images come into the same split. The mask is 1 inside an object, with a border of 0 between objects that
    touch.

    Attributes:
        shares: Shares of train, val and test.
        split_seed: Seed of the split.
    """

    shares: Shares = (0.7, 0.15, 0.15)
    split_seed: int = 0

    key = "instances"

    def check(self, declared: PixelFormat) -> None:
        if len(declared.classes) != 2:
            raise ConfigError(f"data.classes={declared.classes}: objects and their background are 2 classes")
        check_shares(self.shares)

    def read(self, declared: PixelFormat) -> SegmentedSplits:
        images, numbers = self.read_arrays(declared.channels)
        low, high = int(numbers.min()), int(numbers.max())
        if low < 0 or high >= 2**31:
            expected = "expected 0 for background and a positive number below 2**31 for each object: save it so"
            raise DataError(f"{self.find_file()}: 'instances' holds numbers {low}..{high}, {expected}, or {_OTHER}")
        instances = [torch.from_numpy(_renumber(one)) for one in numbers]
        masks = [separate_touching(one) for one in instances]
        every = SegmentedImages(_to_tensors(images), masks, instances)
        self._random_split: RandomSplit = split_segmented(every, self.shares, self.split_seed)
        return self._random_split.splits

    def describe_split(self) -> dict[str, Any]:
        return self._random_split.describe(self.shares, self.split_seed)


def _renumber(objects: _Array) -> _Array:
    """Objects numbered 1, 2, ... in the order of their numbers, int32: what looks for each object counts to the largest."""
    numbers, places = np.unique(objects, return_inverse=True)
    renumbered: _Array = (places.reshape(objects.shape) + (numbers[0] != 0)).astype(np.int32)
    return renumbered


def _to_tensors(images: _Array) -> list[torch.Tensor]:
    return [torch.from_numpy(np.ascontiguousarray(image)) for image in images]
