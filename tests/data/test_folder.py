"""Reading a data set from folders of image files."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from medassay.core.errors import DataError
from medassay.data.class_folders import list_data_set
from medassay.data.duplicates import count_duplicates
from medassay.data.folder import read_class_folders, read_folder


def paint(file: Path, value: int | tuple[int, int, int] = 0, size: tuple[int, int] = (8, 8)) -> Path:
    """An image of one colour."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L" if isinstance(value, int) else "RGB", size, value).save(file)
    return file


def class_folders(top: Path, **counts: int) -> Path:
    """``top/<class>/<n>.png``; the grey value of image n of class c is 100 c + n."""
    for label, (name, count) in enumerate(counts.items()):
        for number in range(count):
            paint(top / name / f"{number:03d}.png", 100 * label + number)
    return top


def split_folders(top: Path) -> Path:
    for part in ("train", "val", "test"):
        class_folders(top / part, cat=2, dog=3)
    return top


def compute_fingerprint(top: Path) -> str:
    return list_data_set(top).compute_fingerprint()


def error_of(call: Callable[..., object], *args: object, **kwargs: object) -> str:
    """The message of the error that a call must raise; one line."""
    with pytest.raises(DataError) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


def values(images: torch.Tensor) -> list[int]:
    """The grey value of each image of one colour."""
    return [int(image[0, 0, 0]) for image in images]


def test_folders_that_are_split_are_read_as_they_are(tmp_path: Path) -> None:
    splits, names, _ = read_folder(split_folders(tmp_path), size=8, channels=1)
    assert names == ["cat", "dog"]
    for part in splits:
        assert part.images.shape == (5, 1, 8, 8)
        assert part.labels.tolist() == [0, 0, 1, 1, 1]
        assert values(part.images) == [0, 1, 100, 101, 102]


def test_class_folders_are_split_by_class_with_every_image_used_once(tmp_path: Path) -> None:
    splits, _, _ = read_folder(class_folders(tmp_path, cat=20, dog=40), size=8, channels=1)
    assert [part.counts(2).tolist() for part in splits] == [[14, 28], [3, 6], [3, 6]]
    used = [value for part in splits for value in values(part.images)]
    assert sorted(used) == [*range(20), *range(100, 140)]


def test_the_same_seed_gives_the_same_split_and_another_seed_another(tmp_path: Path) -> None:
    class_folders(tmp_path, cat=20, dog=20)
    first, again, other = (read_folder(tmp_path, size=8, channels=1, seed=seed)[0] for seed in (0, 0, 1))
    assert torch.equal(first.test.images, again.test.images)
    assert not torch.equal(first.test.images, other.test.images)


def test_images_added_to_one_class_leave_the_split_of_another(tmp_path: Path) -> None:
    before = read_folder(class_folders(tmp_path, cat=20, dog=20), size=8, channels=1)[0].test
    after = read_folder(class_folders(tmp_path, cat=20, dog=30), size=8, channels=1)[0].test
    assert values(before[before.labels == 0].images) == values(after[after.labels == 0].images)


def test_the_order_in_which_files_were_written_does_not_matter(tmp_path: Path) -> None:
    for number in range(9):
        paint(tmp_path / "up" / "cat" / f"{number}.png", number)
        paint(tmp_path / "down" / "cat" / f"{8 - number}.png", 8 - number)
    up, down = (read_folder(tmp_path / name, size=8, channels=1)[0] for name in ("up", "down"))
    assert torch.equal(up.train.images, down.train.images)
    assert compute_fingerprint(tmp_path / "up") == compute_fingerprint(tmp_path / "down")


def test_a_small_class_still_gives_one_image_to_each_split(tmp_path: Path) -> None:
    splits, _, _ = read_folder(class_folders(tmp_path, cat=3, dog=20), size=8, channels=1)
    assert [int(part.counts(2)[0]) for part in splits] == [1, 1, 1]


def test_a_class_too_small_for_three_splits_is_refused(tmp_path: Path) -> None:
    message = error_of(read_folder, class_folders(tmp_path, cat=2, dog=20), size=8, channels=1)
    assert "class cat has 2 images" in message


@pytest.mark.parametrize("shares", [(0.8, 0.2, 0.0), (0.5, 0.2, 0.2), (1.2, -0.1, -0.1)])
def test_shares_that_are_not_a_split_are_refused(shares: tuple[float, float, float], tmp_path: Path) -> None:
    message = error_of(read_folder, class_folders(tmp_path, cat=9), size=8, channels=1, split=shares)
    assert f"data.split={list(shares)}" in message


def test_identical_images_come_into_one_split_in_whatever_file_format_and_class(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    class_folders(tmp_path, cat=20, dog=20)
    for number in range(12):
        pixels = Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8))
        pixels.save(tmp_path / "cat" / f"a{number}.png")
        pixels.save(tmp_path / ("cat" if number % 2 else "dog") / f"z{number}.bmp")
    splits, _, _ = read_folder(tmp_path, size=8, channels=1)
    assert count_duplicates(splits).keys() <= {"train", "val", "test"}
    assert sum(count_duplicates(splits).values()) == 12
    assert sum(map(len, splits)) == 64
    apart, _, _ = read_folder(tmp_path, size=8, channels=1, keep_together=False)
    assert "train/test" in count_duplicates(apart)


@pytest.mark.parametrize("keep_together", [True, False])
def test_without_identical_images_the_split_is_that_of_recorded_runs(keep_together: bool, tmp_path: Path) -> None:
    class_folders(tmp_path, cat=10, dog=12)
    splits, _, _ = read_folder(tmp_path, size=8, channels=1, keep_together=keep_together)
    assert values(splits.val.images) == [1, 9, 106, 110]
    assert values(splits.test.images) == [6, 7, 100, 109]


@pytest.mark.parametrize("ready", [True, False])
def test_the_file_of_each_image_is_known(ready: bool, tmp_path: Path) -> None:
    top = split_folders(tmp_path) if ready else class_folders(tmp_path, cat=9, dog=7)
    splits, _, files = read_folder(top, size=8, channels=1, classes=["dog", "cat"])
    for part, split in zip(splits._fields, splits, strict=True):
        assert values(split.images) == [int(np.array(Image.open(file))[0, 0]) for file in files[part]]


def test_all_extensions_count_in_any_case_and_other_files_do_not(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        for number, name in enumerate(("a.png", "b.JPG", "c.jpeg", "d.bmp", "e.tif", "f.TIFF")):
            paint(tmp_path / part / "cat" / name, number)
        (tmp_path / part / "cat" / "notes.txt").write_text("not an image")
        (tmp_path / part / "cat" / "._a.png").write_text("not an image either")
        (tmp_path / part / ".cache").mkdir()
    splits, names, _ = read_folder(tmp_path, size=8, channels=1)
    assert names == ["cat"]
    assert len(splits.train) == 6


def test_given_classes_set_the_order_of_the_labels(tmp_path: Path) -> None:
    split_folders(tmp_path)
    splits, names, _ = read_folder(tmp_path, size=8, channels=1, classes=["dog", "cat"])
    assert names == ["dog", "cat"]
    assert values(splits.val.images) == [100, 101, 102, 0, 1]
    assert splits.val.labels.tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("classes", [["cat"], ["cat", "cow"], ["cat", "dog", "dog"]])
def test_given_classes_that_are_not_the_folders_are_refused(classes: list[str], tmp_path: Path) -> None:
    message = error_of(read_folder, split_folders(tmp_path), size=8, channels=1, classes=classes)
    assert str(classes) in message
    assert "['cat', 'dog']" in message


def test_a_missing_split_is_refused(tmp_path: Path) -> None:
    shutil.rmtree(split_folders(tmp_path) / "val")
    assert "has train and test, but no val" in error_of(read_folder, tmp_path, size=8, channels=1)


def test_classes_that_differ_between_splits_are_refused(tmp_path: Path) -> None:
    shutil.rmtree(split_folders(tmp_path) / "test" / "dog")
    message = error_of(read_folder, tmp_path, size=8, channels=1)
    assert f"{tmp_path / 'test'} has no folder for class dog" in message


def test_an_empty_class_folder_is_refused(tmp_path: Path) -> None:
    (class_folders(tmp_path, cat=9) / "dog").mkdir()
    assert f"{tmp_path / 'dog'} holds no images" in error_of(read_folder, tmp_path, size=8, channels=1)


@pytest.mark.parametrize("missing", ["path", "class folders", "images"])
def test_a_folder_without_images_is_answered_with_the_layout(missing: str, tmp_path: Path) -> None:
    if missing == "images":
        (tmp_path / "cat").mkdir()
    path = tmp_path / "none" if missing == "path" else tmp_path
    message = error_of(read_folder, path, size=8, channels=1)
    assert str(path) in message
    assert "<class>/*.png" in message


def test_grey_files_become_rgb_and_rgb_files_grey_on_request(tmp_path: Path) -> None:
    class_folders(tmp_path, cat=3)
    paint(tmp_path / "cat" / "000.png", (255, 0, 0))
    colour = read_folder(tmp_path, size=8, channels=3)[0]
    found = torch.cat([part.images for part in colour])[:, :, 0, 0].tolist()
    assert sorted(found) == [[1, 1, 1], [2, 2, 2], [255, 0, 0]]
    grey = read_folder(tmp_path, size=8, channels=1)[0]
    assert sorted(values(torch.cat([part.images for part in grey]))) == [1, 2, 76]  # 0.299 * 255


def only_image(folder: Path, pixels: np.ndarray, size: int) -> torch.Tensor:
    """What becomes of one image, given as an array."""
    for part in ("train", "val", "test"):
        (folder / part / "cat").mkdir(parents=True)
        Image.fromarray(pixels).save(folder / part / "cat" / "a.png")
    return read_folder(folder, size=size, channels=1)[0].train.images[0, 0]


def test_an_image_of_the_right_size_is_copied_exactly(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    assert only_image(tmp_path, pixels, 8).numpy().tolist() == pixels.tolist()


def test_an_oblong_image_is_cropped_to_its_centre_and_not_squeezed(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 14), dtype=np.uint8)
    assert only_image(tmp_path, pixels, 8).numpy().tolist() == pixels[:, 3:11].tolist()


def test_shrinking_averages_instead_of_skipping_pixels(tmp_path: Path) -> None:
    checkers = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    assert only_image(tmp_path, checkers, 8).float().sub(127.5).abs().max() < 3


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    file = class_folders(tmp_path, cat=9) / "cat" / "004.png"
    file.write_bytes(file.read_bytes()[:40])
    assert f"{file} cannot be read" in error_of(read_folder, tmp_path, size=8, channels=1)


def test_an_image_of_16_bits_is_refused_and_not_clipped(tmp_path: Path) -> None:
    file = class_folders(tmp_path, cat=9) / "cat" / "004.png"
    Image.fromarray(np.full((8, 8), 3000, dtype=np.uint16)).save(file)
    message = error_of(read_folder, tmp_path, size=8, channels=1)
    assert str(file) in message
    assert "8 bits" in message


def test_a_stack_of_images_is_refused(tmp_path: Path) -> None:
    page = Image.new("L", (8, 8))
    page.save(class_folders(tmp_path, cat=9) / "cat" / "stack.tif", save_all=True, append_images=[page])
    assert "stack of 2 images" in error_of(read_folder, tmp_path, size=8, channels=1)


def test_an_image_with_a_transparent_palette_is_read(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        (tmp_path / part / "cat").mkdir(parents=True)
        image = Image.new("RGB", (8, 8), (10, 10, 10)).quantize(4)
        image.save(tmp_path / part / "cat" / "a.png", transparency=b"\x00\xff")
    assert read_folder(tmp_path, size=8, channels=1)[0].train.images.unique().tolist() == [10]


def test_the_fingerprint_knows_names_and_contents_and_nothing_else(tmp_path: Path) -> None:
    first = compute_fingerprint(class_folders(tmp_path / "a", cat=3, dog=3))
    assert compute_fingerprint(shutil.copytree(tmp_path / "a", tmp_path / "b")) == first
    (tmp_path / "b" / "notes.txt").write_text("not an image")
    assert compute_fingerprint(tmp_path / "b") == first
    paint(tmp_path / "b" / "cat" / "000.png", 99)
    assert compute_fingerprint(tmp_path / "b") != first
    (tmp_path / "a" / "cat" / "000.png").rename(tmp_path / "a" / "cat" / "0.png")
    assert compute_fingerprint(tmp_path / "a") != first


def test_the_fingerprint_of_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    assert "is not a directory" in error_of(compute_fingerprint, tmp_path / "none")


def patients(top: Path, **images: list[int]) -> Path:
    """``top/<class>/p<n>/<i>.png``: patient n of class c has ``images[c][n]`` images of grey value 100 c + n."""
    for label, (name, counts) in enumerate(images.items()):
        for patient, count in enumerate(counts):
            for number in range(count):
                paint(top / name / f"p{patient}" / f"{number}.png", 100 * label + patient)
    return top


def test_a_patients_images_stay_together_in_every_class(tmp_path: Path) -> None:
    patients(tmp_path, cat=[5, 1, 3, 2, 9, 1, 4, 2, 2, 1], dog=[1] * 10, cow=[2] * 14)
    for seed in range(5):
        splits = read_folder(tmp_path, size=8, channels=1, seed=seed, nested=True, split=(0.6, 0.2, 0.2)).splits
        seen = [{value % 100 for value in values(part.images)} for part in splits]
        assert sum(map(len, seen)) == len(set().union(*seen)) == 14
        assert sum(map(len, splits)) == 30 + 10 + 28
        assert [sorted(set(part.labels.tolist())) for part in splits] == [[0, 1, 2]] * 3
        cows = [int(part.counts(3)[1]) for part in splits]  # sorted: cat, cow, dog
        assert sum(cows) == 28
        assert abs(cows[0] - 0.6 * 28) <= 4  # images of two to a patient


def test_images_without_sub_folders_are_split_as_ever_with_nested(tmp_path: Path) -> None:
    class_folders(tmp_path, cat=20, dog=20)
    plain, nested = (read_folder(tmp_path, size=8, channels=1, nested=choice)[0] for choice in (None, True))
    for one, other in zip(plain, nested, strict=True):
        assert torch.equal(one.images, other.images)


def test_a_random_split_is_the_one_of_earlier_versions(tmp_path: Path) -> None:
    splits = read_folder(class_folders(tmp_path, cat=20, dog=20), size=8, channels=1, seed=3).splits
    order = np.random.default_rng((3, zlib.crc32(b"cat"))).permutation(20)
    assert values(splits.test[splits.test.labels == 0].images) == sorted(order[17:].tolist())


def test_too_few_patients_for_three_splits_are_refused(tmp_path: Path) -> None:
    message = error_of(read_folder, patients(tmp_path, cat=[9, 9], dog=[9, 9, 9]), size=8, channels=1, nested=True)
    assert "class cat has 18 images, but those of one patient and identical ones stay together" in message


def test_a_whole_split_of_0_and_1_is_a_lost_scaling(tmp_path: Path) -> None:
    split_folders(tmp_path)
    for name in ("cat/000", "cat/001", "dog/000", "dog/001", "dog/002"):
        paint(tmp_path / "val" / f"{name}.png", int(name[-1]) % 2)
    assert f"{tmp_path}: val holds 0 and 1 only" in error_of(read_folder, tmp_path, size=8, channels=1)


def test_a_file_whose_name_is_no_text_is_read(tmp_path: Path) -> None:
    class_folders(tmp_path, cat=9)
    try:
        paint(tmp_path / "cat" / os.fsdecode(b"caf\xe9.png"), 50)
    except OSError:
        pytest.skip("this file system wants text")
    splits = read_folder(tmp_path, size=8, channels=1).splits
    assert 50 in values(torch.cat([part.images for part in splits]))
    assert compute_fingerprint(tmp_path) != compute_fingerprint(class_folders(tmp_path / "plain", cat=9))


def test_samples_in_sub_folders_of_a_class_are_refused_with_advice_that_needs_no_key(tmp_path: Path) -> None:
    paint(class_folders(tmp_path, cat=2) / "cat" / "more" / "1.png")
    message = error_of(read_class_folders, tmp_path, ["cat"], size=8, channels=1)
    assert "cat has images in sub-folders (1): move them into the class's own folder, or out of it" in message


def test_deep_samples_are_shown_by_the_window_of_the_data_set(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    Image.fromarray(np.full((8, 8), 300, dtype=np.uint16)).save(tmp_path / "cat" / "a.png")
    found = read_class_folders(tmp_path, ["cat"], size=8, channels=1, window=(0, 3000))
    assert values(found.images) == [26]
    message = error_of(read_class_folders, tmp_path, ["cat"], size=8, channels=1)
    assert message.endswith("(values 300 to 300): save it with 8 bits")


# --- images to be judged: class folders, unsplit ---------------------------------------------------------------------


def test_class_folders_are_read_unsplit_in_the_order_of_the_classes(tmp_path: Path) -> None:
    found = read_class_folders(class_folders(tmp_path, cat=2, dog=3), ["dog", "cat"], size=8, channels=1)
    assert values(found.images) == [100, 101, 102, 0, 1]
    assert found.labels.tolist() == [0, 0, 0, 1, 1]


def test_where_there_is_a_folder_train_its_images_are_read_and_no_others(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", cat=2, dog=1)
    class_folders(tmp_path / "test", cat=5, cow=5)
    found = read_class_folders(tmp_path, ["cat", "dog"], size=8, channels=1)
    assert values(found.images) == [0, 1, 100]


@pytest.mark.parametrize("folder", ["small cat", "Small Cat", "small_cat", "SMALL_CAT"])
@pytest.mark.parametrize("name", ["small cat", "Small_Cat"])
def test_upper_and_lower_case_and_underscores_do_not_matter_in_class_names(
    folder: str, name: str, tmp_path: Path
) -> None:
    class_folders(tmp_path, **{folder: 2, "dog": 1})
    assert read_class_folders(tmp_path, [name, "dog"], size=8, channels=1).labels.tolist() == [0, 0, 1]


def test_two_folders_of_one_class_are_not_halved_in_silence(tmp_path: Path) -> None:
    class_folders(tmp_path, **{"small cat": 2, "small_cat": 3})
    try:
        found = read_class_folders(tmp_path, ["small cat"], size=8, channels=1)
    except DataError:
        return
    assert len(found) == 5


def test_missing_and_unknown_classes_are_said_together(tmp_path: Path) -> None:
    class_folders(tmp_path, cat=2, cow=1)
    message = error_of(read_class_folders, tmp_path, ["cat", "dog", "fox"], size=8, channels=1)
    assert f"{tmp_path} has no folder of class dog, fox and a folder of no known class: cow" in message
    assert "one folder for each of cat, dog, fox" in message


def test_a_class_folder_without_images_is_named(tmp_path: Path) -> None:
    (class_folders(tmp_path, cat=2) / "dog").mkdir()
    assert f"{tmp_path / 'dog'} holds no images" in error_of(
        read_class_folders, tmp_path, ["cat", "dog"], size=8, channels=1
    )


@pytest.mark.parametrize("size", [(9, 8), (16, 16), (4, 4)])
def test_an_image_of_another_size_is_named_and_resizing_offered(size: tuple[int, int], tmp_path: Path) -> None:
    file = paint(class_folders(tmp_path, cat=2) / "cat" / "001.png", size=size)
    message = error_of(read_class_folders, tmp_path, ["cat"], size=8, channels=1)
    assert f"{file} is {size[0]}x{size[1]}, the data set 8x8" in message
    assert "resize=true" in message


def test_with_resize_images_are_cropped_to_the_middle_and_averaged_like_a_data_set(tmp_path: Path) -> None:
    checkers = (np.indices((16, 24)).sum(axis=0) % 2 * 255).astype(np.uint8)
    checkers[:, :4] = checkers[:, 20:] = 0  # outside the largest centred square
    (tmp_path / "cat").mkdir()
    Image.fromarray(checkers).save(tmp_path / "cat" / "a.png")
    found = read_class_folders(tmp_path, ["cat"], size=8, channels=1, resize=True).images
    assert found.shape == (1, 1, 8, 8)
    assert found[..., 1:-1, 1:-1].float().sub(127.5).abs().max() < 3
    assert found.float().sub(127.5).abs().max() < 40


def test_grey_samples_become_rgb_and_rgb_samples_grey(tmp_path: Path) -> None:
    paint(tmp_path / "cat" / "a.png", (255, 0, 0))
    paint(tmp_path / "cat" / "b.png", 7)
    colour = read_class_folders(tmp_path, ["cat"], size=8, channels=3).images
    assert colour[:, :, 0, 0].tolist() == [[255, 0, 0], [7, 7, 7]]
    grey = read_class_folders(tmp_path, ["cat"], size=8, channels=1).images
    assert values(grey) == [76, 7]  # 0.299 * 255


def test_a_sample_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    file = class_folders(tmp_path, cat=2) / "cat" / "001.png"
    file.write_bytes(file.read_bytes()[:40])
    assert f"{file} cannot be read" in error_of(read_class_folders, tmp_path, ["cat"], size=8, channels=1)


def test_a_path_of_samples_without_class_folders_is_one_line(tmp_path: Path) -> None:
    assert "holds no class folders" in error_of(read_class_folders, tmp_path, ["cat"], size=8, channels=1)
