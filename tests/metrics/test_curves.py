"""The error of a fitted curve beside the difference between beats, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from medassay.core.types import Curve
from medassay.metrics.curves import measure_between_beats, score_curve


def make_curve(*beats: list[float], first: int = 0) -> Curve:
    """Beats at x = 0, 1, …"""
    y = torch.tensor(beats)
    x = torch.arange(y.shape[1], dtype=torch.float32).repeat(len(y))[:, None]
    return Curve(x, y.reshape(-1, 1), (torch.arange(len(y)) + first).repeat_interleave(y.shape[1]))


def test_of_the_training_beats_it_is_the_variance_between_them() -> None:
    # at x = 0 the values 0, 3, 6 (variance 6), at x = 1 the values 1, 1, 1 (variance 0)
    curve = make_curve([0.0, 1.0], [3.0, 1.0], [6.0, 1.0])
    assert measure_between_beats(curve, curve) == pytest.approx(3.0)


def test_of_other_beats_it_is_the_distance_from_the_training_beats_mean() -> None:
    train, other = make_curve([0.0, 2.0], [2.0, 4.0]), make_curve([1.0, 5.0])
    assert measure_between_beats(other, train) == pytest.approx((0 + 4) / 2)  # means 1 and 3


def test_points_at_times_that_the_training_beats_have_not_are_left_out() -> None:
    train, other = make_curve([0.0, 2.0]), make_curve([1.0, 2.0, 9.0])
    assert measure_between_beats(other, train) == pytest.approx(0.5)


def test_the_mean_of_the_training_beats_scores_one() -> None:
    train = make_curve([0.0, 2.0], [2.0, 4.0])
    scores = score_curve(torch.tensor([[1.0], [3.0], [1.0], [3.0]]), train, train)
    assert (scores.ratio, scores.rmse, scores.errors) == (1.0, 1.0, [1.0, 1.0])
    assert scores.error.sd == 0


def test_errors_are_of_each_beat() -> None:
    train, other = make_curve([0.0, 2.0], [2.0, 4.0]), make_curve([1.0, 5.0], [3.0, 3.0], first=4)
    scores = score_curve(torch.zeros(4, 1), other, train)
    assert scores.errors == [13.0, 9.0]  # (1 + 25) / 2, (9 + 9) / 2
    assert scores.beats == [4, 5]
    assert scores.between_beats == pytest.approx(2.0)  # (0 + 4 + 4 + 0) / 4
    assert scores.to_json()["error_over_between_beats"] == pytest.approx(11 / 2)


def test_of_equal_beats_the_ratio_is_undefined() -> None:
    train = make_curve([0.0, 2.0], [0.0, 2.0])
    assert math.isnan(score_curve(torch.zeros(4, 1), train, train).ratio)
