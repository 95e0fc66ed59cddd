"""Stacks of images in .npz files: sections split by position, objects split at random with copies kept together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medassay.core.errors import ConfigError, DataError
from medassay.core.types import SegmentedImages
from medassay.data import npz
from medassay.data.segmentation.sources import membranes_data, nuclei_data
from medassay.data.segmentation.splitting import split_segmented
from medassay.data.segmentation.weights import PixelWeights

Find = Callable[[str], Path]
CLASSES = ["membrane", "cell"]


def sections(n: int = 6) -> dict[str, Any]:
    """Image i holds the value 10 i; a wall across each parts two cells."""
    images = np.stack([np.full((16, 20), 10 * i, dtype=np.uint8) for i in range(n)])
    labels = np.ones((n, 16, 20), dtype=np.uint8)
    labels[:, :, 9:11] = 0
    return {"images": images, "labels": labels}


def objects(n: int = 10, copies: int = 0) -> dict[str, Any]:
    """Images of noise, the last ones nearly copies of the first; in each two objects that touch."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 250, (n, 32, 32)).astype(np.uint8)
    images[n - copies :] = images[:copies] + 1
    instances = np.zeros((n, 32, 32), dtype=np.uint16)
    instances[:, 4:14, 4:14], instances[:, 4:14, 14:20] = 1, 7
    return {"images": images, "instances": instances}


def save(tmp_path: Path, arrays: dict[str, Any]) -> str:
    np.savez(tmp_path / "stack.npz", **arrays)
    return str(tmp_path / "stack.npz")


# --- sections --------------------------------------------------------------------------------------------------------


def test_sections_are_split_by_position_and_the_rest_is_left(tmp_path: Path) -> None:
    data = membranes_data("membranes", CLASSES, file=save(tmp_path, sections()), train=2, val=1, test=2)
    values = [[int(image[0, 0, 0]) for image in split.images] for split in data.splits]
    assert values == [[0, 10], [20], [30, 40]]
    assert data.splits.train.instances is not None
    assert data.splits.train.instances[0][0].tolist() == [1] * 9 + [0] * 2 + [2] * 9
    record = data.provenance()
    assert (record["md5"], record["lengths"]) == (npz.md5(tmp_path / "stack.npz"), [2, 1, 2])


def test_colour_sections_are_read(tmp_path: Path) -> None:
    arrays = sections()
    arrays["images"] = np.stack([arrays["images"] + c for c in range(3)], axis=3)
    data = membranes_data("membranes", CLASSES, 3, save(tmp_path, arrays), train=2, val=1, test=1)
    assert data.splits.val.images[0][:, 0, 0].tolist() == [20, 21, 22]


# --- objects ---------------------------------------------------------------------------------------------------------


def test_objects_are_told_apart_and_the_mask_parts_those_that_touch(tmp_path: Path) -> None:
    data = nuclei_data("nuclei", ["background", "nucleus"], file=save(tmp_path, objects()))
    assert [len(split) for split in data.splits] == [6, 2, 2]
    train = data.splits.train
    assert train.instances is not None
    assert train.instances[0][8].tolist() == [0] * 4 + [1] * 10 + [2] * 6 + [0] * 12
    assert train.masks[0][8].tolist() == [0] * 4 + [1] * 9 + [0] * 2 + [1] * 5 + [0] * 12


@pytest.mark.parametrize("split_seed", range(4))
def test_nearly_identical_images_come_into_the_same_split_and_are_recorded(tmp_path: Path, split_seed: int) -> None:
    data = nuclei_data(
        "nuclei", ["background", "nucleus"], file=save(tmp_path, objects(12, copies=4)), split_seed=split_seed
    )
    homes = {}
    for name in ("train", "val", "test"):
        for image in data.split(name).images:
            homes[int(image[0, 0, 0]), int(image[0, 0, 1])] = name
    assert len(homes) == 12
    twins = [(key, (key[0] + 1, key[1] + 1)) for key in homes if (key[0] + 1, key[1] + 1) in homes]
    assert len(twins) == 4
    assert all(homes[one] == homes[other] for one, other in twins)
    record = data.provenance()
    assert record["near_duplicates"] == {"pairs": 4, "bits": 2, "kept_together": True}
    assert (record["split_seed"], record["split"]) == (split_seed, [0.7, 0.15, 0.15])


def test_numbers_as_large_as_colours_cost_neither_time_nor_memory(tmp_path: Path) -> None:
    arrays = objects()
    arrays["instances"] = arrays["instances"].astype(np.int64) * (2**31 - 1) // 7
    assert arrays["instances"].max() == 2**31 - 1
    large = nuclei_data("nuclei", ["background", "nucleus"], file=save(tmp_path, arrays)).splits.train.instances
    small = nuclei_data("nuclei", ["background", "nucleus"], file=save(tmp_path, objects())).splits.train.instances
    assert large is not None
    assert small is not None
    assert all(torch.equal(a, b) for a, b in zip(large, small, strict=True))
    whole = arrays["instances"][:, :14, 4:14]  # no background
    arrays = {"images": arrays["images"][:, :14, 4:14], "instances": whole + (whole == 0)}
    data = nuclei_data("nuclei", ["background", "nucleus"], file=save(tmp_path, arrays))
    assert data.splits.train.instances is not None
    assert int(data.splits.train.instances[0].min()) == 1


def test_images_that_all_look_alike_hide_no_other_nearly_identical_ones() -> None:
    """460 black images are 105,570 pairs."""
    noise = torch.randint(0, 250, (20, 1, 32, 32), generator=torch.Generator().manual_seed(0)).byte()
    images = [*torch.zeros(460, 1, 32, 32).byte(), *noise, *(noise + 1)]
    split = split_segmented(SegmentedImages(images, [image[0] for image in images]), (0.4, 0.3, 0.3), seed=1)
    home = {row: name for name, rows in split.rows.items() for row in rows}
    assert len({home[row] for row in range(460)}) == 1
    assert all(home[460 + i] == home[480 + i] for i in range(20))
    assert len({home[460 + i] for i in range(20)}) > 1
    assert split.near_pairs == 460 * 459 // 2 + 20


def test_the_seed_decides_the_split(tmp_path: Path) -> None:
    file = save(tmp_path, objects())

    def tested(seed: int) -> list[int]:
        data = nuclei_data("nuclei", ["background", "nucleus"], file=file, split_seed=seed)
        return [int(image.sum()) for image in data.splits.test.images]

    assert tested(1) == tested(1)
    assert len({tuple(tested(seed)) for seed in range(5)}) > 1


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": None}, r"has no labels \(it holds images\)"),
        ({"labels": np.zeros((6, 16, 19), np.uint8)}, r"'labels' is uint8 of shape \(6, 16, 19\), expected .* \(6, 16, 20\)"),
        ({"labels": np.zeros((6, 16, 20))}, "'labels' is float64 of shape"),
        ({"labels": np.full((6, 16, 20), 2, np.uint8)}, r"'labels' holds classes 2..2, expected 0..1: list every class"),
        ({"images": np.zeros((6, 16, 20))}, r"'images' is float64 of shape \(6, 16, 20\), expected uint8"),
        ({"images": np.zeros((6, 16, 20, 3), np.uint8)}, r"expected uint8 of shape \(N, H, W\): .* data.channels"),
        ({"images": np.indices((6, 16, 20))[2].astype(np.uint8) % 2}, "holds 0 and 1 only"),
    ],
)  # fmt: skip
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    held = {key: value for key, value in {**sections(), **arrays}.items() if value is not None}
    data = membranes_data("membranes", CLASSES, file=save(tmp_path, held), train=2, val=2, test=2)
    with pytest.raises(DataError, match=message) as caught:
        data.setup("fit")
    assert "stack.npz" in str(caught.value)


def test_more_sections_than_there_are_are_refused(tmp_path: Path) -> None:
    data = membranes_data("membranes", CLASSES, file=save(tmp_path, sections()), train=4)
    with pytest.raises(
        DataError, match=r"holds 6 images, data.train=4, data.val=5 and data.test=5 need 14: ask for fewer"
    ):
        data.setup("fit")


def test_negative_numbers_are_no_objects(tmp_path: Path) -> None:
    arrays = objects()
    data = nuclei_data(
        "nuclei", CLASSES, file=save(tmp_path, {**arrays, "instances": -arrays["instances"].astype(int)})
    )
    with pytest.raises(DataError, match=r"'instances' holds numbers -7..0, expected 0 for background"):
        data.setup("fit")


def test_objects_have_two_classes() -> None:
    with pytest.raises(ConfigError, match="objects and their background are 2 classes"):
        nuclei_data("nuclei", ["a", "b", "c"])


@pytest.mark.parametrize(
    ("file", "message"),
    [(None, "data.file is not set: .* data=cell_phantom"), ("gone.npz", "data.file=gone.npz is no file")],
)
def test_a_missing_file_is_named(file: str | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        membranes_data("membranes", CLASSES, file=file).setup("fit")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = Path(save(tmp_path, sections()))
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(
        DataError, match=r"stack.npz is not an .npz file, or was cut short: save it anew, or name another with data"
    ):
        membranes_data("membranes", CLASSES, file=str(path)).setup("fit")


# --- real files ------------------------------------------------------------------------------------------------------


def test_the_published_membranes_are_read_and_served(external_file: Find) -> None:
    file = str(external_file("isbi2012_membranes.npz"))
    data = membranes_data(
        "membranes",
        CLASSES,
        file=file,
        train=2,
        val=1,
        test=1,
        patch=64,
        margin=92,
        batch_size=2,
        weights=PixelWeights(),
    )
    assert [len(split) for split in data.splits] == [2, 1, 1]
    membrane, cell = data.class_counts().tolist()
    assert 0.7 < cell / (membrane + cell) < 0.85
    images, masks, weights = next(iter(data.train_dataloader()))
    assert (images.shape, masks.shape) == ((2, 1, 248, 248), (2, 64, 64))
    assert 8 < float(weights.max()) < 14  # narrow membranes between cells


def test_the_published_nuclei_are_read_and_hold_what_is_said(external_file: Find) -> None:
    data = nuclei_data("nuclei", ["background", "nucleus"], file=str(external_file("dsb2018_nuclei_256.npz")))
    assert sum(len(split) for split in data.splits) == 334
    train = data.splits.train
    assert train.instances is not None
    counts = torch.tensor([int(numbers.max()) for numbers in train.instances])
    assert (int(counts.min()) >= 1, int(counts.max()) > 50) == (True, True)
    assert data.provenance()["md5"] == "8fac7a4bce3068a6c40b2df3ff8412f9"
