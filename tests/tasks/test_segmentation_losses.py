"""Losses of segmentation beside the formulas in plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from medassay.tasks.segmentation_losses import (
    SegmentationLoss,
    cross_entropy,
    dice_loss,
    segmentation_loss,
    weighted_cross_entropy,
)

KINDS: list[SegmentationLoss] = [
    "cross_entropy", "weighted_cross_entropy", "dice", "cross_entropy+dice", "weighted_cross_entropy+dice",
]  # fmt: skip


def random_case(classes: int) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(classes)
    logits = 3 * torch.randn(2, classes, 5, 7, generator=rng)
    return logits, torch.randint(classes, (2, 5, 7), generator=rng), 10 * torch.rand(2, 5, 7, generator=rng)


def softmax(logits: Tensor) -> NDArray[np.float64]:
    powers = np.exp(logits.double().numpy())
    return np.asarray(powers / powers.sum(1, keepdims=True))


def weigh_by_numpy(logits: Tensor, targets: Tensor, weights: NDArray[np.float64]) -> float:
    p, total = softmax(logits), 0.0
    for b, y, x in np.ndindex(*targets.shape):
        total -= weights[b, y, x] * np.log(p[b, targets[b, y, x], y, x])
    return float(total / targets.numel())


def dice_by_numpy(logits: Tensor, targets: Tensor, epsilon: float) -> float:
    p, losses = softmax(logits), []
    for image in range(len(p)):
        for label in range(1, p.shape[1]):
            a, b = p[image, label], (targets[image].numpy() == label).astype(float)
            losses.append(1 - (2 * (a * b).sum() + epsilon) / ((a**2).sum() + (b**2).sum() + epsilon))
    return float(np.mean(losses))


@pytest.mark.parametrize("classes", [2, 4])
def test_cross_entropies_are_the_formulas_in_numpy(classes: int) -> None:
    logits, targets, weights = random_case(classes)
    plain = weigh_by_numpy(logits, targets, np.ones(targets.shape))
    weighted = weigh_by_numpy(logits, targets, weights.double().numpy())
    assert cross_entropy(logits, targets).item() == pytest.approx(plain, rel=1e-5)
    assert weighted_cross_entropy(logits, targets, weights).item() == pytest.approx(weighted, rel=1e-5)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("epsilon", [1.0, 1e-5])
def test_the_dice_loss_is_the_formula_in_numpy(classes: int, epsilon: float) -> None:
    logits, targets, _ = random_case(classes)
    assert dice_loss(logits, targets, epsilon).item() == pytest.approx(
        dice_by_numpy(logits, targets, epsilon), rel=1e-5
    )


def test_names_with_a_plus_are_sums() -> None:
    logits, targets, weights = random_case(3)
    losses = {kind: segmentation_loss(kind, logits, targets, weights).item() for kind in KINDS}
    assert losses["cross_entropy"] == pytest.approx(cross_entropy(logits, targets).item())
    assert losses["cross_entropy+dice"] == pytest.approx(losses["cross_entropy"] + losses["dice"])
    assert losses["weighted_cross_entropy+dice"] == pytest.approx(losses["weighted_cross_entropy"] + losses["dice"])


def test_a_sure_and_right_prediction_costs_nothing_and_a_wrong_one_much() -> None:
    targets = torch.tensor([[[0, 1], [2, 1]]])
    right = 50 * (torch.nn.functional.one_hot(targets, 3).movedim(-1, 1).float())
    for kind in KINDS:
        assert segmentation_loss(kind, right, targets, torch.ones(1, 2, 2)).item() == pytest.approx(0, abs=1e-6)
    assert dice_loss(-right, targets).item() > 0.5


def test_a_class_that_is_nowhere_costs_nothing_where_its_probability_is_zero() -> None:
    targets = torch.zeros(1, 4, 4, dtype=torch.int64)
    background = torch.stack([torch.full((4, 4), 60.0), torch.zeros(4, 4)])[None]
    assert dice_loss(background, targets).item() == pytest.approx(0, abs=1e-6)
    assert dice_loss(-background, targets).item() == pytest.approx(1 - 1 / 17)


def test_a_weighted_loss_without_weights_is_refused() -> None:
    logits, targets, _ = random_case(2)
    with pytest.raises(ValueError, match="needs the pixels' weights"):
        segmentation_loss("weighted_cross_entropy+dice", logits, targets)


@pytest.mark.parametrize("kind", KINDS)
def test_under_bf16_autocast_losses_of_large_logits_and_their_gradients_are_finite(kind: SegmentationLoss) -> None:
    logits, targets, weights = random_case(3)
    features = logits.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = torch.nn.functional.conv2d(features, 1000 * torch.eye(3)[:, :, None, None])
        assert mixed.dtype == torch.bfloat16
        loss = segmentation_loss(kind, mixed, targets, weights)
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    loss.backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()
