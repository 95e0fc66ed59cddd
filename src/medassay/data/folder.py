"""Read a data set from folders of image files, one folder per class."""

from __future__ import annotations

import os
import sys
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from medassay.core.errors import DataError
from medassay.core.types import LabelledImages, Splits
from medassay.data.class_folders import Files, list_data_set, list_samples
from medassay.data.decoding import LOST_SCALING, ImageReader, has_lost_scaling
from medassay.data.window import Window


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
) -> tuple[Splits, list[str]]:
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
        split: Shares of train, val and test where the folder is not split, of the images or, with ``nested``, of the patients;
            each class gives at least one to each.
        seed: Seed of the split. It depends on nothing else but the file names of each class.
        nested: Whether images in sub-folders of a class are read; None refuses them.
        window: Range of the values that are shown of images of more than 8 bits; None refuses these.

    Returns:
        Images ``(N, C, size, size) uint8`` and labels ``(N,) int64``, in the order of classes and file names; and the
        class names.

    Raises:
        DataError: no such folder, another layout, too few images, classes that differ, an image that cannot be read.
    """
    found = list_data_set(path, nested)
    files = found.splits if "train" in found.splits else _split_at_random(found.top, found.splits["all"], split, seed)
    names = _order_classes(found.top, sorted(files["train"]), classes)
    reader = ImageReader(size, channels, window=window)
    return Splits(*(_read(files[part], names, reader, part, found.top) for part in Splits._fields)), names


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
        resize: Crop and resize images of another size; otherwise they are refused.
        window: Range of the values that are shown of images of more than 8 bits; None refuses these.
        window_key: What a user types to choose the range, if that is possible.

    Raises:
        DataError: no such folder, a missing or unknown class, an image that cannot be read or has another size.
    """
    listed = list_samples(path)
    found, top = listed.splits["all"], listed.top
    plain: dict[str, str] = {}
    for name in found:
        if (key := name.lower().replace("_", " ")) in plain:
            raise DataError(f"{top} has two folders for one class, '{plain[key]}' and '{name}': put them together")
        plain[key] = name
    wanted = {name.lower().replace("_", " "): name for name in classes}
    missing, unknown = (sorted(a.keys() - b.keys()) for a, b in ((wanted, plain), (plain, wanted)))
    if missing or unknown:
        said = [f"no folder of class {', '.join(missing)}"] if missing else []
        said += [f"a folder of no known class: {', '.join(unknown)}"] if unknown else []
        raise DataError(f"{top} has {' and '.join(said)}; expected one folder for each of {', '.join(classes)}")
    files = {name: found[plain[key]] for key, name in wanted.items()}
    reader = ImageReader(size, channels, exact=not resize, window=window, window_key=window_key)
    return _read(files, list(classes), reader, "samples", top)


def fingerprint(path: str | Path, nested: bool | None = None) -> str:
    """An md5 over the relative names and the contents of the images that :func:`read_folder` reads, for a run's record.

    Raises:
        DataError: no such folder, another layout, or a file that cannot be read.
    """
    return list_data_set(path, nested).fingerprint()


def _split_at_random(
    top: Path, files: Files, shares: tuple[float, float, float], seed: int
) -> dict[str, dict[str, list[Path]]]:
    """Each class split by the same shares; the images of one sub-folder's name stay together."""
    if len(shares) != 3 or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
        raise DataError(
            f"data.split={list(shares)}: expected three positive shares (train, val, test) that add up to 1"
        )
    parts: dict[str, dict[str, list[Path]]] = {part: {} for part in Splits._fields}
    known: dict[str, str] = {}  # the split of each patient, whom another class may have, too
    for name, images in files.items():
        units = _group_by_patient(top / name, images)
        n_val, n_test = (max(1, round(share * len(units))) for share in shares[1:])
        # A generator of its own for each class: images added to one class leave the split of the others as it was.
        order = np.random.default_rng((seed, zlib.crc32(os.fsencode(name)))).permutation(len(units))
        keys = list(units)
        split_of = _assign([keys[index] for index in order], n_val, n_test, known)
        for part in Splits._fields:
            parts[part][name] = [image for key in keys if split_of[key] == part for image in units[key]]
        if not all(parts[part][name] for part in Splits._fields):
            what = "images" if len(units) == len(images) else "patients (images of one sub-folder stay together)"
            raise DataError(
                f"class {name} has {len(units)} {what}, too few for one each in train, val and test at "
                f"data.split={list(shares)}: add images, or change the shares"
            )
        known |= {key: part for key, part in split_of.items() if key.endswith("/")}
    return parts


def _assign(keys: Sequence[str], n_val: int, n_test: int, known: Mapping[str, str]) -> dict[str, str]:
    """The split of each of ``keys``: the ``known`` one, else train, val and test in turn until each has its number."""
    split_of = {key: known[key] for key in keys if key in known}
    counts = Counter(split_of.values())
    free = [key for key in keys if key not in known]
    n_val, n_test = max(n_val - counts["val"], 0), max(n_test - counts["test"], 0)
    n_train = max(len(free) - n_val - n_test, 0)
    turns = ["train"] * n_train + ["val"] * n_val + ["test"] * n_test
    return split_of | dict(zip(free, turns, strict=False))


def _group_by_patient(folder: Path, images: Sequence[Path]) -> Mapping[str, list[Path]]:
    """The images of a class by sub-folder, ``<name>/``, sorted; an image without sub-folder stands alone."""
    units: dict[str, list[Path]] = {}
    for image in images:
        first, *inner = image.relative_to(folder).parts
        units.setdefault(f"{first}/" if inner else first, []).append(image)
    return units


def _order_classes(top: Path, found: list[str], classes: Sequence[str] | None) -> list[str]:
    """The class names in the order of their indices."""
    if classes is None:
        return found
    if sorted(classes) != found:
        raise DataError(
            f"data.classes={list(classes)} are not the class folders of {top}: {found}; name each folder once, in the "
            "order wanted"
        )
    return list(classes)


def _read(files: Files, names: Sequence[str], reader: ImageReader, part: str, top: Path) -> LabelledImages:
    """The images of one split."""
    from tqdm import tqdm

    flat = [(file, label) for label, name in enumerate(names) for file in files[name]]
    images = torch.empty((len(flat), reader.channels, reader.size, reader.size), dtype=torch.uint8)
    for index, (file, _) in enumerate(
        tqdm(flat, desc=f"reading {part}", unit="image", disable=not sys.stderr.isatty())
    ):
        images[index] = reader.read(file)
    if has_lost_scaling(images):
        raise DataError(f"{top}: {part} {LOST_SCALING}")
    return LabelledImages(images, torch.tensor([label for _, label in flat], dtype=torch.int64))
