"""Fidelity and diversity against loops written from the papers, and on sets whose scores are known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from medassay.metrics.fidelity import (
    GRID,
    alpha_precision,
    beta_recall,
    coverage,
    density,
    find_covered,
    integrate_curve,
    precision,
    recall,
)
from medassay.metrics.neighbours import Neighbours, Reference, find_neighbours

SCORES = (precision, recall, density, coverage)


def points(n: int, d: int = 3, *, seed: int = 0, spread: float = 1.0) -> Tensor:
    return spread * torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def all_scores(neighbours: Neighbours) -> list[float]:
    curves = [alpha_precision(neighbours.reference, neighbours.generated), beta_recall(neighbours)]
    return [score(neighbours) for score in SCORES] + [integrate_curve(curve) for curve in curves]


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.sum((a - b) ** 2)))


def kth_other(points: np.ndarray, k: int) -> list[float]:
    """Distance of each point to its k-th nearest other point."""
    return [sorted(distance(p, q) for j, q in enumerate(points) if j != i)[k - 1] for i, p in enumerate(points)]


@pytest.fixture(params=[(40, 25, 1.0), (25, 40, 0.6), (40, 30, 2.0)])
def sets(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor]:
    """Real and generated points of unequal number; the generated ones fitting, too narrow, too wide."""
    n, m, spread = request.param
    return points(n), points(m, seed=1, spread=spread) + 0.2


def test_precision_and_recall_follow_kynkaanniemi(sets: tuple[Tensor, Tensor]) -> None:
    real, generated = (features.numpy() for features in sets)

    def share(of: np.ndarray, within: np.ndarray) -> float:
        radii = kth_other(within, 3)
        return float(np.mean([any(distance(p, q) <= r for q, r in zip(within, radii, strict=True)) for p in of]))

    found = find_neighbours(*sets)
    assert precision(found) == pytest.approx(share(generated, real), abs=1e-12)
    assert recall(found) == pytest.approx(share(real, generated), abs=1e-12)


def test_density_and_coverage_follow_naeem(sets: tuple[Tensor, Tensor]) -> None:
    real, generated = (features.numpy() for features in sets)
    radii = kth_other(real, 5)
    inside = np.array([[distance(g, r) < radius for r, radius in zip(real, radii, strict=True)] for g in generated])
    found = find_neighbours(*sets)
    assert density(found) == pytest.approx(inside.sum() / (5 * len(generated)), abs=1e-12)
    assert coverage(found) == pytest.approx(inside.any(0).mean(), abs=1e-12)
    assert find_covered(found).tolist() == inside.any(0).tolist()


def test_alpha_precision_follows_alaa(sets: tuple[Tensor, Tensor]) -> None:
    real, generated = (features.numpy() for features in sets)
    centre = real.mean(0)
    own, theirs = ([distance(p, centre) for p in of] for of in (real, generated))
    expected = [np.mean([t <= np.quantile(own, alpha) for t in theirs]) for alpha in GRID.numpy()]
    curve = alpha_precision(Reference(sets[0]), sets[1])
    assert curve.numpy() == pytest.approx(np.array(expected), abs=1e-12)
    assert curve.dtype == torch.float64


def test_beta_recall_follows_alaa(sets: tuple[Tensor, Tensor]) -> None:
    real, generated = (features.numpy() for features in sets)
    centre, radii = generated.mean(0), kth_other(real, 5)
    nearest = [min(range(len(generated)), key=lambda j: distance(r, generated[j])) for r in real]
    matched = [distance(generated[j], centre) for j in nearest]
    near = [distance(r, generated[j]) <= radius for r, j, radius in zip(real, nearest, radii, strict=True)]
    # A tenth of a step off the grid: a quantile that falls on a matched point is a question of the last bit.
    betas = torch.arange(0.001, 1, 0.01, dtype=torch.float64)
    expected = [
        np.mean([a and b <= np.quantile(matched, beta) for a, b in zip(near, matched, strict=True)])
        for beta in betas.numpy()
    ]
    assert beta_recall(find_neighbours(*sets), betas).numpy() == pytest.approx(np.array(expected), abs=1e-12)


def test_the_integrated_score_is_one_minus_twice_the_area_beside_the_diagonal() -> None:
    assert integrate_curve(GRID) == 1
    assert integrate_curve(torch.zeros(101)) == pytest.approx(0)
    assert integrate_curve(torch.ones(101)) == pytest.approx(0)
    values, grid = points(101)[:, 0].abs(), GRID.numpy()
    gaps = np.abs(values.numpy() - grid)
    expected = 1 - 2 * sum((a + b) / 2 * 0.01 for a, b in itertools.pairwise(gaps))
    assert integrate_curve(values) == pytest.approx(expected, abs=1e-12)


def test_identical_sets_score_one() -> None:
    real = points(60)
    found = find_neighbours(real, real.clone())
    assert [score(found) for score in SCORES] == [1, 1, 1, 1]
    assert integrate_curve(alpha_precision(found.reference, real)) > 0.97  # a step of 1/60 each
    assert integrate_curve(beta_recall(found)) > 0.97


def test_sets_far_apart_score_zero() -> None:
    found = find_neighbours(points(60), points(50, seed=1) + 1000)
    assert [score(found) for score in SCORES] == [0, 0, 0, 0]
    assert alpha_precision(found.reference, found.generated).max() == 0
    assert beta_recall(found).max() == 0


def test_samples_of_one_mode_are_precise_and_cover_half() -> None:
    left, right = points(200), points(200, seed=1) + 1000
    found = find_neighbours(torch.cat([left, right]), points(300, seed=2))
    assert precision(found) > 0.9
    assert recall(found) < 0.5
    assert coverage(found) < 0.5
    assert not find_covered(found)[200:].any()


def test_many_samples_at_a_dense_spot_have_a_density_above_one() -> None:
    real = points(200)
    found = find_neighbours(real, 0.1 * points(100, seed=1))
    assert density(found) > 1.2
    assert coverage(found) < 0.5


def test_held_out_points_lie_near_the_diagonal_of_alpha_precision() -> None:
    reference, held_out = Reference(points(3000)), points(2000, seed=1)
    assert integrate_curve(alpha_precision(reference, held_out)) > 0.95
    assert integrate_curve(alpha_precision(reference, 2 * held_out)) < 0.7


@pytest.mark.parametrize("spread", [0.5, 1.0, 2.0])
def test_curves_rise(spread: float) -> None:
    found = find_neighbours(points(60), points(50, seed=1, spread=spread))
    assert (alpha_precision(found.reference, found.generated).diff() >= 0).all()
    assert (beta_recall(found).diff() >= 0).all()


def test_the_order_of_samples_changes_no_score(sets: tuple[Tensor, Tensor]) -> None:
    real, generated = sets
    shuffled = generated[torch.randperm(len(generated), generator=torch.Generator().manual_seed(0))]
    assert all_scores(find_neighbours(real, shuffled)) == pytest.approx(
        all_scores(find_neighbours(real, generated)), abs=1e-12
    )


def test_the_order_of_real_points_changes_no_score(sets: tuple[Tensor, Tensor]) -> None:
    real, generated = sets
    shuffled = real[torch.randperm(len(real), generator=torch.Generator().manual_seed(0))]
    assert all_scores(find_neighbours(shuffled, generated)) == pytest.approx(
        all_scores(find_neighbours(real, generated)), abs=1e-12
    )


@pytest.mark.parametrize("scale", [1e-6, 3.0, 1e6])
def test_scaling_all_features_changes_no_score(sets: tuple[Tensor, Tensor], scale: float) -> None:
    real, generated = sets
    expected = all_scores(find_neighbours(real, generated))
    assert all_scores(find_neighbours(scale * real, scale * generated)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("levels", [torch.tensor([0.5, 1.5]), torch.tensor([-0.1]), torch.tensor([torch.nan])])
def test_levels_outside_zero_to_one_are_refused(levels: Tensor) -> None:
    found = find_neighbours(points(20), points(20, seed=1))
    with pytest.raises(ValueError, match="levels"):
        alpha_precision(found.reference, found.generated, levels)
    with pytest.raises(ValueError, match="levels"):
        beta_recall(found, levels)


def test_features_of_another_dimension_are_refused() -> None:
    with pytest.raises(ValueError, match="dimension"):
        alpha_precision(Reference(points(20)), points(20, 2))


def test_a_curve_off_its_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="grid"):
        integrate_curve(torch.zeros(100))
