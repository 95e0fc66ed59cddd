"""Scores of segmentations, beside values by hand and MONAI's metrics."""

from __future__ import annotations

import json
import math

import pytest
import torch
from scipy import ndimage
from torch import Tensor

from medassay.core.results import from_json, to_json
from medassay.metrics.segmentation import (
    SegmentationSummary,
    compute_dice,
    compute_iou,
    measure_surface_distances,
    score_segmentation,
)


def square(top: int, left: int, side: int, *, within: tuple[int, int] = (12, 16)) -> Tensor:
    mask = torch.zeros(within, dtype=torch.bool)
    mask[top : top + side, left : left + side] = True
    return mask


def random_blobs(n: int, classes: int, seed: int, shape: tuple[int, int] = (32, 40)) -> Tensor:
    """Class maps ``(n, H, W)`` of smooth regions, as a segmentation's are."""
    noise = torch.randn(n, classes, *shape, generator=torch.Generator().manual_seed(seed)).numpy()
    return torch.from_numpy(ndimage.gaussian_filter(noise, (0, 0, 3, 3))).argmax(1)


EMPTY = square(0, 0, 0)
DIAGONAL = math.sqrt(12**2 + 16**2)

# --- by hand ---------------------------------------------------------------------------------------------------------


def test_dice_and_iou_are_those_counted_by_hand() -> None:
    a, b = square(0, 0, 4), square(2, 2, 4)  # 16 pixels each, 4 of them shared
    assert compute_dice(a, b).item() == 2 * 4 / 32
    assert compute_iou(a, b).item() == 4 / 28


@pytest.mark.parametrize("score", [compute_dice, compute_iou])
def test_overlaps_of_empty_masks_are_1_for_two_and_0_for_one(score: object) -> None:
    masks = torch.stack([EMPTY, EMPTY, square(0, 0, 2)])
    others = torch.stack([EMPTY, square(0, 0, 2), EMPTY])
    assert score(masks, others).tolist() == [1, 0, 0]  # type: ignore[operator]


def test_two_points_are_as_far_apart_as_their_pixels() -> None:
    assert measure_surface_distances(square(1, 1, 1), square(4, 5, 1)) == (5.0, 5.0)


def test_a_shifted_square_has_the_distances_counted_by_hand() -> None:
    # outlines of 8 pixels: a column moved on by 3, its nearest at 1 (the near side), 2 (the middle) or 3 pixels (the far one)
    distances = measure_surface_distances(square(4, 3, 3), square(4, 6, 3))
    assert distances.mean == pytest.approx((3 * 1 + 2 * 2 + 3 * 3) / 8)
    assert distances.hd95 == 3


def test_the_percentile_leaves_out_the_few_farthest_pixels() -> None:
    line = torch.zeros(12, 64, dtype=torch.bool)
    line[5, :40] = True
    with_a_speck = line.clone()
    with_a_speck[5, 60] = True
    assert measure_surface_distances(with_a_speck, line).hd95 == 0
    assert measure_surface_distances(with_a_speck, line).mean == pytest.approx(21 / 81)


def test_a_filled_square_and_its_outline_have_the_same_surface() -> None:
    filled = square(2, 2, 6)
    assert measure_surface_distances(filled, filled & ~square(3, 3, 4)) == (0, 0)


def test_the_border_of_the_image_is_part_of_an_outline() -> None:
    whole = torch.ones(12, 16, dtype=torch.bool)
    frame = whole.clone()
    frame[1:-1, 1:-1] = False
    assert measure_surface_distances(whole, frame) == (0, 0)


@pytest.mark.parametrize(("a", "b"), [(EMPTY, square(0, 0, 3)), (square(0, 0, 3), EMPTY)])
def test_the_distance_to_nothing_is_the_images_diagonal(a: Tensor, b: Tensor) -> None:
    assert measure_surface_distances(a, b) == (DIAGONAL, DIAGONAL)


def test_two_empty_masks_have_no_distance() -> None:
    assert measure_surface_distances(EMPTY, EMPTY) == (0, 0)


@pytest.mark.parametrize("other", [torch.zeros(12, 17, dtype=torch.bool), torch.zeros(12, 16)])
def test_masks_of_another_shape_or_type_are_refused(other: Tensor) -> None:
    for compare in (compute_dice, compute_iou, measure_surface_distances):
        with pytest.raises(ValueError, match="two boolean masks of one shape"):
            compare(EMPTY, other)


# --- of images -------------------------------------------------------------------------------------------------------


def test_a_prediction_equal_to_the_truth_is_perfect() -> None:
    maps = random_blobs(3, 4, seed=0)
    scores = score_segmentation(maps, maps, 4)
    assert (scores.dice == 1).all()
    assert (scores.iou == 1).all()
    assert not scores.hd95.any()
    assert not scores.surface_distance.any()
    assert not scores.one_empty.any()


def test_each_class_is_scored_for_itself_and_the_background_is_not() -> None:
    true = square(0, 0, 4) * 1 + square(6, 6, 4) * 2
    predicted = square(0, 0, 4) * 1 + square(6, 8, 4) * 2
    scores = score_segmentation([predicted], [true], 4)
    assert scores.dice.tolist() == [[1, 0.5, 1]]  # class 3 is in neither
    assert scores.iou[0].tolist() == pytest.approx([1, 1 / 3, 1])
    assert scores.hd95.tolist() == [[0, 2, 0]]


def test_images_where_one_mask_lacks_a_class_are_counted() -> None:
    true = torch.stack([square(0, 0, 2) * 1, EMPTY * 1, EMPTY * 1])
    predicted = torch.stack([EMPTY * 1, square(0, 0, 2) * 2, EMPTY * 1])
    scores = score_segmentation(predicted, true, 3)
    assert scores.one_empty.tolist() == [[True, False], [False, True], [False, False]]
    assert torch.equal(scores.hd95 == DIAGONAL, scores.one_empty)
    assert scores.summarise().one_empty == [1, 1]


def test_images_may_differ_in_size() -> None:
    small, large = square(0, 0, 3, within=(6, 8)) * 1, square(0, 0, 3) * 1
    scores = score_segmentation([small, EMPTY * 1], [small, large], 2)
    assert scores.hd95[:, 0].tolist() == [0, DIAGONAL]


def test_means_have_intervals_over_images_that_hold_them() -> None:
    scores = score_segmentation(random_blobs(20, 3, seed=0), random_blobs(20, 3, seed=1), 3)
    summary = scores.summarise()
    dice = summary.means["dice"]
    assert dice.value == pytest.approx(scores.dice.mean().item())
    assert dice.low is not None
    assert dice.high is not None
    assert dice.low < dice.value < dice.high
    assert (dice.n, dice.kind) == (20, "bootstrap")
    assert [e.value for e in summary.per_class["hd95"]] == pytest.approx(scores.hd95.mean(0).tolist())


def test_five_images_have_students_interval_within_what_scores_can_be_and_one_has_none() -> None:
    predicted, true = random_blobs(5, 3, seed=0), random_blobs(5, 3, seed=1)
    scores = score_segmentation(predicted, true, 3)
    summary = scores.summarise()
    dice, iou = scores.dice.mean(1), summary.means["iou"]
    half = 2.776445 * float(dice.std()) / math.sqrt(5)  # the table's t for 4 degrees of freedom
    found = summary.means["dice"]
    assert found.kind == "images"
    assert [found.low, found.high] == pytest.approx([max(0.0, float(dice.mean()) - half), float(dice.mean()) + half])
    assert iou.low is not None
    assert all(one.low is not None and one.low >= 0 for column in summary.per_class.values() for one in column)
    assert all(one.high is not None and one.high <= 1 for one in summary.per_class["dice"])
    one = score_segmentation(predicted[:1], true[:1], 3).summarise()
    assert {(mean.low, mean.high) for mean in one.means.values()} == {(None, None)}


def test_a_summary_is_written_and_read_again() -> None:
    summary = score_segmentation(random_blobs(3, 3, seed=0), random_blobs(3, 3, seed=1), 3).summarise()
    assert from_json(SegmentationSummary, json.loads(json.dumps(to_json(summary)))) == summary


def test_no_image_and_unequal_numbers_of_images_are_refused() -> None:
    for predicted in ([], [EMPTY, EMPTY]):
        with pytest.raises(ValueError, match="as many predicted as true"):
            score_segmentation(predicted, [EMPTY] * (len(predicted) // 2), 2)


# --- beside MONAI ----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # MONAI 1.6 warns of itself
def test_overlaps_and_distances_are_monais() -> None:
    from monai.metrics import (  # type: ignore[import-not-found]  # seconds, for this test alone
        DiceMetric,
        HausdorffDistanceMetric,
        MeanIoU,
        SurfaceDistanceMetric,
    )

    predicted, true = random_blobs(6, 4, seed=2), random_blobs(6, 4, seed=3)
    scores = score_segmentation(predicted, true, 4)
    one_hot = [torch.nn.functional.one_hot(maps, 4).movedim(-1, 1) for maps in (predicted, true)]
    references = {
        "dice": DiceMetric(include_background=False),
        "iou": MeanIoU(include_background=False),
        "hd95": HausdorffDistanceMetric(include_background=False, percentile=95),
        "surface_distance": SurfaceDistanceMetric(include_background=False, symmetric=True),
    }
    assert not scores.one_empty.any()
    for name, metric in references.items():
        torch.testing.assert_close(getattr(scores, name), metric(*one_hot).double(), rtol=1e-5, atol=1e-5)
