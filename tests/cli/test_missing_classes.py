"""Training on data that lack images of a class: refused where the choice of the epoch needs them, else said and recorded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.helpers import Command, assert_one_line

SHORT = ["model.net.width=2", "trainer.max_epochs=1", "trainer.gpus=0", "logger=none", "data.batch_size=8"]


def write_npz(path: Path, **labels: list[int]) -> str:
    """Noise with these labels in each split, ``0`` and ``1`` in turn where none are given; gives the override."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split in ("train", "val", "test"):
        own = np.array(labels.get(split, [0, 1] * 8))
        arrays[f"{split}_images"] = rng.integers(0, 255, (len(own), 28, 28)).astype(np.uint8)
        arrays[f"{split}_labels"] = own[:, None]
    np.savez(path, **arrays)
    return f"data.file={path}"


def run_of(out: str) -> Path:
    return Path(next(line for line in out.splitlines() if line.startswith("run directory:")).partition(": ")[2].strip())


def test_validation_images_of_one_class_are_refused_and_the_advice_given_trains(
    command: Command, tmp_path: Path
) -> None:
    file = write_npz(tmp_path / "one.npz", val=[0] * 8)
    refused = command("train", file, *SHORT)
    assert_one_line(refused, "val/auroc", "lack pneumonia")
    advice = refused.err.split(": ")[-1].split()
    assert advice == ["recipe.monitor=val/loss", "recipe.mode=min"]
    done = command("train", file, *SHORT, *advice)
    assert done.code == 0
    assert "validation images lack pneumonia" in done.out
    run = run_of(done.out)
    numbers = json.loads((run / "metrics.json").read_text())
    assert numbers["val"]["classes_without_images"] == ["pneumonia"]
    assert numbers["val"]["auroc"] is None
    assert "classes_without_images" not in numbers["test"]
    assert json.loads((run / "run.json").read_text())["classes_without_images"] == {"val": ["pneumonia"]}


def test_training_and_test_images_without_a_class_are_said(command: Command, tmp_path: Path) -> None:
    done = command("train", write_npz(tmp_path / "one.npz", train=[1] * 8, test=[1] * 8), *SHORT)
    assert done.code == 0
    assert "training images lack normal: the model cannot learn it" in done.out
    assert "test images lack normal" in done.out


def test_a_debug_run_on_images_sorted_by_class_goes_on_with_a_line(command: Command, tmp_path: Path) -> None:
    done = command("train", write_npz(tmp_path / "sorted.npz", val=[0] * 32 + [1] * 32), *SHORT, "debug=fast")
    assert done.code == 0
    assert "val/auroc is undefined: the 16 validation images" in done.out
    assert json.loads((run_of(done.out) / "metrics.json").read_text())["chosen_by"] == (
        "last epoch: val/auroc is undefined"
    )
