"""The LightningDataModule of labelled images, and what it asks of a source."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, TypedDict

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from medassay.core.errors import ConfigError
from medassay.core.seeds import derive_seed
from medassay.core.types import LabelledImages, NonNegativeInt, PositiveInt, Splits
from medassay.data.augment import BatchAugment
from medassay.data.balance import count_balanced
from medassay.data.group_files import attach_groups, read_group_table
from medassay.data.loader import ResidentLoader
from medassay.data.order import make_stratified_order
from medassay.data.stamps import Stamp, check_stamp
from medassay.data.window import Window

Channels = Literal[1, 3]
Balance = Literal["none", "class_group"]
GIVE_GROUPS = (
    "give data.groups=<csv> (columns file, or split and index, and one for each attribute), or <split>_groups in the npz; a "
    "phantom plants them with data.group.kind=contrast, noise, blur or size"
)


class ImageFormat(NamedTuple):
    """What a data set declares of its images, and a source has to deliver.

    Attributes:
        classes: Class names, by label.
        channels: 1 (grey) or 3 (RGB).
        size: Side of the images in pixels.
    """

    classes: list[str]
    channels: Channels
    size: int


class Source(ABC):
    """What reads or renders a data set's three splits; one of your own does the same."""

    def check(self, declared: ImageFormat) -> None:
        """Raises :class:`ConfigError` where the declared format cannot be delivered; reads no image."""
        return

    @abstractmethod
    def read(self, declared: ImageFormat) -> Splits:
        """The three splits in the declared format.

        Raises:
            DataError: The images are not there, or have another format.
        """

    @abstractmethod
    def provenance(self) -> dict[str, Any]:
        """Where the images came from, for a run's record; called after :meth:`read`."""

    def list_files(self) -> dict[str, list[Path]]:
        """By split, the file of each image; empty where an image is no file of its own. Called after :meth:`read`."""
        return {}

    def name_files(self) -> dict[str, list[str]]:
        """By split, the name of each image's file below the data set's folder; empty as :meth:`list_files`."""
        return {}

    @property
    def shown_values(self) -> Window | None:
        """The range of values that is shown of images of more than 8 bits; None where the source reads none."""
        return None

    @property
    def test_data(self) -> LabelledData | None:
        """The data set that the test images belong to, where that is another."""
        return None


class LoadingOptions(TypedDict, total=False):
    """How images are served, by name; :class:`LabelledData` says what each is."""

    batch_size: PositiveInt
    augment: BatchAugment | None
    seed: NonNegativeInt
    subset: PositiveInt | None
    steps: PositiveInt | None


class DataOptions(LoadingOptions, total=False):
    """What every data set that is not a generator's samples can be asked for."""

    size: PositiveInt
    stamp: Stamp | None
    groups: str | None
    balance: Balance


class ResidentData(LightningDataModule):
    """What data sets whose images lie on the training device share, whatever has a class in them.

    Attributes:
        name: Name of the data set in records.
        classes: Class names, by index.
        source: Source of the images.
    """

    name: str
    classes: list[str]
    source: Any
    _splits: Any

    @property
    @abstractmethod
    def splits(self) -> Any:
        """The three splits, loaded on first use."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_splits": None}  # another process loads its own: images do not travel between them

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def relocate(self, **places: str | None) -> Self:
        """The same data set read from elsewhere: ``root``, ``file`` or ``path``, as the source has them; None changes nothing.

        Raises:
            ConfigError: The source has no such place.
        """
        new_places = {key: value for key, value in places.items() if value is not None}
        for key, value in new_places.items():
            if not hasattr(self.source, key):
                raise ConfigError(f"data.{key}={value}: the data ({self.name}) have no such key")
            setattr(self.source, key, value)
        return self

    def setup(self, stage: str) -> None:
        _ = self.splits

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch  # made on the device; looking through it for tensors takes Lightning a tenth of a millisecond


class LabelledData(ResidentData):
    """A data set of images with one class each: three splits from a source, and their resident loaders.

    No dataclass: Lightning copies those field by field where it starts several processes, and cannot copy frozen ones inside.

    Args:
        name: Name of the data set in records.
        classes: Class names, by label.
        channels: 1 (grey) or 3 (RGB).
        source: Source of the images.
        size: Side of the images in pixels.
        batch_size: Number of images per batch and device.
        augment: Random changes of training batches.
        seed: Seed of the order and of the augmentation.
        subset: Number of training images to use, classes in proportion; None for all.
        stamp: Stamp on the training and validation images of one class; test images stay clean.
        steps: Batches of a training epoch; None for one pass over the images.
        groups: CSV table of the groups of images, see :mod:`medassay.data.group_files`; it takes the place of groups that the
            source has itself.
        balance: What occurs equally often in training batches: ``class_group`` for every class in every group (all attributes
            crossed); ``none`` for images as they come.

    Raises:
        ConfigError: There are fewer than two classes, or options do not fit the source.
    """

    source: Source
    counted = "images"  # what has a class

    def __init__(
        self,
        name: str,
        classes: list[str],
        channels: Channels,
        source: Source,
        *,
        size: PositiveInt = 28,
        batch_size: PositiveInt = 64,
        augment: BatchAugment | None = None,
        seed: NonNegativeInt = 0,
        subset: PositiveInt | None = None,
        stamp: Stamp | None = None,
        steps: PositiveInt | None = None,
        groups: str | None = None,
        balance: Balance = "none",
    ) -> None:
        super().__init__()
        if len(classes) < 2:
            raise ConfigError(f"data.classes={classes}: at least two classes are needed")
        self.name, self.classes, self.channels, self.source, self.size = name, list(classes), channels, source, size
        self.batch_size, self.augment, self.seed, self.subset, self.steps = batch_size, augment, seed, subset, steps
        self.groups, self.balance = groups, balance
        source.check(self.format)
        self.stamp = check_stamp(stamp, self.classes, size)
        self._splits: Splits | None = None

    @property
    def format(self) -> ImageFormat:
        return ImageFormat(self.classes, self.channels, self.size)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)``."""
        return (self.channels, self.size, self.size)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of what a net is given at a time."""
        return self.image_shape

    @property
    def splits(self) -> Splits:
        """The three splits, loaded on first use."""
        if self._splits is None:
            splits = self.source.read(self.format)
            if self.groups is not None:
                self._table = read_group_table(self.groups)
                splits = attach_groups(splits, self._table, self.source.name_files())
            if self.stamp is not None:
                splits = self.stamp.apply_to(splits, self.classes)
            if self.subset is not None:
                chosen = make_stratified_order(splits.train.labels, derive_seed(0, 4))[: self.subset]
                splits = splits._replace(train=splits.train[chosen])
            self._splits = splits
        return self._splits

    def data_of(self, split: str) -> LabelledData:
        """The data set that a split's images belong to: this one, but for test images that a source takes from another."""
        other = self.source.test_data if split == "test" else None
        return self if other is None else other

    def split(self, name: str) -> LabelledImages:
        """The split called ``train``, ``val`` or ``test``; reads no more than it needs."""
        images: LabelledImages = getattr(self.data_of(name).splits, name)
        return images

    def class_counts(self) -> Tensor:
        """Training images per class, ``(K,) int64``."""
        return self.splits.train.counts(self.num_classes)

    def served_class_counts(self) -> Tensor:
        """Training images per class as an epoch serves them, ``(K,) int64``: of balanced batches, up to the remainder."""
        cells = self._number_cells()
        if cells is None:
            return self.class_counts()
        return count_balanced(self.splits.train.labels, cells, self.num_classes)

    def _number_cells(self) -> Tensor | None:
        """The number of each training image's class × group where batches are balanced over these; else None.

        Raises:
            ConfigError: The training images have no groups.
        """
        if self.balance == "none":
            return None
        train = self.splits.train
        if train.groups is None:
            raise ConfigError(f"data.balance={self.balance}: the training images have no groups; {GIVE_GROUPS}")
        return train.groups.number_cells(train.labels)

    def provenance(self) -> dict[str, Any]:
        """Where the images came from, for the run's record; call after the splits are loaded."""
        stamp = {} if self.stamp is None else {"stamp": self.stamp.provenance()}
        groups = {} if self.groups is None else {"groups": {"file": self.groups, "md5": self._table.md5}}
        return {"name": self.name, **stamp, **self.source.provenance(), **groups}

    def train_dataloader(self) -> ResidentLoader:
        cells = self._number_cells()
        return self._loader(self.splits.train, shuffle=True, augment=self.augment, steps=self.steps, cells=cells)

    def val_dataloader(self) -> ResidentLoader:
        return self._loader(self.splits.val)

    def _loader(
        self,
        split: LabelledImages,
        shuffle: bool = False,
        augment: BatchAugment | None = None,
        steps: int | None = None,
        cells: Tensor | None = None,
    ) -> ResidentLoader:
        trainer = self.trainer
        return ResidentLoader(
            split,
            self.batch_size,
            device=trainer.strategy.root_device if trainer else "cpu",
            shuffle=shuffle,
            seed=self.seed,
            augment=augment,
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
            steps=steps,
            cells=cells,
        )
