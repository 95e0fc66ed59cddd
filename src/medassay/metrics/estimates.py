"""Numbers with their uncertainty: means over images, seeds and sets."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from medassay.core.estimate import Estimate
from medassay.core.estimate import mean_over as mean_over
from medassay.metrics.bootstrap import draw_resample_weights, percentile_interval

RESAMPLES = 1000


def mean_over_images(scores: Tensor, *, resamples: int = RESAMPLES, seed: int = 0, level: float = 0.95) -> Estimate:
    """The mean of ``scores (N,)`` and its percentile bootstrap interval over images; NaN for no images.

    Args:
        scores: One score per image; a difference of two scores of the same image compares them as a pair.
        resamples: Number of resamples.
        seed: Seed of the resampling.
        level: Coverage, in (0, 1).
    """
    if len(scores) == 0:
        return Estimate(math.nan, math.nan, math.nan, n=0)
    drawn = [
        weights @ scores.double() / len(scores)
        for weights in draw_resample_weights(len(scores), resamples=resamples, seed=seed)
    ]
    low, high = percentile_interval(torch.cat(drawn), level=level)
    return Estimate(float(scores.double().mean()), low, high, n=len(scores))


def mean_over_seeds(values: Sequence[float]) -> Estimate:
    """Mean, sample standard deviation and 95 % confidence interval of the mean (Student's t) over the seeds.

    Deviation and bounds are None for a single seed.
    """
    mean, n = mean_over("seeds", values), len(values)
    if mean.sd is None:
        return Estimate(mean.value, n=n, kind="seeds", values=tuple(values))
    from scipy.stats import t as student_t  # slow: where an interval is wanted only

    half = float(student_t.ppf(0.975, n - 1)) * mean.sd / math.sqrt(n)
    return Estimate(mean.value, mean.value - half, mean.value + half, mean.sd, n, "seeds", tuple(values))


def estimate_share(hits: int, n: int) -> Estimate:
    """The share ``hits / n`` with its exact 95 % binomial interval (Clopper & Pearson 1934); NaN for n = 0."""
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, n=0, kind="exact")
    from scipy.stats import binomtest  # slow: where an interval is wanted only

    low, high = binomtest(hits, n).proportion_ci(0.95)
    return Estimate(hits / n, float(low), float(high), n=n, kind="exact")
