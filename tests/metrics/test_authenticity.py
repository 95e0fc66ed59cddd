"""Tests for copying against loops written from the papers, scipy and scikit-learn, and on known copies."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sklearn.metrics as sk
import torch
from scipy.stats import mannwhitneyu
from torch import Tensor

from medassay.metrics.authenticity import (
    Cells,
    authenticity,
    c_t,
    find_authentic,
    membership_attack,
    memorisation_ratio,
    suspicion,
)
from medassay.metrics.distances import find_nearest
from medassay.metrics.neighbours import find_neighbours


def points(n: int, d: int = 3, *, seed: int = 0) -> Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def values(n: int, *, seed: int = 0, decimals: int | None = None) -> Tensor:
    """Distances; with ``decimals`` many are equal."""
    drawn = points(n, 1, seed=seed).flatten().abs()
    return drawn if decimals is None else drawn.round(decimals=decimals)


@pytest.mark.parametrize(("n", "m"), [(40, 25), (25, 40)])
def test_authenticity_and_suspicion_follow_alaa_for_fewer_and_for_more_samples(n: int, m: int) -> None:
    real, generated = points(n), points(m, seed=1)
    expected, ratios = [], []
    for g in generated.numpy():
        distances = [float(np.linalg.norm(g - r)) for r in real.numpy()]
        star = int(np.argmin(distances))
        gap = min(float(np.linalg.norm(real[star].numpy() - r)) for j, r in enumerate(real.numpy()) if j != star)
        expected.append(distances[star] > gap)
        ratios.append(distances[star] / gap)
    found = find_neighbours(real, generated)
    assert find_authentic(found).tolist() == expected
    assert authenticity(found) == pytest.approx(np.mean(expected), abs=1e-12)
    assert suspicion(found.reference, found.generated_to_real).numpy() == pytest.approx(np.array(ratios), rel=1e-10)
    assert 0 < authenticity(found) < 1


def test_copies_of_training_points_are_not_authentic() -> None:
    real = points(40)
    found = find_neighbours(real, real[[3, 3, 17, 30, 39]].clone())
    assert authenticity(found) == 0
    assert suspicion(found.reference, found.generated_to_real).tolist() == [0] * 5


def test_the_training_set_itself_has_authenticity_zero() -> None:
    real = points(40)
    assert authenticity(find_neighbours(real, real.clone())) == 0


def test_training_points_with_a_little_noise_are_less_authentic_than_held_out_ones() -> None:
    real = points(400, 8)
    near, held_out = real[:200] + 0.3 * points(200, 8, seed=1), points(200, 8, seed=2)
    assert authenticity(find_neighbours(real, near)) < authenticity(find_neighbours(real, held_out)) / 2


def test_shuffling_the_samples_shuffles_who_is_authentic() -> None:
    real, generated = points(25), points(40, seed=1)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    found, shuffled = find_neighbours(real, generated), find_neighbours(real, generated[order])
    assert torch.equal(find_authentic(shuffled), find_authentic(found)[order])
    assert authenticity(shuffled) == authenticity(found)


def test_scaling_all_features_changes_no_authenticity() -> None:
    real, generated = points(25), points(40, seed=1)
    assert authenticity(find_neighbours(7 * real, 7 * generated)) == authenticity(find_neighbours(real, generated))


def test_a_sample_exactly_as_far_as_the_next_training_point_is_not_authentic() -> None:
    real = torch.tensor([[0.0], [2.0], [10.0], [11.0]])
    found = find_neighbours(real, torch.tensor([[-2.0], [-2.5], [10.5], [30.0]]), manifold_k=3, density_k=3)
    assert find_authentic(found).tolist() == [False, True, False, True]


def test_a_copy_of_a_duplicated_training_point_is_as_suspicious_as_can_be() -> None:
    real = torch.tensor([[0.0], [0.0], [5.0], [9.0]])
    found = find_neighbours(real, torch.tensor([[0.0], [1.0], [5.0], [7.0]]), manifold_k=3, density_k=3)
    assert suspicion(found.reference, found.generated_to_real).tolist() == [0.0, math.inf, 0.0, 0.5]


@pytest.mark.parametrize(("m", "v"), [(30, 21), (31, 20)])
def test_the_memorisation_ratio_divides_the_medians(m: int, v: int) -> None:
    generated, validation = values(m), values(v, seed=1)
    expected = np.median(generated.numpy()) / np.median(validation.numpy())
    assert memorisation_ratio(generated, validation) == pytest.approx(expected, rel=1e-12)


def test_copies_have_a_memorisation_ratio_of_zero_and_undefined_where_validation_copies_too() -> None:
    assert memorisation_ratio(torch.zeros(9), values(9)) == 0
    assert math.isnan(memorisation_ratio(values(9), torch.zeros(9)))


def z_by_scipy(generated: np.ndarray, validation: np.ndarray) -> float:
    m, v = len(generated), len(validation)
    u = mannwhitneyu(generated, validation, method="asymptotic").statistic
    return float((u - m * v / 2) / math.sqrt(m * v * (m + v + 1) / 12))


@pytest.mark.parametrize("decimals", [None, 1])
def test_c_t_follows_meehan(decimals: int | None) -> None:
    generated, validation = values(150, decimals=decimals), values(90, seed=1, decimals=decimals)
    rng = torch.Generator().manual_seed(2)
    cells, others = torch.randint(4, (150,), generator=rng), torch.randint(4, (90,), generator=rng)
    total = weight = 0.0
    for cell in range(4):
        a, b = generated[cells == cell], validation[others == cell]
        # U of the paper: every sample that lies farther than a validation point counts, an equal one half
        u = sum((x > y) + 0.5 * (x == y) for x in a.tolist() for y in b.tolist())
        z = (u - len(a) * len(b) / 2) / math.sqrt(len(a) * len(b) * (len(a) + len(b) + 1) / 12)
        assert z == pytest.approx(z_by_scipy(a.numpy(), b.numpy()), abs=1e-10)
        total, weight = total + z * len(b) / 90, weight + len(b) / 90
    assert c_t(generated, validation, cells, others) == pytest.approx(total / weight, abs=1e-10)


def test_cells_with_few_samples_or_no_validation_points_are_left_out_of_c_t() -> None:
    generated, validation = values(70), values(40, seed=1)
    cells = torch.tensor([0] * 30 + [1] * 19 + [2] * 21)  # the second has too few samples
    others = torch.tensor([0] * 25 + [1] * 15)  # the third has no validation points
    expected = z_by_scipy(generated[:30].numpy(), validation[:25].numpy())
    assert c_t(generated, validation, cells, others) == pytest.approx(expected, abs=1e-10)
    assert math.isnan(c_t(generated, validation, cells, others, minimum=31))
    assert c_t(generated, validation, cells, others, minimum=19) != pytest.approx(expected)


def test_c_t_is_negative_for_copies_about_zero_for_held_out_points_and_positive_for_distant_ones() -> None:
    real, validation = points(800, 4), points(400, 4, seed=1)

    def score(generated: Tensor) -> float:
        cell = Cells(real, cells=5)
        distances = (find_nearest(one, real)[0][:, 0] for one in (generated, validation))
        return c_t(*distances, cell(generated), cell(validation))

    assert score(real[:400] + 0.01 * points(400, 4, seed=2)) < -5
    assert abs(score(points(400, 4, seed=3))) < 1.5
    assert score(2 * points(400, 4, seed=4)) > 3


def test_the_order_of_samples_does_not_change_c_t() -> None:
    generated, validation = values(150, decimals=1), values(90, seed=1, decimals=1)
    cells, others = torch.arange(150) % 3, torch.arange(90) % 3
    order = torch.randperm(150, generator=torch.Generator().manual_seed(0))
    assert c_t(generated[order], validation, cells[order], others) == c_t(generated, validation, cells, others)


def test_cells_are_the_clusters_of_the_training_points_and_the_same_every_time() -> None:
    centres = 100 * points(4, seed=5)
    real = torch.cat([centre + points(30, seed=i) for i, centre in enumerate(centres)])
    cell = Cells(real, cells=4)
    own, query = cell(real), cell(centres[[2, 0]].float())
    assert own.dtype == query.dtype == torch.int64
    assert len({tuple(block.unique().tolist()) for block in own.view(4, 30)}) == 4
    assert query.tolist() == [int(own[60]), int(own[0])]
    assert torch.equal(Cells(real, cells=4)(real), own)


@pytest.mark.parametrize("decimals", [None, 1])
def test_the_attack_has_the_area_and_rates_of_scikit_learn(decimals: int | None) -> None:
    members, others = 0.8 * values(400, decimals=decimals), values(300, seed=1, decimals=decimals)
    truth, scores = np.arange(700) < 400, -torch.cat([members, others]).numpy()
    fpr, tpr, _ = sk.roc_curve(truth, scores, drop_intermediate=False)
    found = membership_attack(members, others)
    assert found.auc == pytest.approx(sk.roc_auc_score(truth, scores), abs=1e-10)
    assert found.tpr_at_1_fpr == pytest.approx(tpr[fpr <= 0.01].max(), abs=1e-12)


def test_the_area_of_the_attack_is_a_mann_whitney_statistic() -> None:
    members, others = values(40, decimals=1), values(31, seed=1, decimals=1)
    u = mannwhitneyu(-members.numpy(), -others.numpy()).statistic
    assert membership_attack(members, others).auc == pytest.approx(u / (40 * 31), abs=1e-12)


def test_one_false_alarm_in_a_hundred_is_still_allowed() -> None:
    others = torch.arange(1.0, 101.0)
    members = torch.tensor([0.5, 1.5, 1.6, 2.5])
    # At 1.6 one of a hundred others is called a member too; at 2.5 there would be two
    assert membership_attack(members, others).tpr_at_1_fpr == 0.75
    assert membership_attack(members, others[:99]).tpr_at_1_fpr == 0.25


def test_equal_scores_fall_on_one_side_together() -> None:
    found = membership_attack(torch.ones(50), torch.ones(40))
    assert (found.auc, found.tpr_at_1_fpr) == (0.5, 0.0)


def test_copied_members_are_found_without_error() -> None:
    assert membership_attack(torch.zeros(50), values(40) + 0.1) == (1.0, 1.0, 0.0)


def test_the_standard_error_is_that_of_hanley_and_mcneil() -> None:
    # Five of six pairs in order: A = 5/6, Q1 = A / (2 - A) = 5/7 for pairs of members, Q2 = 2 A² / (1 + A) = 25/33
    found = membership_attack(torch.tensor([1.0, 1.5, 3.0]), torch.tensor([2.0, 4.0]))
    variance = (5 / 36 + (3 - 1) * (5 / 7 - 25 / 36) + (2 - 1) * (25 / 33 - 25 / 36)) / (3 * 2)
    assert found.auc == pytest.approx(5 / 6)
    assert found.standard_error == pytest.approx(math.sqrt(variance), rel=1e-12)


def test_the_standard_error_is_about_the_spread_over_repetitions() -> None:
    found = [membership_attack(0.7 * values(80, seed=i), values(60, seed=i + 1000)) for i in range(200)]
    spread = np.std([attack.auc for attack in found])
    assert np.mean([attack.standard_error for attack in found]) == pytest.approx(spread, rel=0.2)


@pytest.mark.parametrize(
    ("bad", "message"),
    [(torch.tensor([1.0, torch.nan]), "finite"), (-torch.ones(3), "at least 0"), (torch.empty(0), "float")],
)
def test_what_is_no_distance_is_refused(bad: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        memorisation_ratio(bad, values(5))
    with pytest.raises(ValueError, match=message):
        membership_attack(values(5), bad)
    with pytest.raises(ValueError, match=message):
        c_t(bad, values(5), torch.zeros(len(bad)), torch.zeros(5))


def test_points_without_a_cell_are_refused() -> None:
    with pytest.raises(ValueError, match="cell"):
        c_t(values(5), values(5), torch.zeros(4), torch.zeros(5))
    with pytest.raises(ValueError, match=r"1\.\.5"):
        Cells(points(5), cells=6)
    with pytest.raises(ValueError, match="one dimension"):
        Cells(points(50))(points(3, 2))
