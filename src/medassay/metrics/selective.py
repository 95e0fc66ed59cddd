"""How sure a classifier is of each image, and what is gained by leaving the least sure ones to somebody else.

Sources: the reject option, Chow, *On optimum recognition error and reject tradeoff*, IEEE Trans. Inf. Theory 16 (1970); the
risk-coverage curve, El-Yaniv & Wiener, JMLR 11 (2010); its area, Geifman, Uziel & El-Yaniv 2019 (arXiv:1805.08206).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from medassay.core.estimate import Estimate
from medassay.metrics.bootstrap import draw_resample_weights, percentile_interval
from medassay.metrics.estimates import RESAMPLES, estimate_share


class Kept(NamedTuple):
    """The images that a classifier is surest of.

    Attributes:
        share: Their share of all images; more than was asked for where images at the limit are equally sure.
        n: Number of them.
        lowest: The lowest certainty among them.
        accuracy: Accuracy on them, with its exact binomial interval.
    """

    share: float
    n: int
    lowest: float
    accuracy: Estimate


def compute_log_odds(logits: Tensor) -> Tensor:
    """``log(p / (1 - p))`` of the largest probability p, ``logits (N, K) -> (N,) float64``.

    It orders images as p does, and still tells apart those whose p is rounded to 1.
    """
    values = logits.double().sort(1, descending=True).values
    return values[:, 0] - values[:, 1:].logsumexp(1)


def compute_entropy(logits: Tensor) -> Tensor:
    """The entropy of the class probabilities in bits, ``logits (N, K) -> (N,) float64``, from 0 to log2 K."""
    logs = logits.double().log_softmax(1)
    return -(logs.exp() * logs).sum(1) / math.log(2)


def compute_margin(logits: Tensor) -> Tensor:
    """The largest probability minus the second largest, ``logits (N, K) -> (N,) float64``."""
    largest = logits.double().softmax(1).topk(2, 1).values
    return largest[:, 0] - largest[:, 1]


def measure_kept(certainty: Tensor, correct: Tensor, shares: Sequence[float]) -> list[Kept]:
    """Accuracy on the most certain images, for each share of them that is kept.

    Args:
        certainty: ``(N,)`` float, higher is surer.
        correct: Whether each decision is right, ``(N,) bool``.
        shares: Shares in (0, 1]; at least one image is kept.

    Raises:
        ValueError: There are no images, lengths differ, or a share is none.
    """
    total = len(certainty)
    if not total or len(correct) != total or not all(0 < share <= 1 for share in shares):
        raise ValueError(f"{total} certainties, {len(correct)} decisions and shares {list(shares)} do not fit")
    ranked = certainty.sort(descending=True).values
    rows = []
    for share in shares:
        lowest = ranked[max(1, round(share * total)) - 1]
        chosen = certainty >= lowest
        n = int(chosen.sum())
        rows.append(Kept(n / total, n, float(lowest), estimate_share(int(correct[chosen].sum()), n)))
    return rows


def estimate_area(certainty: Tensor, correct: Tensor, *, seed: int = 0) -> Estimate:
    """The area under the risk-coverage curve: the error on the k most certain images, averaged over all k.

    0 is perfect; the error rate itself is what an order that knows nothing reaches. Images that are equally certain count as
    if each had their mean error.

    Args:
        certainty: ``(N,)`` float, higher is surer.
        correct: Whether each decision is right, ``(N,) bool``.
        seed: Seed of the resamples.

    Returns:
        The area with its 95 % percentile bootstrap interval over images.
    """
    order = certainty.sort(descending=True, stable=True).indices
    _, level = torch.unique_consecutive(certainty[order], return_inverse=True)
    wrong = (~correct[order]).double()
    count = int(level.max()) + 1

    def measure(weights: Tensor) -> Tensor:
        n, errors = (
            torch.zeros(len(weights), count, dtype=torch.float64).index_add_(1, level, part)
            for part in (weights, weights * wrong)
        )
        mean = (errors / n.clamp(min=1))[:, level]  # of the images that are equally certain
        kept = weights.cumsum(1)
        risk = (weights * mean).cumsum(1) / kept.clamp(min=1)
        return (weights * risk).sum(1) / kept[:, -1]

    value = measure(torch.ones(1, len(order), dtype=torch.float64))
    drawn = [measure(some[:, order]) for some in draw_resample_weights(len(order), resamples=RESAMPLES, seed=seed)]
    return Estimate(float(value), *percentile_interval(torch.cat(drawn)), n=len(order))
