"""Pixel weights against the paper's formula by brute force, and the separation of touching objects."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from medassay.core.types import SegmentedImages
from medassay.data.segmentation.objects import separate_touching
from medassay.data.segmentation.weights import PixelWeights, measure_two_nearest

MAP = """
............
.11....22...
.111...22...
.11.........
....33......
....33......
............
"""


def parse(text: str) -> Tensor:
    rows = [[0 if sign == "." else int(sign) for sign in row] for row in text.split()]
    return torch.tensor(rows, dtype=torch.int32)


def segmented(instances: Tensor, mask: Tensor | None = None) -> SegmentedImages:
    mask = (instances > 0).to(torch.uint8) if mask is None else mask
    return SegmentedImages([torch.zeros((1, *mask.shape), dtype=torch.uint8)], [mask], [instances])


def brute_force(instances: Tensor, class_weights: list[float], w0: float, sigma: float) -> np.ndarray:
    """The formula pixel by pixel: all distances to all pixels of every cell."""
    numbers = instances.numpy()
    weights = np.empty(numbers.shape)
    for y, x in np.ndindex(*numbers.shape):
        weights[y, x] = class_weights[int(numbers[y, x] > 0)]
        distances = sorted(
            min(np.hypot(y - v, x - u) for v, u in np.argwhere(numbers == number))
            for number in np.unique(numbers[numbers > 0])
        )
        if numbers[y, x] == 0 and len(distances) > 1:
            weights[y, x] += w0 * np.exp(-((distances[0] + distances[1]) ** 2) / (2 * sigma**2))
    return weights


@pytest.mark.parametrize(("gap", "sigma"), [(10.0, 5.0), (3.0, 1.0)])
def test_weights_are_those_of_the_formula_by_brute_force(gap: float, sigma: float) -> None:
    instances = parse(MAP)
    settings = PixelWeights(gap=gap, sigma=sigma)
    images = segmented(instances)
    class_weights = settings.weigh_classes(images.counts(2))
    (weights,) = settings.compute(images, class_weights)
    cells, total = int((instances > 0).sum()), instances.numel()
    expected = brute_force(instances, [total / (2 * (total - cells)), total / (2 * cells)], gap, sigma)
    assert weights.dtype == torch.float32
    np.testing.assert_allclose(weights.numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("text", ["....\n....", "....\n.11."], ids=["none", "one"])
def test_with_fewer_than_two_cells_there_is_no_gap(text: str) -> None:
    (weights,) = PixelWeights(balance=False).compute(segmented(parse(text)), torch.ones(2))
    assert weights.tolist() == [[1.0] * 4] * 2


def test_unknown_instances_are_the_connected_regions() -> None:
    instances = parse(MAP)
    known = segmented(instances)
    unknown = SegmentedImages(known.images, known.masks)
    settings = PixelWeights()
    assert torch.equal(
        settings.compute(known, torch.ones(2))[0],
        settings.compute(unknown, torch.ones(2))[0],
    )


def test_cells_that_touch_are_weighed_across_the_border_between_them() -> None:
    instances = parse("111222\n111222\n111222")
    mask = separate_touching(instances)
    (weights,) = PixelWeights(balance=False).compute(segmented(instances, mask), torch.ones(2))
    # the border is columns 2 and 3: one pixel to the near cell, two to the far one
    border = 1 + 10 * np.exp(-((1 + 2) ** 2) / 50)
    np.testing.assert_allclose(weights[1].numpy(), [1, 1, border, border, 1, 1], rtol=1e-6)


def test_balanced_classes_weigh_the_same_and_a_pixel_one_on_average() -> None:
    counts = torch.tensor([60, 30, 10, 0])
    weights = PixelWeights().weigh_classes(counts)
    assert torch.allclose((weights * counts)[:3], torch.full((3,), 100 / 3))
    assert PixelWeights(balance=False).weigh_classes(counts).tolist() == [1, 1, 1, 1]


def test_objects_beyond_reach_are_infinitely_far_and_numbers_may_be_missing() -> None:
    objects = torch.zeros(1, 30, dtype=torch.int32)
    objects[0, 0], objects[0, 20] = 2, 9
    first, second = measure_two_nearest(objects, reach=12)
    assert first[0, [0, 5, 15, 20, 29]].tolist() == [0, 5, 5, 0, 9]
    assert second[0, [5, 10]].tolist() == [torch.inf, 10]


def test_touching_objects_are_parted_by_a_border_of_two_pixels_and_others_stay() -> None:
    instances = parse("1112220\n1112220\n0000000\n0330444\n0330444")
    expected = "1100110\n1100110\n0000000\n0110111\n0110111"
    assert torch.equal(separate_touching(instances), parse(expected).to(torch.uint8))


def test_objects_that_meet_at_a_corner_are_parted_as_well() -> None:
    instances = parse("1100\n1100\n0022\n0022")
    expected = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 1]], dtype=torch.uint8)
    assert torch.equal(separate_touching(instances), expected)
    assert torch.equal(separate_touching(instances.fliplr()), expected.fliplr())
