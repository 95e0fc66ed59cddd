"""The layout of class folders: what is accepted, and what a user is told who has another."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medassay.core.errors import ConfigError, DataError
from medassay.data import image_files
from medassay.data.class_folders import list_class_names, list_data_set, list_samples
from tests.helpers import Command, assert_one_line, close_folder


def make(top: Path, *names: str) -> Path:
    """Files below ``top``; nothing is decoded here, so that any content will do."""
    for name in names:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(os.fsencode(name))
    return top


def of_splits(top: Path, *parts: str, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    return make(top, *(f"{part}/{name}/1.png" for part in parts for name in classes))


def test_class_folders_are_the_sorted_sub_folders_without_hidden_ones_and_files(tmp_path: Path) -> None:
    make(tmp_path, "pneumonia/1.png", "normal/1.png", ".cache/1.png", "readme.txt")
    assert list_class_names(str(tmp_path)) == ["normal", "pneumonia"]


def test_class_folders_are_those_of_the_training_images_where_splits_are_given(tmp_path: Path) -> None:
    of_splits(tmp_path, "train", "val")
    of_splits(tmp_path, "test", classes=("another", "yet another"))
    assert list_class_names(str(tmp_path)) == ["cat", "dog"]


def test_class_folders_need_a_path_that_is_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.path=<directory"):
        list_class_names(None)
    with pytest.raises(ConfigError, match=r"none is not a directory"):
        list_class_names(str(tmp_path / "none"))
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=r"file is not a directory"):
        list_class_names(str(tmp_path / "file"))


@pytest.mark.parametrize("use", [list_class_names, list_data_set, list_samples])
def test_class_folders_that_may_not_be_looked_at_are_one_line_of_reading(
    use: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "top/cat/1.png", "top/dog/1.png")
    close_folder(tmp_path, monkeypatch)
    with pytest.raises(DataError, match=r"^cannot read .*/top \(Permission denied\)"):
        use(str(tmp_path / "top"))


@pytest.mark.parametrize(
    ("names", "facts"),
    [
        (("1.png", "2.png"), ("no class folders", "2 images, no folders")),
        (("cat/1.png",), ("only one class folder", "folders cat (1 image)")),
        (("cat/1.png", "readme.txt", "3.png"), ("only one class folder", "1 image, 1 .txt, folders cat")),
        (("train/1.png", "val/1.png", "test/1.png"), ("train holds no class folders", "one folder per class")),
        (("Train/1.png", "Test/1.png"), ("has Train and Test, but no val", "folders Test (1 image), Train (1 image)")),
        (("train/1.png", "bus/1.png", "car/1.png"), ("if train is a class, give its folder another name",)),
        (("train/cat/1.png", "train/dog/1.png"), ("but no val and no test", "add what is missing")),
        (("train/cat/1.png", "val/cat/1.png", "test/cat/1.png"), ("only one class folder", "found in train")),
        (("train/a/1", "val/a/1", "valid/a/1", "test/a/1"), ("has val and valid, both for val",)),
    ],
)
def test_another_layout_is_one_line_that_shows_what_is_there(
    names: tuple[str, ...], facts: tuple[str, ...], tmp_path: Path
) -> None:
    make(tmp_path / "set", *names)
    with pytest.raises(DataError) as error:
        list_class_names(str(tmp_path / "set"))
    for fact in (str(tmp_path / "set"), *facts):
        assert fact in str(error.value)


def test_another_layout_is_said_before_anything_else_on_the_command_line(tmp_path: Path, command: Command) -> None:
    result = command("train", "data=folder", f"data.path={make(tmp_path / 'set', '1.png')}")
    assert_one_line(
        result, "set has no class folders: found 1 image, no folders; expected <path>/train|val|test/<class>"
    )


@pytest.mark.parametrize(
    "parts", [("Train", "Val", "TEST"), ("train", "valid", "test"), ("train", "Validation", "test")]
)
def test_common_names_of_splits_are_understood(parts: tuple[str, ...], tmp_path: Path) -> None:
    found = list_data_set(of_splits(tmp_path, *parts))
    assert {part: files["dog"] for part, files in found.splits.items()} == {
        part: [tmp_path / name / "dog" / "1.png"] for part, name in zip(("train", "val", "test"), parts, strict=True)
    }


@pytest.mark.parametrize("names", [("valid", "invalid"), ("Test", "control")])
def test_without_training_images_classes_may_be_called_nearly_like_splits(
    names: tuple[str, ...], tmp_path: Path
) -> None:
    make(tmp_path, *(f"{name}/1.png" for name in names))
    assert list_class_names(str(tmp_path)) == sorted(names)
    assert list(list_data_set(tmp_path).splits["all"]) == sorted(names)


def test_images_in_sub_folders_of_a_class_are_refused_read_or_left_out_as_asked(tmp_path: Path) -> None:
    make(tmp_path, "cat/1.png", "cat/p1/2.png", "cat/p1/3.png", "dog/1.png", "stray.png")
    with pytest.raises(DataError, match=r"cat has images in sub-folders \(2\): data\.nested=true reads them"):
        list_data_set(tmp_path)
    read = list_data_set(tmp_path, nested=True)
    assert [file.name for file in read.splits["all"]["cat"]] == ["1.png", "2.png", "3.png"]
    assert read.left_out == {"outside the class folders": 1}
    without = list_data_set(tmp_path, nested=False)
    assert [file.name for file in without.splits["all"]["cat"]] == ["1.png"]
    assert without.left_out == {"in sub-folders": 2, "outside the class folders": 1}
    assert read.compute_fingerprint() != without.compute_fingerprint()


def test_images_beside_the_splits_are_counted_and_change_no_fingerprint(tmp_path: Path) -> None:
    before = list_data_set(of_splits(tmp_path, "train", "val", "test"))
    after = list_data_set(make(tmp_path, "raw/1.png", "raw/deep/2.png", "train/3.png"))
    assert before.left_out == {}
    assert after.left_out == {"outside the class folders": 3}
    assert after.compute_fingerprint() == before.compute_fingerprint()


def test_linked_class_folders_have_the_fingerprint_of_their_images(tmp_path: Path) -> None:
    make(tmp_path / "store", "1/1.png", "2/1.png")
    linked = tmp_path / "set"
    linked.mkdir()
    for name, target in (("cat", "1"), ("dog", "2")):
        (linked / name).symlink_to(tmp_path / "store" / target)
    plain = make(tmp_path / "plain", "cat/1.png", "dog/1.png")
    for name, target in (("cat", "1"), ("dog", "2")):
        (plain / name / "1.png").write_bytes((tmp_path / "store" / target / "1.png").read_bytes())
    before = list_data_set(linked).compute_fingerprint()
    assert before == list_data_set(plain).compute_fingerprint() == list_samples(linked).compute_fingerprint()
    first, second = ((tmp_path / "store" / name / "1.png").read_bytes() for name in "12")
    (tmp_path / "store" / "1" / "1.png").write_bytes(second)
    (tmp_path / "store" / "2" / "1.png").write_bytes(first)
    assert list_data_set(linked).compute_fingerprint() != before


def test_a_class_folder_whose_link_leads_nowhere_is_not_left_out_in_silence(tmp_path: Path) -> None:
    make(tmp_path, "cat/1.png", "dog/1.png")
    (tmp_path / "cow").symlink_to(tmp_path / "unmounted")
    for call in (list_data_set, list_samples, list_class_names):
        with pytest.raises(DataError, match="cow is a link that leads nowhere"):
            call(str(tmp_path))


def test_a_class_of_nothing_but_dicom_files_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files.importlib.util, "find_spec", lambda name: None)
    make(tmp_path, "cat/1.png", "dog/1.dcm")
    with pytest.raises(DataError, match=r"dog holds no images: found 0 images, 1 \.dcm.*medassay\[dicom\]"):
        list_data_set(tmp_path)


def test_a_class_whose_name_is_no_text_is_refused(tmp_path: Path) -> None:
    try:
        make(tmp_path, "dog/1.png", os.fsdecode(b"caf\xe9/1.png"))
    except OSError:
        pytest.skip("this file system wants text")
    for call in (list_data_set, list_class_names):
        with pytest.raises(DataError, match=r"caf\\udce9: the name of this class folder is not UTF-8"):
            call(str(tmp_path))


def test_an_argument_that_is_no_text_is_one_line(command: Command) -> None:
    assert_one_line(command("train", "data=folder", "data.path=" + os.fsdecode(b"caf\xe9")), "is not UTF-8")
