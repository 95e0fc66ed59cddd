"""The maximum mean discrepancy beside its formula in plain numpy, and what its permutation test promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from medassay.metrics.mmd import choose_bandwidth, compute_kernel, compute_mmd, compute_mmd_p_value


def draw(n: int, shift: float = 0.0, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(seed)) + shift


def test_the_mmd_is_that_of_the_formula() -> None:
    x, y = draw(5).numpy(), draw(7, 1.0, seed=1).numpy()

    def k(a: np.ndarray, b: np.ndarray) -> float:  # type: ignore[type-arg]
        return float(np.exp(-((a - b) ** 2).sum() / (2 * 1.5**2)))

    within_x = np.mean([k(x[i], x[j]) for i in range(5) for j in range(5) if i != j])
    within_y = np.mean([k(y[i], y[j]) for i in range(7) for j in range(7) if i != j])
    between = np.mean([k(a, b) for a in x for b in y])
    pool = torch.from_numpy(np.concatenate([x, y]))
    kernel = compute_kernel(pool, pool, 1.5)
    found = compute_mmd(kernel, torch.arange(12)[None] < 5)
    assert float(found) == pytest.approx(within_x + within_y - 2 * between, rel=1e-6)


def test_the_bandwidth_is_the_median_distance_between_different_points() -> None:
    points = torch.tensor([[0.0], [1.0], [3.0]])  # distances 1, 2, 3
    assert choose_bandwidth(points) == 2
    assert choose_bandwidth(torch.zeros(4, 2)) == 1  # copies have none
    with pytest.raises(ValueError, match="at least two points"):
        choose_bandwidth(points[:1])


def test_the_p_value_is_uniform_where_both_samples_come_from_one_distribution() -> None:
    rng = torch.Generator().manual_seed(0)
    values = []
    for trial in range(300):
        points = draw(24, seed=trial)
        values.append(compute_mmd_p_value(compute_kernel(points, points, 2.0), 12, rng=rng))
    alarms = sum(p <= 0.05 for p in values)
    assert 4 <= alarms <= 28  # 15 expected; beyond these with a probability under 0.002
    assert kstest(values, "uniform").pvalue > 0.01


def test_a_shift_is_found_and_the_smallest_p_is_one_of_all_arrangements() -> None:
    points = torch.cat([draw(20), draw(20, 2.0, seed=1)])
    kernel = compute_kernel(points, points, choose_bandwidth(points[:20]))
    assert compute_mmd_p_value(kernel, 20, rng=torch.Generator().manual_seed(0)) == 1 / 100


def test_identical_samples_never_raise_an_alarm() -> None:
    kernel = torch.ones(8, 8, dtype=torch.float64)
    assert compute_mmd_p_value(kernel, 4, rng=torch.Generator().manual_seed(0)) == 1


def test_samples_of_a_single_point_and_bandwidths_of_0_are_refused() -> None:
    with pytest.raises(ValueError, match="at least two points"):
        compute_mmd_p_value(torch.eye(4), 1, rng=torch.Generator())
    with pytest.raises(ValueError, match="must be positive"):
        compute_kernel(draw(2), draw(2), 0.0)
