"""The layout of a data set of class folders: its splits and classes, and the image files of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medassay.core.errors import ConfigError, DataError
from medassay.core.paths import expand_home, find_kind
from medassay.core.types import Splits
from medassay.data.image_files import (
    ACCEPTED_KINDS,
    DICOM,
    DICOM_ADVICE,
    IN_SUB_FOLDERS,
    OUTSIDE_CLASSES,
    compute_fingerprint,
    list_folders,
    list_images,
)

LAYOUT = f"expected <path>/train|val|test/<class>/*.png or <path>/<class>/*.png (also {ACCEPTED_KINDS})"
SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
SHOWN = 8  # folders named in a message

Files = dict[str, list[Path]]  # class name -> image files


@dataclass(frozen=True)
class ClassFiles:
    """The image files of a data set.

    Attributes:
        top: The folder named by the user.
        splits: By ``train``, ``val`` and ``test``, the images of each class; by ``all`` where the folder is not split.
        left_out: Number of files that are not read, by kind.
    """

    top: Path
    splits: dict[str, Files]
    left_out: Counter[str]

    def compute_fingerprint(self) -> str:
        """An md5 over the names and the contents of the images."""
        every = [file for files in self.splits.values() for images in files.values() for file in images]
        return compute_fingerprint(self.top, every)


def list_data_set(path: str | Path, nested: bool | None = None) -> ClassFiles:
    """The images of a folder that is split into ``train``, ``val`` and ``test``, or only into classes.

    Args:
        path: The folder.
        nested: Whether images in sub-folders of a class are read; None refuses them.

    Raises:
        DataError: The folder does not exist or has another layout, a class has no images, or classes differ between splits.
    """
    top = open_top(path)
    ready = find_split_folders(top)
    left_out: Counter[str] = Counter()
    advice = "data.nested=true reads them (a sub-folder is a patient), data.nested=false leaves them out"
    parts = ready or {"all": top}
    splits = {part: _list_classes(folder, nested, advice, left_out) for part, folder in parts.items()}
    if ready:
        _refuse_different_classes(ready, splits)
        others = [folder for folder in list_folders(top) if folder not in ready.values()]
        elsewhere = len(list_images(top, nested=False).images)
        elsewhere += sum(len(list_images(folder, nested=True).images) for folder in others)
        left_out.update({OUTSIDE_CLASSES: elsewhere} if elsewhere else {})
    return ClassFiles(top, splits, left_out)


def list_samples(path: str | Path) -> ClassFiles:
    """The images of class folders, unsplit; those of the folder ``train`` where there is one.

    Raises:
        DataError: The folder does not exist or has another layout, or a class has no images.
    """
    top = open_top(path)
    folder = next((inner for inner in list_folders(top) if inner.name.lower() == "train"), top)
    left_out: Counter[str] = Counter()
    files = _list_classes(folder, None, "move them into the class's own folder, or out of it", left_out)
    return ClassFiles(top, {"all": files}, left_out)


def list_class_names(path: str | None) -> list[str]:
    """The class names of a folder data set, sorted: what ``${medassay.class_folders:<path>}`` gives in a configuration.

    Raises:
        ConfigError: No path is given, or the folder does not exist.
        DataError: The folder cannot be read, or has another layout; the message shows what is there.
    """
    if path is None:
        raise ConfigError("data=folder needs data.path=<directory with train/val/test/<class>/*.png or <class>/*.png>")
    top = expand_home(path)
    if find_kind(top) != "directory":
        raise ConfigError(f"data.path={path} is not a directory: give one that holds <class>/*.png")
    folder = find_split_folders(top).get("train", top)
    names = [inner.name for inner in list_folders(folder)]
    if len(names) < 2:
        few = "only one class folder" if names else "no class folders"
        raise DataError(f"data.path={path} has {few}: {_show(folder, top)}; {LAYOUT}, with at least two classes")
    _refuse_unnameable(folder, names)
    return names


def open_top(path: str | Path) -> Path:
    """The folder ``path``, ``~`` expanded.

    Raises:
        DataError: The folder does not exist, or cannot be read.
    """
    top = expand_home(path)
    if find_kind(top) != "directory":
        raise DataError(f"data.path={top} is not a directory: {LAYOUT}")
    return top


def find_split_folders(top: Path) -> dict[str, Path]:
    """The folders of train, val and test, in this order; empty where ``top`` is not split.

    Upper and lower case are the same, and ``valid`` and ``validation`` are ``val``, where there is a folder of training images;
    without one, only the plain names say that a folder is split, so that a class may be called ``Test`` or ``valid``.

    Raises:
        DataError: A split is missing or there twice, or a folder called like a split holds images and no class folders.
    """
    named = [folder for folder in list_folders(top) if folder.name.lower() in SPLIT_NAMES]
    if not any(folder.name.lower() == "train" for folder in named):
        named = [folder for folder in named if folder.name in Splits._fields]
    if not named:
        return {}
    folders: dict[str, Path] = {}
    for folder in named:
        part = SPLIT_NAMES[folder.name.lower()]
        if part in folders:
            raise DataError(f"{top} has {folders[part].name} and {folder.name}, both for {part}: put them together")
        folders[part] = folder
    missing = [part for part in Splits._fields if part not in folders]
    bare = [folders[part] for part in Splits._fields if part in folders and not list_folders(folders[part])]
    if missing:
        here = " and ".join(folders[part].name for part in Splits._fields if part in folders)
        if bare and len(list_folders(top)) > len(named):
            advice = f"if {bare[0].name} is a class, give its folder another name; otherwise add what is missing"
        else:
            advice = "add what is missing, or move all class folders into one folder without splits"
        raise DataError(f"{top} has {here}, but no {' and no '.join(missing)}: {_show(top, top)}; {advice}; {LAYOUT}")
    if bare:
        raise DataError(
            f"{bare[0]} holds no class folders: {_show(bare[0], top)}; sort its images into one folder per class; {LAYOUT}"
        )
    return {part: folders[part] for part in Splits._fields}


def _list_classes(folder: Path, nested: bool | None, advice: str, left_out: Counter[str]) -> Files:
    """The images of each class folder, sorted, so that no result depends on the file system's order."""
    folders = list_folders(folder)
    if not folders:
        raise DataError(f"{folder} holds no class folders: {_show(folder, folder)}; {LAYOUT}")
    _refuse_unnameable(folder, [inner.name for inner in folders])
    files: Files = {}
    for inner in folders:
        inside = list_images(inner, nested=bool(nested))
        inside.refuse_problems()
        if nested is None and (count := inside.left_out[IN_SUB_FOLDERS]):
            raise DataError(f"{inner} has images in sub-folders ({count:,}): {advice}")
        files[inner.name] = inside.images
        left_out.update({kind: count for kind, count in inside.left_out.items() if count})
    if unsorted := list_images(folder, nested=False).images:
        left_out[OUTSIDE_CLASSES] += len(unsorted)
    for name, images in files.items():
        if images:
            continue
        where = folder / name if any(files.values()) else folder
        what = "no images" if any(files.values()) else "no images in its class folders"
        only_dicom = f" ({DICOM_ADVICE})" if any(left_out[kind] for kind in DICOM) else ""
        raise DataError(f"{where} holds {what}: {_show(where, where)}{only_dicom}; add some, or remove it; {LAYOUT}")
    return files


def _refuse_different_classes(ready: dict[str, Path], splits: dict[str, Files]) -> None:
    every = sorted(set().union(*splits.values()))
    for part, files in splits.items():
        absent = [name for name in every if name not in files]
        if absent:
            raise DataError(
                f"{ready[part]} has no folder for class {', '.join(absent)}, which another split has: every split needs "
                f"the same classes ({', '.join(every)})"
            )


def _refuse_unnameable(folder: Path, names: Sequence[str]) -> None:
    """Raises :class:`DataError` for a class whose folder's name is not text: no record or figure could show it."""
    for name in names:
        if not _is_text(name):
            raise DataError(f"{folder / name}: the name of this class folder is not UTF-8: rename it")


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _count(images: Sequence[Path]) -> str:
    return f"{len(images):,} {'image' if len(images) == 1 else 'images'}"


def _show(folder: Path, top: Path) -> str:
    """What lies in ``folder``, for a message: ``found in train: 3 images; folders a (12 images), b (0 images)``."""
    here = list_images(folder, nested=False)
    where = "" if folder == top else f" in {folder.relative_to(top)}"
    others = [f"{count:,} {kind}" for kind, count in sorted(here.left_out.items()) if kind != IN_SUB_FOLDERS]
    inner = list_folders(folder)
    counts = [f"{one.name} ({_count(list_images(one, nested=True).images)})" for one in inner[:SHOWN]]
    more = [f"{len(inner) - SHOWN} more"] if len(inner) > SHOWN else []
    parts = [", ".join([_count(here.images), *others])]
    parts += [f"folders {', '.join([*counts, *more])}"] if inner else ["no folders"]
    return f"found{where} {', '.join(parts)}"
