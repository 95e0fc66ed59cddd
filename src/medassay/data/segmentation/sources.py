"""Segmentation data sets by the function that a configuration names."""

from __future__ import annotations

from typing import Unpack

from medassay.core.types import NonNegativeInt, PositiveInt
from medassay.data.modules import Channels
from medassay.data.phantoms.source import PhantomKind
from medassay.data.random_split import Shares
from medassay.data.segmentation.folder import ImageMaskFolders
from medassay.data.segmentation.modules import SegmentationData, SegmentationOptions
from medassay.data.segmentation.phantoms import CellPhantom, PhantomMasks
from medassay.data.segmentation.stacks import NumberedObjects, Sections
from medassay.data.window import Window


def membranes_data(
    name: str,
    classes: list[str],
    channels: Channels = 1,
    file: str | None = None,
    train: PositiveInt = 20,
    val: PositiveInt = 5,
    test: PositiveInt = 5,
    **options: Unpack[SegmentationOptions],
) -> SegmentationData:
    """Consecutive sections with class maps, split by position; see :class:`Sections` and :class:`SegmentationData`."""
    return SegmentationData(name, classes, channels, Sections(file, (train, val, test)), **options)


def nuclei_data(
    name: str,
    classes: list[str],
    channels: Channels = 1,
    file: str | None = None,
    split: tuple[float, float, float] = (0.7, 0.15, 0.15),
    split_seed: NonNegativeInt = 0,
    **options: Unpack[SegmentationOptions],
) -> SegmentationData:
    """Images with numbered objects, split at random; see :class:`NumberedObjects` and :class:`SegmentationData`."""
    return SegmentationData(name, classes, channels, NumberedObjects(file, _to_shares(split), split_seed), **options)


def segmentation_folder_data(
    name: str,
    classes: list[str],
    channels: Channels = 1,
    path: str | None = None,
    split: tuple[float, float, float] = (0.7, 0.15, 0.15),
    split_seed: NonNegativeInt = 0,
    window: Window | None = None,
    **options: Unpack[SegmentationOptions],
) -> SegmentationData:
    """A folder of images and one of masks; see :class:`ImageMaskFolders` and :class:`SegmentationData`."""
    source = ImageMaskFolders(path, _to_shares(split), split_seed, window)
    return SegmentationData(name, classes, channels, source, **options)


def cell_phantom_data(
    name: str,
    classes: list[str],
    channels: Channels = 1,
    size: PositiveInt = 128,
    train: PositiveInt = 256,
    val: PositiveInt = 32,
    test: PositiveInt = 64,
    phantom_seed: NonNegativeInt = 0,
    **options: Unpack[SegmentationOptions],
) -> SegmentationData:
    """Rendered cells that touch; see :class:`CellPhantom` and :class:`SegmentationData`."""
    return SegmentationData(name, classes, channels, CellPhantom((train, val, test), size, phantom_seed), **options)


def phantom_masks_data(
    name: str,
    kind: PhantomKind,
    classes: list[str],
    channels: Channels,
    size: PositiveInt = 28,
    train: PositiveInt = 1024,
    val: PositiveInt = 128,
    test: PositiveInt = 256,
    phantom_seed: NonNegativeInt = 0,
    **options: Unpack[SegmentationOptions],
) -> SegmentationData:
    """Rendered images with the pixels that make their class; see :class:`PhantomMasks` and :class:`SegmentationData`."""
    source = PhantomMasks(kind, (train, val, test), size, phantom_seed)
    return SegmentationData(name, classes, channels, source, **options)


def _to_shares(split: tuple[float, float, float]) -> Shares:
    """A configuration's list as the tuple that it stands for."""
    train, val, test = split
    return train, val, test
