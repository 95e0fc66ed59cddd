"""scripts/convolutions.py: operations against numbers worked out by hand, and the page."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.helpers import load_script


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("convolutions")


def test_cross_correlation_and_convolution_differ_by_the_turned_kernel(script: ModuleType) -> None:
    image, kernel = np.array([[1, 2, 0], [0, 1, 3], [2, 0, 1]]), np.array([[1, 2], [0, -1]])
    assert script.correlate(image, kernel).tolist() == [[1 + 4 - 1, 2 - 3], [2, 1 + 6 - 1]]
    assert script.convolve(image, kernel).tolist() == [
        [-1 + 1, -2 + 2 + 3],
        [4, -1 + 1],
    ]  # the kernel turned: -1 0 / 2 1


def test_a_three_by_three_kernel_on_seven_by_seven_pixels_gives_the_lectures_sizes(script: ModuleType) -> None:
    titles = [matrix.title for matrix in script.show_sizes().matrices[2:]]
    assert [title.rpartition(" ")[2] for title in titles] == ["5×5", "7×7", "3×3", "4×4"]
    assert script.correlate(script.CROSS, script.DIAGONAL, stride=2).tolist() == [[3, 1, 1], [1, 3, 1], [1, 1, 3]]


def test_pooling_remembers_where_the_first_largest_value_was(script: ModuleType) -> None:
    values = np.array([[1, 5, 0, 0, 9], [2, 5, 3, 4, 9], [7, 0, 2, 2, 9], [0, 6, 2, 2, 9], [9, 9, 9, 9, 9]])
    pooled, switches = script.pool(values)
    assert pooled.tolist() == [[5, 4], [7, 2]]
    assert switches == [(0, 1), (1, 3), (2, 0), (2, 2)]
    assert script.unpool(pooled, switches, 4).tolist() == [[0, 5, 0, 0], [0, 0, 0, 4], [7, 0, 2, 0], [0, 0, 0, 0]]


def test_stamps_lie_stride_pixels_apart(script: ModuleType) -> None:
    first, second, *_ = script.stamp(np.array([[1, 2], [3, 4]]), np.ones((2, 2), dtype=int), 2)
    assert first.tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert second.tolist() == [[0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_the_checkerboard_has_ones_twos_and_fours(script: ModuleType) -> None:
    three, four = (matrix.values for matrix in script.show_checkerboard().matrices)
    assert three[2:4, 2:4].tolist() == [[4, 2], [2, 1]]
    assert set(four[2:-2, 2:-2].flat) == {4}


def test_a_folder_that_cannot_be_written_is_one_line(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(sys, "argv", ["convolutions.py", "--out", str(tmp_path / "file" / "below")])
    assert script.main() == 2
    error = capsys.readouterr().err
    assert error.endswith("is a file, no directory: choose another place with --out <folder>\n")
    assert error.count("\n") == 1


def test_the_page_agrees_with_torch_and_scipy(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["convolutions.py", "--out", str(tmp_path)])
    assert script.main() == 0
    text = (tmp_path / "convolutions.md").read_text(encoding="utf-8")
    assert text in capsys.readouterr().out
    assert text.count(": yes") == 4 + 4 + 3 + 2 + 2
    assert ": NO" not in text
    assert "http" not in (tmp_path / "convolutions.html").read_text(encoding="utf-8")


def test_a_difference_from_the_library_is_said_and_fails(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "run_transposed", lambda values, kernel, stride: np.zeros((5, 5)))
    monkeypatch.setattr(sys, "argv", ["convolutions.py", "--out", str(tmp_path)])
    assert script.main() == 1
    assert "stride 2 = torch conv_transpose2d" in capsys.readouterr().err
