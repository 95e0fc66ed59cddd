"""scripts/check_data.py: a page about any data set."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.helpers import Result, assert_one_line, load_script

CGAN = Path(__file__).parent / "fixtures" / "runs" / "cgan"
CNN = Path(__file__).parent / "fixtures" / "runs" / "cnn"
Check = Callable[..., Result]


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Check:
    """Runs the script in this process."""

    def run(*argv: str) -> Result:
        monkeypatch.setattr("sys.argv", ["check_data.py", *argv])
        code = load_script("check_data").main()
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


def read(result: Result) -> tuple[dict[str, Any], str]:
    """The JSON and the page of a check."""
    assert result.code == 0, result.err
    page = Path(result.out.splitlines()[-1].removeprefix("page: "))
    values: dict[str, Any] = json.loads(page.with_name("check.json").read_text(encoding="utf-8"))
    return values, page.read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ready splits of two classes, noise of 30x20 pixels; a training image is a test image of the other class as well."""
    rng = np.random.default_rng(0)
    top = tmp_path / "images"
    for part in ("train", "val", "test"):
        for name in ("cat", "dög <b>"):
            (top / part / name).mkdir(parents=True)
            for number in range(4):
                pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(top / part / name / f"{number}.png")
    Image.open(top / "train" / "cat" / "1.png").save(top / "test" / "dög <b>" / "again.bmp")
    Image.new("RGB", (25, 25), (4, 4, 4)).save(top / "val" / "cat" / "black.png")
    return top


def test_the_page_of_a_folder_names_files_sizes_and_faults(folder: Path, check: Check, tmp_path: Path) -> None:
    result = check("data=folder", f"data.path={folder}")
    values, page = read(result)
    assert list((tmp_path / "outputs" / "data").glob("folder_*/check.html"))
    assert values["counts"] == {"train": [4, 4], "val": [5, 4], "test": [4, 5]}
    assert values["sizes"] == {"30x20": 25, "25x25": 1}
    assert values["duplicates"] == {"train/test": 1}
    assert values["identical"] == [["train/cat/1.png (train, cat)", "test/dög <b>/again.bmp (test, dög <b>)"]]
    assert values["constant"] == ["val/cat/black.png (val, cat)"]
    assert "FAULT: labels: 1 image occurs under different labels" in result.out
    assert "FAULT: identical images: 1 of test also in train" in result.out
    assert "look at: images of a class: fewer than 10" in result.out
    assert "test/dög &lt;b&gt;/again.bmp" in page
    assert "<b>" not in page
    assert "25 × 25" in page
    assert page.count("<svg") == 3  # a chart for each channel
    assert (
        page.count('<img src="data:image/png;base64,') == page.count("<img") == 6 + 2 + 1
    )  # means, examples, the copy
    assert "<script" not in page


def test_images_of_a_file_are_named_by_split_and_index(tmp_path: Path, check: Check) -> None:
    rng = np.random.default_rng(0)
    arrays = {f"{part}_images": rng.integers(0, 256, (12, 28, 28), dtype=np.uint8) for part in ("train", "val", "test")}
    arrays["val_images"][3] = arrays["train_images"][11]
    np.savez(
        tmp_path / "mine.npz", **arrays, **{f"{part}_labels": np.arange(12) % 2 for part in ("train", "val", "test")}
    )
    values, page = read(check(f"data.file={tmp_path / 'mine.npz'}"))
    assert values["identical"] == [["train[11] (train, pneumonia)", "val[3] (val, pneumonia)"]]
    assert values["sizes"] == {}
    assert "Sizes of the files" not in page


def test_all_images_are_looked_at_and_without_a_stamp(check: Check) -> None:
    small = ["data=chest_phantom", "data.train=32", "data.val=16", "data.test=16"]
    plain, _ = read(check(*small))
    changed, _ = read(check(*small, "data.subset=8", "data.stamp.kind=square", "data.stamp.label=normal"))
    assert sum(plain["counts"]["train"]) == 32
    assert (plain["counts"], plain["values"]) == (changed["counts"], changed["values"])


@pytest.mark.parametrize(
    ("argv", "name"),
    [([f"data.generator={CGAN}"], "synthetic_blood_phantom"), ([f"run={CNN}"], "chest_phantom")],
    ids=["a generator's samples", "the data of a run"],
)
def test_samples_and_the_data_of_a_run_are_looked_at(argv: list[str], name: str, check: Check, tmp_path: Path) -> None:
    values, page = read(check(*argv))
    assert values["data"]["name"] == name
    assert f"<h1>{name}</h1>" in page
    assert list((tmp_path / "outputs" / "data").glob(f"{name}_*"))


@pytest.mark.parametrize(
    ("argv", "fact"),
    [
        (["data=folder", "data.path=nowhere"], "data.path=nowhere is not a directory"),
        (["data=nothing"], "data=nothing: there is no such choice"),
        (["data=chest_phantom,blood_phantom"], "name one data set"),
        (["data=null"], "name one data set"),
        (["data=chest_phantom", "data.train=4"], "data.train=4: expected an integer >= 8"),
        (["run=nowhere"], "nowhere is no run directory"),
        (["run="], "run=: give one run directory"),
        ([f"run={CNN}", "data.size=3"], "data.size"),
        (
            ["data=chest_phantom", "data.train=8", "data.val=8", "data.test=8", "outputs=/proc/none"],
            "outputs=<directory>",
        ),
        (["words"], "expected key=value"),
    ],
)
def test_bad_input_is_one_line(argv: list[str], fact: str, check: Check) -> None:
    assert_one_line(check(*argv), fact)


def test_a_folder_that_cannot_be_written_is_one_line_with_one_advice(
    check: Check, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    result = check("data=folder", f"data.path={folder}", f"outputs={tmp_path / 'file'}")
    assert_one_line(result, "is a file, no directory: choose another place with outputs=<directory>")
    assert result.err.count("choose another") == 1
