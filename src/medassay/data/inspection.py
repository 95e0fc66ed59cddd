"""What can be known to be wrong with a data set by looking at all of its images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from medassay.core.types import LabelledImages, Splits
from medassay.data.duplicates import count_duplicates, describe_duplicates, hash_images
from medassay.data.near_duplicates import MOST_PAIRS, NEAR, find_near_pairs, hash_perceptually

FEW = 10  # images of a class in a split


class Place(NamedTuple):
    """Where an image stands: its split, its position there from 0, and its label."""

    split: str
    position: int
    label: int


class Pair(NamedTuple):
    """Two images that look the same, and the number of bits in which their hashes differ."""

    first: Place
    second: Place
    distance: int


class Finding(NamedTuple):
    """The outcome of one check.

    Attributes:
        check: Name of the check.
        level: ``fault``: scores would mislead; ``look``: may be meant; ``good``.
        text: What the check found, in words.
    """

    check: str
    level: Literal["good", "look", "fault"]
    text: str


@dataclass(frozen=True)
class Inspection:
    """A data set looked at.

    Attributes:
        counts: By split, the images of each class.
        histograms: By split, how many pixels have each value, ``(C, 256) int64``.
        means: By split, the mean image of each class, ``(K, C, H, W) uint8``; black where there is none.
        constant: Images with the same value everywhere.
        duplicates: Counts of :func:`medassay.data.duplicates.count_duplicates`.
        identical: Groups of images that are identical; those with different labels first, then those in several splits.
        near: Pairs that look the same and are not identical; those in different splits first.
        findings: Outcomes of the checks.
    """

    counts: dict[str, list[int]]
    histograms: dict[str, Tensor]
    means: dict[str, Tensor]
    constant: list[Place]
    duplicates: dict[str, int]
    identical: list[list[Place]]
    near: list[Pair]
    findings: list[Finding]


def inspect_splits(splits: Splits, classes: Sequence[str]) -> Inspection:
    """Looks at all images of a data set; 5 s for 17,000 of 28x28 RGB."""
    named = dict(zip(Splits._fields, splits, strict=True))
    places = [Place(name, i, label) for name, split in named.items() for i, label in enumerate(split.labels.tolist())]
    images = [split.images for split in splits if len(split)]
    hashes = [value for part in images for value in hash_images(part)]
    flat = torch.cat([(part.flatten(1) == part.flatten(1)[:, :1]).all(1) for part in images]).tolist()
    counts = {name: split.counts(len(classes)).tolist() for name, split in named.items()}
    histograms = {name: count_values(split.images) for name, split in named.items()}
    constant = [place for place, one_value in zip(places, flat, strict=True) if one_value]
    identical, duplicates = _group_identical(places, hashes), count_duplicates(splits)
    near = _pair_near(places, images, hashes, flat)
    findings = [
        _check_classes(counts, classes),
        _check_few(counts, classes),
        _check_range(histograms),
        _check_constant(constant),
        _check_labels(identical),
        _check_duplicates(duplicates),
        _check_near(near),
    ]
    means = {name: average_classes(split, len(classes)) for name, split in named.items()}
    return Inspection(counts, histograms, means, constant, duplicates, identical, near, findings)


def count_values(images: Tensor) -> Tensor:
    """How many pixels of ``images (N, C, H, W) uint8`` have each value, ``(C, 256) int64``."""
    return torch.stack([torch.bincount(images[:, c].flatten(), minlength=256) for c in range(images.shape[1])])


def average_classes(split: LabelledImages, num_classes: int) -> Tensor:
    """The mean image of each class, ``(K, C, H, W) uint8``; black where there is none."""
    means = torch.zeros(num_classes, *split.images.shape[1:], dtype=torch.uint8)
    for label in set(split.labels.tolist()):
        means[label] = split.images[split.labels == label].float().mean(0).round().to(torch.uint8)
    return means


def _group_identical(places: Sequence[Place], hashes: Sequence[bytes]) -> list[list[Place]]:
    groups: dict[bytes, list[Place]] = {}
    for place, value in zip(places, hashes, strict=True):
        groups.setdefault(value, []).append(place)
    repeated = [group for group in groups.values() if len(group) > 1]
    return sorted(repeated, key=lambda group: (not _contradicts(group), len({place.split for place in group}) == 1))


def _contradicts(group: Sequence[Place]) -> bool:
    return len({place.label for place in group}) > 1


def _pair_near(
    places: Sequence[Place], images: Sequence[Tensor], hashes: Sequence[bytes], flat: Sequence[bool]
) -> list[Pair]:
    perceptual = hash_perceptually(torch.cat(list(images)))
    first_of: dict[bytes, int] = {}
    for index, value in enumerate(hashes):
        if not flat[index]:  # images of one value look like anything
            first_of.setdefault(value, index)
    unique = list(first_of.values())
    pairs = [
        Pair(places[unique[first]], places[unique[second]], distance)
        for first, second, distance in find_near_pairs(perceptual[unique])
    ]
    return sorted(pairs, key=lambda pair: (pair.first.split == pair.second.split, pair.distance))


# --- checks ----------------------------------------------------------------------------------------------------------


def _check_classes(counts: dict[str, list[int]], classes: Sequence[str]) -> Finding:
    missing = {name: [classes[k] for k, n in enumerate(row) if n == 0] for name, row in counts.items()}
    text = "; ".join(f"{name} has no image of {', '.join(absent)}" for name, absent in missing.items() if absent)
    return Finding("Classes", "fault" if text else "good", text or "every class is in every split")


def _check_few(counts: dict[str, list[int]], classes: Sequence[str]) -> Finding:
    few = {name: [f"{classes[k]} {n}" for k, n in enumerate(row) if 0 < n < FEW] for name, row in counts.items()}
    if any(few.values()):
        text = "; ".join(f"{name} {', '.join(found)}" for name, found in few.items() if found)
        return Finding("Images of a class", "look", f"fewer than {FEW}, too few for scores to mean much: {text}")
    return Finding("Images of a class", "good", f"every class has at least {FEW} in each split that has it")


def _check_range(histograms: dict[str, Tensor]) -> Finding:
    values = sum(histogram.sum(0) for histogram in histograms.values())
    assert isinstance(values, Tensor)
    present = values.nonzero()[:, 0].tolist()
    low, high = present[0], present[-1]
    if high <= 1:
        return Finding("Values", "fault", f"the largest value is {high} of 255: was a scaling lost? Multiply by 255")
    return Finding("Values", "good", f"{low} to {high}, {len(present)} different ones")


def _check_constant(constant: Sequence[Place]) -> Finding:
    if not constant:
        return Finding("Constant images", "good", "none")
    where = Counter(place.split for place in constant)
    text = ", ".join(f"{count} in {name}" for name, count in where.items())
    return Finding("Constant images", "look", f"the same value everywhere: {text}")


def _check_labels(identical: Sequence[Sequence[Place]]) -> Finding:
    contradicting = sum(map(_contradicts, identical))
    if contradicting:
        text = f"{contradicting} {'image occurs' if contradicting == 1 else 'images occur'} under different labels"
        return Finding("Labels", "fault", text)
    return Finding("Labels", "good", "no image occurs under different labels")


def _check_duplicates(duplicates: dict[str, int]) -> Finding:
    text = describe_duplicates({"duplicates": duplicates})
    if text is None:
        return Finding("Identical images", "good", "none, pixel by pixel")
    level: Literal["fault", "look"] = "fault" if any("/" in place for place in duplicates) else "look"
    return Finding("Identical images", level, text.partition(": ")[2].rstrip("."))


def _check_near(near: Sequence[Pair]) -> Finding:
    if not near:
        return Finding("Nearly identical images", "good", "none")
    places = Counter("/".join(dict.fromkeys((pair.first.split, pair.second.split))) for pair in near)
    counts = ", ".join(f"{count} in {place}" for place, count in places.items())
    at_least = "at least " if len(near) >= MOST_PAIRS else ""
    text = (
        f"pairs with hashes at most {NEAR} of 64 bits apart: {at_least}{counts}; look whether they are one image saved twice, "
        "or of one patient"
    )
    return Finding("Nearly identical images", "look", text)
