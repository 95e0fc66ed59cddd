"""The phantom of touching cells: known, connected, seeded, and not to be had by one threshold; the other phantoms' masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.ndimage import gaussian_filter, label

from medassay.core.errors import ConfigError
from medassay.core.types import SegmentedImages
from medassay.data.phantoms import blood, chest, oct
from medassay.data.segmentation.cells import render
from medassay.data.segmentation.objects import separate_touching
from medassay.data.segmentation.sources import cell_phantom_data, phantom_masks_data
from medassay.data.sources import PhantomKind, phantom_data

Map = npt.NDArray[Any]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def cells() -> SegmentedImages:
    return render(24, rng=generator())


def otsu(image: Map) -> int:
    """The threshold with the largest variance between the two sides (Otsu 1979), by trying all."""
    values = image.ravel().astype(float)
    scores = []
    for threshold in range(1, 255):
        above = values > threshold
        share = above.mean()
        gap = values[above].mean() - values[~above].mean() if 0 < share < 1 else 0.0
        scores.append(share * (1 - share) * gap**2)
    return 1 + int(np.argmax(scores))


def average_precision(foreground: Map, instances: Map, smallest: int = 24) -> float:
    """TP / (TP + FP + FN) of connected regions of at least ``smallest`` pixels at IoU 0.5, where matches are unique."""
    regions, count = label(foreground)
    kept = [number for number in range(1, count + 1) if (regions == number).sum() >= smallest]
    hits = 0
    for number in kept:
        region = regions == number
        overlap = np.bincount(instances[region], minlength=instances.max() + 1)
        overlap[0] = 0
        other = instances == overlap.argmax()
        hits += overlap.max() > 0.5 * (region | other).sum()
    return float(hits / (len(kept) + instances.max() - hits))


def test_images_masks_and_instances_have_the_shapes_and_types_that_are_said(cells: SegmentedImages) -> None:
    assert cells.instances is not None
    for image, mask, numbers in zip(cells.images, cells.masks, cells.instances, strict=True):
        assert (image.shape, mask.shape, numbers.shape) == ((1, 128, 128), (128, 128), (128, 128))
        assert torch.equal(mask, separate_touching(numbers))
        assert numbers.unique().tolist() == list(range(int(numbers.max()) + 1))


def test_each_cell_is_one_region_of_some_size(cells: SegmentedImages) -> None:
    assert cells.instances is not None
    for numbers in cells.instances:
        for number in range(1, int(numbers.max()) + 1):
            own = (numbers == number).numpy()
            assert own.sum() >= 24
            assert label(own, np.ones((3, 3)))[1] == 1


def test_cells_vary_in_size_and_brightness_and_most_images_have_some_that_touch(cells: SegmentedImages) -> None:
    assert cells.instances is not None
    areas, means, touching = [], [], 0
    for image, mask, numbers in zip(cells.images, cells.masks, cells.instances, strict=True):
        flat = numbers.flatten()
        area = torch.bincount(flat)
        areas += area[1:].tolist()
        means += (torch.bincount(flat, image.flatten().double()) / area)[1:].tolist()
        touching += int(((numbers > 0) & (mask == 0)).sum()) > 20
    assert np.percentile(areas, 90) > 4 * np.percentile(areas, 10)
    assert np.percentile(means, 90) > 2 * np.percentile(means, 10)
    assert touching >= 20
    assert 8 <= len(areas) / 24 <= 20


def test_one_threshold_stays_far_below_what_an_oracle_of_each_pixel_gets(cells: SegmentedImages) -> None:
    assert cells.instances is not None
    thresholded, known = [], []
    for image, mask, instances in zip(cells.images, cells.masks, cells.instances, strict=True):
        smooth = gaussian_filter(image[0].numpy().astype(float), 1)
        thresholded.append(average_precision(smooth > otsu(smooth), instances.numpy()))
        # the border takes pixels from the smallest cells
        known.append(average_precision(mask.numpy() > 0, instances.numpy(), smallest=1))
    assert np.mean(known) > 0.95
    assert np.mean(thresholded) < 0.5


def test_the_same_seed_gives_the_same_cells_and_another_others() -> None:
    one, same, other = (render(3, rng=generator(seed), size=40) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one.images, same.images, strict=True))
    assert not torch.equal(one.images[0], other.images[0])


@pytest.mark.parametrize(("n", "size"), [(0, 64), (2, 31)])
def test_too_few_images_or_pixels_are_refused(n: int, size: int) -> None:
    with pytest.raises(ValueError, match=f"at least 1 image of at least 32 pixels a side, not {n} of {size}"):
        render(n, rng=generator(), size=size)


def test_the_data_set_has_the_lengths_and_the_size_asked_for_and_splits_of_its_own() -> None:
    data = cell_phantom_data("cells", ["background", "cell"], size=48, train=4, val=3, test=2, phantom_seed=5)
    assert [len(split) for split in data.splits] == [4, 3, 2]
    assert data.splits.train.images[0].shape == (1, 48, 48)
    assert not torch.equal(data.splits.train.images[0], data.splits.val.images[0])
    assert data.provenance() == {"name": "cells", "phantom": True, "phantom_seed": 5, "published": False}


@pytest.mark.parametrize(
    ("kind", "labels", "channels"),
    [("chest", chest.CLASSES, 1), ("blood", blood.CLASSES, 3), ("oct", oct.CLASSES, 1)],
)
def test_a_phantoms_masks_are_those_of_its_labelled_data_set(
    kind: PhantomKind, labels: tuple[str, ...], channels: Any
) -> None:
    data = phantom_masks_data(kind, kind, ["background", "sign"], channels, train=16, val=8, test=8)
    labelled = phantom_data(kind, kind, list(labels), channels, train=16, val=8, test=8).splits
    for split, known in zip(data.splits, labelled, strict=True):
        assert known.masks is not None
        assert torch.equal(torch.stack(split.images), known.images)
        assert torch.equal(torch.stack(split.masks).bool(), known.masks)
    assert 0 < float(data.class_counts()[1]) < float(data.class_counts()[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ["a", "b", "c"]}, "data.channels=1 with 3 data.classes: the cell phantom's masks have 1 and 2"),
        ({"channels": 3}, "data.channels=3 with 2 data.classes"),
        ({"size": 31}, "data.size=31: expected an integer >= 32"),
    ],
)
def test_a_format_that_cells_do_not_have_is_refused(changes: dict[str, Any], message: str) -> None:
    settings: dict[str, Any] = {"classes": ["background", "cell"], **changes}
    with pytest.raises(ConfigError, match=message):
        cell_phantom_data("cells", **settings)
