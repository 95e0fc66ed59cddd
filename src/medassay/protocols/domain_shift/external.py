"""Another set's test images with labels of their own, brought to the size that a net takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medassay.core.errors import ConfigError, DataError
from medassay.core.paths import expand_home, find_kind
from medassay.core.types import LabelledImages
from medassay.data import npz
from medassay.data.class_folders import find_split_folders, list_samples
from medassay.data.folder import read_class_folders
from medassay.data.modules import LabelledData

KEY = "protocol.external"
ACCEPTED = "an .npz with test_images and test_labels, or a folder of class folders"


@dataclass(frozen=True)
class ExternalImages:
    """Another set's images as the net takes them.

    Attributes:
        images: The images and their class indices.
        classes: A name for each index.
        named: Whether the names are the set's own, or given; else they are made up.
        md5: The md5 of the file, or of the images in the folder.
        converted: What was done to the images, in words.
    """

    images: LabelledImages
    classes: list[str]
    named: bool
    md5: str
    converted: list[str]


def read_external(path: str, data: LabelledData, names: Sequence[str] | None) -> ExternalImages:
    """The test images at ``path``; classes correspond by index, of a folder with the run's own class names by name.

    Args:
        path: An ``.npz`` in MedMNIST's layout of which the test images are read, or a folder of class folders (its folder
            ``test`` where it is split).
        data: The run's data, whose number of classes, channels and size the images must fit; size is changed where it differs.
        names: The set's class names by index; of a folder the folders in this order.

    Raises:
        ConfigError: Names that are not as many as the run's classes.
        DataError: Nothing can be read there, or it has another number of classes or channels.
    """
    if names is not None and len(names) != data.num_classes:
        raise ConfigError(
            f"protocol.external_classes={list(names)}: {len(names)} names, and the run knows {data.num_classes} classes "
            f"({', '.join(data.classes)}); name one for each, in this order"
        )
    top = expand_home(path)
    if (kind := find_kind(top)) is None:
        raise DataError(f"{KEY}={path} does not exist: give {ACCEPTED}")
    try:
        return _read_folder(top, data, names) if kind == "directory" else _read_npz(top, data, names)
    except DataError as error:
        raise DataError(_readdress(str(error))) from error


def _readdress(text: str) -> str:
    """A reader's message with the keys of this protocol; the run's own data stay as they are."""
    text = text.replace(npz.SET_SHAPE, "")
    for key in ("data.file=", "data.path=", "data.file", "data.path"):
        text = text.replace(key, KEY + ("=" if key.endswith("=") else ""))
    return text


def _read_npz(file: Path, data: LabelledData, names: Sequence[str] | None) -> ExternalImages:
    shape = npz.read_shape(file, "test_images")
    if len(shape) not in (3, 4):
        held = f"test_images of shape {shape}" if shape else "no test_images"
        raise DataError(f"{KEY}={file} has {held}, and images and labels are needed: give {ACCEPTED}")
    channels = 3 if len(shape) == 4 else 1
    if channels != data.channels:
        kinds = {1: "grey", 3: "RGB"}
        raise DataError(
            f"{KEY}={file}: its images are {kinds[channels]}, and the run takes {kinds[data.channels]}; give such images"
        )
    (images,) = npz.read_splits(
        file, ["test"], channels=channels, size=data.size, num_classes=_count_classes(file, data), resize=True
    )
    converted = [] if shape[1] == data.size else [f"resized from {shape[1]} to {data.size} pixels a side (bicubic)"]
    given = names or _read_names(file, data.num_classes)
    classes = list(given) if given else [f"class {label}" for label in range(data.num_classes)]
    return ExternalImages(images, classes, given is not None, npz.md5(file), converted)


def _count_classes(file: Path, data: LabelledData) -> int:
    """The run's number of classes.

    Raises:
        DataError: The labels have more.
    """
    with npz.open_archive(file) as archive:
        if "test_labels" not in archive.files:
            return data.num_classes  # what is missing is said by the reader
        labels = npz.read_array(file, "test_labels", archive)
    if labels.size and labels.dtype.kind in "iu" and labels.max() >= data.num_classes and labels.min() >= 0:
        raise DataError(
            f"{KEY}={file}: its labels go up to {labels.max()}, and the run knows {data.num_classes} classes "
            f"({', '.join(data.classes)}); classes correspond by index: give a set with these"
        )
    return data.num_classes


def _read_names(file: Path, num_classes: int) -> list[str] | None:
    """The names in the file's array ``classes``, where there are as many as the run's; None for none."""
    with npz.open_archive(file) as archive:
        if "classes" not in archive.files:
            return None
        names = npz.read_array(file, "classes", archive)
    if names.dtype.kind != "U" or names.shape != (num_classes,):
        return None
    return [str(name) for name in np.asarray(names)]


def _read_folder(top: Path, data: LabelledData, names: Sequence[str] | None) -> ExternalImages:
    folder = find_split_folders(top).get("test", top)
    listed = list_samples(folder)
    folders = sorted(listed.splits["all"])
    if len(folders) != data.num_classes:
        raise DataError(
            f"{KEY}={top} has {len(folders)} class folders ({', '.join(folders)}), and the run knows "
            f"{data.num_classes} classes ({', '.join(data.classes)}); give as many"
        )
    own = {name.lower().replace("_", " ") for name in folders} == {
        name.lower().replace("_", " ") for name in data.classes
    }
    classes = list(names or (data.classes if own else folders))
    images = read_class_folders(
        folder, classes, size=data.size, channels=data.channels, resize=True, window=data.source.shown_values
    )
    kind = "grey" if data.channels == 1 else "RGB"
    converted = [f"brought to {kind} and {data.size}×{data.size} pixels where they were not"]
    return ExternalImages(images, classes, True, listed.compute_fingerprint(), converted)
