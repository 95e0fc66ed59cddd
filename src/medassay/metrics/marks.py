"""Shares of marked images, plain and balanced over the classes, of all images and of bootstrap resamples."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from medassay.core.estimate import Estimate
from medassay.metrics.bootstrap import draw_resample_weights, percentile_interval


class MarkedShares(NamedTuple):
    """Shares for M sets of marks, ``(1 + resamples, M) float64`` each: first of all images, then of each resample."""

    plain: Tensor
    balanced: Tensor


def resample_marks(marks: Tensor, labels: Tensor, *, resamples: int = 1000, seed: int = 0) -> MarkedShares:
    """The share of marked images, and its mean over the classes; every set of marks meets the same resamples.

    Marks of hits give accuracy and balanced accuracy, marks of mistakes the errors.

    Args:
        marks: Which images are marked, ``(M, N) bool``.
        labels: True classes, ``(N,) int64``. Classes without images are left out of the mean; a resample without an image of
            one of the others has no balanced share (NaN).
        resamples: Number of resamples.
        seed: Seed of the resamples.
    """
    marked = marks.double().T
    members = [(labels == label).double() for label in torch.bincount(labels).nonzero()]
    plain, balanced = [], []
    everything = torch.ones(1, len(labels), dtype=torch.float64)
    for weights in (everything, *draw_resample_weights(len(labels), resamples=resamples, seed=seed)):
        plain.append(weights @ marked / len(labels))
        shares = [(weights * own) @ marked / (weights @ own)[:, None] for own in members]
        balanced.append(torch.stack(shares).mean(0))
    return MarkedShares(torch.cat(plain), torch.cat(balanced))


def estimate(numbers: Tensor, n: int) -> Estimate:
    """A number of ``n`` images and of each resample of them, ``(1 + resamples,)``, with its 95 % interval."""
    return Estimate(float(numbers[0]), *percentile_interval(numbers[1:]), n=n)
