"""Random splits of images with masks, in which nearly identical images stay together."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from medassay.core.errors import DataError
from medassay.core.types import SegmentedImages, SegmentedSplits
from medassay.data.near_duplicates import NEAR, find_near_pairs, hash_perceptually
from medassay.data.random_split import Shares, check_shares, split_at_random

IMAGES = "images"
"""All images are one class to the split: a segmentation data set has no class for an image as a whole."""


class RandomSplit(NamedTuple):
    """A random split of images.

    Attributes:
        splits: The images.
        rows: By split, the sorted indices of its images.
        near_pairs: Number of pairs of nearly identical images, which are kept together.
    """

    splits: SegmentedSplits
    rows: dict[str, list[int]]
    near_pairs: int

    def describe(self, shares: Shares, seed: int) -> dict[str, object]:
        """How the images were split, for a run's record."""
        return {
            "split": list(shares),
            "split_seed": seed,
            "near_duplicates": {"pairs": self.near_pairs, "bits": NEAR, "kept_together": True},
        }


def split_segmented(images: SegmentedImages, shares: Shares, seed: int) -> RandomSplit:
    """Splits images at random, nearly identical ones together.

    Args:
        images: The images; their order decides with ``seed``.
        shares: Shares of train, val and test.
        seed: Seed of the split.

    Raises:
        DataError: The shares are not valid, or there are too few images for three splits, those that look alike counted once.
    """
    hashes = np.concatenate([hash_perceptually(image[None]) for image in images.images])
    looks, look_of, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    ties_of = [[f"look {index}"] if count > 1 else [] for index, count in enumerate(counts)]
    near_pairs = int((counts * (counts - 1) // 2).sum())
    for first, second, _ in find_near_pairs(looks, most=math.inf):  # all of them: a pair that is left out may be split
        near_pairs += int(counts[first] * counts[second])
        for index in (first, second):
            ties_of[index].append(f"{first} like {second}")
    ties = [ties_of[index] for index in look_of]
    check_shares(shares)
    try:
        split = split_at_random({IMAGES: ties}, shares, seed)
    except DataError as error:  # its words are those of class folders
        raise DataError(_explain_empty_split(len(images), near_pairs, shares)) from error
    rows = {part: chosen[IMAGES] for part, chosen in split.items()}
    return RandomSplit(SegmentedSplits(*(images[torch.tensor(own)] for own in rows.values())), rows, near_pairs)


def _explain_empty_split(n: int, near_pairs: int, shares: Shares) -> str:
    count = "1 image is" if n == 1 else f"{n} images are"
    text = f"{count} too few for one each in train, val and test at data.split={list(shares)}"
    if near_pairs:
        pairs = "1 pair of them is" if near_pairs == 1 else f"{near_pairs:,} pairs of them are"
        text += f", as {pairs} nearly identical (at most {NEAR} bits of the hash differ) and stay together"
    return f"{text}: add other images, or use data=segmentation_folder with train, val and test"
