"""Whether a classifier is above chance: what guessing reaches, and when an interval is clear of it."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from medassay.core.estimate import Estimate
from medassay.metrics.chance import ChanceCheck, check_against_chance
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


def test_an_interval_lies_above_a_limit_reaches_it_or_lies_below() -> None:
    above, across, below, none = (
        Estimate(0.5, 0.4, 0.6),
        Estimate(0.5, 0.2, 0.6),
        Estimate(0.2, 0.1, 0.3),
        Estimate(0.5),
    )
    assert [one.is_above(0.3) for one in (above, across, below, none)] == [True, False, False, False]
    assert [one.reaches(0.3) for one in (above, across, below, none)] == [True, True, False, True]
