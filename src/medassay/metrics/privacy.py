"""How private one look at a noisy sum is: the Gaussian mechanism.

Source: Balle & Wang, *Improving the Gaussian mechanism for differential privacy* (2018, arXiv:1805.06530), theorem 8.
"""

from __future__ import annotations

import math

_ITERATIONS = 200  # halvings of an interval: more than float64 has digits


def compute_gaussian_delta(epsilon: float, multiplier: float) -> float:
    """The smallest delta for which one look is (epsilon, delta)-private.

    ``Phi(1 / 2s - epsilon s) - exp(epsilon) Phi(-1 / 2s - epsilon s)`` with s the noise multiplier: standard deviation of the
    noise over the largest change of the sum by one image.

    Args:
        epsilon: Not negative.
        multiplier: Above 0.
    """
    from scipy.special import log_ndtr  # slow to import: where it is wanted only

    first, second = (log_ndtr(sign / (2 * multiplier) - epsilon * multiplier) for sign in (1, -1))
    # exp(epsilon) alone overflows; the difference of two numbers of about one size is taken of their logarithms
    difference: float = math.exp(first) * -math.expm1(min(0.0, float(epsilon + second - first)))
    return difference


def compute_gaussian_epsilon(multiplier: float, delta: float) -> float:
    """The smallest epsilon, exact to float64's digits, for which one look is (epsilon, delta)-private; infinite without noise.

    Args:
        multiplier: The noise multiplier, 0 or above.
        delta: In (0, 1).

    Raises:
        ValueError: an argument is none of these.
    """
    if multiplier < 0 or not 0 < delta < 1:
        raise ValueError(f"a multiplier of at least 0 and a delta in (0, 1) are needed, not {multiplier} and {delta}")
    if multiplier == 0:
        return math.inf
    low, high = 0.0, 1.0
    if compute_gaussian_delta(low, multiplier) <= delta:
        return 0.0
    while compute_gaussian_delta(high, multiplier) > delta:
        high *= 2
    for _ in range(_ITERATIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if compute_gaussian_delta(middle, multiplier) > delta else (low, middle)
    return high
