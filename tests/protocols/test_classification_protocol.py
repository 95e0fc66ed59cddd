"""A classifier's numbers and pictures on one split."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn import metrics
from torch import Tensor, nn

from medassay.files import write_json
from medassay.nets.block_cnn import BlockCNN
from medassay.protocols import classification
from medassay.protocols.classification import Predictions, pictures, predict, results, summary
from medassay.tasks.classification import Classification
from medassay.types import LabelledImages

CPU = torch.device("cpu")


def split_of(n: int, classes: int = 3, channels: int = 1) -> LabelledImages:
    rng = torch.Generator().manual_seed(n)
    images = torch.randint(256, (n, channels, 8, 8), generator=rng, dtype=torch.uint8)
    return LabelledImages(images, torch.randint(classes, (n,), generator=rng))


def predictions_of(n: int, classes: int) -> Predictions:
    """Predictions that are better than chance and not perfect."""
    rng = torch.Generator().manual_seed(classes)
    labels = torch.arange(n) % classes
    logits = torch.randn(n, classes, generator=rng) + torch.nn.functional.one_hot(labels, classes)
    return Predictions(logits.softmax(1), labels)


@pytest.fixture
def task() -> Classification:
    torch.manual_seed(0)
    return Classification(BlockCNN(1, 3, image_size=8, width=2, blocks=2, dropout=0.5), 3)


# --- predicting ------------------------------------------------------------------------------------------------------


def test_predictions_are_the_softmax_of_each_images_logits_in_order(task: Classification) -> None:
    split = split_of(11)
    found = predict(task.train(), split, CPU)
    expected = []
    task.eval()
    with torch.no_grad():
        for image in split.images.numpy():
            logits = task(torch.from_numpy(image[None].astype(np.float32) / 255))[0].double().numpy()
            expected.append(np.exp(logits) / np.exp(logits).sum())
    assert found.probabilities.dtype == torch.float32
    np.testing.assert_allclose(found.probabilities.numpy(), np.stack(expected), rtol=1e-5, atol=1e-7)
    assert torch.equal(found.labels, split.labels)


class FirstPixel(nn.Module):
    """Logits that tell which image it was."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.batches.append(len(images))
        value = images[:, 0, 0, 0]
        return torch.stack([value, 1 - value], 1)


def test_several_batches_keep_the_order_of_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classification, "BATCH", 4)
    images = torch.arange(10, dtype=torch.uint8)[:, None, None, None].expand(10, 1, 2, 2).clone()
    net, labels = FirstPixel(), torch.arange(10) % 2
    found = predict(net, LabelledImages(images, labels), CPU)
    value = np.arange(10) / 255
    expected = np.exp(value) / (np.exp(value) + np.exp(1 - value))
    np.testing.assert_allclose(found.probabilities[:, 0].numpy(), expected, rtol=1e-5)
    assert torch.equal(found.labels, labels)
    assert net.batches == [4, 4, 2]


def test_predicting_twice_gives_the_same_although_the_net_has_dropout(task: Classification) -> None:
    split = split_of(6)
    assert torch.equal(predict(task, split, CPU).probabilities, predict(task, split, CPU).probabilities)


def test_predicting_leaves_weights_and_statistics_as_they_were_without_gradients(task: Classification) -> None:
    before = {name: value.clone() for name, value in task.state_dict().items()}
    found = predict(task.train(), split_of(6), CPU)
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())
    assert not found.probabilities.requires_grad
    assert not task.training


def test_low_precision_logits_are_raised_before_the_softmax() -> None:
    class Half(FirstPixel):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images).bfloat16()

    found = predict(Half(), split_of(5, classes=2), CPU)
    torch.testing.assert_close(found.probabilities.sum(1), torch.ones(5), atol=1e-6, rtol=0)


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_numbers_of_several_classes_are_scikit_learns() -> None:
    found = predictions_of(90, 4)
    values = results(found)
    labels, probabilities = found.labels.numpy(), found.probabilities.double().numpy()
    probabilities /= probabilities.sum(1, keepdims=True)
    decided = probabilities.argmax(1)
    assert values["n"] == 90
    assert values["accuracy"] == pytest.approx(metrics.accuracy_score(labels, decided))
    assert values["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(labels, decided))
    assert values["f1"] == pytest.approx(metrics.f1_score(labels, decided, average="macro"))
    assert values["auroc"] == pytest.approx(metrics.roc_auc_score(labels, probabilities, multi_class="ovr"))
    assert values["confusion"] == metrics.confusion_matrix(labels, decided).tolist()


def test_numbers_of_two_classes_are_scikit_learns_for_class_1() -> None:
    found = predictions_of(60, 2)
    values = results(found)
    labels, scores = found.labels.numpy(), found.probabilities[:, 1].numpy()
    assert values["accuracy"] == pytest.approx(metrics.accuracy_score(labels, scores > 0.5))
    assert values["auroc"] == pytest.approx(metrics.roc_auc_score(labels, scores))
    assert values["f1"] == pytest.approx(metrics.f1_score(labels, scores > 0.5))


def test_every_single_number_has_an_interval_around_it() -> None:
    values = results(predictions_of(90, 4))
    numbers = {name for name, value in values.items() if isinstance(value, float)}
    assert set(values["interval_95"]) == numbers
    for name in ("accuracy", "balanced_accuracy", "auroc", "f1"):
        low, high = values["interval_95"][name]
        assert low < values[name] < high


def test_the_interval_of_the_accuracy_is_about_the_binomial_one() -> None:
    found = predictions_of(400, 2)
    low, high = results(found)["interval_95"]["accuracy"]
    accuracy = float((found.probabilities.argmax(1) == found.labels).double().mean())
    half = 1.96 * math.sqrt(accuracy * (1 - accuracy) / 400)
    assert (low, high) == pytest.approx((accuracy - half, accuracy + half), abs=0.01)


def test_numbers_can_be_written_as_json(tmp_path: Path) -> None:
    write_json(tmp_path / "metrics.json", results(predictions_of(12, 3)))
    assert (tmp_path / "metrics.json").stat().st_size > 0


def test_the_headline_names_numbers_intervals_and_images() -> None:
    names = ("accuracy", "balanced_accuracy", "auroc", "f1")
    values: dict[str, Any] = {name: 0.8 + 0.01 * i for i, name in enumerate(names)}
    line = summary({**values, "interval_95": {name: [0.5, 0.9] for name in names}, "n": 32})
    assert line == (
        "accuracy 0.800 [0.500, 0.900], balanced accuracy 0.810 [0.500, 0.900], auroc 0.820 [0.500, 0.900], "
        "f1 0.830 [0.500, 0.900] (n = 32, 95 % bootstrap intervals)"
    )


# --- pictures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["val", "test"])
def test_the_pictures_are_named_after_the_split(split: str, tmp_path: Path) -> None:
    found = predictions_of(30, 3)
    paths = pictures(tmp_path / "figures", split, found, results(found), ["a", "b", "c"])
    names = [f"{split}_confusion_matrix.png", f"{split}_roc.png", f"{split}_precision_recall.png"]
    assert paths == [tmp_path / "figures" / name for name in names]
    for path in paths:
        with Image.open(path) as picture:
            assert picture.format == "PNG"


def test_a_cut_short_split_without_images_of_a_class_is_drawn_too(tmp_path: Path) -> None:
    full = predictions_of(30, 3)
    kept = full.labels < 2
    found = Predictions(full.probabilities[kept], full.labels[kept])
    assert len(pictures(tmp_path, "val", found, results(found), ["a", "b", "c"])) == 3
