"""Means with their intervals."""

from __future__ import annotations

import math

import pytest
import torch

from medassay.metrics.estimates import estimate_share, mean_over_images


def test_the_interval_of_a_mean_is_about_two_standard_errors_either_side() -> None:
    scores = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = mean_over_images(scores)
    error = scores.std().item() / 20
    assert found.value == pytest.approx(scores.mean().item())
    assert found.low == pytest.approx(found.value - 1.96 * error, abs=0.15 * error)
    assert found.high == pytest.approx(found.value + 1.96 * error, abs=0.15 * error)
    assert found.n == 400


def test_no_scores_have_no_mean() -> None:
    found = mean_over_images(torch.zeros(0))
    assert found.n == 0
    assert all(value is not None and math.isnan(value) for value in (found.value, found.low, found.high))


def test_a_share_has_the_exact_binomial_interval() -> None:
    never, half = estimate_share(0, 10), estimate_share(5, 10)
    assert (never.value, never.low, never.high) == (0, 0, pytest.approx(1 - 0.025**0.1))  # Clopper & Pearson's own case
    assert (half.value, half.n, half.kind) == (0.5, 10, "exact")
    assert [half.low, half.high] == pytest.approx([0.187086, 0.812914], abs=1e-6)
    assert math.isnan(estimate_share(0, 0).value)
