"""Numbers with their uncertainty: means over images, seeds and sets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from medassay.core.estimate import Estimate
from medassay.core.estimate import mean_over as mean_over
from medassay.metrics.bootstrap import draw_resample_weights, percentile_interval

RESAMPLES = 1000
FEW = 10  # images and fewer: a bootstrap's interval is too narrow, of one image it has no width at all


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
    return _with_student_interval(mean_over("seeds", values), tuple(values))


def mean_over_few_images(values: Sequence[float]) -> Estimate:
    """The same over images, for ``FEW`` and less: of so few a bootstrap's interval is too narrow."""
    return _with_student_interval(mean_over("images", values))


def mean_over_bounded_scores(scores: Tensor, *, least: float = 0.0, most: float = math.inf) -> Estimate:
    """The mean of ``scores (N,)`` with the interval that fits their number; NaN for no images.

    Of more than ``FEW`` images it is a bootstrap's, of fewer Student's t, of one there is none.

    Args:
        scores: One score per image.
        least, most: What a score can be; the interval ends there.
    """
    if not 0 < len(scores) <= FEW:
        return mean_over_images(scores)
    mean = mean_over_few_images(scores.double().tolist())
    if mean.low is None or mean.high is None:
        return mean
    return replace(mean, low=max(mean.low, least), high=min(mean.high, most))


def _with_student_interval(mean: Estimate, values: tuple[float, ...] = ()) -> Estimate:
    assert mean.n is not None
    if mean.sd is None:
        return replace(mean, values=values)
    from scipy.stats import t as student_t  # slow: where an interval is wanted only

    half = float(student_t.ppf(0.975, mean.n - 1)) * mean.sd / math.sqrt(mean.n)
    return replace(mean, low=mean.value - half, high=mean.value + half, values=values)


def estimate_share(hits: int, n: int) -> Estimate:
    """The share ``hits / n`` with its exact 95 % binomial interval (Clopper & Pearson 1934); NaN for n = 0."""
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, n=0, kind="exact")
    from scipy.stats import binomtest  # slow: where an interval is wanted only

    low, high = binomtest(hits, n).proportion_ci(0.95)
    return Estimate(hits / n, float(low), float(high), n=n, kind="exact")
