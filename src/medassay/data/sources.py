"""Where labelled images come from: files, folders, phantoms, a generator, memory; a function for each that conf/data names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Unpack

from medassay.core.errors import ConfigError, DataError
from medassay.core.types import NonNegativeInt, Range, Splits
from medassay.data import folder, medmnist_files, npz
from medassay.data.class_folders import list_data_set, open_top
from medassay.data.decoding import LOST_SCALING, has_lost_scaling
from medassay.data.group_files import read_npz_groups
from medassay.data.modules import Channels, DataOptions, ImageFormat, LabelledData, Source
from medassay.data.phantoms.groups import PlantedGroup
from medassay.data.phantoms.source import Phantom, PhantomKind
from medassay.data.window import Window, check_window

Length = Annotated[int, Range(ge=8)]


@dataclass
class MedMNISTFile(Source):
    """The published file of a single-label 2-D MedMNIST set (Yang et al. 2023), or any file in its layout.

    Attributes:
        flag: MedMNIST's name of the set.
        phantom: The data set that needs no file; error messages name it.
        root: Folder of the files; None is medmnist's own cache folder.
        file: A file to read instead of the published one; recorded with its md5.
        aliases: {our class name: MedMNIST's}, where they differ.
        resize: Whether images of another size are brought to the declared one (bicubic, antialiased); else they are refused.
    """

    flag: str
    phantom: str = "blood_phantom"
    root: str | None = None
    file: str | None = None
    aliases: Mapping[str, str] | None = None
    resize: bool = False

    def read(self, declared: ImageFormat) -> Splits:
        classes, channels, size = declared
        self.resized_from = None
        if self.file is None:
            medmnist_files.check_names(self.flag, classes, self.aliases)
            medmnist_files.check_channels(self.flag, channels)
            stored = medmnist_files.choose_size(size) if self.resize else size
            self.read_file = medmnist_files.find_file(self.flag, size=stored, root=self.root, phantom=self.phantom)
        else:
            self.read_file = medmnist_files.name_file(self.file, self.flag)
        splits = read_npz(self.read_file.path, declared, resize=self.resize)
        side = npz.read_side(self.read_file.path, "train")
        self.resized_from = None if side == size else side
        return splits

    def provenance(self) -> dict[str, Any]:
        file = self.read_file
        resized = {} if self.resized_from is None else {"resized_from": self.resized_from}
        return {"file": str(file.path), "md5": file.md5, "published": file.published, **resized}


@dataclass
class ClassFolders(Source):
    """Class folders of images: ``path/{train,val,test}/<class>/*.png``, or ``path/<class>/*.png`` split by a ratio.

    Attributes:
        path: The top folder.
        shares: Shares of train, val and test where the folder has no such sub-folders.
        split_seed: Seed of the split by these shares.
        nested: Whether images in sub-folders of a class are read, a sub-folder being a patient; None refuses them.
        window: Range of the values that are shown of images of more than 8 bits; None refuses these.
        keep_copies_together: Whether identical images come into the same split.
    """

    path: str
    shares: tuple[float, float, float] = (0.7, 0.15, 0.15)
    split_seed: int = 0
    nested: bool | None = None
    window: Window | None = None
    keep_copies_together: bool = False

    def check(self, declared: ImageFormat) -> None:
        check_window(self.window, "data.window")

    @property
    def shown_values(self) -> Window | None:
        return self.window

    def read(self, declared: ImageFormat) -> Splits:
        classes, channels, size = declared
        self._contents = folder.read_folder(
            self.path,
            size=size,
            channels=channels,
            classes=classes,
            split=self.shares,
            seed=self.split_seed,
            nested=self.nested,
            window=self.window,
            keep_together=self.keep_copies_together,
        )
        return self._contents.splits

    def list_files(self) -> dict[str, list[Path]]:
        return self._contents.files

    def name_files(self) -> dict[str, list[str]]:
        top = open_top(self.path)
        return {
            part: [file.relative_to(top).as_posix() for file in files] for part, files in self._contents.files.items()
        }

    def provenance(self) -> dict[str, Any]:
        files = list_data_set(self.path, self.nested)
        left_out = {"left_out": dict(files.left_out)} if files.left_out else {}
        return {"path": self.path, "md5": files.compute_fingerprint(), "published": False, **left_out}


@dataclass
class GeneratedSamples(Source):
    """Training and validation images from a generator's samples file, test images from the generator's own data set.

    Attributes:
        find_file: Function that gives the path of an ``.npz`` with ``train_*`` and ``val_*`` in MedMNIST's layout; called when
            the images are needed.
        real: The generator's own data set.
    """

    find_file: Callable[[], Path]
    real: LabelledData

    @cached_property
    def file(self) -> Path:
        """The samples; drawn, or found in the cache, on first use."""
        return self.find_file()

    def read(self, declared: ImageFormat) -> Splits:
        train, val = npz.read_splits(
            self.file,
            ("train", "val"),
            channels=declared.channels,
            size=declared.size,
            num_classes=len(declared.classes),
        )
        return Splits(train, val, self.real.splits.test)

    def provenance(self) -> dict[str, Any]:
        made = {"file": str(self.file), "md5": npz.md5(self.file), "published": False}
        return {**made, "real": self.real.provenance()}

    @property
    def shown_values(self) -> Window | None:
        return self.real.source.shown_values

    @property
    def test_data(self) -> LabelledData:
        return self.real


@dataclass
class InMemory(Source):
    """Splits that the caller has; one that is not needed may be empty."""

    splits: Splits

    def read(self, declared: ImageFormat) -> Splits:
        for part, split in zip(Splits._fields, self.splits, strict=True):
            if has_lost_scaling(split.images):
                raise DataError(f"the {part} split {LOST_SCALING}")
        return self.splits

    def provenance(self) -> dict[str, Any]:
        return {}


def read_npz(path: Path, declared: ImageFormat, *, resize: bool = False) -> Splits:
    """The three splits of an ``.npz`` file in MedMNIST's layout; ``resize`` brings images of another size to the declared one.

    Raises:
        DataError: The file cannot be read, or has another format.
    """
    classes, channels, size = declared
    names = Splits._fields
    splits = npz.read_splits(path, names, channels=channels, size=size, num_classes=len(classes), resize=resize)
    return read_npz_groups(path, Splits(*splits))


# --- what conf/data names --------------------------------------------------------------------------------------------


def medmnist_data(
    name: str,
    flag: str,
    classes: list[str],
    channels: Channels,
    phantom: str = "blood_phantom",
    root: str | None = None,
    file: str | None = None,
    aliases: Mapping[str, str] | None = None,
    resize: bool = False,
    **options: Unpack[DataOptions],
) -> LabelledData:
    """A MedMNIST set; see :class:`MedMNISTFile` and :class:`LabelledData`."""
    return LabelledData(name, classes, channels, MedMNISTFile(flag, phantom, root, file, aliases, resize), **options)


def folder_data(
    name: str,
    path: str,
    classes: list[str],
    channels: Channels = 3,
    split: tuple[float, float, float] = (0.7, 0.15, 0.15),
    split_seed: NonNegativeInt = 0,
    nested: bool | None = None,
    window: Window | None = None,
    keep_copies_together: bool = False,  # as in runs recorded before there was this key: they keep their split
    **options: Unpack[DataOptions],
) -> LabelledData:
    """Class folders of images; see :class:`ClassFolders` and :class:`LabelledData`."""
    train, val, test = split
    source = ClassFolders(path, (train, val, test), split_seed, nested, window, keep_copies_together)
    return LabelledData(name, classes, channels, source, **options)


def phantom_data(
    name: str,
    kind: PhantomKind,
    classes: list[str],
    channels: Channels,
    train: Length = 4096,
    val: Length = 512,
    test: Length = 1024,
    phantom_seed: NonNegativeInt = 0,
    group: PlantedGroup | None = None,
    second_group: PlantedGroup | None = None,
    **options: Unpack[DataOptions],
) -> LabelledData:
    """Rendered images; see :class:`~medassay.data.phantoms.source.Phantom` and :class:`LabelledData`."""
    source = Phantom(kind, (train, val, test), phantom_seed, (group, second_group))
    if source.planted and (table := options.get("groups")) is not None:
        raise ConfigError(
            f"data.groups={table}: this phantom has planted groups; leave out one of data.groups and data.group"
        )
    return LabelledData(name, classes, channels, source, **options)


def memory_data(name: str, classes: list[str], splits: Splits, **options: Unpack[DataOptions]) -> LabelledData:
    """Images that the caller has, of whatever size and channels they are."""
    _, channels, size, _ = splits.train.images.shape
    options["size"] = size
    return LabelledData(name, classes, 1 if channels == 1 else 3, InMemory(splits), **options)
