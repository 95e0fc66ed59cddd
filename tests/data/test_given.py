"""Images that are in memory already: as a data module, and their digest."""

from __future__ import annotations

import hashlib

import pytest
import torch

from medassay.core.errors import DataError
from medassay.core.types import LabelledImages, Splits
from medassay.data.given import compute_digest
from medassay.data.sources import memory_data
from tests.helpers import split_of


def test_splits_of_0_and_1_alone_are_a_lost_scaling() -> None:
    fine = split_of(0, 100)
    lost = LabelledImages((fine.images > 50).to(torch.uint8), fine.labels)
    with pytest.raises(DataError, match="the val split holds 0 and 1 only"):
        _ = memory_data("mine", ["a", "b"], Splits(fine, lost, fine)).splits


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
    assert compute_digest(*splits) == plain_digest(*splits)


def test_the_digest_does_not_depend_on_how_images_lie_in_memory() -> None:
    split = split_of(1, 2, 3, channels=3)
    strided = split.images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert compute_digest(LabelledImages(strided, split.labels)) == compute_digest(split)


def test_the_digest_of_a_part_is_that_of_the_part_alone() -> None:
    whole = split_of(1, 2, 3, 4)
    assert compute_digest(whole[1:3]) == compute_digest(split_of(2, 3))


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
    assert compute_digest(*other) != compute_digest(split_of(1, 2, labels=[0, 1]), split_of(7))


def test_the_digest_knows_the_shape_and_not_the_bytes_alone() -> None:
    flat = LabelledImages(torch.zeros(1, 1, 2, 6, dtype=torch.uint8), torch.tensor([0]))
    tall = LabelledImages(torch.zeros(1, 1, 6, 2, dtype=torch.uint8), torch.tensor([0]))
    assert compute_digest(flat) != compute_digest(tall)


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
    data = memory_data("mine", ["a", "b"], Splits(square(10), square(5), square(1)[:0]), batch_size=4, steps=steps)
    assert len(list(data.train_dataloader())) == (steps or 3)
    assert len(list(data.val_dataloader())) == 2


def test_the_same_seed_gives_the_same_order_and_another_seed_another() -> None:
    def order(seed: int) -> list[int]:
        data = memory_data("mine", ["a", "b"], Splits(square(32), square(1), square(1)[:0]), seed=seed)
        return torch.cat([labels for _, labels in data.train_dataloader()]).tolist()

    assert order(0) == order(0)
    assert order(0) != order(1)
