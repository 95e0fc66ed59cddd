"""LightningDataModules: three splits of labelled images and their resident loaders."""

# No postponed annotations: the checks of a configuration read those of a subclass's fields, in whatever module it lies.
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from medassay.core.errors import ConfigError
from medassay.core.seeds import derived_seed
from medassay.core.types import LabelledImages, NonNegativeInt, PositiveInt, Range, Splits
from medassay.data import folder, medmnist_files, npz
from medassay.data.augment import BatchAugment
from medassay.data.loader import ResidentLoader
from medassay.data.order import stratified_order
from medassay.data.phantoms import blood, chest
from medassay.data.stamps import Stamp, check_stamp

Channels = Literal[1, 3]


@dataclass(eq=False, repr=False, kw_only=True)
class DataOptions:
    """What every data set can be asked for, by name.

    Attributes:
        size: pixels a side.
        batch_size: images per batch and device.
        augment: random changes of training batches.
        seed: of order and augmentation.
        subset: train on this many images only, classes in proportion; None for all.
        stamp: what training and validation images of one class carry; test images stay clean.
        steps: batches of a training epoch; None for one pass over the images.
    """

    size: PositiveInt = 28
    batch_size: PositiveInt = 64
    augment: BatchAugment | None = None
    seed: NonNegativeInt = 0
    subset: PositiveInt | None = None
    stamp: Stamp | None = None
    steps: int | None = field(default=None, init=False)

    @abstractmethod
    def __post_init__(self) -> None:
        """Checks them, once all fields are set."""


class ImageDataModule(DataOptions, LightningDataModule):
    """What all data sets share; a subclass, best a dataclass too, says how to load its splits.

    Attributes:
        name: what the data set is called in records. (A field of that name needs ``field()``: Lightning has a default.)
        classes: class names, by label.
        channels: 1 (grey) or 3 (RGB).
    """

    name: str
    classes: list[str]
    channels: Channels

    def __init__(self, name: str, classes: list[str], channels: Channels, **options: Any) -> None:
        """For subclasses that are no dataclasses; ``options`` are :class:`DataOptions`."""
        self.name, self.classes, self.channels = name, classes, channels
        super().__init__(**options)

    def __post_init__(self) -> None:
        LightningDataModule.__init__(self)
        if len(self.classes) < 2:
            raise ConfigError(f"data.classes={self.classes}: at least two classes are needed")
        self.classes = list(self.classes)
        self.stamp = check_stamp(self.stamp, self.classes, self.size)
        self._splits: Splits | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_splits": None}  # another process loads its own: images do not travel between them

    @abstractmethod
    def load(self) -> Splits:
        """Reads or renders the three splits."""

    def provenance(self) -> dict[str, Any]:
        """Where the images came from, for the run's record; call after the splits are loaded."""
        return {"name": self.name} | ({} if self.stamp is None else {"stamp": self.stamp.provenance()})

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)``."""
        return (self.channels, self.size, self.size)

    @property
    def splits(self) -> Splits:
        """The three splits, loaded on first use."""
        if self._splits is None:
            splits = self.load()
            if self.stamp is not None:
                splits = self.stamp.apply_to(splits, self.classes)
            if self.subset is not None:
                chosen = stratified_order(splits.train.labels, derived_seed(0, 4))[: self.subset]
                splits = splits._replace(train=splits.train[chosen])
            self._splits = splits
        return self._splits

    def split(self, name: str) -> LabelledImages:
        """The split called ``train``, ``val`` or ``test``; reads no more than it needs."""
        found: LabelledImages = getattr(self.splits, name)
        return found

    def class_counts(self) -> Tensor:
        """Training images per class, ``(K,) int64``."""
        return self.splits.train.counts(self.num_classes)

    def setup(self, stage: str) -> None:
        _ = self.splits

    def train_dataloader(self) -> ResidentLoader:
        return self._loader(self.splits.train, shuffle=True, augment=self.augment, steps=self.steps)

    def val_dataloader(self) -> ResidentLoader:
        return self._loader(self.splits.val)

    def _loader(
        self,
        split: LabelledImages,
        shuffle: bool = False,
        augment: BatchAugment | None = None,
        steps: int | None = None,
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
        )


@dataclass(eq=False, repr=False)
class MedMNISTData(ImageDataModule):
    """A single-label 2-D MedMNIST set (Yang et al. 2023): the published file, or any file in its layout.

    Attributes:
        flag: MedMNIST's name of the set.
        phantom: the data set that needs no file; error messages name it.
        root: folder of the files; None is medmnist's own cache folder.
        file: a file to read instead of the published one; recorded with its md5.
        aliases: {our class name: MedMNIST's}, where they differ.
    """

    name: str = field()
    flag: str
    classes: list[str]
    channels: Channels
    phantom: str = "blood_phantom"
    root: str | None = None
    file: str | None = None
    aliases: Mapping[str, str] | None = None
    _data_file: medmnist_files.DataFile | None = field(default=None, init=False)

    def load(self) -> Splits:
        if self.file is None:
            medmnist_files.check_names(self.flag, self.classes, self.aliases)
            medmnist_files.check_channels(self.flag, self.channels)
            found = medmnist_files.find_file(self.flag, size=self.size, root=self.root, phantom=self.phantom)
        else:
            found = medmnist_files.name_file(self.file, self.flag, self.size)
        self._data_file = found
        expected = {"channels": self.channels, "size": self.size, "num_classes": self.num_classes}
        return Splits(*npz.read_splits(found.path, Splits._fields, **expected))

    def provenance(self) -> dict[str, Any]:
        assert self._data_file is not None
        file = self._data_file
        return {**super().provenance(), "file": str(file.path), "md5": file.md5, "published": file.published}


class FolderData(ImageDataModule):
    """Class folders of images: ``path/{train,val,test}/<class>/*.png``, or ``path/<class>/*.png`` split by a ratio.

    Args:
        path: the top folder.
        split: shares of train, val and test where the folder has no such sub-folders.
        split_seed: of that split.
    """

    def __init__(  # no dataclass: the argument ``split`` would hide the method
        self,
        name: str,
        path: str,
        classes: list[str],
        channels: Channels = 3,
        split: tuple[float, float, float] = (0.7, 0.15, 0.15),
        split_seed: NonNegativeInt = 0,
        size: PositiveInt = 28,
        batch_size: PositiveInt = 64,
        augment: BatchAugment | None = None,
        seed: NonNegativeInt = 0,
        subset: PositiveInt | None = None,
        stamp: Stamp | None = None,
    ) -> None:
        options = {"size": size, "batch_size": batch_size, "augment": augment, "seed": seed, "subset": subset}
        super().__init__(name, classes, channels, stamp=stamp, **options)
        self.path = path
        self.shares = (split[0], split[1], split[2])
        self.split_seed = split_seed

    def load(self) -> Splits:
        splits, _ = folder.read_folder(
            self.path,
            size=self.size,
            channels=self.channels,
            classes=self.classes,
            split=self.shares,
            seed=self.split_seed,
        )
        return splits

    def provenance(self) -> dict[str, Any]:
        return {**super().provenance(), "path": self.path, "md5": folder.fingerprint(self.path), "published": False}


@dataclass(eq=False, repr=False)
class PhantomData(ImageDataModule):
    """Images rendered on the fly, with masks of what makes their class: test objects with known ground truth.

    Attributes:
        kind: ``chest`` (grey, 2 classes) or ``blood`` (RGB, 8 classes).
        train, val, test: images per split, classes in equal numbers.
        phantom_seed: of the rendering; the run's seed does not change the data set.
    """

    name: str = field()
    kind: Literal["chest", "blood"]
    classes: list[str]
    channels: Channels
    train: Annotated[int, Range(ge=8)] = 4096
    val: Annotated[int, Range(ge=8)] = 512
    test: Annotated[int, Range(ge=8)] = 1024
    phantom_seed: NonNegativeInt = 0
    size: Annotated[int, Range(ge=8)] = field(default=28, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        rendered = {"chest": (1, len(chest.CLASSES)), "blood": (3, len(blood.CLASSES))}[self.kind]
        if (self.channels, len(self.classes)) != rendered:
            raise ConfigError(
                f"data.channels={self.channels} with {len(self.classes)} data.classes: the {self.kind} phantom has "
                f"{rendered[0]} and {rendered[1]}; leave them out"
            )

    def load(self) -> Splits:
        render = {"chest": chest.render, "blood": blood.render}[self.kind]
        parts = []
        for position, length in enumerate((self.train, self.val, self.test)):
            rng = torch.Generator().manual_seed(derived_seed(self.phantom_seed, 5, position))
            labels = torch.arange(length) % self.num_classes
            parts.append(render(labels[torch.randperm(length, generator=rng)], rng=rng, size=self.size))
        return Splits(*parts)

    def provenance(self) -> dict[str, Any]:
        return {**super().provenance(), "phantom": True, "phantom_seed": self.phantom_seed, "published": False}


@dataclass(eq=False, repr=False)
class SyntheticData(ImageDataModule):
    """Training and validation images from a generator's samples file, test images from the real data set.

    Attributes:
        find_file: gives the path of an ``.npz`` with ``train_*`` and ``val_*`` in MedMNIST's layout; called when they are
            needed.
        real: the generator's own data set: classes, shape and test images come from it.
    """

    name: str = field()
    find_file: Callable[[], Path]
    real: ImageDataModule
    size: int = field(init=False)
    stamp: None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.classes, self.channels, self.size = self.real.classes, self.real.channels, self.real.size
        super().__post_init__()

    @cached_property
    def file(self) -> Path:
        """The samples; drawn, or found in the cache, on first use."""
        return self.find_file()

    def load(self) -> Splits:
        train, val = npz.read_splits(
            self.file, ("train", "val"), channels=self.channels, size=self.size, num_classes=self.num_classes
        )
        return Splits(train, val, self.real.splits.test)

    def provenance(self) -> dict[str, Any]:
        made = {"file": str(self.file), "md5": npz.md5(self.file), "published": False}
        return {"name": self.name, **made, "real": self.real.provenance()}

    def split(self, name: str) -> LabelledImages:
        return self.real.split("test") if name == "test" else super().split(name)  # real images need no generator
