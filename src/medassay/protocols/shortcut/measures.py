"""What a stamp does to a classifier, in numbers with their intervals: rates, ranks, and where its heat maps lie.

All intervals are 95 % percentile bootstrap intervals over images; images with and without the stamp are drawn together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from medassay.core.estimate import Estimate
from medassay.core.results import UNWRITTEN
from medassay.metrics.bootstrap import draw_resample_weights, percentile_interval
from medassay.metrics.chance import ChanceCheck, are_enough
from medassay.metrics.explanation import energy_inside
from medassay.metrics.out_of_distribution import estimate_detection
from medassay.metrics.scores import score_decisions

Level = Literal["learned", "sensitive", "undecided", "none"]  # what the rule says of a stamp
RESAMPLES = 1000
_SEED = 0  # of the resamples


@dataclass(frozen=True)
class Numbers:
    """What one stamp does on one class, but for heat maps.

    Attributes:
        stamp, described: Its settings, and the stamp in words.
        label, class_name: The class.
        n: Numbers of images of the ``class`` and of the ``others``.
        conditions: By how the stamp is put on: accuracy, the class's recall, and the share of others given to it.
        drawn_over: Change of that share by the stamp on the others, image by image.
        outranks: Share of pairs in which a stamped image of another class outranks one of the class.
        outranks_clean: The same without the stamp.
        odds: Log-odds of the class, image by image: of the ``class``, the ``others``, the ``others_stamped``; drawn, not kept.
    """

    stamp: dict[str, Any]
    described: str
    label: int
    class_name: str = field(metadata={"name": "class"})
    n: dict[str, int]
    conditions: dict[str, dict[str, Estimate]]
    drawn_over: Estimate
    outranks: Estimate
    outranks_clean: Estimate
    odds: dict[str, list[float]] = field(metadata=UNWRITTEN)


@dataclass(frozen=True)
class Group:
    """Share of the heat maps' sum in the stamp's box, of some images with the stamp and without it; how many maps are empty."""

    n: int
    energy: Estimate
    energy_clean: Estimate
    empty: int = 0
    empty_clean: int = 0

    @classmethod
    def from_maps(cls, clean: Tensor, stamped: Tensor, box: Tensor) -> Group:
        """From heat maps ``(n, H, W)`` without and with the stamp, and its ``box (H, W) bool``."""
        every, boxes = torch.ones(len(clean), dtype=torch.bool), box.expand(len(clean), -1, -1)
        maps = {"energy": stamped, "energy_clean": clean}
        shares = estimate_shares({name: (energy_inside(some, boxes), every) for name, some in maps.items()})
        empty, empty_clean = (int((~some.flatten(1).any(1)).sum()) for some in (stamped, clean))
        return cls(len(clean), **shares, empty=empty, empty_clean=empty_clean)


@dataclass(frozen=True)
class Heat:
    """Where the class's heat maps lie, of its own images and of others; ``area`` is the box's share of the image."""

    method: str
    layer: str
    area: float
    own: Group = field(metadata={"name": "class"})
    others: Group


@dataclass(frozen=True, kw_only=True)
class Trial(Numbers):
    """One stamp on one class and the rule's verdict.

    Attributes:
        own: Whether it is the stamp that the run was trained with.
        chance: How well the net tells the class from the others, on images like those it was trained on.
        heat: Where its heat maps lie; None where the net has no feature maps to make them of.
        level, text: The verdict.
    """

    own: bool
    chance: ChanceCheck
    heat: Heat | None
    level: Level
    text: str


def log_odds(scores: Tensor, label: int) -> Tensor:
    """How much speaks for the class: ``log p / (1 - p)`` from logits ``(N, K) -> (N,)``; never saturates."""
    others = torch.cat([scores[:, :label], scores[:, label + 1 :]], 1)
    return scores[:, label] - others.logsumexp(1)


def estimate_shares(parts: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Estimate]:
    """Means over some of the images, with their intervals.

    Args:
        parts: By name, a number for every image ``(N,)`` and which images count ``(N,) bool``.

    Returns:
        By name their estimates; NaN where no image counts.
    """
    counted = torch.stack([members.double() for _, members in parts.values()])
    summed = torch.stack([numbers.double() for numbers, _ in parts.values()]) * counted
    means = summed.sum(1) / counted.sum(1)
    chunks = draw_resample_weights(counted.shape[1], resamples=RESAMPLES, seed=_SEED)
    drawn = torch.cat([weights @ summed.T / (weights @ counted.T) for weights in chunks])
    return {
        name: Estimate(float(mean), *percentile_interval(column), n=int(members.sum()))
        for (name, (_, members)), mean, column in zip(parts.items(), means, drawn.T, strict=True)
    }


def check_class(logits: Tensor, labels: Tensor, label: int) -> ChanceCheck:
    """How well a class is told from all others, ``logits (N, K)`` and ``labels (N,)``; one of each side at least."""
    own = labels == label
    decisions = score_decisions(logits.argmax(1) == label, own.long())
    ranks = log_odds(logits, label)
    counts = int(own.sum()), int((~own).sum())
    return ChanceCheck(
        decisions.estimates["balanced_accuracy"],
        measure_outranking(ranks[own], ranks[~own]),
        chance=0.5,
        enough=are_enough(counts, 0.5),
    )


def estimate_rates(predicted: Tensor, labels: Tensor, label: int) -> dict[str, Estimate]:
    """Accuracy, the class's recall, and the share of the other classes' images that are given to it."""
    own = labels == label
    return estimate_shares(
        {
            "accuracy": (predicted == labels, torch.ones_like(own)),
            "recall": (predicted == label, own),
            "false_positive_rate": (predicted == label, ~own),
        }
    )


def measure_outranking(first: Tensor, second: Tensor) -> Estimate:
    """How often one of the ``first`` images ranks above one of the ``second``, pair by pair; equal ones count half.

    It is the area under the ROC curve where the first are the positives. Of a class's log-odds in its own images and in the
    others it is the AUROC; the other way round, 1 - AUROC.

    Args:
        first, second: What images are ranked by, ``(N,)`` and ``(M,)``.
    """
    below = estimate_detection(first, second, paired=False, seed=_SEED)
    assert below.low is not None
    assert below.high is not None
    return Estimate(1 - below.value, 1 - below.high, 1 - below.low, n=len(first) * len(second))
