"""Scores of single objects, beside values by hand and a plain loop over all pairs."""

from __future__ import annotations

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from medassay.metrics.instances import THRESHOLDS, label_components, match_instances, score_instances


def row(*numbers: int) -> Tensor:
    """An instance map of one row."""
    return torch.tensor([numbers])


def random_instances(seed: int) -> tuple[Tensor, Tensor]:
    """Two maps of up to 12 squares each: the second's are those of the first, moved a little."""
    rng = torch.Generator().manual_seed(seed)
    maps = torch.zeros(2, 40, 40, dtype=torch.int32)
    for number in range(1, 13):
        y, x, side, dy, dx = (int(torch.randint(high, (1,), generator=rng)) for high in (32, 32, 6, 3, 3))
        maps[0, y : y + side + 2, x : x + side + 2] = number
        maps[1, y + dy : y + dy + side + 2, x + dx : x + dx + side + 2] = 100 - number
    return maps[0], maps[1]


def test_components_are_connected_by_sides_and_not_by_corners() -> None:
    foreground = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 0], [1, 0, 1, 1]], dtype=torch.bool)
    assert label_components(foreground).tolist() == [[1, 1, 0, 0], [0, 0, 2, 0], [3, 0, 2, 2]]


def test_ious_of_matches_are_those_counted_by_hand_whatever_the_numbers() -> None:
    true = row(7, 7, 7, 7, 0, 9, 9, 9, 0, 0)
    predicted = row(0, 2, 2, 2, 0, 5, 5, 5, 5, 5)
    assert match_instances(predicted, true).tolist() == pytest.approx([3 / 4, 3 / 5])
    assert match_instances(predicted.int(), true * 100_000_000).tolist() == pytest.approx([3 / 4, 3 / 5])


def test_an_iou_equal_to_a_threshold_reaches_it() -> None:
    scores = score_instances([row(1, 1, 1, 0, 0)], [row(1, 1, 1, 1, 1)])  # 0.6
    assert scores.matched.tolist() == [[1, 1, 1, 0, 0, 0, 0, 0, 0, 0]]


def test_an_instance_is_matched_once() -> None:
    # both halves have an IoU of exactly 0.5 with the true one
    scores = score_instances([row(1, 1, 2, 2)], [row(3, 3, 3, 3)])
    assert scores.matched[0, 0] == 1
    assert scores.average_precision[0, 0] == 1 / 2  # 1 TP, 1 FP


def test_average_precision_is_tp_over_tp_fp_fn() -> None:
    true = row(1, 1, 1, 1, 0, 2, 2, 0, 3, 0, 0, 0)
    predicted = row(1, 1, 1, 0, 0, 2, 2, 0, 0, 0, 4, 4)  # IoU 0.75, 1, a missed and an invented one
    scores = score_instances([predicted], [true])
    assert scores.average_precision[0].tolist() == [2 / 4] * 6 + [1 / 5] * 4
    assert scores.count_error.tolist() == [0]


def test_two_cells_that_grew_together_count_as_one() -> None:
    true = row(1, 1, 1, 1, 1, 0, 2, 2, 2, 2)
    scores = score_instances([label_components(torch.ones(1, 10, dtype=torch.bool))], [true])
    assert scores.count_error.tolist() == [1]
    assert scores.matched[0, 0] == 1  # IoU 5/10
    assert scores.average_precision[0, 0] == 1 / 2


def test_a_map_equal_to_the_truth_is_perfect_and_so_is_nothing_where_nothing_is() -> None:
    true, _ = random_instances(0)
    empty = torch.zeros_like(true)
    scores = score_instances([true, empty], [true, empty])
    assert (scores.average_precision == 1).all()
    assert not scores.count_error.any()


def test_an_empty_map_finds_nothing() -> None:
    true, _ = random_instances(0)
    scores = score_instances([torch.zeros_like(true), true], [true, torch.zeros_like(true)])
    assert not scores.average_precision.any()
    assert scores.count_error.tolist() == [len(true.unique()) - 1] * 2


@pytest.mark.parametrize("seed", range(5))
def test_matches_are_those_of_the_best_assignment_at_each_threshold(seed: int) -> None:
    true, predicted = random_instances(seed)
    ours, theirs = (maps.unique()[1:] for maps in (predicted, true))
    ious = torch.tensor(
        [[float(((predicted == a) & (true == b)).sum() / ((predicted == a) | (true == b)).sum()) for b in theirs]
         for a in ours], dtype=torch.float64,
    )  # fmt: skip
    scores = score_instances([predicted], [true])
    assert scores.matched[0, 0] > 0
    for i, threshold in enumerate(THRESHOLDS):
        reached = (ious >= threshold).double().numpy()
        rows, columns = linear_sum_assignment(-reached)
        assert scores.matched[0, i] == reached[rows, columns].sum()


def test_means_have_intervals_over_images() -> None:
    pairs = [random_instances(seed) for seed in range(8)]
    scores = score_instances([predicted for _, predicted in pairs], [true for true, _ in pairs])
    summary = scores.summarise()
    precision = summary.average_precision
    assert precision.value == pytest.approx(scores.average_precision.mean().item())
    assert precision.low is not None
    assert precision.high is not None
    assert precision.low < precision.value < precision.high
    assert summary.per_threshold[0].value > summary.per_threshold[-1].value
    assert summary.count_error.n == summary.n == 8


def test_few_images_have_intervals_that_end_where_scores_do_and_one_image_has_none() -> None:
    pairs = [random_instances(seed) for seed in range(3)]
    summary = score_instances([predicted for _, predicted in pairs], [true for true, _ in pairs]).summarise()
    for one in (summary.average_precision, *summary.per_threshold, summary.count_error):
        assert one.kind == "images"
        assert one.low is not None
        assert one.low >= 0
    assert all(one.high is not None and one.high <= 1 for one in summary.per_threshold)
    true, predicted = pairs[0]
    alone = score_instances([predicted], [true]).summarise()
    assert (alone.average_precision.low, alone.count_error.high) == (None, None)


def test_maps_of_another_shape_and_no_maps_are_refused() -> None:
    with pytest.raises(ValueError, match="two maps of one shape"):
        match_instances(row(1, 2), row(1, 2, 3))
    with pytest.raises(ValueError, match="as many predicted as true"):
        score_instances([], [])
