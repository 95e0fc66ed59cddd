"""Segmented images: sets of images of different sizes with a class, and an object, for each pixel."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from medassay.core.types import SegmentedImages, SegmentedSplits

SIZES = [(4, 5), (6, 3), (2, 2)]


def parts() -> dict[str, list[Tensor]]:
    """Three images of different sizes; image i holds the value i alone."""
    return {
        "images": [torch.full((3, *size), i, dtype=torch.uint8) for i, size in enumerate(SIZES)],
        "masks": [torch.full(size, i % 2, dtype=torch.uint8) for i, size in enumerate(SIZES)],
        "instances": [torch.full(size, 7 * i, dtype=torch.int32) for i, size in enumerate(SIZES)],
    }


def values(images: SegmentedImages) -> list[int]:
    return [int(image[0, 0, 0]) for image in images.images]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": [torch.zeros(3, 4, 5)]}, r"image 0 must be \(C, H, W\) uint8, not \(3, 4, 5\) torch.float32"),
        ({"images": [torch.zeros(4, 5, dtype=torch.uint8)]}, r"image 0 must be \(C, H, W\)"),
        ({"masks": []}, "masks must be 1, one for each image, not 0"),
        ({"masks": [torch.zeros(5, 4, dtype=torch.uint8)]}, r"masks\[0\] must be \(4, 5\) torch.uint8, not \(5, 4\)"),
        ({"masks": [torch.zeros(4, 5, dtype=torch.int64)]}, r"masks\[0\] .* not \(4, 5\) torch.int64"),
        ({"instances": [torch.zeros(4, 5, dtype=torch.uint8)]}, r"instances\[0\] must be \(4, 5\) torch.int32"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    fitting = {name: tensors[:1] for name, tensors in parts().items()}
    with pytest.raises(ValueError, match=message):
        SegmentedImages(**{**fitting, **changes})


def test_images_of_different_channels_are_refused() -> None:
    images = [torch.zeros(c, 2, 2, dtype=torch.uint8) for c in (1, 3)]
    with pytest.raises(ValueError, match=r"one number of channels, not \[1, 3\]"):
        SegmentedImages(images, [torch.zeros(2, 2, dtype=torch.uint8)] * 2)


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (torch.tensor([2, 0]), [2, 0]),
        (torch.tensor([True, False, True]), [0, 2]),
        (slice(1, None), [1, 2]),
        (torch.tensor([], dtype=torch.int64), []),
    ],
)
def test_an_index_chooses_images_with_their_masks_and_instances(index: Tensor | slice, expected: list[int]) -> None:
    chosen = SegmentedImages(**parts())[index]
    assert (len(chosen), values(chosen)) == (len(expected), expected)
    assert [int(mask[0, 0]) for mask in chosen.masks] == [i % 2 for i in expected]
    assert chosen.instances is not None
    assert [int(one[0, 0]) for one in chosen.instances] == [7 * i for i in expected]


def test_unknown_instances_stay_unknown() -> None:
    own = parts()
    images = SegmentedImages(own["images"], own["masks"])
    assert images[:2].instances is None
    assert images.to("cpu").instances is None


def test_pixels_are_counted_by_class() -> None:
    images = SegmentedImages(**parts())
    assert images.counts(3).tolist() == [20 + 4, 18, 0]
    assert SegmentedSplits(images, images[:1], images[1:2]).val.counts(2).tolist() == [20, 0]


def test_all_parts_move_to_a_device() -> None:
    moved = SegmentedImages(**parts()).to("meta")
    assert moved.instances is not None
    assert {one.device.type for one in [*moved.images, *moved.masks, *moved.instances]} == {"meta"}
