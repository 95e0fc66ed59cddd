"""The script of the nets' table: the published facts, what it leaves, what it refuses."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.helpers import load_script


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("architectures")


@pytest.mark.parametrize(
    ("name", "millions", "giga"),
    [
        ("AlexNet", 61.1, None),
        ("VGG-16", 138.4, 15.5),
        ("VGG-19", 143.7, 19.6),
        ("ResNet-152", 60.2, 11.5),
        ("EfficientNet-B0", 5.29, 0.39),
    ],
)
def test_imagenets_nets_have_their_published_parameters_and_multiply_adds(
    name: str, millions: float, giga: float | None, script: ModuleType
) -> None:
    facts = script.describe_net(name, 3, 1000, 224, False)
    assert facts.parameters / 1e6 == pytest.approx(millions, abs=0.05)
    if giga is not None:
        assert facts.multiply_adds / 1e9 == pytest.approx(giga, abs=0.06 if giga > 1 else 0.005)


@pytest.mark.parametrize(("width", "parameters", "giga"), [(16, 0.7, 0.029), (32, 2.8, 0.115)])
def test_narrow_resnets_are_as_small_as_said(width: int, parameters: float, giga: float, script: ModuleType) -> None:
    facts = script.describe_net(f"ResNet-18, width {width}", 1, 2, 28, False)
    assert facts.parameters / 1e6 == pytest.approx(parameters, abs=0.05)
    assert facts.multiply_adds / 1e9 == pytest.approx(giga, rel=0.02)


@pytest.mark.parametrize(("name", "maps"), [("MobileNetV2", "1280 x 2 x 2"), ("course's CNN", "32 x 3 x 3")])
def test_the_last_maps_are_those_that_are_pooled(name: str, maps: str, script: ModuleType) -> None:
    facts = script.describe_net(name, 1, 2, 28, False)
    assert script.tabulate_nets([facts], 28, False).rows[0][3] == maps


def test_compound_scaling_about_doubles_the_work_with_each_step(script: ModuleType) -> None:
    rows = script.tabulate_scaling().rows
    assert [row[0] for row in rows] == [str(phi) for phi in range(8)]
    assert rows[1][1:] == ["1.20", "1.10", "1.15", "1.9"]


def test_the_table_and_the_page_are_left_for_small_images(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = {name: script.NETS[name] for name in ("course's CNN", "LeNet-5", "VGG-11", "ResNet-18, width 16")}
    monkeypatch.setattr(script, "NETS", few)
    monkeypatch.setattr(sys, "argv", ["architectures.py", "--out", str(tmp_path), "--speed"])
    assert script.main() == 0
    shown = capsys.readouterr().out
    assert "| course's CNN | 18,218 |" in shown
    assert "images a second" in shown
    page = (tmp_path / "architectures.html").read_text()
    assert all(name.replace("'", "&#39;") in page for name in few)
    assert "<svg" in page
    text = (tmp_path / "architectures.md").read_text()
    assert "Compound scaling" in text


def test_a_folder_that_cannot_be_written_is_one_line(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(script, "NETS", {"LeNet-5": script.NETS["LeNet-5"]})
    monkeypatch.setattr(sys, "argv", ["architectures.py", "--out", str(tmp_path / "file" / "below")])
    assert script.main() == 2
    error = capsys.readouterr().err
    assert error.endswith("is a file, no directory: choose another place with --out <folder>\n")
    assert error.count("\n") == 1
