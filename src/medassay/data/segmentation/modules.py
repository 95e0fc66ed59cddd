"""The LightningDataModule of segmented images, and what it asks of a source."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple, TypedDict

import torch
from torch import Tensor

from medassay.core.errors import ConfigError
from medassay.core.seeds import derive_seed
from medassay.core.types import NonNegativeInt, PositiveInt, SegmentedImages, SegmentedSplits
from medassay.data.modules import Channels, ResidentData
from medassay.data.segmentation.augment import SegmentationAugment
from medassay.data.segmentation.loader import PatchLoader, PatchOrder, ResidentPixels, WholeImageLoader
from medassay.data.segmentation.weights import PixelWeights
from medassay.data.window import Window


class PixelFormat(NamedTuple):
    """What a segmentation data set declares, and a source has to deliver.

    Attributes:
        classes: Names of the pixels' classes, by index; the first is the background.
        channels: 1 (grey) or 3 (RGB).
    """

    classes: list[str]
    channels: Channels


class SegmentationSource(ABC):
    """What reads or renders the three splits of a segmentation data set; one of your own does the same."""

    def check(self, declared: PixelFormat) -> None:
        """Raises :class:`ConfigError` where the declared format cannot be delivered; reads no image."""
        return

    @abstractmethod
    def read(self, declared: PixelFormat) -> SegmentedSplits:
        """The three splits in the declared format.

        Raises:
            DataError: The images are not there, or have another format.
        """

    @abstractmethod
    def provenance(self) -> dict[str, Any]:
        """Where the images came from, for a run's record; called after :meth:`read`."""

    @property
    def shown_values(self) -> Window | None:
        """The range of values that is shown of images of more than 8 bits; None where the source reads none."""
        return None


class SegmentationOptions(TypedDict, total=False):
    """How images are served, by name; :class:`SegmentationData` says what each is."""

    batch_size: PositiveInt
    patch: PositiveInt
    margin: NonNegativeInt
    augment: SegmentationAugment | None
    weights: PixelWeights | None
    seed: NonNegativeInt
    subset: PositiveInt | None
    steps: PositiveInt | None


class SegmentationData(ResidentData):
    """A data set of images with a class for each pixel: three splits from a source, and their resident loaders.

    Training batches are random patches, :class:`PatchLoader`; validation batches are whole images of their own sizes, one
    at a time, :class:`WholeImageLoader`, because metrics are per image. How a net sees a whole image is the task's matter.

    Args:
        name: Name of the data set in records.
        classes: Names of the pixels' classes, by index; the first is the background.
        channels: 1 (grey) or 3 (RGB).
        source: Source of the images.
        batch_size: Number of patches per batch and device.
        patch: Side of the patches whose classes are predicted, in pixels.
        margin: Context on each side of a patch in pixels, what valid convolutions take off; mirrored at the image's edge.
        augment: Random changes of training batches.
        weights: Weights of the pixels in the loss; None for 1 everywhere.
        seed: Seed of the patches and of the augmentation.
        subset: Number of training images to use; None for all.
        steps: Batches of a training epoch; None for as many as a patch from each image takes.

    Raises:
        ConfigError: There are fewer than two classes, or the source cannot deliver the format.
    """

    source: SegmentationSource
    counted = "pixels"  # what has a class

    def __init__(
        self,
        name: str,
        classes: list[str],
        channels: Channels,
        source: SegmentationSource,
        *,
        batch_size: PositiveInt = 8,
        patch: PositiveInt = 128,
        margin: NonNegativeInt = 0,
        augment: SegmentationAugment | None = None,
        weights: PixelWeights | None = None,
        seed: NonNegativeInt = 0,
        subset: PositiveInt | None = None,
        steps: PositiveInt | None = None,
    ) -> None:
        super().__init__()
        if not 2 <= len(classes) <= 255:
            raise ConfigError(f"data.classes={classes}: from 2 to 255 classes, the background among them, are needed")
        self.name, self.classes, self.channels, self.source = name, list(classes), channels, source
        self.batch_size, self.patch, self.margin, self.augment, self.weights = (
            batch_size,
            patch,
            margin,
            augment,
            weights,
        )
        self.seed, self.subset, self.steps = seed, subset, steps
        source.check(self.format)
        self._splits: SegmentedSplits | None = None

    @property
    def format(self) -> PixelFormat:
        return PixelFormat(self.classes, self.channels)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of what a net is given at a time: a patch with its context."""
        side = self.patch + 2 * self.margin
        return self.channels, side, side

    @property
    def splits(self) -> SegmentedSplits:
        """The three splits, loaded on first use."""
        if self._splits is None:
            splits = self.source.read(self.format)
            if self.subset is not None:
                rng = torch.Generator().manual_seed(derive_seed(0, 4))
                chosen = torch.randperm(len(splits.train), generator=rng)[: self.subset]
                splits = splits._replace(train=splits.train[chosen])
            self._splits = splits
        return self._splits

    def data_of(self, split: str) -> SegmentationData:
        """The data set that a split's images belong to: this one."""
        return self

    def split(self, name: str) -> SegmentedImages:
        """The split called ``train``, ``val`` or ``test``."""
        images: SegmentedImages = getattr(self.splits, name)
        return images

    def class_counts(self) -> Tensor:
        """Training pixels per class, ``(K,) int64``."""
        return self.splits.train.counts(self.num_classes)

    def provenance(self) -> dict[str, Any]:
        """Where the images came from, for the run's record; call after the splits are loaded."""
        return {"name": self.name, **self.source.provenance()}

    def train_dataloader(self) -> PatchLoader:
        rank, world_size = self._place_in_world()
        split = self.splits.train
        patches = PatchOrder(
            len(split), self.batch_size, seed=self.seed, rank=rank, world_size=world_size, steps=self.steps
        )
        return PatchLoader(
            self._make_resident(split), patches, patch=self.patch, margin=self.margin, augment=self.augment
        )

    def val_dataloader(self) -> WholeImageLoader:
        rank, world_size = self._place_in_world()
        return WholeImageLoader(self._make_resident(self.splits.val), rank=rank, world_size=world_size)

    def _place_in_world(self) -> tuple[int, int]:
        """Number of this process and of all."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _make_resident(self, split: SegmentedImages) -> ResidentPixels:
        """A split on the training device, its pixels weighed by the classes' frequencies in the training images."""
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        if self.weights is None:
            weights = [torch.ones(mask.shape) for mask in split.masks]
        else:
            weights = self.weights.compute(split, self.weights.weigh_classes(self.class_counts()))
        return ResidentPixels(split, weights, device)
