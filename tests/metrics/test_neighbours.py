"""Nearest neighbours against plain loops and scikit-learn, and what the metrics rely on: exact, ordered, frugal."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from medassay.metrics import distances
from medassay.metrics.distances import find_nearest
from medassay.metrics.neighbours import Reference, compare_sets, find_distances_to_sets, find_neighbours

Make = Callable[..., Tensor]


def points(n: int, d: int = 4, *, seed: int = 0) -> Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def grid_points(n: int, *, seed: int = 0) -> Tensor:
    """Points on a small integer grid: many duplicates and equal distances, all of them exact."""
    return torch.randint(4, (n, 2), generator=torch.Generator().manual_seed(seed)).double()


def sorted_others(queries: np.ndarray, reference: np.ndarray, *, exclude_self: bool) -> list[list[tuple[float, int]]]:
    """Of each query: distance and index of every reference point, by distance and then by index."""
    found = []
    for i, query in enumerate(queries):
        others = [j for j in range(len(reference)) if not (exclude_self and i == j)]
        found.append(sorted((float(np.sqrt(np.sum((query - reference[j]) ** 2))), j) for j in others))
    return found


@pytest.mark.parametrize("make", [points, grid_points])
@pytest.mark.parametrize("exclude_self", [False, True])
def test_neighbours_are_those_of_a_plain_loop_with_the_lowest_index_first(make: Make, exclude_self: bool) -> None:
    reference = make(31)
    queries = reference if exclude_self else make(17, seed=1)
    distance, index = find_nearest(queries, reference, 4, exclude_self=exclude_self)
    expected = sorted_others(queries.numpy(), reference.numpy(), exclude_self=exclude_self)
    assert index.tolist() == [[j for _, j in row[:4]] for row in expected]
    assert distance.numpy() == pytest.approx(np.array([[d for d, _ in row[:4]] for row in expected]), abs=1e-12)
    assert distance.dtype == torch.float64


def test_neighbours_are_those_of_scikit_learn() -> None:
    reference, queries = points(300, 16), points(200, 16, seed=1)
    distance, index = find_nearest(queries, reference, 5)
    expected, expected_index = NearestNeighbors(n_neighbors=5).fit(reference.numpy()).kneighbors(queries.numpy())
    assert distance.numpy() == pytest.approx(expected, abs=1e-10)
    assert (index.numpy() == expected_index).all()


def test_a_copy_lies_at_exactly_zero() -> None:
    reference = points(50, 64) * 1e3 + 1e6  # far from the origin, where the product form has no digits left
    distance, index = find_nearest(reference[[7, 30]].clone(), reference)
    assert distance.flatten().tolist() == [0.0, 0.0]
    assert index.flatten().tolist() == [7, 30]


def test_a_duplicate_counts_where_the_point_itself_does_not() -> None:
    reference = torch.tensor([[0.0], [0.0], [3.0]])
    distance, index = find_nearest(reference, reference, exclude_self=True)
    assert distance.flatten().tolist() == [0.0, 0.0, 3.0]
    assert index.flatten().tolist() == [1, 0, 0]


def test_distances_are_symmetric_bit_for_bit() -> None:
    a, b = points(40, 33), points(30, 33, seed=1)
    there, index = find_nearest(a, b, 30)
    back, back_index = find_nearest(b, a, 40)
    matrix = torch.empty(40, 30, dtype=torch.float64).scatter_(1, index, there)
    other = torch.empty(30, 40, dtype=torch.float64).scatter_(1, back_index, back)
    assert torch.equal(matrix, other.T)


@pytest.mark.parametrize("chunk_elements", [1, 100, 333])
def test_neighbours_do_not_depend_on_the_chunk_size(chunk_elements: int) -> None:
    for make in (points, grid_points):
        reference = make(40)
        whole = find_nearest(reference, reference, 3, exclude_self=True)
        pieces = find_nearest(reference, reference, 3, exclude_self=True, chunk_elements=chunk_elements)
        assert all(torch.equal(a, b) for a, b in zip(whole, pieces, strict=True))


@pytest.mark.parametrize("make", [points, grid_points])
@pytest.mark.parametrize("chunk_elements", [1, 100, 333])
def test_the_pass_between_the_sets_does_not_depend_on_the_chunk_size(make: Make, chunk_elements: int) -> None:
    real, generated = make(40), make(25, seed=1)
    whole, pieces = find_neighbours(real, generated), find_neighbours(real, generated, chunk_elements=chunk_elements)
    for name in ("generated_to_real", "real_to_generated"):
        assert all(torch.equal(a, b) for a, b in zip(getattr(whole, name), getattr(pieces, name), strict=True))
    for name in ("balls", "in_real", "in_generated"):
        assert torch.equal(getattr(whole, name), getattr(pieces, name))


@pytest.mark.parametrize("make", [points, grid_points])
def test_both_directions_name_the_nearest_point_of_lowest_index(make: Make) -> None:
    real, generated = make(40), make(25, seed=1)
    both = find_neighbours(real, generated)
    for found, (a, b) in {both.generated_to_real: (generated, real), both.real_to_generated: (real, generated)}.items():
        expected = sorted_others(a.numpy(), b.numpy(), exclude_self=False)
        assert found[1].tolist() == [row[0][1] for row in expected]
        assert found[0].numpy() == pytest.approx(np.array([row[0][0] for row in expected]), abs=1e-12)


@pytest.mark.parametrize("make", [points, grid_points])
def test_balls_are_those_of_a_plain_loop(make: Make) -> None:
    real, generated = make(40), make(25, seed=1)
    both = find_neighbours(real, generated, manifold_k=2, density_k=4)
    real_others = sorted_others(real.numpy(), real.numpy(), exclude_self=True)
    generated_others = sorted_others(generated.numpy(), generated.numpy(), exclude_self=True)

    def distance(i: int, j: int) -> float:
        return float(np.sqrt(np.sum((generated[i].numpy() - real[j].numpy()) ** 2)))

    for i in range(25):
        assert both.balls[i] == sum(distance(i, j) < real_others[j][3][0] for j in range(40))
        assert both.in_real[i] == any(distance(i, j) <= real_others[j][1][0] for j in range(40))
    for j in range(40):
        assert both.in_generated[j] == any(distance(i, j) <= generated_others[i][1][0] for i in range(25))


def test_the_reference_knows_its_size_centre_and_gaps() -> None:
    features = points(30)
    reference = Reference(features.float(), k=3)
    assert (reference.n, reference.gaps.shape, reference.features.dtype) == (30, (30, 3), torch.float64)
    assert reference.mean.numpy() == pytest.approx(features.float().double().numpy().mean(0), abs=1e-12)
    assert torch.equal(reference.gaps, find_nearest(reference.features, reference.features, 3, exclude_self=True)[0])


def test_gaps_of_a_reference_are_computed_once_for_all_sets() -> None:
    reference = Reference(points(30))
    first = reference.gaps
    assert find_neighbours(reference, points(20, seed=1)).reference.gaps is first


def test_a_tensor_serves_as_reference() -> None:
    real, generated = points(30), points(20, seed=1)
    assert torch.equal(find_neighbours(real, generated).balls, find_neighbours(Reference(real), generated).balls)


SETS = {
    "apart": [torch.arange(10), torch.arange(10, 25)],
    "within another": [torch.arange(25), torch.arange(5, 15), torch.arange(0, 25, 2)],
    "overlapping": [torch.arange(0, 15), torch.arange(10, 25), torch.tensor([1, 4, 11, 12, 13, 24])],
    "equal": [torch.arange(3, 20, 3), torch.arange(3, 20, 3)],
}


@pytest.mark.parametrize("make", [points, grid_points])
@pytest.mark.parametrize("sets", SETS.values(), ids=SETS.keys())
@pytest.mark.parametrize("chunk_elements", [1, 100, 333, 1 << 20])
def test_sets_compared_together_have_the_neighbours_they_have_alone(
    make: Make, sets: list[Tensor], chunk_elements: int
) -> None:
    real, generated = make(40), make(25, seed=1)
    distance, index = find_nearest(generated, real)
    compared = compare_sets(real, generated, sets, chunk_elements=chunk_elements)
    assert torch.equal(compared.nearest[0], distance[:, 0])
    assert torch.equal(compared.nearest[1], index[:, 0])
    for rows, together in zip(sets, compared.sets, strict=True):
        alone = find_neighbours(real, generated[rows])
        for name in ("generated_to_real", "real_to_generated"):
            assert all(torch.equal(a, b) for a, b in zip(getattr(together, name), getattr(alone, name), strict=True))
        for name in ("generated", "balls", "in_real", "in_generated"):
            assert torch.equal(getattr(together, name), getattr(alone, name))


@pytest.mark.parametrize("sets", SETS.values(), ids=SETS.keys())
@pytest.mark.parametrize("chunk_elements", [1, 100, 1 << 20])
def test_distances_to_sets_are_those_to_each_alone(sets: list[Tensor], chunk_elements: int) -> None:
    queries, generated = points(30), points(25, seed=1)
    found = find_distances_to_sets(queries, generated, sets, chunk_elements=chunk_elements)
    for rows, nearest in zip(sets, found, strict=True):
        assert torch.equal(nearest, find_nearest(queries, generated[rows])[0][:, 0])


def test_points_can_be_compared_without_any_set() -> None:
    real, generated = points(40), points(25, seed=1)
    compared = compare_sets(real, generated, [])
    assert torch.equal(compared.nearest[0], find_nearest(generated, real)[0][:, 0])
    assert compared.sets == find_distances_to_sets(real, generated, []) == []


def test_sets_that_have_points_in_common_share_their_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    compute, pairs = distances.compute_distances, 0

    def count(a: Tensor, b: Tensor) -> Tensor:
        nonlocal pairs
        pairs += len(a) * len(b)
        return compute(a, b)

    monkeypatch.setattr(distances, "compute_distances", count)
    reference, generated = Reference(points(40)), points(25, seed=1)
    compare_sets(reference, generated, SETS["within another"])
    assert pairs == 40 * 40 + 25 * 40 + 25 * 25
    pairs = 0
    compare_sets(reference, generated, SETS["apart"])
    assert pairs == 25 * 40 + 10 * 10 + 15 * 15
    pairs = 0
    find_distances_to_sets(points(30), generated, SETS["overlapping"])
    assert pairs == 30 * 25


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (torch.tensor([0, 2, 1, 3, 4]), "must rise"),
        (torch.tensor([0, 1, 1, 2, 3]), "must rise"),
        (torch.tensor([5, 6, 7, 8, 9]), re.escape("0..8")),
        (torch.tensor([-1, 0, 1, 2, 3]), re.escape("0..8")),
        (torch.arange(5).float(), "int64"),
        (torch.arange(9) > 3, "int64"),
    ],
)
def test_indices_that_are_no_set_are_refused(rows: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare_sets(points(9), points(9), [rows])
    with pytest.raises(ValueError, match=message):
        find_distances_to_sets(points(9), points(9), [rows])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("sets", SETS.values(), ids=SETS.keys())
def test_a_gpu_compares_the_same_sets(sets: list[Tensor]) -> None:
    real, generated = points(40), points(25, seed=1)
    here, there = compare_sets(real, generated, sets).sets, compare_sets(real.cuda(), generated.cuda(), sets).sets
    for one, other in zip(here, there, strict=True):
        assert torch.equal(one.balls, other.balls.cpu())
        assert torch.equal(one.real_to_generated[1], other.real_to_generated[1].cpu())
        assert torch.equal(one.in_generated, other.in_generated.cpu())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_finds_the_same_neighbours() -> None:
    real, generated = points(300, 16), points(200, 16, seed=1)
    here, there = find_neighbours(real, generated), find_neighbours(real.cuda(), generated.cuda())
    assert torch.equal(here.generated_to_real[1], there.generated_to_real[1].cpu())
    assert torch.equal(here.balls, there.balls.cpu())
    assert torch.equal(here.in_generated, there.in_generated.cpu())
    assert there.generated_to_real[0].dtype == torch.float64


@pytest.mark.parametrize(
    ("queries", "reference", "k", "message"),
    [
        (points(5), points(5, 3), 1, "one dimension"),
        (points(5)[0], points(5), 1, re.escape("(N, D) float")),
        (points(5), points(5).long(), 1, "int64"),
        (points(5)[:0], points(5), 1, re.escape("(0, 4)")),
        (points(5) * torch.nan, points(5), 1, "queries must be finite"),
        (points(5), points(5) / 0, 1, "reference points must be finite"),
        (points(5), points(5, seed=1), 6, "1..5"),
        (points(5), points(5, seed=1), 0, "1..5"),
    ],
)
def test_what_has_no_neighbours_is_refused(queries: Tensor, reference: Tensor, k: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_nearest(queries, reference, k)


def test_leaving_oneself_out_needs_one_point_more_and_one_set() -> None:
    with pytest.raises(ValueError, match=re.escape("1..4")):
        find_nearest(points(5), points(5), 5, exclude_self=True)
    with pytest.raises(ValueError, match="same points"):
        find_nearest(points(5), points(5, seed=1), exclude_self=True)


@pytest.mark.parametrize(("n", "m", "k", "message"), [(5, 9, 5, "other real points"), (9, 3, 5, "manifold_k=3")])
def test_too_few_points_for_a_ball_are_refused(n: int, m: int, k: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_neighbours(Reference(points(n), k=k), points(m))


def test_balls_beyond_what_the_reference_knows_are_refused() -> None:
    with pytest.raises(ValueError, match=r"1\.\.5"):
        find_neighbours(Reference(points(9)), points(9), density_k=6)


# Not ru_maxrss: a process started by another one begins with that one's peak, which would hide its own.
MEASURE = """
import re, torch
from pathlib import Path
from medassay.metrics.neighbours import find_neighbours
torch.set_num_threads(1)
rng = torch.Generator().manual_seed(0)
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024
find_neighbours(torch.rand(300, {d}, generator=rng), torch.rand(300, {d}, generator=rng)).balls
real, generated = torch.rand({n}, {d}, generator=rng), torch.rand({m}, {d}, generator=rng)
before = peak()
find_neighbours(real, generated).balls
print(peak() - before)
"""


def peak_mib(n: int, m: int, d: int) -> float:
    """How far the three passes raise a fresh process's peak of resident memory."""
    run = subprocess.run([sys.executable, "-c", MEASURE.format(n=n, m=m, d=d)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return float(run.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="reads peak memory from /proc")
def test_distances_are_never_held_together() -> None:
    # One matrix of all pairs would be 6000 x 5000 x 8 bytes = 229 MiB.
    assert peak_mib(6000, 5000, 8) < 100


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="reads peak memory from /proc")
def test_the_largest_comparison_stays_far_below_a_gigabyte() -> None:
    assert peak_mib(12_000, 10_000, 512) < 300
