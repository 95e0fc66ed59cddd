"""The scores and pictures of one split that training leaves."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from medassay.data.modules import LabelledData
from medassay.metrics.scores import score_classification
from medassay.nets.block_cnn import BlockCNN
from medassay.reporting.classification import summarise_scores
from medassay.runs.final_scores import score_split
from medassay.tasks.classification import Classification
from medassay.tasks.predictions import predict
from medassay.training.settings import TrainerSettings

CPU = torch.device("cpu")
Factory = Callable[..., LabelledData]


@pytest.fixture
def task() -> Classification:
    torch.manual_seed(0)
    return Classification(BlockCNN(1, 2, width=2, blocks=2), 2)


@pytest.mark.parametrize("split", ["val", "test"])
def test_the_pictures_are_named_after_the_split(
    split: str, task: Classification, tiny_chest: Factory, tmp_path: Path
) -> None:
    _, paths = score_split(task, tiny_chest(), split, TrainerSettings(gpus=0), tmp_path / "figures")
    names = [f"{split}_confusion_matrix.png", f"{split}_roc.png", f"{split}_precision_recall.png"]
    assert paths == [tmp_path / "figures" / name for name in names]
    for path in paths:
        with Image.open(path) as picture:
            assert picture.format == "PNG"


def test_the_scores_are_those_of_the_splits_predictions_and_are_said(
    task: Classification, tiny_chest: Factory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = tiny_chest()
    with caplog.at_level(logging.INFO):
        scores, _ = score_split(task, data, "test", TrainerSettings(gpus=0), tmp_path)
    expected = predict(task, data.splits.test, CPU)
    assert scores == score_classification(expected.probabilities, expected.labels)
    assert f"test: {summarise_scores(scores)}" in caplog.messages


def test_the_split_of_a_run_cut_short_is_cut_the_same_way(
    task: Classification, tiny_chest: Factory, tmp_path: Path
) -> None:
    data = tiny_chest(batch_size=10)
    scores, paths = score_split(task, data, "val", TrainerSettings(gpus=0, limit_batches=2), tmp_path)
    assert scores.n == 20
    assert all(path.is_file() for path in paths)


@pytest.mark.parametrize(("labels", "said"), [([0, 1, 2, 1], False), ([0, 2, 2, 0], True)])
def test_means_that_leave_out_a_class_say_so(labels: list[int], said: bool) -> None:
    probabilities = torch.eye(3)[torch.tensor([0, 1, 2, 0])] * 0.7 + 0.1
    summary = summarise_scores(score_classification(probabilities, torch.tensor(labels)))
    assert ("means are over the 2 of 3 classes that have images" in summary) == said
