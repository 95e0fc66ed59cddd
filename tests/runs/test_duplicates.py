"""Identical images in two splits: said once when training, recorded, and named on every report of that run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from medassay.data.duplicates import describe_provenance
from medassay.data.modules import LabelledData
from medassay.data.phantoms import chest
from medassay.data.sources import GeneratedSamples
from medassay.evaluation.about import describe_run, list_data_warnings, list_warnings
from medassay.runs.load import load_run
from medassay.runs.table import read_row
from tests.conftest import Factory
from tests.helpers import Command

SMALL = ["trainer.max_epochs=1", "trainer.gpus=0", "trainer.threads=1", "trainer.progress=false", "logger=none"]
LINE = "Identical images, pixel by pixel: 2 of test also in train, 3 repeated within train."


@pytest.fixture
def leaky_file(tmp_path: Path) -> Path:
    """Chest phantoms as an ``.npz`` file, in which three training images are repeated and two are test images as well."""
    rng = torch.Generator().manual_seed(0)
    pixels = chest.render(torch.arange(96) % 2, rng=rng).images[:, 0].numpy()
    arrays = {}
    for part, cut in (("train", slice(0, 48)), ("val", slice(48, 72)), ("test", slice(72, 96))):
        arrays[f"{part}_images"] = pixels[cut].copy()
        arrays[f"{part}_labels"] = np.arange(len(pixels[cut])) % 2
    arrays["train_images"][[10, 12, 14]] = arrays["train_images"][20]
    arrays["test_images"][:2] = arrays["train_images"][:2]
    np.savez(tmp_path / "leaky.npz", **arrays)
    return tmp_path / "leaky.npz"


def test_duplicates_are_said_once_recorded_and_named_whatever_of_the_run_is_judged(
    leaky_file: Path, tmp_path: Path, command: Command
) -> None:
    path = tmp_path / "a run"
    trained = command("train", f"data.file={leaky_file}", f"hydra.run.dir='{path}'", "test=false", *SMALL)
    assert trained.code == 0, trained.err
    assert (trained.out + trained.err).count(LINE) == 1
    assert f"python scripts/check_data.py 'run={path}'" in trained.out + trained.err
    assert json.loads((path / "run.json").read_text())["data"]["duplicates"] == {"train": 3, "train/test": 2}
    run = load_run(path, trainer_gpus=0)
    _ = run.data.splits
    for split in ("val", "test", None):
        assert sum(LINE in text for text in list_warnings(describe_run(run, split), {}, split)) == 1
    assert any(LINE in text for text in list_data_warnings(read_row(path).data_provenance))


def test_the_provenance_of_data_without_duplicates_is_as_ever(tiny_chest: Factory) -> None:
    data = tiny_chest()
    assert describe_provenance(data) == data.provenance()


def test_a_generators_samples_count_those_in_the_real_test_images_too(tiny_chest: Factory, tmp_path: Path) -> None:
    real = tiny_chest()
    copies = real.splits.test.images[:2, 0].numpy()
    np.savez(
        tmp_path / "made.npz",
        train_images=copies[[0, 1, 1]],
        train_labels=[0, 1, 1],
        val_images=255 - copies,
        val_labels=[0, 1],
    )
    made = LabelledData("made", real.classes, 1, GeneratedSamples(lambda: tmp_path / "made.npz", real))
    provenance = describe_provenance(made)
    assert provenance["duplicates"] == {"train": 1, "train/test": 2}
    assert "duplicates" not in provenance["real"]
