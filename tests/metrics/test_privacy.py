"""Epsilon of one look through Gaussian noise, against published values and the definition's integral."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from medassay.metrics.privacy import compute_gaussian_delta, compute_gaussian_epsilon


@pytest.mark.parametrize(("multiplier", "epsilon"), [(0.5, 2.0), (1.0, 1.0), (2.0, 0.3), (1.0, 0.0)])
def test_delta_is_the_integral_of_what_one_density_has_above_the_other(multiplier: float, epsilon: float) -> None:
    def excess(x: float) -> float:
        return max(0.0, float(norm.pdf(x, 1, multiplier) - math.exp(epsilon) * norm.pdf(x, 0, multiplier)))

    start = 0.5 + epsilon * multiplier**2  # from there on it is positive
    integral, _ = quad(excess, start, start + 30 * multiplier)
    assert compute_gaussian_delta(epsilon, multiplier) == pytest.approx(integral, rel=1e-6)


def test_the_known_calibration_for_epsilon_1_and_delta_1e_5() -> None:
    # 3.7306 by the reference implementation of Balle and Wang; the classical formula asks for sqrt(2 ln(1.25 / delta)) = 4.84
    assert compute_gaussian_epsilon(3.730632, 1e-5) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("multiplier", [0.001, 0.01, 0.1, 1.0, 10.0])
def test_epsilon_is_the_smallest_that_keeps_delta_also_where_exp_overflows(multiplier: float) -> None:
    epsilon = compute_gaussian_epsilon(multiplier, 1e-5)
    assert math.isfinite(epsilon)
    assert compute_gaussian_delta(epsilon, multiplier) <= 1e-5 < compute_gaussian_delta(epsilon * 0.999, multiplier)


def test_more_noise_is_more_private_and_none_is_not_private_at_all() -> None:
    losses = [compute_gaussian_epsilon(multiplier, 1e-5) for multiplier in np.geomspace(1e-3, 1e3, 7)]
    assert losses == sorted(losses, reverse=True)
    assert compute_gaussian_epsilon(0.0, 1e-5) == math.inf
    assert compute_gaussian_epsilon(1e6, 1e-5) == 0.0


@pytest.mark.parametrize(("multiplier", "delta"), [(-1.0, 0.1), (1.0, 0.0), (1.0, 1.0)])
def test_what_is_no_mechanism_is_refused(multiplier: float, delta: float) -> None:
    with pytest.raises(ValueError, match="delta in"):
        compute_gaussian_epsilon(multiplier, delta)
