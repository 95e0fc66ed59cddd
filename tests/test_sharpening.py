"""scripts/sharpening.py: what a small net learns of sharpening, and the measure of what it invents."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.helpers import load_script


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("sharpening")


def test_added_detail_is_found_in_full_in_half_in_part_or_not_at_all(script: ModuleType) -> None:
    missing = torch.tensor([1.0, -1.0, 2.0, 0.0]).reshape(1, 1, 2, 2).expand(4, -1, -1, -1)
    added = missing * torch.tensor([1.0, 2.0, -1.0, 0.0]).reshape(4, 1, 1, 1)
    added[3, 0, 0] = 1.0  # (1, 1, 0, 0), at right angles to (1, -1, 2, 0)
    assert script.find_in_original(added, missing).tolist() == [1.0, 0.5, -1.0, 0.0]


def test_images_without_detail_look_the_same_to_the_net(script: ModuleType) -> None:
    kinds = script.draw_kinds(torch.Generator().manual_seed(0))
    first, flat = (kinds[name] for name in ("chests, as in training", "the same chests, without detail"))
    assert torch.allclose(script.shrink(first), script.shrink(flat), atol=1e-6)
    assert not torch.allclose(first, flat, atol=0.01)
    assert {tuple(images.shape) for images in kinds.values()} == {(script.TEST, 1, 28, 28)}


def test_a_net_that_adds_nothing_is_bicubic(script: ModuleType) -> None:
    net = script.Sharpener()
    torch.nn.init.zeros_(net.layers[-1].weight)
    torch.nn.init.zeros_(net.layers[-1].bias)
    small = torch.rand(2, 1, 14, 14)
    assert torch.equal(net(small), script.enlarge(small))
    assert sum(weights.numel() for weights in net.parameters()) == 26 * 16 + (16 * 9 + 1) * 16 + 16 * 25 + 1


def test_a_folder_that_cannot_be_written_is_one_line(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    for name, value in {"TRAIN": 20, "TEST": 4, "STEPS": 1}.items():
        monkeypatch.setattr(script, name, value)
    monkeypatch.setattr(sys, "argv", ["sharpening.py", "--out", str(tmp_path / "file" / "below")])
    assert script.main() == 2
    error = capsys.readouterr().err
    assert error.endswith("is a file, no directory: choose another place with --out <folder>\n")
    assert error.count("\n") == 1


def test_a_short_training_beats_bicubic_on_its_own_kind_and_leaves_page_text_and_picture(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"TRAIN": 200, "TEST": 12, "STEPS": 90}.items():
        monkeypatch.setattr(script, name, value)
    monkeypatch.setattr(sys, "argv", ["sharpening.py", "--out", str(tmp_path)])
    assert script.main() == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][2:]
    gains = {row[0].removeprefix("| "): float(row[3].partition(" ")[0].replace("−", "-")) for row in rows}
    assert gains["chests, as in training"] > 0.1
    assert gains["noise"] < gains["chests, as in training"]
    assert {path.name for path in tmp_path.iterdir()} == {"sharpening.html", "sharpening.md", "sharpening.png"}
    assert "http" not in (tmp_path / "sharpening.html").read_text(encoding="utf-8")
