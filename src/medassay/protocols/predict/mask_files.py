"""Masks, probabilities and outlines on disk while images are segmented one by one, so that memory holds one of them."""

from __future__ import annotations

import functools
import itertools
import shutil
import tempfile
import weakref
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image
from torch import Tensor

ARCHIVE = "probabilities.npz"


class _Folder:
    """A new folder in ``parent``, removed with this object, or when the program ends."""

    def __init__(self, parent: Path) -> None:
        parent.mkdir(parents=True, exist_ok=True)
        self.path = Path(tempfile.mkdtemp(prefix="predict-", dir=parent))
        self.remove = weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)

    def move(self, name: str, path: Path) -> None:
        """Moves the file ``name`` in it to ``path``."""
        shutil.move(self.path / name, path)


class MaskFiles:
    """What a report will hold, in a folder of its own until then; that is removed with the last function of ``files``.

    Use it as a context manager while files are added; the archive is whole after that.

    Args:
        folder: The folder to make it in.
        classes: Names of the classes.

    Attributes:
        files: For :class:`Report.files`: ``probabilities.npz``, and for each image ``masks/<name>.png``, class indices as 8-bit
            grey, and ``overlays/<name>.png``.
    """

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        self._folder = _Folder(folder)
        self.files: dict[str, Callable[[Path], None]] = {}
        self._taken: set[str] = set()
        # the fastest compression: most probabilities are near 0 or 1, and the net need not wait
        self._archive = zipfile.ZipFile(self._place(ARCHIVE), "w", zipfile.ZIP_DEFLATED, compresslevel=1)
        # no image is called so: names have an extension, or an index behind a slash
        self._add_array("classes", np.array(classes))

    def __enter__(self) -> MaskFiles:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        self._archive.close()
        if kind is not None:
            self._folder.remove()

    def add(self, name: str, probabilities: Tensor, mask: Tensor, overlay: Tensor) -> str:
        """Keeps what is known of one image, and gives the path of its mask in the report's directory.

        Args:
            name: The image's name, that of its array in the archive.
            probabilities: ``(K, H, W)``; kept as float16, which is off by 0.00025 at most.
            mask: Class indices, ``(H, W) uint8``.
            overlay: Picture, ``(3, H, W) uint8``.
        """
        own = choose_file_name(name, self._taken)
        self._add_array(name, probabilities.half().numpy())
        _save(mask, self._place(f"masks/{own}.png"))
        _save(overlay.permute(1, 2, 0), self._place(f"overlays/{own}.png"))
        return f"masks/{own}.png"

    def _add_array(self, name: str, array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> None:
        with self._archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
            np.lib.format.write_array(stream, array, allow_pickle=False)

    def _place(self, inside: str) -> Path:
        """Where a file of the report is kept until then."""
        name = str(len(self.files))
        # bound to the folder, which lives as long as one of its files is wanted
        self.files[inside] = functools.partial(self._folder.move, name)
        return self._folder.path / name


def choose_file_name(name: str, taken: set[str]) -> str:
    """``deep/a.tif -> deep/a``; with its extension, or a number, where another image has that name.

    Args:
        name: Name of an image; it may come from a file of somebody else's, so that it never leads out of a folder.
        taken: Names chosen so far, to which the new one is added; upper and lower case are one, as on some file systems.
    """
    path = PurePosixPath(*(part for part in PurePosixPath(name).parts if part.strip("/.")))
    numbered = (f"{path}_{number}" for number in itertools.count(2))
    candidates = itertools.chain([str(path.with_suffix("")), str(path)], numbered)
    chosen = next(candidate for candidate in candidates if candidate.casefold() not in taken)
    taken.add(chosen.casefold())
    return chosen


def _save(pixels: Tensor, path: Path) -> None:
    Image.fromarray(pixels.contiguous().numpy()).save(path, format="PNG")
