"""A random split of a data set by class, in which images that belong together stay together."""

from __future__ import annotations

import os
import zlib
from collections.abc import Collection, Hashable, Mapping, Sequence

import numpy as np

from medassay.core.errors import DataError
from medassay.core.types import Splits

Shares = tuple[float, float, float]


def check_shares(shares: Shares) -> None:
    """Raises :class:`DataError` where ``data.split`` is no split into train, val and test."""
    if len(shares) != 3 or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
        raise DataError(
            f"data.split={list(shares)}: expected three positive shares (train, val, test) that add up to 1"
        )


def split_at_random(
    ties: Mapping[str, Sequence[Collection[Hashable]]], shares: Shares, seed: int
) -> dict[str, dict[str, list[int]]]:
    """Split each class by the same shares.

    The images of a class are shuffled and dealt out to train until it has its share, then to val, then to test; an image
    takes those that belong to it along. Where all stand alone, every split has its share exactly.

    Args:
        ties: By class, for each image the keys that tie it to others: images of any class with a key in common, directly
            or through others, come into the same split. An image without keys stands alone.
        shares: Shares of train, val and test; each class gives at least one image to each.
        seed: Seed of the split.

    Returns:
        By split and class, the sorted indices into ``ties[class]``.

    Raises:
        DataError: The shares are not valid, or a class has too few images for three splits.
    """
    check_shares(shares)
    groups = _number_groups(ties)
    split_of: dict[int, int] = {}  # group -> split; a group may have been dealt with by an earlier class
    for name in sorted(groups):
        members = groups[name]
        lengths = _divide(name, len(members), shares)
        # A generator of its own for each class: images added to one class leave the split of the others as it was.
        order = np.random.default_rng((seed, zlib.crc32(os.fsencode(name)))).permutation(len(members))
        filled = [sum(split_of.get(group) == split for group in members) for split in range(3)]
        waiting = [group for group in dict.fromkeys(members[index] for index in order) if group not in split_of]
        for place, group in enumerate(waiting):
            empty = [split for split in range(3) if not filled[split]]
            short = [split for split in range(3) if filled[split] < lengths[split]]
            split = (empty if len(waiting) - place <= len(empty) else short or [2])[0]
            split_of[group] = split
            filled[split] += members.count(group)
        if not all(filled):
            lacking = " and ".join(part for part, count in zip(Splits._fields, filled, strict=True) if not count)
            raise DataError(
                f"class {name} has {len(members)} images, but those of one patient and identical ones stay together, which "
                f"leaves none for {lacking}: add other images, or sort them into train, val and test yourself"
            )
    return {
        part: {name: [i for i, g in enumerate(members) if split_of[g] == split] for name, members in groups.items()}
        for split, part in enumerate(Splits._fields)
    }


def _divide(name: str, length: int, shares: Shares) -> tuple[int, int, int]:
    """How many of so many images come into each split."""
    n_val, n_test = (max(1, round(share * length)) for share in shares[1:])
    n_train = length - n_val - n_test
    if n_train < 1:
        raise DataError(
            f"class {name} has {length} images, too few for one each in train, val and test at "
            f"data.split={list(shares)}: add images, or change the shares"
        )
    return n_train, n_val, n_test


def _number_groups(ties: Mapping[str, Sequence[Collection[Hashable]]]) -> dict[str, list[int]]:
    """By class, the number of each image's group; images tied by a chain of keys have the same."""
    parents: list[int] = []  # a forest with a tree for each group

    def find_root(node: int) -> int:
        while parents[node] != node:
            parents[node] = parents[parents[node]]
            node = parents[node]
        return node

    first_with: dict[Hashable, int] = {}
    nodes: dict[str, list[int]] = {}
    for name, images in ties.items():
        nodes[name] = list(range(len(parents), len(parents) + len(images)))
        parents.extend(nodes[name])
        for node, keys in zip(nodes[name], images, strict=True):
            for key in keys:
                parents[find_root(node)] = find_root(first_with.setdefault(key, node))
    return {name: [find_root(node) for node in members] for name, members in nodes.items()}
