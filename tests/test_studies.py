"""Studies of minutes each, run by ``make test-long``: the demo, what the phantoms demand, and real X-rays."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score

import medassay
from medassay import config as configuration
from medassay.core.types import Splits
from medassay.data.modules import LabelledData
from medassay.nets.block_cnn import BlockCNN
from medassay.tasks.classification import Classification
from medassay.tasks.predictions import predict
from tests.helpers import load_script

pytestmark = pytest.mark.long


def read(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values


# --- the demo --------------------------------------------------------------------------------------------------------


def demo() -> int:
    """Runs scripts/demo.py in this process and gives its exit code."""
    code: int = load_script("demo").main()
    return code


def test_the_demo_draws_its_pictures_and_its_samples_teach_more_than_three_times_chance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["demo.py", "--outputs", str(tmp_path)])
    code = demo()
    out, err = capsys.readouterr()
    print(out[out.find("=== Results") :])
    assert (code, err) == (0, "")
    (directory,) = (tmp_path / "demo").iterdir()
    runs = {name: directory / name for name in ("pneumonia_cnn", "cgan", "tstr")}
    assert sorted(path.name for path in directory.iterdir()) == sorted(runs)
    assert all(read(run / "run.json")["status"] == "done" for run in runs.values())

    drawn = {name: {path.name for path in (run / "figures").iterdir()} for name, run in runs.items()}
    pictures = ("confusion_matrix", "precision_recall", "roc")
    for name in ("pneumonia_cnn", "tstr"):
        assert drawn[name] == {f"{split}_{picture}.png" for split in ("val", "test") for picture in pictures}
    assert drawn["cgan"] == {f"samples_epoch_{epoch:04d}.png" for epoch in (5, 10, 15, 20)}
    assert str(runs["cgan"] / "figures" / "samples_epoch_0020.png") in out

    assert read(runs["tstr"] / "metrics.json")["test"]["balanced_accuracy"] > 3 / 8


# --- phantoms at full size -------------------------------------------------------------------------------------------


def linear_accuracy(splits: Splits) -> float:
    """Balanced test accuracy of multinomial logistic regression on standardised pixels; its ridge chosen on validation."""
    x, x_val, x_test = (split.images.flatten(1).float() / 255 for split in splits)
    mean, std = x.mean(0), x.std(0).clamp_min(1e-4)
    best, found = -1.0, -1.0
    for inverse_ridge in (1e-4, 1e-3, 1e-2):
        model = LogisticRegression(C=inverse_ridge, max_iter=80)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(((x - mean) / std).numpy(), splits.train.labels.numpy())
        scores = [
            float(balanced_accuracy_score(split.labels.numpy(), model.predict(((pixels - mean) / std).numpy())))
            for split, pixels in ((splits.val, x_val), (splits.test, x_test))
        ]
        if scores[0] > best:
            best, found = scores
    return found


def cnn_accuracy(data: LabelledData, directory: Path) -> float:
    """Balanced test accuracy of the project's CNN after ten epochs, the best of them chosen on validation."""
    torch.manual_seed(0)
    task = Classification(BlockCNN(data.channels, len(data.classes)), len(data.classes))
    medassay.fit(task, data, directory=directory, max_epochs=10, monitor="val/auroc", log_to="none")
    predictions = predict(task, data.splits.test, torch.device("cpu"))
    return float(balanced_accuracy_score(predictions.labels.numpy(), predictions.decisions.numpy()))


@pytest.mark.parametrize("name", ["chest_phantom", "blood_phantom"])
def test_on_a_full_size_phantom_the_cnn_beats_logistic_regression_by_ten_points(name: str, tmp_path: Path) -> None:
    data = configuration.build(configuration.compose("train", [f"data={name}"]).data)
    assert [len(split) for split in data.splits] == [4096, 512, 1024]
    linear, cnn = linear_accuracy(data.splits), cnn_accuracy(data, tmp_path)
    print(f"{name}: balanced accuracy of logistic regression {linear:.3f}, of the CNN {cnn:.3f}")
    assert cnn - linear >= 0.10


# --- real X-rays -----------------------------------------------------------------------------------------------------


def test_the_default_run_on_pneumoniamnist_reaches_a_validation_auroc_of_98_percent(
    real_file: Callable[[str], Path], tmp_path: Path
) -> None:
    root = real_file("pneumoniamnist.npz").parent
    run = medassay.train_run(f"data.root='{root}'", "test=false", directory=tmp_path / "run")
    numbers = run.directory.metrics()
    print(f"validation AUROC {numbers['val']['auroc']:.4f} in epoch {numbers['best_epoch']} of {numbers['epochs']}")
    assert numbers["val"]["auroc"] > 0.98
