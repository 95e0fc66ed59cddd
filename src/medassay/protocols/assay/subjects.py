"""What an assay compares: the real images, and the images that are judged."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from medassay.core.errors import DataError
from medassay.core.paths import find_kind
from medassay.core.results import from_json
from medassay.core.seeds import derive_seed
from medassay.core.types import LabelledImages
from medassay.data import folder, npz
from medassay.data.class_folders import list_samples
from medassay.data.duplicates import drop_duplicates, find_copies
from medassay.data.given import compute_digest
from medassay.data.image_files import describe_left_out
from medassay.data.modules import LabelledData
from medassay.data.order import make_stratified_order
from medassay.protocols.assay.results import Kind
from medassay.runs.run import Run
from medassay.runs.samples import find_changed_sampling, write_run_samples
from medassay.training.epoch_scores import Selection

logger = logging.getLogger(__name__)

MINIMUM_PER_CLASS = 10  # judged images: below, no number of a class means anything
MINIMUM_TRAINING, MINIMUM_REAL = 40, 16  # real images: below, there are too few neighbours
HELD_OUT_SHARE = 0.2  # of images from elsewhere that come without validation ones


@dataclass(frozen=True)
class Real:
    """The real images."""

    classes: list[str]
    train: LabelledImages  # what generators learn from
    val: LabelledImages  # chooses epochs, and plays the generator of the floor
    test: LabelledImages
    provenance: dict[str, Any]

    @classmethod
    def from_data(cls, data: LabelledData, split: Literal["test", "val"]) -> Real:
        """The real images of ``data``; with ``split="val"`` validation images stand in for test images.

        Raises:
            DataError: too few images for neighbours to mean anything, or none of a class.
        """
        train, val, test = data.splits
        test = test if split == "test" else val
        for name, part, least in (("training", train, MINIMUM_TRAINING), ("validation", val, 0), ("test", test, 0)):
            counts = part.counts(data.num_classes)
            if len(part) < max(least, MINIMUM_REAL) or int(counts.min()) == 0:
                raise DataError(
                    f"an assay needs at least {max(least, MINIMUM_REAL)} {name} images and some of every class; {data.name} "
                    f"has {len(part)} ({', '.join(map(str, counts.tolist()))} by class): use a larger set"
                )
        return cls(data.classes, train, val, test, data.provenance())

    @cached_property
    def unique(self) -> LabelledImages:
        """The training images without exact duplicates: what distances are measured to."""
        return drop_duplicates(self.train)

    @cached_property
    def halves(self) -> tuple[Tensor, Tensor]:
        """Indices of the validation images that play a generator where copying is looked for, and of those nobody has seen."""
        order = make_stratified_order(self.val.labels, 1)
        return order[: len(order) // 2], order[len(order) // 2 :]

    @cached_property
    def digest(self) -> str:
        """Of all that metrics and controls depend on."""
        return compute_digest(self.train, self.val, self.test)

    def find_copies(self, images: Tensor) -> Tensor:
        """Which of ``images (N, C, H, W) uint8`` equal a training image pixel by pixel; ``(N,) bool``."""
        return find_copies(images, self.unique.images)


@dataclass(frozen=True)
class Subject:
    """What a row of a table measures: sets of equal size, taken from a pool of images.

    Subjects whose pools hold the same tensor of images are encoded, and compared with the real images, together. Of the real
    images themselves, the pools ``Real.unique`` and ``Real.val``, the features are known.

    Attributes:
        key: Name of the row in files.
        name: Name of the row in tables.
        kind: Kind of the row.
        pool: The images that the sets are taken from, with the classes they claim.
        sets: Of each set, the indices of its images in the pool, ``(m,) int64``, rising.
        members: Of copies, the indices of the copied training images (among the unique ones), which a membership attack should
            find; None for all training images.
        searched: Number of the pool's first images among which the most suspicious are looked for.
        turned: Whether copies are looked for in turned and mirrored forms of the first set's images, too.
    """

    key: str
    name: str
    kind: Kind
    pool: LabelledImages
    sets: Sequence[Tensor]
    members: Tensor | None = None
    searched: int = 0
    turned: bool = True

    @property
    def images(self) -> LabelledImages:
        """The images of the first set."""
        return self.pool[self.sets[0]]


@dataclass(frozen=True)
class Candidate:
    """Images to be judged, in random order."""

    name: str
    images: LabelledImages
    held_out: LabelledImages  # choose the epoch of classifiers trained on ``images``
    more: Callable[[int], LabelledImages] | None  # gives so many further ones; None where there are no more
    provenance: dict[str, Any]
    selection: Selection | None = None  # how the generator's epoch was chosen by its samples, where it was


def take_run_samples(run: Run, cache: Path, seed: int) -> Candidate:
    """As many samples of a generator's run as it has real training and validation images, and more on demand."""
    counts = run.data.class_counts()
    sizes = {"train": int(counts.sum()), "val": len(run.data.splits.val)}
    shape: dict[str, Any] = {"channels": run.data.channels, "size": run.data.size, "num_classes": run.data.num_classes}
    train, val = npz.read_splits(write_run_samples(run, cache, sizes, seed), ("train", "val"), **shape)

    def more(n: int) -> LabelledImages:
        further = write_run_samples(run, cache, {"train": n}, derive_seed(seed, 9))
        return npz.read_splits(further, ("train",), **shape)[0]

    metrics = run.directory.metrics()
    provenance = {
        "run": str(run.directory.path),
        "model": run.config["recipe"]["name"],
        "epochs": metrics.get("epochs") if run.checkpoint == "best" else run.epoch,
        "seed": run.config["seed"],
        "samples_seed": seed,
        "code": run.directory.record().get("code"),
    }
    if sampling := find_changed_sampling(run):
        provenance["sampling"] = sampling
    selection = None
    if run.checkpoint != "best":
        provenance["checkpoint"] = run.checkpoint
    elif "selection" in metrics:
        selection = from_json(Selection, metrics["selection"])
    settings = "".join(f", {key}={value}" for key, value in sampling.items())
    name = f"{provenance['model']}, seed {provenance['seed']}{settings}"
    return Candidate(name, train, val, more, provenance, selection)


def take_file_samples(path: Path, data: LabelledData, *, resize: bool) -> Candidate:
    """Images made by any tool: an ``.npz`` with ``train_*`` keys (and ``val_*``, if it likes), or class folders.

    Without validation images a fifth of the images is held out, some of every class, at most as many as the data set has.

    Raises:
        DataError: no such file, another size or colour than the data set's, a missing class, too few images.
    """
    shape: dict[str, Any] = {"channels": data.channels, "size": data.size, "num_classes": data.num_classes}
    left_out: dict[str, Any] = {}
    if (kind := find_kind(path)) == "directory":
        files, window = list_samples(path), data.source.shown_values
        key = "data.window" if hasattr(data.source, "window") else None
        shown: dict[str, Any] = {"window": window, "window_key": key}
        images = folder.read_class_folders(
            path, data.classes, size=data.size, channels=data.channels, resize=resize, **shown
        )
        parts, checksum = [images], files.compute_fingerprint()
        if files.left_out:
            logger.warning("left out of %s: %s", path, describe_left_out(files.left_out))
            left_out = {"left_out": dict(files.left_out)}
    elif kind is not None:
        try:
            parts, checksum = npz.read_samples(path, **shape, resize=resize), npz.md5(path)
        except DataError as error:
            wrong = re.split(r"[:;,] (?=[^:;]*data\.)", str(error))[0]  # its advice is about a data set's own file
            layout = f"{data.size}x{data.size} with {data.channels} channel(s)"
            advice = f": samples need uint8 train_images, {layout}, and train_labels 0..{data.num_classes - 1}"
            raise DataError(wrong if "resize=" in wrong else wrong + advice) from error
    else:
        raise DataError(
            f"samples={path} does not exist: give an .npz with train_images and train_labels, or class folders"
        )
    train = parts[0]
    for name, count in zip(data.classes, train.counts(data.num_classes).tolist(), strict=True):
        if count < MINIMUM_PER_CLASS:
            raise DataError(
                f"samples={path} holds {count} images of class '{name}'; at least {MINIMUM_PER_CLASS} of every class are "
                f"needed ({', '.join(data.classes)})"
            )
    if len(parts) == 2:
        if int(parts[1].counts(data.num_classes).min()) == 0:
            raise DataError(
                f"samples={path}: its val_images lack a class, and choose the epoch of classifiers: add some of every class, "
                "or leave val_images and val_labels out"
            )
        images, held_out = parts
    else:
        order = make_stratified_order(train.labels, 0)
        first = torch.stack([order[train.labels[order] == label][0] for label in range(data.num_classes)])
        order = torch.cat([first, order[~torch.isin(order, first)]])  # so that some of every class is held out
        n = max(data.num_classes, min(round(HELD_OUT_SHARE * len(train)), len(data.splits.val)))
        held_out, images = train[order[:n]], train[order[n:]]
    images = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))]
    provenance = {"samples": str(path), "md5": checksum, "images": len(images), "held_out": len(held_out), **left_out}
    return Candidate(path.name, images, held_out, None, provenance)


def fit_in_proportion(labels: Tensor, available: Tensor) -> tuple[int, int | None]:
    """The largest number of images, N at most, for which there are ``available (K,)`` ones of each class in the proportions of
    ``labels (N,)``: as many as :func:`choose_in_proportion` would choose; and the class that is short of more, if any is."""
    ordered = labels[make_stratified_order(labels, 0)]
    needed = torch.nn.functional.one_hot(ordered, len(available)).cumsum(0)  # (N, K)
    n = int((needed <= available).all(1).sum())
    return n, int(ordered[n]) if n < min(len(labels), int(available.sum())) else None


def make_sets(labels: Tensor, counts: Tensor, most: int) -> list[Tensor]:
    """Disjoint sets of images, ``counts (K,)`` of each class in every one, from the first on; ``most`` of them at most.

    Args:
        labels: Classes of the images that there are, ``(N,) int64``, in random order.
        counts: Number of images of each class in a set.
        most: Largest number of sets.

    Returns:
        Of each set, the indices of its images, rising; none where there are not enough images of a class.
    """
    members = [(labels == label).nonzero().flatten() for label in range(len(counts))]
    sizes = counts.tolist()
    number = min([most, *(len(own) // size for own, size in zip(members, sizes, strict=True) if size)])
    return [
        torch.cat([own[i * size : (i + 1) * size] for own, size in zip(members, sizes, strict=True)]).sort().values
        for i in range(number)
    ]


def choose_in_proportion(labels: Tensor, n: int) -> Tensor:
    """The indices, rising, of ``n`` of the images with ``labels (N,)``, classes in proportion; all of them if N <= n."""
    return make_stratified_order(labels, 0)[:n].sort().values
