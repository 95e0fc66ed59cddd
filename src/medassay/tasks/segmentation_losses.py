"""Losses of segmentation on logits ``(B, K, H, W)``, each a scalar, computed in float32; class 0 is the background."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

SegmentationLoss = Literal[
    "cross_entropy", "weighted_cross_entropy", "dice", "cross_entropy+dice", "weighted_cross_entropy+dice"
]


def segmentation_loss(kind: SegmentationLoss, logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """The loss called ``kind``; names with ``+`` are sums.

    Args:
        kind: Name of the loss.
        logits: Logits, ``(B, K, H, W)`` float.
        targets: Class of each pixel, ``(B, H, W) int64``.
        weights: Weight of each pixel, ``(B, H, W) float32``, which the weighted cross-entropy needs and the others ignore.

    Raises:
        ValueError: The weighted cross-entropy has no weights.
    """
    total = logits.new_zeros((), dtype=torch.float32)
    for name in kind.split("+"):
        if name == "dice":
            total = total + dice_loss(logits, targets)
        elif name == "cross_entropy":
            total = total + cross_entropy(logits, targets)
        elif weights is None:
            raise ValueError(f"{kind} needs the pixels' weights")
        else:
            total = total + weighted_cross_entropy(logits, targets, weights)
    return total


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean over all pixels of -log p(true class)."""
    return _pixel_losses(logits, targets).mean()


def weighted_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """The mean over all pixels of -w log p(true class) (Ronneberger et al. 2015, arXiv:1505.04597, equation 1).

    The sum is divided by the number of pixels and not by that of the weights: an image of many borders weighs more.
    """
    return (weights.float() * _pixel_losses(logits, targets)).mean()


def dice_loss(logits: Tensor, targets: Tensor, epsilon: float = 1.0) -> Tensor:
    """1 - (2 Σab + ε) / (Σa² + Σb² + ε), a the probability of a class and b 1 inside it, else 0 (Milletari et al. 2016).

    Sums are over an image's pixels; the mean is over images and classes, the background left out. An image without a class
    has a loss of 0 for it only where its probability is 0 everywhere.
    """
    probabilities = logits.float().softmax(1)[:, 1:]
    classes = torch.arange(1, logits.shape[1], device=logits.device)
    inside = targets[:, None] == classes[:, None, None]
    overlap = (probabilities * inside).sum((2, 3))
    squares = probabilities.square().sum((2, 3)) + inside.sum((2, 3))
    return (1 - (2 * overlap + epsilon) / (squares + epsilon)).mean()


def _pixel_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """-log p(true class) of each pixel, ``(B, H, W) float32``."""
    # as a list of pixels: torch's loss of whole maps is not deterministic on GPUs
    pixels = logits.float().movedim(1, -1).flatten(0, 2)
    return F.cross_entropy(pixels, targets.flatten(), reduction="none").view(targets.shape)
