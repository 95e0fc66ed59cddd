"""How unusual an image looks: scores by hand, their AUROC beside scikit-learn's, intervals beside a plain bootstrap."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from medassay.metrics.out_of_distribution import (
    estimate_detection,
    score_energy,
    score_max_softmax,
    score_neighbours,
)


def test_energy_and_max_softmax_are_those_of_their_papers() -> None:
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0], [10.0, 10.0]])
    assert score_energy(logits).tolist() == pytest.approx([-math.log(2), -math.log(4), -10 - math.log(2)])
    assert score_energy(logits, 2.0).tolist() == pytest.approx(
        [-2 * math.log(2), -2 * math.log(math.sqrt(3) + 1), -10 - 2 * math.log(2)]
    )
    assert score_max_softmax(logits).tolist() == pytest.approx([-0.5, -0.75, -0.5])


def test_the_neighbours_distance_is_scikit_learn_s_on_features_of_length_1() -> None:
    rng = np.random.default_rng(0)
    queries, reference = rng.normal(size=(7, 4)), rng.normal(size=(30, 4))
    unit = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in (queries, reference)]
    expected = NearestNeighbors(n_neighbors=3).fit(unit[1]).kneighbors(unit[0])[0][:, 2]
    tensors = torch.from_numpy(queries), torch.from_numpy(reference)
    assert score_neighbours(*tensors, k=3).tolist() == pytest.approx(expected.tolist())
    assert torch.equal(score_neighbours(*tensors, k=3), score_neighbours(*tensors, k=3, chunk_elements=1))
    assert torch.equal(score_neighbours(*tensors, k=99), score_neighbours(*tensors, k=30))


def test_detection_is_scikit_learn_s_auroc_ties_included() -> None:
    usual, unusual = torch.tensor([0.0, 1, 1, 2]), torch.tensor([1.0, 2, 2, 3, 0])
    expected = roc_auc_score([0] * 4 + [1] * 5, torch.cat([usual, unusual]).numpy())
    assert estimate_detection(usual, unusual, paired=False).value == pytest.approx(expected)
    assert estimate_detection(usual, usual + 5, paired=True).value == 1
    assert estimate_detection(usual, usual, paired=True).value == 0.5


def test_pairs_are_resampled_together_and_sets_apart() -> None:
    rng = np.random.default_rng(1)
    usual, unusual = rng.normal(size=30).round(1), rng.normal(size=30).round(1) + 0.7
    wins = (unusual[:, None] > usual) + 0.5 * (unusual[:, None] == usual)  # of each pair
    draws = [torch.randint(30, (1000, 30), generator=torch.Generator().manual_seed(seed)).numpy() for seed in (0, 1)]
    for paired in (True, False):
        others = draws[0] if paired else draws[1]
        areas = [wins[b][:, a].mean() for a, b in zip(draws[0], others, strict=True)]
        found = estimate_detection(torch.from_numpy(usual), torch.from_numpy(unusual), paired=paired)
        assert [found.low, found.high] == pytest.approx(np.quantile(areas, [0.025, 0.975]).tolist())
        assert (found.value, found.n) == (pytest.approx(wins.mean()), 60)


def test_scores_that_are_not_finite_and_pairs_of_two_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        estimate_detection(torch.tensor([1.0, torch.nan]), torch.ones(2), paired=True)
    with pytest.raises(ValueError, match="pairs"):
        estimate_detection(torch.ones(3), torch.ones(2), paired=True)
