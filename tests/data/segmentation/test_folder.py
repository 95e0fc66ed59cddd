"""Folders of images and masks: how masks are written, how files are paired and split, and what is refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from medassay.core.errors import ConfigError, DataError, UserError
from medassay.data import image_files
from medassay.data.segmentation.modules import SegmentationData
from medassay.data.segmentation.sources import segmentation_folder_data

CLASSES = ["background", "cell"]
SQUARE = np.zeros((12, 16), np.uint8)
SQUARE[2:8, 3:9] = 1


def write(file: Path, values: Any, mode: str | None = None) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(values))
    (image if mode is None else image.convert(mode)).save(file)


def write_pairs(top: Path, count: int = 6, *, height: int = 12) -> None:
    """Images of noise, each with a mask of 0 and 1; image i is i pixels wider than the first."""
    rng = np.random.default_rng(0)
    for i in range(count):
        write(top / "images" / f"{i}.png", rng.integers(0, 250, (height, 16 + i)).astype(np.uint8))
        mask = np.zeros((height, 16 + i), np.uint8)
        mask[2:8, 3:9] = 1
        write(top / "masks" / f"{i}.png", mask)


def folder(path: Path, classes: list[str] = CLASSES, channels: Any = 1, **options: Any) -> SegmentationData:
    return segmentation_folder_data("folder", classes, channels, str(path), **options)


def widths(data: SegmentationData) -> list[list[int]]:
    return [[image.shape[2] - 16 for image in split.images] for split in data.splits]


# --- splits ----------------------------------------------------------------------------------------------------------


def test_images_of_different_sizes_are_split_at_random_by_the_seed(tmp_path: Path) -> None:
    write_pairs(tmp_path, 10)
    first = widths(folder(tmp_path, split=(0.6, 0.2, 0.2)))
    assert [len(part) for part in first] == [6, 2, 2]
    assert sorted(itertools.chain(*first)) == list(range(10))
    assert widths(folder(tmp_path, split=(0.6, 0.2, 0.2))) == first
    assert any(widths(folder(tmp_path, split=(0.6, 0.2, 0.2), split_seed=seed)) != first for seed in (1, 2))


def test_sub_folders_are_the_splits(tmp_path: Path) -> None:
    for part, count in (("train", 3), ("val", 1), ("test", 2)):
        write_pairs(tmp_path / part, count)
    data = folder(tmp_path)
    assert widths(data) == [[0, 1, 2], [0], [0, 1]]
    assert data.provenance()["split"] == "by folders"


def test_the_record_has_a_fingerprint_of_images_and_masks_and_the_split(tmp_path: Path) -> None:
    write_pairs(tmp_path)

    def record() -> dict[str, Any]:
        data = folder(tmp_path)
        data.setup("fit")
        return data.provenance()

    before = record()
    assert (before["path"], before["split_seed"], before["near_duplicates"]["pairs"]) == (str(tmp_path), 0, 0)
    mask = SQUARE.copy()
    mask[0, 0] = 1
    write(tmp_path / "masks" / "0.png", mask)
    assert record()["md5"] != before["md5"]


# --- masks -----------------------------------------------------------------------------------------------------------


def as_palette(file: Path) -> None:
    image = Image.fromarray(SQUARE, mode=None).convert("P")
    image.putdata(SQUARE.flatten().tolist())
    image.putpalette([0, 0, 0, 200, 30, 30])
    image.save(file)


FORMS: dict[str, Callable[[Path], None]] = {
    "indices": lambda file: write(file, SQUARE),
    "black and white": lambda file: write(file, 255 * SQUARE),
    "one bit": lambda file: write(file, SQUARE.astype(bool)),
    "grey as RGB": lambda file: write(file, 255 * SQUARE, "RGB"),
    "grey with transparency": lambda file: write(file, 255 * SQUARE, "LA"),
    "16 bits": lambda file: write(file, SQUARE.astype(np.uint16)),
    "palette": as_palette,
}


@pytest.mark.parametrize("form", FORMS)
def test_a_mask_of_two_classes_is_read_however_it_is_written(tmp_path: Path, form: str) -> None:
    write_pairs(tmp_path, 3)
    FORMS[form](tmp_path / "masks" / "0.png")
    masks = [mask for split in folder(tmp_path).splits for mask in split.masks if mask.shape[1] == 16]
    assert torch.equal(masks[0], torch.from_numpy(SQUARE))


def test_masks_of_several_classes_are_indices(tmp_path: Path) -> None:
    write_pairs(tmp_path, 3)
    write(tmp_path / "masks" / "0.png", 2 * SQUARE)
    data = folder(tmp_path, [*CLASSES, "nucleus"])
    assert data.splits.train.instances is None
    assert sorted({value for split in data.splits for mask in split.masks for value in mask.unique().tolist()}) == [
        0,
        1,
        2,
    ]


def test_a_folder_of_objects_gives_instances_and_a_mask_that_parts_them(tmp_path: Path) -> None:
    for i in range(3):
        write(tmp_path / "images" / f"{i}.tif", np.full((12, 16), 50 + i, np.uint8))
        for name, columns in (("a", slice(2, 8)), ("b", slice(8, 12))):
            one = np.zeros((12, 16), np.uint8)
            one[2:8, columns] = 255
            write(tmp_path / "masks" / str(i) / f"{name}.png", one)
    train = folder(tmp_path).splits.train
    assert train.instances is not None
    assert train.instances[0][4].tolist() == [0] * 2 + [1] * 6 + [2] * 4 + [0] * 4
    assert train.masks[0][4].tolist() == [0] * 2 + [1] * 5 + [0] * 2 + [1] * 3 + [0] * 4


def test_images_are_brought_to_grey_or_colour(tmp_path: Path) -> None:
    write_pairs(tmp_path, 3)
    rng = np.random.default_rng(1)
    write(tmp_path / "images" / "0.png", rng.integers(0, 256, (12, 16, 4)).astype(np.uint8))
    for channels in (1, 3):
        assert {image.shape[0] for split in folder(tmp_path, channels=channels).splits for image in split.images} == {
            channels
        }


# --- what is refused -------------------------------------------------------------------------------------------------


def put_objects(folder: Path, *names: str) -> None:
    """A folder of objects in place of a mask file."""
    folder.with_suffix(".png").unlink()
    for name in names:
        write(folder / name, SQUARE)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-30])


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "image without mask": (lambda top: (top / "masks/2.png").unlink(), r"images/2.png has no partner in .*masks: add 2.png"),
    "mask without image": (lambda top: (top / "images/2.png").unlink(), r"masks/2.png has no partner in .*images"),
    "two of a name": (lambda top: write(top / "images/2.bmp", SQUARE), "2.bmp and .*2.png have the same name"),
    "wrong size": (lambda top: write(top / "masks/2.png", SQUARE), "masks/2.png is 16x12, its image 18x12"),
    "unknown class": (lambda top: write(top / "masks/0.png", 3 * SQUARE), r"value 3, expected .* 0..1 \(or 0 and 255\)"),
    "colours": (
        lambda top: write(top / "masks/0.png", np.random.default_rng(0).integers(0, 2, (12, 16, 3)).astype(np.uint8)),
        "masks/0.png is a mask in colours",
    ),
    "lossy": (
        lambda top: (write(top / "masks/0.jpg", SQUARE), (top / "masks/0.png").unlink()),
        "masks/0.jpg is a JPEG, which changes",
    ),
    "fractions": (
        lambda top: (write(top / "masks/0.tif", SQUARE / np.float32(2)), (top / "masks/0.png").unlink()),
        "masks/0.tif holds numbers of type float32",
    ),
    "damaged mask": (lambda top: truncate(top / "masks/1.png"), r"masks/1.png cannot be read as a mask \(.*\): replace it"),
    "damaged image": (lambda top: truncate(top / "images/1.png"), r"images/1.png cannot be read as an image \(.*\): "),
    "objects of a kind that is not read": (
        lambda top: put_objects(top / "masks/0", "1.gif"),
        r"masks/0 holds no mask that is read \(1 \.gif\): save each object as PNG directly in it, or empty it",
    ),
    "objects a folder too deep": (
        lambda top: put_objects(top / "masks/0", "masks/1.png", "masks/2.png"),
        r"masks/0 holds no mask that is read \(2 in sub-folders\): save each object",
    ),
    "no masks": (lambda top: (top / "masks").rename(top / "labels"), "has no folder masks: expected <path>/images"),
    "some splits": (lambda top: (top / "train").mkdir(), "has train, but no val and no test: expected"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_named_in_one_line(tmp_path: Path, case: str) -> None:
    write_pairs(tmp_path, 3)
    spoil, message = BROKEN[case]
    spoil(tmp_path)
    with pytest.raises(DataError, match=message):
        folder(tmp_path).setup("fit")


def test_a_stack_of_masks_is_refused(tmp_path: Path) -> None:
    write_pairs(tmp_path, 3)
    (tmp_path / "masks" / "0.png").unlink()
    frames = [Image.fromarray(SQUARE)] * 2
    frames[0].save(tmp_path / "masks" / "0.tif", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match=r"0\.tif is a stack of 2 images"):
        folder(tmp_path).setup("fit")


def test_images_scaled_to_one_and_cut_are_refused(tmp_path: Path) -> None:
    for i in range(3):
        write(tmp_path / "images" / f"{i}.png", SQUARE)
        write(tmp_path / "masks" / f"{i}.png", SQUARE)
    with pytest.raises(DataError, match="images holds 0 and 1 only"):
        folder(tmp_path).setup("fit")


def test_objects_of_several_classes_are_refused(tmp_path: Path) -> None:
    write_pairs(tmp_path, 3)
    (tmp_path / "masks" / "0.png").unlink()
    write(tmp_path / "masks" / "0" / "a.png", SQUARE)
    with pytest.raises(DataError, match="masks/0 holds a file for each object, which are 2 classes"):
        folder(tmp_path, [*CLASSES, "nucleus"]).setup("fit")


@pytest.mark.parametrize(
    ("path", "message"),
    [(None, "data.path is not set: expected"), ("gone", "data.path=gone is not a directory: expected")],
)
def test_a_missing_folder_is_named(path: str | None, message: str) -> None:
    data = segmentation_folder_data("folder", CLASSES, path=path)
    with pytest.raises(ConfigError, match=message):
        data.setup("fit")


def test_shares_and_window_are_checked_before_anything_is_read(tmp_path: Path) -> None:
    for options, message in (({"split": (0.5, 0.5, 0.5)}, "data.split="), ({"window": (9.0, 1.0)}, "data.window=")):
        with pytest.raises(UserError, match=message):
            folder(tmp_path, **options)


# --- what is left out ------------------------------------------------------------------------------------------------


def test_files_that_are_not_read_are_in_the_record_and_an_empty_folder_of_objects_is_read(tmp_path: Path) -> None:
    write_pairs(tmp_path, 3)
    write(tmp_path / "images" / "y.gif", SQUARE)
    write(tmp_path / "masks" / "y.gif", SQUARE)
    put_objects(tmp_path / "masks" / "0", "1.png", "2.webm.gif")
    put_objects(tmp_path / "masks" / "1")
    (tmp_path / "masks" / "1").mkdir()
    (tmp_path / "masks" / "1" / ".DS_Store").touch()
    data = folder(tmp_path)
    data.setup("fit")
    assert data.provenance()["left_out"] == {".gif": 3}
    (empty,) = [mask for split in data.splits for mask in split.masks if mask.shape[1] == 17]
    assert not empty.any()


def test_where_all_files_are_read_the_record_says_nothing_of_others(tmp_path: Path) -> None:
    write_pairs(tmp_path, 3)
    data = folder(tmp_path)
    data.setup("fit")
    assert "left_out" not in data.provenance()


@pytest.mark.parametrize(("kept", "message"), [(0, "images holds no images"), (1, "masks/1.png has no partner in")])
def test_of_images_in_dicom_the_advice_is_how_to_read_them(
    kept: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_files, "is_readable", lambda extension: extension in image_files.PICTURES)
    write_pairs(tmp_path, 3)
    for i in range(kept, 3):
        (tmp_path / "images" / f"{i}.png").rename(tmp_path / "images" / f"{i}.dcm")
    with pytest.raises(DataError, match=rf"{message}.*pip install 'medassay\[dicom\]' reads them"):
        folder(tmp_path).setup("fit")


def test_nearly_identical_images_that_cannot_be_split_are_said_to_be_so(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 240, (12, 16)).astype(np.uint8)
    for i in range(4):
        write(tmp_path / "images" / f"{i}.png", noise + np.uint8(i))
        write(tmp_path / "masks" / f"{i}.png", SQUARE)
    with pytest.raises(
        DataError, match=r"^4 images are too few .* as 6 pairs of them are nearly identical \(at most 2"
    ) as e:
        folder(tmp_path).setup("fit")
    assert str(e.value).endswith("add other images, or use data=segmentation_folder with train, val and test")
    assert "class images" not in str(e.value)
