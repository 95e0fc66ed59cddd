"""Images that are in memory already: as a data module, their digest, and their exact duplicates."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch import Tensor

from medassay.core.errors import DataError
from medassay.core.types import LabelledImages, Splits
from medassay.data.given import digest, drop_duplicates, find_copies
from medassay.data.sources import memory_data


def images_of(*values: int, channels: int = 1) -> Tensor:
    """Images ``(N, channels, 2, 3)`` that rise from ``values``, pixel by pixel."""
    first = torch.tensor(values)[:, None]
    return (first + torch.arange(6 * channels)).to(torch.uint8).reshape(len(values), channels, 2, 3)


def split_of(*values: int, labels: list[int] | None = None, channels: int = 1) -> LabelledImages:
    return LabelledImages(
        images_of(*values, channels=channels), torch.tensor(labels or [0] * len(values), dtype=torch.int64)
    )


def random_split(n: int, levels: int, channels: int = 1) -> LabelledImages:
    """Images of 2x2 pixels of few grey levels, so that many of them are equal."""
    rng = torch.Generator().manual_seed(n)
    pixels = torch.randint(levels, (n, channels, 2, 2), generator=rng).to(torch.uint8)
    return LabelledImages(pixels, torch.arange(n) % 3)


def test_splits_of_0_and_1_alone_are_a_lost_scaling() -> None:
    fine = split_of(0, 100)
    lost = LabelledImages((fine.images > 50).to(torch.uint8), fine.labels)
    with pytest.raises(DataError, match="the val split holds 0 and 1 only"):
        _ = memory_data("mine", ["a", "b"], Splits(fine, lost, fine)).splits


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


# --- digest ----------------------------------------------------------------------------------------------------------


def plain_digest(*splits: LabelledImages) -> str:
    """The documented digest, byte by byte: shape, pixels in order, labels as 64-bit little-endian numbers."""
    total = hashlib.sha256()
    for split in splits:
        total.update(repr(tuple(split.images.shape)).encode())
        total.update(bytes(split.images.flatten().tolist()))
        total.update(b"".join(label.to_bytes(8, "little") for label in split.labels.tolist()))
    return total.hexdigest()[:16]


def test_the_digest_is_sha256_over_shapes_pixels_and_labels() -> None:
    splits = split_of(1, 2, labels=[0, 1]), split_of(7, channels=3)
    assert digest(*splits) == plain_digest(*splits)


def test_the_digest_does_not_depend_on_how_images_lie_in_memory() -> None:
    split = split_of(1, 2, 3, channels=3)
    strided = split.images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert digest(LabelledImages(strided, split.labels)) == digest(split)


def test_the_digest_of_a_part_is_that_of_the_part_alone() -> None:
    whole = split_of(1, 2, 3, 4)
    assert digest(whole[1:3]) == digest(split_of(2, 3))


@pytest.mark.parametrize(
    "other",
    [
        [split_of(1, 3, labels=[0, 1]), split_of(7)],
        [split_of(1, 2, labels=[1, 0]), split_of(7)],
        [split_of(2, 1, labels=[1, 0]), split_of(7)],
        [split_of(7), split_of(1, 2, labels=[0, 1])],
        [split_of(1, 2, labels=[0, 1])],
        [split_of(1, labels=[0]), split_of(2, 7, labels=[1, 0])],
    ],
    ids=["a pixel", "labels", "order", "splits exchanged", "a split fewer", "cut elsewhere"],
)
def test_the_digest_changes_with(other: list[LabelledImages]) -> None:
    assert digest(*other) != digest(split_of(1, 2, labels=[0, 1]), split_of(7))


def test_the_digest_knows_the_shape_and_not_the_bytes_alone() -> None:
    flat = LabelledImages(torch.zeros(1, 1, 2, 6, dtype=torch.uint8), torch.tensor([0]))
    tall = LabelledImages(torch.zeros(1, 1, 6, 2, dtype=torch.uint8), torch.tensor([0]))
    assert digest(flat) != digest(tall)


# --- the data module -------------------------------------------------------------------------------------------------


def square(n: int) -> LabelledImages:
    return LabelledImages(torch.arange(n, dtype=torch.uint8)[:, None, None, None].expand(n, 3, 4, 4), torch.arange(n))


def test_given_splits_are_served_as_they_are_with_their_shape_and_classes() -> None:
    data = memory_data("mine", ["a", "b"], Splits(square(5), square(3), square(2)[:0]), batch_size=2)
    assert data.image_shape == (3, 4, 4)
    assert data.num_classes == 2
    images, labels = next(iter(data.val_dataloader()))
    assert labels.tolist() == [0, 1]
    assert torch.equal(images, square(2).images / 255)


@pytest.mark.parametrize("steps", [None, 1, 2, 7])
def test_a_training_epoch_has_so_many_batches_and_validation_one_pass(steps: int | None) -> None:
    data = memory_data("mine", ["a", "b"], Splits(square(9), square(5), square(1)[:0]), batch_size=4, steps=steps)
    assert len(list(data.train_dataloader())) == (steps or 3)
    assert len(list(data.val_dataloader())) == 2


def test_the_same_seed_gives_the_same_order_and_another_seed_another() -> None:
    def order(seed: int) -> list[int]:
        data = memory_data("mine", ["a", "b"], Splits(square(32), square(1), square(1)[:0]), seed=seed)
        return torch.cat([labels for _, labels in data.train_dataloader()]).tolist()

    assert order(0) == order(0)
    assert order(0) != order(1)
