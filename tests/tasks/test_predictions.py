"""What a classifier says of images: in order, in batches, and without a trace on the net."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medassay.core.types import LabelledImages
from medassay.nets.block_cnn import BlockCNN
from medassay.tasks import predictions
from medassay.tasks.classification import Classification
from medassay.tasks.predictions import predict, predict_logits

CPU = torch.device("cpu")


def split_of(n: int, classes: int = 3, channels: int = 1) -> LabelledImages:
    rng = torch.Generator().manual_seed(n)
    images = torch.randint(256, (n, channels, 8, 8), generator=rng, dtype=torch.uint8)
    return LabelledImages(images, torch.randint(classes, (n,), generator=rng))


@pytest.fixture
def task() -> Classification:
    torch.manual_seed(0)
    return Classification(BlockCNN(1, 3, image_size=8, width=2, blocks=2, dropout=0.5), 3)


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
    monkeypatch.setattr(predictions, "BATCH", 4)
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


def test_logits_are_the_nets_own_in_double_precision_and_their_softmax_the_probabilities(task: Classification) -> None:
    split = split_of(11)
    found = predict_logits(task.train(), split.images, CPU)
    assert not task.training
    with torch.no_grad():
        assert torch.equal(found, task(split.images.float() / 255).double())
    torch.testing.assert_close(found.softmax(1).float(), predict(task, split, CPU).probabilities)


def test_the_decision_is_the_most_probable_class(task: Classification) -> None:
    found = predict(task, split_of(11), CPU)
    assert found.decisions.tolist() == np.argmax(found.probabilities.numpy(), 1).tolist()
