"""Read a data set from folders of image files, one folder per class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from medassay.core.errors import DataError
from medassay.core.progress import track
from medassay.core.types import LabelledImages, Splits
from medassay.data.class_folders import Files, list_data_set, list_samples
from medassay.data.decoding import LOST_SCALING, ImageReader, has_lost_scaling
from medassay.data.duplicates import hash_images
from medassay.data.random_split import check_shares, split_at_random
from medassay.data.window import Window


class FolderContents(NamedTuple):
    """What a folder holds.

    Attributes:
        splits: The images.
        classes: Class names, by label.
        files: By split, the file of each image.
    """

    splits: Splits
    classes: list[str]
    files: dict[str, list[Path]]


def read_folder(
    path: str | Path,
    *,
    size: int,
    channels: int,
    classes: Sequence[str] | None = None,
    split: tuple[float, float, float] = (0.7, 0.15, 0.15),
    seed: int = 0,
    nested: bool | None = None,
    window: Window | None = None,
    keep_together: bool = True,
) -> FolderContents:
    """Read a folder of images.

    If ``path`` has a folder ``train``, ``val`` or ``test``, it must have all three, with the same classes in each.
    Otherwise its folders are the classes, and the images of each class are split at random. Such a split knows nothing
    of patients, unless a class has a sub-folder for each and ``nested`` reads them: a patient's images then stay together, over
    all classes that have a sub-folder of that name. Otherwise sort them into ``train``, ``val`` and ``test`` yourself.

    Images become grey or RGB, the largest centred square is cut out, and, if its side differs from ``size``, it is
    resized (bicubic, antialiased). Transparency is dropped; the camera's orientation tag is obeyed.

    Args:
        path: The folder.
        size: Side of the images in pixels.
        channels: 1 (grey) or 3 (RGB).
        classes: The folder names, in the order of their class indices; None takes them sorted.
        split: Shares of train, val and test where the folder is not split; each class gives at least one image to each.
        seed: Seed of the split. It depends on nothing else but the file names of each class and which images belong together.
        nested: Whether images in sub-folders of a class are read; None refuses them.
        window: Range of the values that are shown of images of more than 8 bits; None refuses these.
        keep_together: Whether identical images (as read) come into the same split. Those of one sub-folder, a patient, always
            do.

    Returns:
        Images ``(N, C, size, size) uint8`` and labels ``(N,) int64``, in the order of classes and file names; and the
        class names.

    Raises:
        DataError: The folder does not exist or has another layout, there are too few images, classes differ, or an image cannot
            be read.
    """
    check_shares(split)
    listed = list_data_set(path, nested)
    names = _order_classes(listed.top, sorted(next(iter(listed.splits.values()))), classes)
    reader = ImageReader(size, channels, window=window)
    if "train" in listed.splits:
        splits = Splits(*(_read(listed.splits[part], names, reader, part, listed.top) for part in Splits._fields))
        return FolderContents(splits, names, {part: _flatten(listed.splits[part], names) for part in Splits._fields})
    unsplit = listed.splits["all"]
    images, flat = _read(unsplit, names, reader, "images", listed.top), _flatten(unsplit, names)
    chosen = _split_at_random(images, flat, listed.top, names, split, seed, keep_together)
    return FolderContents(
        Splits(*(images[chosen[part]] for part in Splits._fields)),
        names,
        {part: [flat[index] for index in chosen[part].tolist()] for part in Splits._fields},
    )


def _flatten(files: Files, names: Sequence[str]) -> list[Path]:
    """The files in the order in which they are read."""
    return [file for name in names for file in files[name]]


def read_class_folders(
    path: str | Path,
    classes: Sequence[str],
    *,
    size: int,
    channels: int,
    resize: bool = False,
    window: Window | None = None,
    window_key: str | None = None,
) -> LabelledImages:
    """The images of ``<path>/<class>/*.png``, unsplit; of ``<path>/train/<class>/*.png`` where that is what there is.

    Folders are found by the class names, upper and lower case and ``_`` for a space being the same.

    Args:
        path: The folder.
        classes: The names, in the order of their indices; every one has a folder.
        size: Side of the images in pixels.
        channels: 1 (grey) or 3 (RGB).
        resize: Whether to crop and resize images of another size; otherwise they are refused.
        window: Range of the values that are shown of images of more than 8 bits; None refuses these.
        window_key: Key that chooses the range on the command line; None where that is not possible.

    Raises:
        DataError: The folder does not exist, a class is missing or unknown, or an image cannot be read or has another size.
    """
    listed = list_samples(path)
    files_by_folder, top = listed.splits["all"], listed.top
    folders_by_key: dict[str, str] = {}
    for name in files_by_folder:
        if (key := name.lower().replace("_", " ")) in folders_by_key:
            raise DataError(
                f"{top} has two folders for one class, '{folders_by_key[key]}' and '{name}': put them together"
            )
        folders_by_key[key] = name
    classes_by_key = {name.lower().replace("_", " "): name for name in classes}
    missing, unknown = (
        sorted(a.keys() - b.keys()) for a, b in ((classes_by_key, folders_by_key), (folders_by_key, classes_by_key))
    )
    if missing or unknown:
        problems = [f"no folder of class {', '.join(missing)}"] if missing else []
        problems += [f"a folder of no known class: {', '.join(unknown)}"] if unknown else []
        raise DataError(f"{top} has {' and '.join(problems)}; expected one folder for each of {', '.join(classes)}")
    files = {name: files_by_folder[folders_by_key[key]] for key, name in classes_by_key.items()}
    reader = ImageReader(size, channels, exact=not resize, window=window, window_key=window_key)
    return _read(files, list(classes), reader, "samples", top)


def _split_at_random(
    images: LabelledImages,
    files: Sequence[Path],
    top: Path,
    names: Sequence[str],
    shares: tuple[float, float, float],
    seed: int,
    keep_together: bool,
) -> dict[str, Tensor]:
    """The indices of each split, in the order of ``images``: a patient's images, and identical ones, stay together."""
    ties: list[list[str]] = [_list_patient(file, top) for file in files]
    if keep_together:
        for own, key in zip(ties, hash_images(images.images), strict=True):
            own.append(f"identical {key!r}")
    rows = {name: (images.labels == label).nonzero()[:, 0] for label, name in enumerate(names)}
    split = split_at_random({name: [ties[row] for row in own.tolist()] for name, own in rows.items()}, shares, seed)
    return {part: torch.cat([rows[name][chosen[name]] for name in names]) for part, chosen in split.items()}


def _list_patient(file: Path, top: Path) -> list[str]:
    """The patient of an image: the sub-folder of its class that it lies in; empty where it lies in none."""
    _, first, *inner = file.relative_to(top).parts
    return [f"patient {first}"] if inner else []


def _order_classes(top: Path, folders: list[str], classes: Sequence[str] | None) -> list[str]:
    """The class names in the order of their indices."""
    if classes is None:
        return folders
    if sorted(classes) != folders:
        raise DataError(
            f"data.classes={list(classes)} are not the class folders of {top}: {folders}; name each folder once, in the "
            "order wanted"
        )
    return list(classes)


def _read(files: Files, names: Sequence[str], reader: ImageReader, part: str, top: Path) -> LabelledImages:
    """The images of one split."""
    assert reader.size is not None  # the images become one tensor
    flat = [(file, label) for label, name in enumerate(names) for file in files[name]]
    images = torch.empty((len(flat), reader.channels, reader.size, reader.size), dtype=torch.uint8)
    for index, (file, _) in enumerate(track(flat, f"reading {part}", "images")):
        images[index] = reader.read(file)
    if has_lost_scaling(images):
        raise DataError(f"{top}: {part} {LOST_SCALING}")
    return LabelledImages(images, torch.tensor([label for _, label in flat], dtype=torch.int64))
