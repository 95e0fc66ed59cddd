"""Gaps between groups: against hand-worked numbers, against fairlearn, and against what chance alone makes."""

from __future__ import annotations

import itertools

import pytest
import torch
from fairlearn.metrics import (
    MetricFrame,
    demographic_parity_difference,
    equal_opportunity_difference,
    equalized_odds_difference,
    false_positive_rate,
    selection_rate,
    true_positive_rate,
)
from sklearn.metrics import accuracy_score
from torch import Tensor

from medassay.metrics.bootstrap import percentile_interval
from medassay.metrics.group_gaps import (
    GAPS,
    GroupedDecisions,
    compute_p_value,
    compute_rates,
    correct_by_holm,
    find_unlinked,
    permute_gaps,
    resample_gaps,
)

# Group 0 has 3 ill (2 found) and 3 healthy (1 called ill), group 1 has 2 ill (1 found) and 4 healthy (none called ill)
TWELVE = GroupedDecisions(
    decisions=torch.tensor([1, 1, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0]),
    labels=torch.tensor([1, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0]),
    groups=torch.tensor([0] * 6 + [1] * 6),
    num_groups=2,
    positives=[1],
)


def draw_decisions(n: int, groups: int, *, classes: int = 2, seed: int = 0, worse: float = 0.0) -> GroupedDecisions:
    """Decisions right in 80 %, in group 0 in ``worse`` less, of which groups have the classes in unequal shares."""
    rng = torch.Generator().manual_seed(seed)
    group = torch.randint(groups, (n,), generator=rng)
    ill = torch.rand(n, generator=rng) < 0.2 + 0.6 * group / groups
    labels = torch.where(ill, 1, 0) if classes == 2 else torch.randint(classes, (n,), generator=rng)
    right = torch.rand(n, generator=rng) < 0.8 - worse * (group == 0)
    other = (labels + torch.randint(1, classes, (n,), generator=rng)) % classes
    decisions = torch.where(right, labels, other)
    return GroupedDecisions(decisions, labels, group, groups, [1] if classes == 2 else list(range(classes)))


def compute_gaps(images: GroupedDecisions) -> dict[str, float]:
    return {name: float(gap[0]) for name, gap in compute_rates(images).compute_gaps().items()}


def test_the_gaps_of_twelve_images_are_those_worked_by_hand() -> None:
    rates = compute_rates(TWELVE)
    assert rates.called[0, 0].tolist() == pytest.approx([3 / 6, 1 / 6])
    assert rates.sensitivity[0, 0].tolist() == pytest.approx([2 / 3, 1 / 2])
    assert rates.false_positive[0, 0].tolist() == pytest.approx([1 / 3, 0])
    assert rates.accuracy[0].tolist() == pytest.approx([4 / 6, 5 / 6])
    assert compute_gaps(TWELVE) == pytest.approx(
        {"demographic_parity": 1 / 3, "equal_opportunity": 1 / 6, "equalised_odds": 1 / 3, "accuracy": 1 / 6}
    )


@pytest.mark.parametrize("groups", [2, 5])
def test_fairlearn_gives_the_same_rates_and_gaps(groups: int) -> None:
    images = draw_decisions(400, groups, worse=0.2)
    truth, said, group = (tensor.numpy() for tensor in images[:3])
    rates = compute_rates(images)
    frame = MetricFrame(
        metrics={
            "accuracy": accuracy_score,
            "called": selection_rate,
            "sensitivity": true_positive_rate,
            "false_positive": false_positive_rate,
        },
        y_true=images.labels.numpy(),
        y_pred=images.decisions.numpy(),
        sensitive_features=group,
    )
    for name, rate in rates._asdict().items():
        assert rate.flatten().tolist() == pytest.approx(frame.by_group[name].tolist())
    said, truth = images.decisions.numpy(), images.labels.numpy()
    gaps = compute_gaps(images)
    assert gaps["accuracy"] == pytest.approx(frame.difference()["accuracy"])
    for name, reference in (
        ("demographic_parity", demographic_parity_difference),
        ("equal_opportunity", equal_opportunity_difference),
        ("equalised_odds", equalized_odds_difference),
    ):
        assert gaps[name] == pytest.approx(reference(truth, said, sensitive_features=group)), name


def test_with_several_positive_classes_a_gap_is_that_of_the_class_where_it_is_largest() -> None:
    images = draw_decisions(300, 3, classes=4, worse=0.3)
    each = [compute_gaps(images._replace(positives=[label])) for label in range(4)]
    together = compute_gaps(images)
    for name in ("demographic_parity", "equal_opportunity", "equalised_odds"):
        assert together[name] == pytest.approx(max(gaps[name] for gaps in each))
    assert {gaps["accuracy"] for gaps in each} == {together["accuracy"]}


def test_a_group_without_the_class_is_left_out_of_its_sensitivities() -> None:
    labels = torch.where(TWELVE.groups == 1, 0, TWELVE.labels)
    gaps = compute_gaps(TWELVE._replace(labels=labels))
    assert gaps["equal_opportunity"] != gaps["equal_opportunity"]  # one group alone has a sensitivity: no gap
    assert gaps["equalised_odds"] == pytest.approx(1 / 3 - 1 / 6)  # false positive rates 1/3 and 1/6


@pytest.mark.parametrize("worse", [0.0, 0.3])
def test_resampled_gaps_are_differences_of_the_two_groups_that_make_the_gap(worse: float) -> None:
    images = draw_decisions(1500, 3, worse=worse)
    drawn = resample_gaps(images, resamples=300, seed=0)
    for name, value in compute_gaps(images).items():
        low, high = percentile_interval(drawn[name])
        assert drawn[name].shape == (300,)
        assert low < value < high
        assert float(drawn[name].mean()) == pytest.approx(value, abs=0.01)
    accuracy = compute_rates(images).accuracy[0]
    variance = accuracy * (1 - accuracy) / torch.bincount(images.groups)
    expected = float(variance[[int(accuracy.argmax()), int(accuracy.argmin())]].sum() ** 0.5)
    assert float(drawn["accuracy"].std()) == pytest.approx(expected, rel=0.15)


# --- the null --------------------------------------------------------------------------------------------------------


def list_deals(images: GroupedDecisions, *, within: bool) -> dict[str, Tensor]:
    """The gaps of every way to deal the groups out, over all images or within each true class."""
    n = len(images.labels)
    strata = [images.labels == label for label in (0, 1)] if within else [torch.ones(n, dtype=torch.bool)]
    ways = []
    for members in strata:
        places = members.nonzero()[:, 0].tolist()
        size = int(images.groups[members].sum())
        ways.append([list(chosen) for chosen in itertools.combinations(places, size)])
    found: dict[str, list[float]] = {name: [] for name in GAPS}
    for chosen in itertools.product(*ways):
        group = torch.zeros(n, dtype=torch.int64)
        group[[place for part in chosen for place in part]] = 1
        for name, value in compute_gaps(images._replace(groups=group)).items():
            found[name].append(value)
    return {name: torch.tensor(values) for name, values in found.items()}


def test_permutations_have_the_distribution_of_all_ways_to_deal_the_groups_out() -> None:
    small = GroupedDecisions(*(part[[0, 1, 2, 3, 4, 6, 7, 8, 9]] for part in TWELVE[:3]), 2, [1])  # type: ignore[arg-type]
    drawn = permute_gaps(small, permutations=3000, seed=1)
    for within in (False, True):
        exact = list_deals(small, within=within)
        for name in ("equal_opportunity", "equalised_odds", "accuracy") if within else ("demographic_parity",):
            for quantity in (exact[name].unique() - 1e-6).tolist():
                expected = float((exact[name] >= quantity).double().mean())
                assert float((drawn[name] >= quantity).double().mean()) == pytest.approx(expected, abs=0.035), name


def test_a_group_with_more_of_the_disease_differs_in_demographic_parity_alone() -> None:
    images = draw_decisions(2000, 2)
    perfect = images._replace(decisions=images.labels)
    nulls, gaps = permute_gaps(perfect, permutations=200, seed=0), compute_gaps(perfect)
    assert gaps["demographic_parity"] > 0.2
    p_values = {name: compute_p_value(gaps[name], nulls[name]) for name in GAPS}
    assert p_values["demographic_parity"] == pytest.approx(1 / 201)
    assert {p_values[name] for name in GAPS[1:]} == {1.0}


def test_groups_without_a_class_in_common_with_another_are_unlinked() -> None:
    labels, groups = torch.tensor([0, 0, 1, 0, 1, 1, 2, 2, 3]), torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])
    images = GroupedDecisions(labels, labels, groups, 3, [0, 1, 2, 3])
    assert find_unlinked(images) == [2]
    assert find_unlinked(images._replace(least=2)) == [2]  # one image of class 0 and one of class 1 can change places
    assert find_unlinked(images._replace(least=3)) == [0, 1, 2]
    pairs = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    apart = GroupedDecisions(pairs // 4, pairs // 4, pairs, 4, [0, 1])  # groups 0 and 1 have class 0, 2 and 3 class 1
    assert find_unlinked(apart._replace(labels=pairs // 2)) == [2, 3]
    through_others = GroupedDecisions(pairs, torch.tensor([0, 0, 0, 1, 1, 2, 2, 2]), pairs, 4, [0, 1, 2])
    assert find_unlinked(through_others) == []
    assert find_unlinked(images._replace(labels=labels % 2)) == []


def test_p_values_are_uniform_where_groups_are_treated_alike() -> None:
    p_values: dict[str, list[float]] = {name: [] for name in GAPS}
    middles: dict[str, list[float]] = {
        name: [] for name in GAPS
    }  # equal gaps counted half: uniform where those are many, too
    for seed in range(50):
        images = draw_decisions(120, 2, seed=seed)
        alike = images._replace(groups=torch.randint(2, (120,), generator=torch.Generator().manual_seed(1000 + seed)))
        nulls = permute_gaps(alike, permutations=99, seed=seed)
        for name, value in compute_gaps(alike).items():
            p_values[name].append(compute_p_value(value, nulls[name]))
            above, below = ((nulls[name] > value + side).double().mean() for side in (1e-9, -1e-9))
            middles[name].append(float(above + below) / 2)
    for name, values in p_values.items():
        for level in (0.05, 0.2, 0.5, 0.8):  # ties between equal gaps make p-values larger, never smaller
            share = sum(value <= level for value in values) / len(values)
            assert share <= level + 3 * (level * (1 - level) / 50) ** 0.5, (name, level)
        assert sum(middles[name]) / 50 == pytest.approx(0.5, abs=3 * (1 / 12 / 50) ** 0.5), name


def test_a_planted_difference_is_beyond_every_permutation() -> None:
    images = draw_decisions(600, 2, worse=0.3)
    nulls, gaps = permute_gaps(images, permutations=199, seed=0), compute_gaps(images)
    assert compute_p_value(gaps["accuracy"], nulls["accuracy"]) == pytest.approx(1 / 200)
    assert compute_p_value(gaps["equalised_odds"], nulls["equalised_odds"]) == pytest.approx(1 / 200)


def test_the_same_seed_deals_the_same_groups() -> None:
    images = draw_decisions(60, 3)
    first, second, third = (permute_gaps(images, permutations=20, seed=seed) for seed in (0, 0, 2))
    assert all(torch.equal(first[name], second[name]) for name in GAPS)
    assert not torch.equal(first["accuracy"], third["accuracy"])


def test_a_p_value_counts_what_was_observed_and_equal_gaps() -> None:
    assert compute_p_value(0.3, torch.tensor([0.1, 0.3 - 1e-12, 0.4, 0.2])) == pytest.approx(3 / 5)
    assert compute_p_value(0.5, torch.tensor([0.1, 0.3])) == pytest.approx(1 / 3)


def test_holm_s_correction_is_that_of_the_paper() -> None:
    assert correct_by_holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert correct_by_holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert correct_by_holm([]) == []
