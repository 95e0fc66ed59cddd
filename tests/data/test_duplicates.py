"""Exact duplicates: found, counted within and between splits, and said in a line."""

from __future__ import annotations

import pytest
import torch

from medassay.core.types import LabelledImages, Splits
from medassay.data.duplicates import count_duplicates, describe_duplicates, drop_duplicates, find_copies
from tests.helpers import images_of, split_of


def random_split(n: int, levels: int, channels: int = 1) -> LabelledImages:
    """Images of 2x2 pixels of few grey levels, so that many of them are equal."""
    rng = torch.Generator().manual_seed(n)
    pixels = torch.randint(levels, (n, channels, 2, 2), generator=rng).to(torch.uint8)
    return LabelledImages(pixels, torch.arange(n) % 3)


# --- duplicates ------------------------------------------------------------------------------------------------------


def test_every_image_stays_once_in_the_old_order_and_the_first_of_equal_ones_is_kept() -> None:
    split = split_of(9, 3, 9, 7, 3, 1, labels=[0, 1, 2, 3, 4, 5])
    unique = drop_duplicates(split)
    assert torch.equal(unique.images, images_of(9, 3, 7, 1))
    assert unique.labels.tolist() == [0, 1, 3, 5]


@pytest.mark.parametrize("channels", [1, 3])
def test_duplicates_are_those_of_a_plain_loop_over_bytes(channels: int) -> None:
    split = random_split(60, levels=2, channels=channels)
    split = split[torch.arange(60) % 37]  # equal ones for certain, far apart
    seen: dict[bytes, int] = {}
    for index, image in enumerate(split.images):
        seen.setdefault(image.numpy().tobytes(), index)
    assert len(seen) < 60
    unique = drop_duplicates(split)
    assert torch.equal(unique.images, split.images[list(seen.values())])
    assert unique.labels.tolist() == split.labels[list(seen.values())].tolist()


def test_images_that_differ_in_one_pixel_by_one_step_both_stay() -> None:
    pixels = torch.zeros(2, 1, 2, 3, dtype=torch.uint8)
    pixels[1, 0, 1, 2] = 1
    assert len(drop_duplicates(LabelledImages(pixels, torch.zeros(2, dtype=torch.int64)))) == 2


def test_a_mask_stays_with_its_image() -> None:
    masks = torch.zeros(3, 2, 3, dtype=torch.bool)
    masks[2] = True
    split = LabelledImages(images_of(4, 4, 8), torch.tensor([0, 0, 1]), masks)
    unique = drop_duplicates(split)
    assert unique.masks is not None
    assert unique.masks.flatten(1).all(1).tolist() == [False, True]


def test_images_that_do_not_lie_in_one_piece_of_memory_are_compared_by_value() -> None:
    channel_last = images_of(5, 6, 5, channels=3).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert not channel_last.is_contiguous()
    assert len(drop_duplicates(LabelledImages(channel_last, torch.zeros(3, dtype=torch.int64)))) == 2


# --- copies ----------------------------------------------------------------------------------------------------------


def test_a_copy_is_an_image_equal_to_one_of_the_others_in_every_pixel() -> None:
    assert find_copies(images_of(1, 2, 3, 2), images_of(2, 9)).tolist() == [False, True, False, True]


def test_copies_are_those_of_a_plain_loop_over_bytes() -> None:
    images, of = random_split(50, levels=3).images, random_split(20, levels=3).images
    known = {image.numpy().tobytes() for image in of}
    expected = [image.numpy().tobytes() in known for image in images]
    assert 0 < sum(expected) < 50
    found = find_copies(images, of)
    assert found.dtype == torch.bool
    assert found.tolist() == expected


def test_nothing_is_a_copy_of_nothing() -> None:
    assert find_copies(images_of(1, 2), images_of(1)[:0]).tolist() == [False, False]


# --- counts ----------------------------------------------------------------------------------------------------------


def test_duplicates_are_counted_within_each_split_and_between_every_two() -> None:
    splits = Splits(split_of(1, 2, 2, 2, 3), split_of(4, 3, 4), split_of(2, 2, 3, 9))
    assert count_duplicates(splits) == {
        "train": 2,
        "val": 1,
        "test": 1,
        "train/val": 1,
        "train/test": 3,  # 2, 2 and 3
        "val/test": 1,
    }


def test_where_no_image_occurs_twice_nothing_is_counted() -> None:
    assert count_duplicates(Splits(split_of(1, 2), split_of(3), split_of(4)[:0])) == {}


def test_counts_are_those_of_a_plain_comparison_of_all_pairs() -> None:
    splits = Splits(*(random_split(n, levels=3, channels=1) for n in (40, 25, 30)))

    def equal(a: LabelledImages, b: LabelledImages) -> torch.Tensor:
        return (a.images[:, None] == b.images[None]).flatten(2).all(2)

    expected = {}
    for name, split in zip(Splits._fields, splits, strict=True):
        expected[name] = int(equal(split, split).tril(-1).any(1).sum())
    for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
        expected[f"{first}/{second}"] = int(equal(getattr(splits, second), getattr(splits, first)).any(1).sum())
    assert min(expected.values()) > 0
    assert count_duplicates(splits) == expected


def test_labels_do_not_make_identical_images_different() -> None:
    splits = Splits(split_of(1, labels=[0]), split_of(5), split_of(1, labels=[1]))
    assert count_duplicates(splits) == {"train/test": 1}


def test_the_line_names_every_place_and_what_test_images_in_train_mean() -> None:
    line = describe_duplicates({"duplicates": {"train": 3, "train/test": 2}})
    assert line == (
        "Identical images, pixel by pixel: 2 of test also in train, 3 repeated within train. Scores on images that were "
        "learned from are better than on new ones."
    )


def test_repeats_within_a_split_say_nothing_of_scores() -> None:
    line = describe_duplicates({"duplicates": {"val": 1, "val/test": 4}})
    assert line == "Identical images, pixel by pixel: 4 of test also in val, 1 repeated within val."


@pytest.mark.parametrize("provenance", [{}, {"duplicates": {}}, {"name": "x"}])
def test_without_duplicates_there_is_no_line(provenance: dict[str, object]) -> None:
    assert describe_duplicates(provenance) is None
