"""Read a data set from folders of image files, one folder per class."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from medassay.core.errors import DataError
from medassay.core.types import LabelledImages, Splits
from medassay.data.duplicates import hash_images
from medassay.data.random_split import check_shares, split_at_random

if TYPE_CHECKING:
    from PIL import Image

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
LAYOUT = "expected <path>/train|val|test/<class>/*.png or <path>/<class>/*.png (also jpg, jpeg, bmp, tif, tiff)"

_Files = Mapping[str, Sequence[Path]]  # class name -> image files


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
    keep_together: bool = True,
) -> FolderContents:
    """Read a folder of images.

    If ``path`` has a folder ``train``, ``val`` or ``test``, it must have all three, with the same classes in each.
    Otherwise its folders are the classes, and the images of each class are split at random. Such a split knows nothing
    of patients: where several images come from one patient, sort them into ``train``, ``val`` and ``test`` yourself.

    Images become grey or RGB, the largest centred square is cut out, and, if its side differs from ``size``, it is
    resized (bicubic, antialiased). Transparency is dropped; the camera's orientation tag is obeyed.

    Args:
        path: the folder.
        size: side of the images in pixels.
        channels: 1 (grey) or 3 (RGB).
        classes: the folder names, in the order of their class indices; None takes them sorted.
        split: shares of train, val and test where the folder is not split; each class gives at least one image to each.
        seed: of the split. It depends on nothing else but the file names of each class and which images are identical.
        keep_together: identical images (as read) come into the same split.

    Returns:
        Images ``(N, C, size, size) uint8`` and labels ``(N,) int64``, in the order of classes and file names; and the
        class names and files.

    Raises:
        DataError: no such folder, another layout, too few images, classes that differ, an image that cannot be read.
    """
    top = Path(path).expanduser()
    if not top.is_dir():
        raise DataError(f"data.path={top} is not a directory: {LAYOUT}")
    present = [name for name in Splits._fields if (top / name).is_dir()]
    if present:
        files = _list_ready_splits(top, present)
        names = _order_classes(top, sorted(files["train"]), classes)
        splits = Splits(*(_read(files[part], names, size, channels, part) for part in Splits._fields))
        return FolderContents(splits, names, {part: _flatten(files[part], names) for part in Splits._fields})
    check_shares(split)
    unsplit = _class_files(top)
    names = _order_classes(top, sorted(unsplit), classes)
    images, flat = _read(unsplit, names, size, channels, "images"), _flatten(unsplit, names)
    chosen = _split_at_random(images, names, split, seed, keep_together)
    return FolderContents(
        Splits(*(images[chosen[part]] for part in Splits._fields)),
        names,
        {part: [flat[index] for index in chosen[part].tolist()] for part in Splits._fields},
    )


def _flatten(files: _Files, names: Sequence[str]) -> list[Path]:
    """The files in the order in which they are read."""
    return [file for name in names for file in files[name]]


def read_class_folders(
    path: str | Path, classes: Sequence[str], *, size: int, channels: int, resize: bool = False
) -> LabelledImages:
    """The images of ``<path>/<class>/*.png``, unsplit; of ``<path>/train/<class>/*.png`` where that is what there is.

    Folders are found by the class names, upper and lower case and ``_`` for a space being the same.

    Args:
        path: the folder.
        classes: the names, in the order of their indices; every one has a folder.
        size, channels: of the images, as in :func:`read_folder`.
        resize: crop and resize images of another size; otherwise they are refused.

    Raises:
        DataError: no such folder, a missing or unknown class, an image that cannot be read or has another size.
    """
    top = Path(path).expanduser()
    top = top / "train" if (top / "train").is_dir() else top
    found = _class_files(top)
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
    return _read(files, list(classes), size, channels, "samples", exact=not resize)


def fingerprint(path: str | Path) -> str:
    """An md5 over the relative names and the contents of all images below ``path``, for a run's record.

    Raises:
        DataError: no such folder, or a file that cannot be read.
    """
    top = Path(path).expanduser()
    if not top.is_dir():
        raise DataError(f"data.path={top} is not a directory: {LAYOUT}")
    total = hashlib.md5(usedforsecurity=False)
    names = sorted(file.relative_to(top).as_posix() for file in top.rglob("*") if _is_image(file))
    for name in names:
        try:
            content = (top / name).read_bytes()
        except OSError as error:
            raise DataError(f"cannot read {top / name} ({error.strerror}): make it readable, or remove it") from error
        total.update(name.encode() + b"\0" + hashlib.md5(content, usedforsecurity=False).digest())
    return total.hexdigest()


def _is_image(file: Path) -> bool:
    """Whether a file counts: an image by its extension, and not hidden (``._x.png`` holds no image)."""
    return file.suffix.lower() in EXTENSIONS and not file.name.startswith(".") and file.is_file()


def _class_files(folder: Path) -> dict[str, list[Path]]:
    """The images of each class folder, sorted by name, so that no result depends on the file system's order."""
    found = {
        inner.name: sorted((file for file in inner.iterdir() if _is_image(file)), key=lambda file: file.name)
        for inner in sorted(folder.iterdir())
        if inner.is_dir() and not inner.name.startswith(".")
    }
    if not found:
        raise DataError(f"{folder} holds no class folders: {LAYOUT}")
    if not any(found.values()):
        raise DataError(f"{folder} holds no images in its class folders: {LAYOUT}")
    for name, images in found.items():
        if not images:
            raise DataError(f"{folder / name} holds no images: add some, or remove the folder; {LAYOUT}")
    return found


def _list_ready_splits(top: Path, present: Sequence[str]) -> dict[str, _Files]:
    """The images by split and class, where the folder is split."""
    missing = [name for name in Splits._fields if name not in present]
    if missing:
        raise DataError(
            f"{top} has {' and '.join(present)}, but no {' and no '.join(missing)}: add what is missing; {LAYOUT}"
        )
    files = {name: _class_files(top / name) for name in Splits._fields}
    every = sorted(set().union(*files.values()))
    for part, found in files.items():
        absent = [name for name in every if name not in found]
        if absent:
            raise DataError(
                f"{top / part} has no folder for class {', '.join(absent)}, which another split has: every split needs "
                f"the same classes ({', '.join(every)})"
            )
    return dict(files)


def _split_at_random(
    images: LabelledImages, names: Sequence[str], shares: tuple[float, float, float], seed: int, keep_together: bool
) -> dict[str, Tensor]:
    """The indices of each split, in the order of ``images``."""
    keys = hash_images(images.images) if keep_together else []
    rows = {name: (images.labels == label).nonzero()[:, 0] for label, name in enumerate(names)}
    ties = {name: [keys[row : row + 1] for row in own.tolist()] for name, own in rows.items()}
    split = split_at_random(ties, shares, seed)
    return {part: torch.cat([rows[name][chosen[name]] for name in names]) for part, chosen in split.items()}


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


def _read(
    files: _Files, names: Sequence[str], size: int, channels: int, part: str, *, exact: bool = False
) -> LabelledImages:
    """The images of one split."""
    from tqdm import tqdm

    flat = [(file, label) for label, name in enumerate(names) for file in files[name]]
    images = torch.empty((len(flat), channels, size, size), dtype=torch.uint8)
    for index, (file, _) in enumerate(
        tqdm(flat, desc=f"reading {part}", unit="image", disable=not sys.stderr.isatty())
    ):
        images[index] = read_image(file, size, channels, exact=exact)
    return LabelledImages(images, torch.tensor([label for _, label in flat], dtype=torch.int64))


def read_image(file: Path, size: int, channels: int, *, exact: bool = False) -> Tensor:
    """One image, ``(C, size, size) uint8``; with ``exact`` one of another size is refused."""
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as image:
            if image.mode.startswith(("I", "F")):
                raise DataError(
                    f"{file} has more than 8 bits per channel (mode {image.mode}): choose the range of values to show "
                    "(a window) and save it with 8 bits"
                )
            frames = getattr(image, "n_frames", 1)
            if image.format == "TIFF" and frames > 1:
                raise DataError(f"{file} is a stack of {frames} images: save each as a file of its own")
            upright = ImageOps.exif_transpose(image)
            if upright.mode == "P":  # a palette may hold transparency, which only RGBA can take
                upright = upright.convert("RGBA")
            colours = upright.convert("L" if channels == 1 else "RGB")
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"{file} cannot be read as an image ({error}): replace it, or remove it") from error
    if exact and colours.size != (size, size):
        width, height = colours.size
        raise DataError(f"{file} is {width}x{height}, the data set {size}x{size}: give resize=true to crop and resize")
    return fit_to_square(colours, size)


def fit_to_square(image: Image.Image, size: int) -> Tensor:
    """The largest centred square of a grey or RGB image, ``(C, size, size) uint8``; resized where its side differs."""
    from PIL import Image

    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    if side != size:
        square = square.resize((size, size), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(square, dtype=np.uint8))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
