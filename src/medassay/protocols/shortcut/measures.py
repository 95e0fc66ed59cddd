"""What a stamp does to a classifier, in numbers with their intervals: rates, ranks, and where its heat maps lie.

All intervals are 95 % percentile bootstrap intervals over images; images with and without the stamp are drawn together.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from medassay.core.types import LabelledImages
from medassay.data.loader import ResidentLoader
from medassay.metrics.bootstrap import percentile_interval, resample_weights

RESAMPLES = 1000
_SEED = 0  # of the resamples
_BATCH = 256  # images at a time; results do not depend on it beyond rounding

Value = dict[str, float]  # {"mean", "low", "high"}


@torch.no_grad()
def logits(task: nn.Module, images: Tensor, device: torch.device) -> Tensor:
    """``(N, C, H, W) uint8 -> (N, K) float64`` on the CPU; the task is left in evaluation mode on ``device``."""
    task.to(device).eval()
    split = LabelledImages(images, torch.zeros(len(images), dtype=torch.int64))
    return torch.cat([task(batch).double().cpu() for batch, _ in ResidentLoader(split, _BATCH, device=device)])


def log_odds(scores: Tensor, label: int) -> Tensor:
    """How much speaks for the class: ``log p / (1 - p)`` from logits ``(N, K) -> (N,)``; never saturates."""
    others = torch.cat([scores[:, :label], scores[:, label + 1 :]], 1)
    return scores[:, label] - others.logsumexp(1)


def shares(parts: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Value]:
    """Means over some of the images, with their intervals.

    Args:
        parts: by name, a number for every image ``(N,)`` and which images count ``(N,) bool``.

    Returns:
        By name ``{"mean", "low", "high"}``; NaN where no image counts.
    """
    counted = torch.stack([members.double() for _, members in parts.values()])
    summed = torch.stack([numbers.double() for numbers, _ in parts.values()]) * counted
    means = summed.sum(1) / counted.sum(1)
    chunks = resample_weights(counted.shape[1], resamples=RESAMPLES, seed=_SEED)
    drawn = torch.cat([weights @ summed.T / (weights @ counted.T) for weights in chunks])
    bounds = [percentile_interval(column) for column in drawn.T]
    return {
        name: {"mean": float(mean), "low": low, "high": high}
        for name, mean, (low, high) in zip(parts, means, bounds, strict=True)
    }


def rates(predicted: Tensor, labels: Tensor, label: int) -> dict[str, Value]:
    """Accuracy, the class's recall, and the share of the other classes' images that are given to it."""
    own = labels == label
    return shares(
        {
            "accuracy": (predicted == labels, torch.ones_like(own)),
            "recall": (predicted == label, own),
            "false_positive_rate": (predicted == label, ~own),
        }
    )


def outranking(others: Tensor, own: Tensor) -> Value:
    """How often an image of another class speaks more for a class than an image of that class does.

    It is the area under the ROC curve with the roles turned round: 1 - AUROC where nothing was changed.

    Args:
        others: ``(N,)`` log-odds of the class, of images of other classes.
        own: ``(M,)``, of images of the class.
    """
    above = (others[:, None] > own[None]).double() + 0.5 * (others[:, None] == own[None]).double()
    drawn = [
        ((one @ above) * two).sum(1) / len(others) / len(own)
        for one, two in zip(
            _resampled(len(others), _SEED), _resampled(len(own), _SEED + 1), strict=True
        )  # two groups, drawn apart
    ]
    low, high = percentile_interval(torch.cat(drawn))
    return {"mean": float(above.mean()), "low": low, "high": high}


def _resampled(n: int, seed: int) -> list[Tensor]:
    """Weights of all resamples ``(100, n)`` each, in equal chunks whatever ``n``."""
    chunks = resample_weights(n, resamples=RESAMPLES, seed=seed, chunk_elements=100 * n)
    return list(chunks)


def inside(maps: Tensor, box: Tensor) -> Tensor:
    """The share of each heat map's sum inside ``box (H, W) bool``, ``(N, H, W) -> (N,) float64``.

    A map that is zero everywhere counts as an even one.
    """
    total = maps.double().sum((1, 2))
    within = (maps.double() * box).sum((1, 2)) / total
    return torch.where(total > 0, within, box.double().mean())
