"""Segmentation data sets that are rendered: touching cells, and the other phantoms with the masks they come with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from medassay.core.errors import ConfigError
from medassay.core.seeds import derive_seed
from medassay.core.types import LabelledImages, SegmentedImages, SegmentedSplits
from medassay.data.modules import ImageFormat
from medassay.data.phantoms import blood, chest, knee, oct
from medassay.data.phantoms.source import PHANTOMS, SMALLEST_PHANTOM, Phantom, PhantomKind
from medassay.data.segmentation import cells
from medassay.data.segmentation.modules import PixelFormat, SegmentationSource

LABELS = {"chest": chest.CLASSES, "blood": blood.CLASSES, "oct": oct.CLASSES, "knee": knee.CLASSES}
Lengths = tuple[int, int, int]


@dataclass
class CellPhantom(SegmentationSource):
    """Rendered cells that touch in clusters, each of them known; see :mod:`medassay.data.segmentation.cells`.

    Attributes:
        lengths: Numbers of images in train, val and test.
        size: Side of the images in pixels.
        phantom_seed: Seed of the rendering.
    """

    lengths: Lengths
    size: int = 128
    phantom_seed: int = 0

    def check(self, declared: PixelFormat) -> None:
        _check_phantom(declared, "cell", 1)
        _check_size(self.size, cells.SMALLEST)

    def read(self, declared: PixelFormat) -> SegmentedSplits:
        parts = []
        for position, length in enumerate(self.lengths):
            rng = torch.Generator().manual_seed(derive_seed(self.phantom_seed, 5, position))
            parts.append(cells.render(length, rng=rng, size=self.size))
        return SegmentedSplits(*parts)

    def provenance(self) -> dict[str, Any]:
        return {"phantom": True, "phantom_seed": self.phantom_seed, "published": False}


@dataclass
class PhantomMasks(SegmentationSource):
    """A phantom of labelled images with the pixels that make its class: opacities, blood cells, signs in the retina,
    tears of a meniscus.

    Images of a class without such pixels (normal, intact) have an empty mask.

    Attributes:
        kind: ``chest`` (grey), ``blood`` (RGB), ``oct`` (grey) or ``knee`` (grey).
        lengths: Numbers of images in train, val and test, the phantom's classes in equal numbers.
        size: Side of the images in pixels.
        phantom_seed: Seed of the rendering; the images are those of the phantom's own data set.
    """

    kind: PhantomKind
    lengths: Lengths
    size: int = 28
    phantom_seed: int = 0

    def check(self, declared: PixelFormat) -> None:
        _check_phantom(declared, self.kind, PHANTOMS[self.kind][0])
        _check_size(self.size, SMALLEST_PHANTOM)

    def read(self, declared: PixelFormat) -> SegmentedSplits:
        labelled = ImageFormat(list(LABELS[self.kind]), declared.channels, self.size)
        splits = Phantom(self.kind, self.lengths, self.phantom_seed).read(labelled)
        return SegmentedSplits(*(_take_masks(split) for split in splits))

    def provenance(self) -> dict[str, Any]:
        return {"phantom": True, "phantom_seed": self.phantom_seed, "published": False}


def _take_masks(split: LabelledImages) -> SegmentedImages:
    assert split.masks is not None
    return SegmentedImages(list(split.images), list(split.masks.to(torch.uint8)))


def _check_phantom(declared: PixelFormat, kind: str, channels: int) -> None:
    if (declared.channels, len(declared.classes)) != (channels, 2):
        raise ConfigError(
            f"data.channels={declared.channels} with {len(declared.classes)} data.classes: the {kind} phantom's masks have "
            f"{channels} and 2; leave them out"
        )


def _check_size(size: int, smallest: int) -> None:
    if size < smallest:
        raise ConfigError(f"data.size={size}: expected an integer >= {smallest}")
