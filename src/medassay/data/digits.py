"""Hand-written digits: scikit-learn's of 8x8 pixels, which need no download, and MNIST's of 28x28."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from medassay.core.errors import ConfigError, DataError
from medassay.core.paths import expand_home, find_kind
from medassay.core.types import LabelledImages, NonNegativeInt, PositiveInt, Splits
from medassay.data import npz
from medassay.data.downloads import watch_download
from medassay.data.medmnist_files import find_root
from medassay.data.modules import Channels, DataOptions, ImageFormat, LabelledData, Source
from medassay.data.random_split import Shares, check_shares, split_at_random
from medassay.data.sources import read_npz

CLASSES = tuple("0123456789")
SMALL = 8  # pixels a side of scikit-learn's digits
LARGE = 28  # … of MNIST's
BRIGHTEST = 16  # value of a white pixel of scikit-learn's
SMALL_MD5 = "717a258403283d25fecfadab063a2716"  # of the set as scikit-learn has carried it since 2010
LENGTHS = (10_000, 2_000, 2_000)  # train, val and test of the downloaded MNIST, where none are asked for
OFFICIAL = (60_000, 10_000)  # images of MNIST's own training and test files


@dataclass
class SmallDigits(Source):
    """The 1,797 digits of 8x8 pixels that come with scikit-learn (Alpaydin & Kaynak 1998, the test part of the UCI set).

    Attributes:
        shares: Shares of train, val and test.
        split_seed: Seed of the split.
    """

    shares: Shares = (0.6, 0.2, 0.2)
    split_seed: int = 0

    def check(self, declared: ImageFormat) -> None:
        check_digits(declared, SMALL, "choose data=mnist for 28")
        check_shares(self.shares)

    def read(self, declared: ImageFormat) -> Splits:
        from sklearn.datasets import load_digits  # slow

        read = load_digits()
        pixels = np.rint(read.images * (255 / BRIGHTEST)).astype(np.uint8)
        images, labels = torch.from_numpy(pixels)[:, None], torch.from_numpy(read.target).long()
        self._md5 = compute_md5(images, labels)
        members = {name: (labels == place).nonzero()[:, 0] for place, name in enumerate(CLASSES)}
        ties: dict[str, list[tuple[()]]] = {name: [()] * len(indices) for name, indices in members.items()}
        split = split_at_random(ties, self.shares, self.split_seed)
        chosen = [torch.cat([members[name][part[name]] for name in CLASSES]).sort().values for part in split.values()]
        return Splits(*(LabelledImages(images[part], labels[part]) for part in chosen))

    def provenance(self) -> dict[str, Any]:
        split = {"split": list(self.shares), "split_seed": self.split_seed}
        return {"set": "digits", "md5": self._md5, "published": self._md5 == SMALL_MD5, **split}


@dataclass
class MNIST(Source):
    """MNIST (LeCun et al. 1998) as torchvision downloads it, or any file of digits in MedMNIST's layout.

    Attributes:
        root: Folder that holds ``MNIST/raw``; None is medmnist's own cache folder.
        file: A file to read instead; its splits are its own.
        resize: Whether images of another size in ``file`` are brought to 28 pixels a side; else they are refused.
        lengths: Numbers of images in train and val, from the beginning of MNIST's training file, and in test, from the
            beginning of its test file; None for the first 10,000, the next 2,000 and 2,000.
    """

    root: str | None = None
    file: str | None = None
    resize: bool = False
    lengths: tuple[int | None, int | None, int | None] = (None, None, None)

    def check(self, declared: ImageFormat) -> None:
        check_digits(declared, LARGE, "choose data=digits for 8")
        asked = [
            f"data.{part}" for part, length in zip(Splits._fields, self.lengths, strict=True) if length is not None
        ]
        if self.file is not None and asked:
            raise ConfigError(
                f"{asked[0]} chooses from the downloaded MNIST, and data.file={self.file} has splits of its own: leave one "
                "out (data.subset trains on fewer images)"
            )
        if self.file is None and self.resize:
            raise ConfigError("data.resize=true is for data.file: the downloaded images are 28 pixels a side already")
        train, val, test = self.counts
        if train + val > OFFICIAL[0] or test > OFFICIAL[1]:
            raise ConfigError(
                f"data.train={train} data.val={val} data.test={test}: MNIST has {OFFICIAL[0]:,} training images, from which "
                f"val is taken, too, and {OFFICIAL[1]:,} test images"
            )

    @property
    def counts(self) -> tuple[int, int, int]:
        """Images of the downloaded set in train, val and test."""
        train, val, test = (asked or usual for asked, usual in zip(self.lengths, LENGTHS, strict=True))
        return train, val, test

    def read(self, declared: ImageFormat) -> Splits:
        if self.file is not None:
            return self._read_file(expand_home(self.file), declared)
        root = find_root(self.root)
        (images, labels), (test_images, test_labels) = (load_mnist(root, train) for train in (True, False))
        md5 = compute_md5(images, labels, test_images, test_labels)
        self._facts = {"path": str(root / "MNIST"), "md5": md5, "published": is_published(root)}
        train, val, test = self.counts
        return Splits(
            LabelledImages(images[:train], labels[:train]),
            LabelledImages(images[train : train + val], labels[train : train + val]),
            LabelledImages(test_images[:test], test_labels[:test]),
        )

    def _read_file(self, path: Path, declared: ImageFormat) -> Splits:
        if find_kind(path) != "file":
            raise DataError(f"data.file={path} is no file: name an .npz in MedMNIST's layout, or leave data.file out")
        splits = read_npz(path, declared, resize=self.resize)
        side = npz.read_side(path, "train")
        resized = {} if side == declared.size else {"resized_from": side}
        self._facts = {"file": str(path), "md5": npz.md5(path), "published": False, **resized}
        return splits

    def provenance(self) -> dict[str, Any]:
        return {"set": "mnist", **self._facts}


def check_digits(declared: ImageFormat, size: int, advice: str) -> None:
    """Raises :class:`ConfigError` where digits cannot have the declared format."""
    if declared.size != size:
        raise ConfigError(f"data.size={declared.size}: these digits are {size} pixels a side; {advice}")
    if declared.channels != 1 or tuple(declared.classes) != CLASSES:
        raise ConfigError(
            f"data.channels={declared.channels} data.classes={declared.classes}: digits are grey and of the classes "
            f"{' '.join(CLASSES)}; leave both out"
        )


def load_mnist(root: Path, train: bool) -> tuple[Tensor, Tensor]:
    """All images ``(N, 1, 28, 28) uint8`` and labels ``(N,) int64`` of one of MNIST's two files.

    What is missing, or damaged by an unpacking that was broken off, is unpacked from the packed files beside it or downloaded.

    Raises:
        DataError: It is not there or damaged, and cannot be downloaded.
    """
    from torchvision.datasets import MNIST as Downloaded  # slow

    raw = root / "MNIST" / "raw"
    unreadable = (OSError, RuntimeError, ValueError, AssertionError)
    try:
        try:
            read = Downloaded(root, train=train)
        except unreadable:
            _fetch_mnist(raw)
            read = Downloaded(root, train=train)
    except unreadable as error:
        cause = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise DataError(
            f"MNIST is not in {root} as a whole and could not be downloaded ({cause}): name a file of digits in MedMNIST's "
            f"layout, data.file=<npz>, or put the four packed files into {raw}, or run without it: data=digits"
        ) from error
    images, labels = read.data, read.targets.long()
    if images.shape != (OFFICIAL[not train], LARGE, LARGE) or labels.shape != images.shape[:1]:
        raise DataError(f"{root / 'MNIST'} is not MNIST ({tuple(images.shape)}): delete it so that it is downloaded")
    return images[:, None].contiguous(), labels


def _fetch_mnist(raw: Path) -> None:
    """Downloads and unpacks MNIST beside ``raw``, then moves each file there: whole, whatever else is under way there."""
    from torchvision.datasets import MNIST as Downloaded

    new_folders = [folder for folder in (raw, *raw.parents) if not folder.exists()]
    try:
        raw.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=raw, prefix=".mnist-") as temporary:
            arriving = Path(temporary) / "MNIST" / "raw"
            arriving.mkdir(parents=True)
            for name, _ in Downloaded.resources:
                if (raw / name).is_file():  # torchvision downloads it anew where its md5 is wrong
                    shutil.copyfile(raw / name, arriving / name)
            with watch_download():
                Downloaded(temporary, download=True)
            for file in arriving.iterdir():
                os.replace(file, raw / file.name)
    except BaseException:
        with contextlib.suppress(OSError):
            for folder in new_folders:  # a mistyped data.root leaves nothing behind
                folder.rmdir()
        raise


def is_published(root: Path) -> bool:
    """Whether the packed files that torchvision leaves beside the unpacked ones are those it knows by their md5."""
    from torchvision.datasets import MNIST as Downloaded
    from torchvision.datasets.utils import check_integrity

    return all(check_integrity(str(root / "MNIST" / "raw" / name), md5) for name, md5 in Downloaded.resources)


def compute_md5(*tensors: Tensor) -> str:
    """The md5 of tensors' values, one after the other."""
    digest = hashlib.md5(usedforsecurity=False)
    for tensor in tensors:
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def is_digits(classes: Sequence[str]) -> bool:
    """Whether classes are called after the ten digits."""
    return tuple(classes) == CLASSES


# --- what conf/data names --------------------------------------------------------------------------------------------


def small_digits_data(
    name: str,
    classes: list[str],
    channels: Channels,
    split: Shares = (0.6, 0.2, 0.2),
    split_seed: NonNegativeInt = 0,
    **options: Unpack[DataOptions],
) -> LabelledData:
    """scikit-learn's digits; see :class:`SmallDigits` and :class:`~medassay.data.modules.LabelledData`."""
    train, val, test = split
    return LabelledData(name, classes, channels, SmallDigits((train, val, test), split_seed), **options)


def mnist_data(
    name: str,
    classes: list[str],
    channels: Channels,
    root: str | None = None,
    file: str | None = None,
    resize: bool = False,
    train: PositiveInt | None = None,
    val: PositiveInt | None = None,
    test: PositiveInt | None = None,
    **options: Unpack[DataOptions],
) -> LabelledData:
    """MNIST; see :class:`MNIST` and :class:`~medassay.data.modules.LabelledData`."""
    return LabelledData(name, classes, channels, MNIST(root, file, resize, (train, val, test)), **options)
