"""Progress: bars on standard error that count epochs from 1, a line for each epoch where there is no terminal."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from medassay.data.modules import LabelledData
from medassay.nets.block_cnn import BlockCNN
from medassay.tasks.classification import Classification
from medassay.training.fit import Fit, fit
from medassay.training.progress import describe_values
from medassay.training.settings import TrainerSettings

Factory = Callable[..., LabelledData]
LINE = re.compile(r"epoch (\d)/2: train/loss (\S+), val/loss (\S+), val/auroc (\S+), \d+\.\d s")


def train(data: LabelledData, directory: Path, progress: bool | None, **options: Any) -> Fit:
    settings = TrainerSettings(gpus=0, progress=progress)
    task = Classification(BlockCNN(1, 2, width=2), 2)
    return fit(task, data, directory=directory, settings=settings, max_epochs=2, monitor="val/auroc", **options)


def test_without_a_terminal_each_epoch_is_a_line_with_its_losses_and_the_monitored_value(
    tiny_chest: Factory, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, logger="medassay")
    fitted = train(tiny_chest(train=32), tmp_path, None, log_to="none")
    lines = [match for message in caplog.messages if (match := LINE.fullmatch(message))]
    assert [match[1] for match in lines] == ["1", "2"]
    assert fitted.best_epoch is not None
    chosen = lines[fitted.best_epoch - 1]
    assert float(chosen[2]) == pytest.approx(fitted.values["train/loss"], rel=1e-3)
    assert float(chosen[4]) == pytest.approx(fitted.values["val/auroc"], rel=1e-3)
    captured = capsys.readouterr()
    assert "it/s" not in captured.out + captured.err


def test_the_bar_counts_from_1_and_is_on_standard_error_alone(
    tiny_chest: Factory, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, logger="medassay")
    train(tiny_chest(train=32), tmp_path, True, log_to="csv")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert {"1/2", "2/2"} == set(re.findall(r"Epoch (\S+?):", captured.err))
    assert "train/loss=" in captured.err
    assert "v_num" not in captured.err
    assert not [message for message in caplog.messages if message.startswith("epoch")]


def test_a_fit_that_is_part_of_something_else_logs_no_lines(
    tiny_chest: Factory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="medassay")
    train(tiny_chest(train=32), tmp_path, None, log_to="none", log_epochs=False)
    assert not [message for message in caplog.messages if message.startswith("epoch")]


def test_a_line_has_the_losses_and_what_chooses_the_epoch_alone() -> None:
    values = {"train/d_loss": torch.tensor(0.5), "train/d_norm": torch.tensor(2.0), "val/f1": torch.tensor(0.25)}
    assert describe_values(values, ["val/f1"]) == "train/d_loss 0.5, val/f1 0.25, "
    assert describe_values({"train/d_norm": torch.tensor(2.0)}, []) == ""
