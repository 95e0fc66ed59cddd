"""Means with their intervals."""

from __future__ import annotations

import math
import statistics

import pytest
import torch

from medassay.metrics.estimates import FEW, estimate_share, mean_over_bounded_scores, mean_over_images


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


def test_of_few_bounded_scores_the_interval_is_students_and_ends_where_scores_do() -> None:
    values = [0.2, 0.9, 0.8, 1.0, 0.7]
    half = 2.776445 * statistics.stdev(values) / math.sqrt(5)  # the table's t for 4 degrees of freedom
    found = mean_over_bounded_scores(torch.tensor(values, dtype=torch.float64), most=1.0)
    assert (found.value, found.high, found.kind) == (pytest.approx(0.72), 1.0, "images")
    assert found.low == pytest.approx(0.72 - half)
    distances = mean_over_bounded_scores(torch.tensor([0.0, 0.0, 9.0]))
    assert (distances.low, distances.high) == (0.0, pytest.approx(3 + 4.302653 * 9 / 3))  # t for 2; sd 9 / sqrt(3)


def test_one_score_has_no_interval_and_many_have_a_bootstraps() -> None:
    one = mean_over_bounded_scores(torch.tensor([0.5]), most=1.0)
    assert (one.value, one.low, one.high, one.n) == (0.5, None, None, 1)
    scores = torch.linspace(0, 1, FEW + 1)
    assert mean_over_bounded_scores(scores, most=1.0) == mean_over_images(scores)
    assert mean_over_bounded_scores(scores[:-1], most=1.0).kind == "images"
    assert mean_over_bounded_scores(scores[:0]).n == 0
