"""The script that shows every augmentation: its page, its images, what it says of each."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from medassay.data.augment import BatchAugment
from tests.helpers import load_script


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("augmentations")


def test_every_augmentation_there_is_is_shown(script: ModuleType) -> None:
    assert set(script.STRENGTHS) == {field.name for field in fields(BatchAugment)} - {"erasing_size"}


def test_the_page_says_what_is_on_and_why_not_the_others_and_leaves_the_images(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [
        "data=oct_phantom",
        "model=oct_classifier",
        "data.train=16",
        "data.val=8",
        "data.test=8",
        f"outputs={tmp_path}",
    ]
    monkeypatch.setattr(sys, "argv", ["augmentations.py", *argv])
    assert script.main() == 0
    assert capsys.readouterr().out.startswith("on: horizontal_flip=0.5, rotation=15\n")
    (page,) = tmp_path.glob("augmentations/oct_phantom_*/augmentations.html")
    text = page.read_text()
    assert "Off; hides small drusen" in text
    assert "On: 0.5; a left eye looks like a right one" in text
    original, flipped = (
        np.asarray(Image.open(page.parent / "images" / f"drusen_{name}.png"))
        for name in ("original", "horizontal_flip_1")
    )
    assert np.array_equal(flipped, original[:, ::-1])
    assert (page.parent / "images" / "CNV_rotation_3.png").exists()
    assert not list((page.parent / "images").glob("*colour*"))


def test_a_wrong_key_is_one_line(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["augmentations.py", "data=oct_phantom", "data.no_such_key=1"])
    assert script.main() == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_folder_that_cannot_be_written_is_one_line(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    sizes = ("data.train=16", "data.val=8", "data.test=8")
    monkeypatch.setattr(sys, "argv", ["augmentations.py", "data=oct_phantom", *sizes, f"outputs={tmp_path / 'file'}"])
    assert script.main() == 2
    error = capsys.readouterr().err
    assert error.endswith("is a file, no directory: choose another place with outputs=<directory>\n")
    assert error.count("\n") == 1
