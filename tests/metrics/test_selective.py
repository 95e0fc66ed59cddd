"""What leaving out the least sure images gains: by hand, and beside a plain bootstrap."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from medassay.metrics.selective import (
    compute_entropy,
    compute_log_odds,
    compute_margin,
    estimate_area,
    measure_kept,
)


def test_entropy_margin_and_log_odds_of_known_probabilities() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125], [1.0, 1.0, 1.0, 1.0]]).log()
    assert compute_entropy(logits).tolist() == pytest.approx([1.75, 2.0])
    assert compute_margin(logits).tolist() == pytest.approx([0.25, 0.0])
    assert compute_log_odds(logits).tolist() == pytest.approx([0.0, -math.log(3)], abs=1e-6)


def test_log_odds_still_tell_apart_what_is_rounded_to_certainty() -> None:
    logits = torch.tensor([[100.0, 0.0], [200.0, 0.0]])
    assert logits.softmax(1)[:, 0].tolist() == [1, 1]
    assert compute_log_odds(logits).tolist() == [100, 200]


def test_accuracy_of_the_surest_counts_them_from_above() -> None:
    certainty = torch.tensor([0.9, 0.5, 0.8, 0.6])
    correct = torch.tensor([True, False, True, False])
    rows = measure_kept(certainty, correct, [1.0, 0.75, 0.5, 0.01])
    assert [row.n for row in rows] == [4, 3, 2, 1]
    assert [row.accuracy.value for row in rows] == pytest.approx([0.5, 2 / 3, 1, 1])
    assert [row.lowest for row in rows] == pytest.approx([0.5, 0.6, 0.8, 0.9])
    assert rows[0].accuracy.low == pytest.approx(0.0676, abs=1e-4)  # Clopper-Pearson of 2 in 4


def test_images_that_are_equally_sure_are_kept_together() -> None:
    (row,) = measure_kept(torch.tensor([0.7, 0.7, 0.7, 0.2]), torch.tensor([True, False, True, True]), [0.25])
    assert (row.n, row.share) == (3, 0.75)


@pytest.mark.parametrize(("n", "shares"), [(0, [1.0]), (3, [0.0]), (3, [1.5])])
def test_what_cannot_be_kept_is_refused(n: int, shares: list[float]) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        measure_kept(torch.rand(n), torch.ones(n, dtype=torch.bool), shares)


def test_the_area_averages_the_error_over_all_numbers_of_images_kept() -> None:
    certainty, correct = torch.tensor([4.0, 3.0, 2.0, 1.0]), torch.tensor([True, False, True, False])
    assert estimate_area(certainty, correct).value == pytest.approx((0 + 1 / 2 + 1 / 3 + 2 / 4) / 4)
    blind = estimate_area(torch.ones(4), correct)
    assert blind.value == pytest.approx(0.5)  # an order that knows nothing reaches the error rate


def test_the_interval_of_the_area_is_that_of_a_plain_bootstrap() -> None:
    rng = np.random.default_rng(0)
    certainty = rng.permutation(40).astype(float)
    correct = rng.random(40) < 0.7
    found = estimate_area(torch.from_numpy(certainty), torch.from_numpy(correct))
    drawn = torch.randint(40, (1000, 40), generator=torch.Generator().manual_seed(0)).numpy()
    areas = []
    for rows in drawn:
        order = rows[np.argsort(-certainty[rows], kind="stable")]
        wrong = (~correct[order]).cumsum() / np.arange(1, 41)
        last = [max(i for i in range(40) if order[i] == one) for one in order]  # copies of an image stand together
        areas.append(wrong[last].mean())
    assert [found.low, found.high] == pytest.approx(np.quantile(areas, [0.025, 0.975]).tolist())
