"""Random splits of images with masks, in which nearly identical images stay together."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from medassay.core.types import SegmentedImages, SegmentedSplits
from medassay.data.near_duplicates import NEAR, find_near_pairs, hash_perceptually
from medassay.data.random_split import Shares, split_at_random

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
        DataError: The shares are not valid, or there are too few images for three splits.
    """
    hashes = np.concatenate([hash_perceptually(image[None]) for image in images.images])
    pairs = find_near_pairs(hashes)
    ties: list[list[str]] = [[] for _ in images.images]
    for first, second, _ in pairs:
        for index in (first, second):
            ties[index].append(f"{first} like {second}")
    rows = {part: chosen[IMAGES] for part, chosen in split_at_random({IMAGES: ties}, shares, seed).items()}
    return RandomSplit(SegmentedSplits(*(images[torch.tensor(own)] for own in rows.values())), rows, len(pairs))
