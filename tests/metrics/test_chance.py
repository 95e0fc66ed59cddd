"""Whether a classifier is above chance: what guessing reaches, and when an interval is clear of it."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from medassay.core.estimate import Estimate
from medassay.metrics.chance import ChanceCheck, are_enough, check_against_chance
from medassay.reporting.classification import describe_chance
from tests.helpers import predictions


def test_the_numbers_are_those_of_scikit_learn() -> None:
    probabilities, labels = predictions(3, n=60)
    found = check_against_chance(probabilities, labels)
    assert found.balanced_accuracy.value == pytest.approx(balanced_accuracy_score(labels, probabilities.argmax(1)))
    assert found.auroc.value == pytest.approx(
        roc_auc_score(labels, probabilities.double(), multi_class="ovr"), abs=1e-6
    )
    assert found.chance == pytest.approx(1 / 3)
    assert found.passed


def test_guesses_do_not_pass() -> None:
    probabilities, labels = predictions(2, n=64, strength=0.0)
    assert not check_against_chance(probabilities, labels).passed


def test_a_net_that_says_the_same_of_every_image_does_not_pass_however_well_it_ranks() -> None:
    labels = torch.arange(40) % 2
    of_one = 0.1 + 0.2 * labels.float()
    found = check_against_chance(torch.stack([1 - of_one, of_one], 1), labels)
    assert found.auroc.value == 1
    assert not found.passed


def test_what_guessing_reaches_counts_the_classes_that_have_images() -> None:
    probabilities, labels = predictions(4, n=80)
    some = labels < 2
    assert check_against_chance(probabilities[some], labels[some]).chance == 0.5


@pytest.mark.parametrize(
    ("balanced_accuracy", "auroc", "passed"),
    [
        ((0.51, 0.7), (0.51, 0.8), True),
        ((0.5, 0.7), (0.51, 0.8), False),
        ((0.51, 0.7), (0.5, 0.8), False),
        ((0.51, 0.7), (math.nan, math.nan), False),
    ],
)
def test_both_intervals_must_be_clear_of_chance(
    balanced_accuracy: tuple[float, float], auroc: tuple[float, float], passed: bool
) -> None:
    assert ChanceCheck(Estimate(0.6, *balanced_accuracy), Estimate(0.6, *auroc), 0.5).passed is passed


@pytest.mark.parametrize(
    ("counts", "enough"),
    [
        ([6, 6], True),
        ([5, 5], False),
        ([1, 1], False),
        ([1, 500], False),
        ([2] * 8, True),
        ([1] * 8, False),
        ([30], False),
    ],
)
def test_images_are_enough_where_being_right_on_all_of_them_would_show_something(
    counts: list[int], enough: bool
) -> None:
    lowest = min(stats.binomtest(n, n).proportion_ci(0.95, "exact").low for n in counts)
    assert (lowest > 1 / len(counts)) is enough
    assert are_enough(counts, 1 / len(counts)) is enough


@pytest.mark.parametrize(("images", "passed"), [(4, False), (40, True)])
def test_a_few_images_that_are_all_right_show_nothing(images: int, passed: bool) -> None:
    labels = torch.arange(images) % 2
    check = check_against_chance(F.one_hot(labels, 2) * 0.8 + 0.1, labels)
    assert check.balanced_accuracy.low == check.balanced_accuracy.high == 1
    assert check.passed is passed
    assert ("too few images of a class to tell" in describe_chance(check)) is not passed


def test_an_interval_lies_above_a_limit_reaches_it_or_lies_below() -> None:
    above, across, below, none = (
        Estimate(0.5, 0.4, 0.6),
        Estimate(0.5, 0.2, 0.6),
        Estimate(0.2, 0.1, 0.3),
        Estimate(0.5),
    )
    assert [one.is_above(0.3) for one in (above, across, below, none)] == [True, False, False, False]
    assert [one.reaches(0.3) for one in (above, across, below, none)] == [True, True, False, True]
