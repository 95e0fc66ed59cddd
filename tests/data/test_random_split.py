"""The random split: shares, its seed, and what stays together."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from medassay.core.errors import DataError
from medassay.data.random_split import Shares, split_at_random

SHARES = (0.7, 0.15, 0.15)
Split = dict[str, dict[str, list[int]]]


def alone(**counts: int) -> dict[str, list[list[str]]]:
    """Classes of images that belong to no other."""
    return {name: [[] for _ in range(count)] for name, count in counts.items()}


def first_split(counts: dict[str, int], shares: Shares, seed: int) -> Split:
    """The split that recorded runs have: a permutation of each class, cut twice."""
    parts: Split = {"train": {}, "val": {}, "test": {}}
    for name, count in counts.items():
        n_val, n_test = (max(1, round(share * count)) for share in shares[1:])
        order = np.random.default_rng((seed, zlib.crc32(name.encode()))).permutation(count)
        cuts = np.split(order, [count - n_val - n_test, count - n_test])
        for part, chosen in zip(parts, cuts, strict=True):
            parts[part][name] = sorted(chosen.tolist())
    return parts


def place_of(split: Split, name: str, index: int) -> str:
    (part,) = [part for part, classes in split.items() if index in classes[name]]
    return part


@pytest.mark.parametrize("shares", [SHARES, (0.5, 0.25, 0.25), (0.98, 0.01, 0.01)])
@pytest.mark.parametrize("seed", [0, 7])
def test_images_that_stand_alone_are_split_as_in_recorded_runs(shares: Shares, seed: int) -> None:
    counts = {"cat": 3, "dog": 20, "emu": 101}
    assert split_at_random(alone(**counts), shares, seed) == first_split(counts, shares, seed)


def test_a_recorded_split_is_still_the_same() -> None:
    split = split_at_random(alone(cat=10), SHARES, 0)
    assert [split[part]["cat"] for part in ("val", "test")] == [[1, 9], [6, 7]]


@pytest.mark.parametrize("seed", range(20))
def test_what_has_a_key_in_common_comes_into_one_split_and_all_is_used_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ties = {name: [[int(key)] for key in rng.integers(0, 40, 60)] for name in ("cat", "dog")}
    split = split_at_random(ties, SHARES, seed)
    where: dict[int, set[str]] = {}
    for name, images in ties.items():
        assert sorted(i for classes in split.values() for i in classes[name]) == list(range(60))
        assert all(split[part][name] for part in split)
        for index, (key,) in enumerate(images):
            where.setdefault(key, set()).add(place_of(split, name, index))
    assert {len(parts) for parts in where.values()} == {1}


def test_images_are_tied_through_others_and_over_classes() -> None:
    ties = alone(cat=12, dog=12)
    ties["cat"][0], ties["cat"][5], ties["dog"][3] = ["a"], ["a", "b"], ["b"]
    for seed in range(20):
        split = split_at_random(ties, SHARES, seed)
        places = {place_of(split, name, i) for name, i in (("cat", 0), ("cat", 5), ("dog", 3))}
        assert len(places) == 1


def test_shares_are_met_as_nearly_as_pairs_allow() -> None:
    ties = {"cat": [[index // 2] for index in range(200)]}
    split = split_at_random(ties, SHARES, 3)
    lengths = [len(split[part]["cat"]) for part in split]
    assert lengths == [140, 30, 30]


@pytest.mark.parametrize("seed", range(10))
def test_three_groups_are_enough_for_three_splits_whatever_their_sizes(seed: int) -> None:
    ties = {"cat": [["a"], ["b"], ["c"], ["c"], ["c"], ["c"]]}
    split = split_at_random(ties, SHARES, seed)
    assert all(split[part]["cat"] for part in split)


def test_the_same_seed_gives_the_same_split_and_another_seed_another() -> None:
    ties = {"cat": [[index % 30] for index in range(60)]}
    assert split_at_random(ties, SHARES, 0) == split_at_random(ties, SHARES, 0)
    assert split_at_random(ties, SHARES, 0) != split_at_random(ties, SHARES, 1)


def test_a_tie_in_one_class_leaves_the_split_of_the_others_as_it_was() -> None:
    tied = alone(cat=20, dog=20)
    tied["cat"][0] = tied["cat"][1] = ["a"]
    before, after = (split_at_random(ties, SHARES, 0) for ties in (alone(cat=20, dog=20), tied))
    assert [before[part]["dog"] for part in before] == [after[part]["dog"] for part in after]


def test_copies_that_leave_nothing_for_a_split_are_said() -> None:
    with pytest.raises(DataError, match=r"class cat has 5 images, .* leaves none for test: add other images, or sort"):
        split_at_random({"cat": [["a"], ["a"], ["b"], ["b"], ["b"]]}, SHARES, 0)


def test_a_class_whose_images_are_all_in_another_is_said() -> None:
    ties = {"cat": [["a"], ["a"], ["a"], ["b"], ["c"]], "dog": [["a"]] * 4}
    with pytest.raises(DataError, match="class dog has 4 images"):
        split_at_random(ties, SHARES, 0)
