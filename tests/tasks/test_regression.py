"""The regression task: what it standardises, logs and keeps; weights that stay; resumed bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from medassay.core.types import Regressor
from medassay.data.curves.modules import CurveData
from medassay.data.curves.sources import ecg_phantom_data
from medassay.metrics.curves import measure_between_beats
from medassay.nets.mlp import MLP
from medassay.tasks.optim import adam
from medassay.tasks.predictions import Classifier
from medassay.tasks.regression import Regression
from medassay.training.fit import fit
from medassay.training.settings import TrainerSettings

CPU = TrainerSettings(gpus=0)


def make_task(*, seed: int = 0, **settings: Any) -> Regression:
    torch.manual_seed(seed)
    return Regression(MLP([1], 1, [16], mean=0.0, std=1.0), adam(lr=3e-2), **settings)


def train(task: Regression, path: Path, epochs: int, data: CurveData | None = None, **options: Any) -> Any:
    options = {"monitor": "val/loss", "mode": "min", "log_to": "none", "settings": CPU, "log_epochs": False, **options}
    return fit(task, data or ecg_phantom_data("p"), directory=path, max_epochs=epochs, **options)


def test_a_regressor_is_no_classifier() -> None:
    assert isinstance(make_task(), Regressor)
    assert not isinstance(make_task(), Classifier)


def test_the_net_learns_in_standard_units_and_its_error_is_that_of_the_data(tmp_path: Path) -> None:
    task, data = make_task(), ecg_phantom_data("p")
    fitted = train(task, tmp_path, 40, data)
    points = data.splits.train
    assert float(task.x_sd) == pytest.approx(float(points.x.std(correction=0)), rel=1e-5)
    assert float(task.y_mean) == pytest.approx(float(points.y.mean()), rel=1e-5)
    val = data.splits.val
    error = float((task.eval().regress(val.x) - val.y).square().mean())  # the chosen epoch's weights
    assert fitted.values["val/loss"] == pytest.approx(error, rel=1e-4)
    assert error < 0.2 * float(val.y.var())
    assert fitted.values["val/error_over_between_beats"] > 0


def test_the_ratio_is_the_error_over_the_difference_between_beats(tmp_path: Path) -> None:
    data = ecg_phantom_data("p")
    values = train(make_task(), tmp_path, 1, data).values
    between = measure_between_beats(data.splits.val, data.splits.train)
    assert values["val/error_over_between_beats"] == pytest.approx(values["val/loss"] / between, rel=1e-5)


def test_of_beats_that_do_not_differ_no_ratio_is_logged(tmp_path: Path) -> None:
    values = train(make_task(), tmp_path, 1, ecg_phantom_data("p", noise=0.0, variation=0.0)).values
    assert "val/loss" in values
    assert "val/error_over_between_beats" not in values


def test_frozen_weights_stay_as_they_are(tmp_path: Path) -> None:
    weights = [[[3.0]], [[2.0], [1.0]], [[1.0, -5.0]]]
    net = MLP([1], 1, [1, 2], mean=0.0, std=1.0, weights=weights, biases=[[0.0], [0.0, -5.0], [0.0]])
    task = Regression(net, standardise=False, frozen=True)
    fitted = train(task, tmp_path, 2)
    assert [layer.weight.tolist() for layer in net.list_linear()] == weights
    assert task.eval().regress(torch.tensor([[-1.0], [1.0], [2.0]]))[:, 0].tolist() == [0, 6, 7]
    assert fitted.best_epoch == 1
    assert fitted.values["train/loss"] > 0


def test_a_resumed_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole, parts = make_task(), make_task()
    train(whole, tmp_path / "whole", 3, monitor=None)
    train(parts, tmp_path / "parts", 1, monitor=None)
    parts = make_task(seed=1)  # were it trained from the start, it would end with other weights
    train(parts, tmp_path / "parts", 3, monitor=None, resume=True)
    for one, other in zip(whole.state_dict().values(), parts.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_x_that_does_not_vary_is_only_shifted(tmp_path: Path) -> None:
    task, data = make_task(), ecg_phantom_data("p")
    data.splits.train.x.fill_(5.0)
    train(task, tmp_path, 1, data)
    assert (float(task.x_mean), float(task.x_sd)) == (5, 1)
