"""Fréchet and kernel distance against closed forms, plain numpy and torchmetrics on the same features."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from medassay.metrics import frechet
from medassay.metrics.frechet import (
    KernelReference,
    compare_class_moments,
    compare_moments,
    compute_class_moments,
    compute_moments,
    frechet_distance,
    intra_class_frechet,
    kid,
    polynomial_mmd,
)


def points(n: int, d: int = 4, *, seed: int = 0) -> Tensor:
    """Correlated points with a mean of their own."""
    rng = torch.Generator().manual_seed(seed)
    mixing, shift = torch.randn(d, d, dtype=torch.float64, generator=rng), torch.randn(d, generator=rng)
    return torch.randn(n, d, dtype=torch.float64, generator=rng) @ mixing + shift


def with_moments(mean: np.ndarray, covariance: np.ndarray, *, n: int = 50, seed: int = 0) -> Tensor:
    """Points whose sample mean and unbiased sample covariance are exactly those given."""
    x = np.random.default_rng(seed).normal(size=(n, len(mean)))
    x -= x.mean(0)
    white = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T
    return torch.from_numpy(white @ np.linalg.cholesky(covariance).T + mean)


class Identity(nn.Module):
    """Features as the network that torchmetrics takes features from."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def test_a_shift_counts_its_squared_length() -> None:
    shift, covariance = np.array([1.0, -2.0, 0.5]), np.array([[2.0, 0.5, 0.1], [0.5, 1.0, 0.0], [0.1, 0.0, 3.0]])
    real, generated = with_moments(np.zeros(3), covariance), with_moments(shift, covariance, n=70, seed=1)
    assert frechet_distance(real, generated) == pytest.approx(1 + 4 + 0.25, rel=1e-10)


def test_spheres_of_two_sizes_differ_by_their_radii() -> None:
    real = with_moments(np.ones(5), 4 * np.eye(5))
    generated = with_moments(np.ones(5), 9 * np.eye(5), n=30, seed=1)
    assert frechet_distance(real, generated) == pytest.approx(5 * (3 - 2) ** 2, rel=1e-10)


def test_covariances_with_other_axes_follow_the_papers_formula() -> None:
    real, generated = points(40), points(60, seed=1)
    a, b = np.cov(real.numpy().T), np.cov(generated.numpy().T)
    # The trace of a root of a b as the paper has it, not symmetric: roots of the eigenvalues of the product
    cross = np.sqrt(np.linalg.eigvals(a @ b).astype(complex)).real.sum()
    shift = real.numpy().mean(0) - generated.numpy().mean(0)
    expected = shift @ shift + np.trace(a) + np.trace(b) - 2 * cross
    assert frechet_distance(real, generated) == pytest.approx(expected, rel=1e-10)


def test_the_frechet_distance_is_that_of_torchmetrics() -> None:
    real, generated = points(500, 16).float(), points(300, 16, seed=1).float()
    metric = FrechetInceptionDistance(feature=Identity(16)).set_dtype(torch.float64)
    metric.update(real, real=True)
    metric.update(generated, real=False)
    assert frechet_distance(real, generated) == pytest.approx(float(metric.compute()), rel=1e-5)


@pytest.mark.parametrize("n", [200, 20])
def test_identical_sets_lie_at_zero_also_with_fewer_points_than_dimensions(n: int) -> None:
    real = points(n, 64)
    assert 0 <= frechet_distance(real, real) < 1e-9 * float(real.var(0).sum()) + 1e-5


def test_the_distance_is_symmetric() -> None:
    real, generated = points(40), points(60, seed=1)
    assert frechet_distance(real, generated) == pytest.approx(frechet_distance(generated, real), rel=1e-10)


def test_scaling_all_features_scales_the_distance_by_the_square() -> None:
    real, generated = points(40), points(60, seed=1)
    scaled = frechet_distance(3 * real, 3 * generated)
    assert scaled == pytest.approx(9 * frechet_distance(real, generated), rel=1e-10)


def test_the_order_of_samples_does_not_matter() -> None:
    real, generated = points(40), points(60, seed=1)
    shuffled = generated[torch.randperm(60, generator=torch.Generator().manual_seed(0))]
    assert frechet_distance(real, shuffled) == pytest.approx(frechet_distance(real, generated), rel=1e-12)
    assert polynomial_mmd(real, shuffled) == pytest.approx(polynomial_mmd(real, generated), rel=1e-12)


def test_a_generator_that_ignores_its_label_is_seen_class_by_class() -> None:
    real = torch.cat([points(200), points(200) + 5])
    labels = torch.arange(400) // 200
    generated = real + 0.01
    shuffled = labels[torch.randperm(400, generator=torch.Generator().manual_seed(0))]
    assert frechet_distance(real, generated) < 0.01
    assert (intra_class_frechet(real, labels, generated, labels, 2) < 0.01).all()
    assert (intra_class_frechet(real, labels, generated, shuffled, 2) > 1).all()


def test_a_class_has_the_distance_of_its_own_points_and_none_with_a_single_one() -> None:
    real, generated = points(40), points(30, seed=1)
    real_labels, generated_labels = torch.arange(40) % 3, torch.arange(30) % 2
    generated_labels[0] = 2
    found = intra_class_frechet(real, real_labels, generated, generated_labels, 4)
    first = frechet_distance(real[::3], generated[2::2])
    assert found.dtype == torch.float64
    assert found[0] == pytest.approx(first, rel=1e-12)
    assert found.isnan().tolist() == [False, False, True, True]


def mmd_by_loops(x: np.ndarray, y: np.ndarray) -> float:
    d = x.shape[1]

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / d + 1) ** 3)

    within_x = [kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j]
    within_y = [kernel(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j]
    between = [kernel(a, b) for a in x for b in y]
    return float(np.mean(within_x) + np.mean(within_y) - 2 * np.mean(between))


def test_the_mmd_is_that_of_a_plain_loop() -> None:
    x, y = points(23), points(31, seed=1)
    assert polynomial_mmd(x, y) == pytest.approx(mmd_by_loops(x.numpy(), y.numpy()), rel=1e-10)


def test_the_mmd_is_unbiased() -> None:
    rng = torch.Generator().manual_seed(0)
    values = [polynomial_mmd(*torch.randn(2, 20, 4, dtype=torch.float64, generator=rng).unbind(0)) for _ in range(400)]
    assert min(values) < 0
    assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(len(values))


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save")
def test_kid_is_that_of_torchmetrics_on_one_subset_of_all_points() -> None:
    real, generated = points(50, 8), points(50, 8, seed=1)
    metric = KernelInceptionDistance(feature=Identity(8), subsets=1, subset_size=50)
    metric.update(real, real=True)
    metric.update(generated, real=False)
    assert kid(real, generated, subsets=1) == pytest.approx((float(metric.compute()[0]), 0.0), rel=1e-10, abs=1e-6)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save")
def test_kid_is_that_of_torchmetrics_on_the_same_subsets() -> None:
    real, generated = points(90, 8), points(70, 8, seed=1)
    metric = KernelInceptionDistance(feature=Identity(8), subsets=10, subset_size=30)
    metric.update(real, real=True)
    metric.update(generated, real=False)
    with torch.random.fork_rng():
        torch.manual_seed(4)  # it draws its subsets from the global generator
        expected = [float(value) for value in metric.compute()]
    assert kid(real, generated, subsets=10, subset_size=30, seed=4) == pytest.approx(expected, rel=1e-10)


def test_kid_takes_all_points_of_the_smaller_set() -> None:
    real, generated = points(50), points(30, seed=1)
    mean, sd = kid(real, generated, subsets=5)
    assert sd > 0  # 30 of 50 real points differ from subset to subset
    assert kid(generated, generated, subsets=5)[1] == pytest.approx(0, abs=1e-10)
    assert kid(real, generated, subsets=5) == (mean, sd)
    assert kid(real, generated, subsets=5, seed=1) != (mean, sd)


def test_kid_takes_its_part_of_the_real_features_once_for_all_sets_of_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    average, calls = frechet._Kernel.average_pairs, 0

    def count(kernel: frechet._Kernel, x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return average(kernel, x)

    real, sets = points(50), [points(40, seed=1), points(40, seed=2), points(30, seed=3)]
    alone = [kid(real, generated, subsets=7, subset_size=20) for generated in sets]
    monkeypatch.setattr(frechet._Kernel, "average_pairs", count)
    reference = KernelReference(real, subsets=7, subset_size=20)
    assert [reference.measure(generated) for generated in sets] == alone
    assert calls == 7 * (len(sets) + 2)  # two sizes


def test_kid_is_the_mean_of_the_kernel_distances_of_its_subsets() -> None:
    real, generated = points(50), points(40, seed=1)
    reference = KernelReference(real, subsets=5, subset_size=20)
    drawn = reference.draw(40)
    values = [polynomial_mmd(real[a], generated[b]) for a, b in zip(drawn.real, drawn.generated, strict=True)]
    assert {len(set(rows.tolist())) for rows in (*drawn.real, *drawn.generated)} == {20}
    assert reference.measure(generated) == (pytest.approx(np.mean(values)), pytest.approx(np.std(values)))


def test_a_set_of_moments_has_one_root_for_all_that_it_is_compared_with(monkeypatch: pytest.MonkeyPatch) -> None:
    take, roots = frechet._take_square_root, 0

    def count(matrix: Tensor) -> Tensor:
        nonlocal roots
        roots += 1
        return take(matrix)

    monkeypatch.setattr(frechet, "_take_square_root", count)
    real, sets = points(40), [points(30, seed=1), points(35, seed=2)]
    labels = torch.arange(40) % 2
    moments, of_classes = compute_moments(real), compute_class_moments(real, labels, 2)
    found = [compare_moments(moments, compute_moments(generated)) for generated in sets]
    classes = [
        compare_class_moments(of_classes, compute_class_moments(generated, labels[: len(generated)], 2))
        for generated in sets
    ]
    assert roots == 1 + 2
    assert found == [frechet_distance(real, generated) for generated in sets]
    for generated, distances in zip(sets, classes, strict=True):
        assert torch.equal(distances, intra_class_frechet(real, labels, generated, labels[: len(generated)], 2))


@pytest.mark.parametrize(
    ("real", "generated", "message"),
    [
        (points(1), points(5), "at least 2 points"),
        (points(5), points(5, 3), "one dimension"),
        (points(5), points(5) * torch.nan, "finite"),
        (points(5)[0], points(5), "float"),
    ],
)
def test_sets_without_moments_are_refused(real: Tensor, generated: Tensor, message: str) -> None:
    for metric in (frechet_distance, kid, polynomial_mmd):
        with pytest.raises(ValueError, match=message):
            metric(real, generated)


@pytest.mark.parametrize(("subsets", "subset_size"), [(0, 10), (1, 1)])
def test_impossible_subsets_are_refused(subsets: int, subset_size: int) -> None:
    with pytest.raises(ValueError, match="subset"):
        kid(points(5), points(5), subsets=subsets, subset_size=subset_size)


@pytest.mark.parametrize("labels", [torch.zeros(4, dtype=torch.int64), torch.zeros(5), torch.full((5,), 2)])
def test_labels_that_do_not_fit_are_refused(labels: Tensor) -> None:
    with pytest.raises(ValueError, match="generated labels"):
        intra_class_frechet(points(5), torch.zeros(5, dtype=torch.int64), points(5), labels, 2)
