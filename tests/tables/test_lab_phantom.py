"""Laboratory phantoms: values by hand, shares by the definition of a normal range."""

from __future__ import annotations

import numpy as np
import pytest

from medassay.tables.lab_phantom import MOVED, SHARED, draw_signs, render_cohort, standardise


def test_the_bounds_of_a_normal_range_are_two_standard_deviations_from_its_middle() -> None:
    low = np.array([3.1, 3.1, -np.inf, -np.inf, 60, np.nan, 4])
    high = np.array([5.2, 5.2, 5, 5, np.inf, np.nan, 10])
    values = np.array([5.2, 4.15, 5, 0, 60, 1, np.nan])
    np.testing.assert_allclose(standardise(values, low, high), [1.96, 0, 1.96, -1.96, -1.96, np.nan, np.nan], atol=1e-9)


def test_ninety_five_of_a_hundred_healthy_values_are_normal_and_a_few_ill_ones_are_moved() -> None:
    rng = np.random.default_rng(0)
    values, labels = render_cohort(draw_signs(23, rng), 8000, missing=0, rng=rng)
    outside = (np.abs(values) > 1.96).mean(axis=1) * 23
    assert outside[labels == 0].mean() == pytest.approx(0.05 * 23, abs=0.12)
    assert 0.05 * 23 + 1 < outside[labels == 1].mean() < 0.05 * 23 + MOVED[1]
    correlation = np.abs(np.corrcoef(values[labels == 0].T)[np.triu_indices(23, 1)])
    assert correlation.mean() == pytest.approx(SHARED, abs=0.02)
    assert np.abs(values[labels == 1].mean(axis=0)).max() < 0.15  # as often up as down


def test_values_are_missing_at_the_given_share_and_the_seed_decides() -> None:
    signs = draw_signs(23, np.random.default_rng(0))
    first, second = (render_cohort(signs, 1000, missing=0.1, rng=np.random.default_rng(1)) for _ in range(2))
    assert np.isnan(first.values).mean() == pytest.approx(0.1, abs=0.01)
    np.testing.assert_array_equal(first.values, second.values)


def test_cohorts_of_one_population_have_the_same_correlations() -> None:
    rng = np.random.default_rng(2)
    signs = draw_signs(23, rng)
    cohorts = [render_cohort(signs, 2000, missing=0, rng=rng) for _ in range(2)]
    pairs = np.triu_indices(23, 1)
    first, second = (np.corrcoef(one.values[one.labels == 0].T)[pairs] for one in cohorts)
    assert (np.sign(first) == np.sign(second)).all()
    assert (np.sign(first) == (signs[:, None] * signs)[pairs]).all()
