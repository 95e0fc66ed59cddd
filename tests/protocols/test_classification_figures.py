"""The calibration diagram of a classifier's report: its bins, and their intervals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.patches import Rectangle

from medassay.metrics.calibration import bin_by_confidence
from medassay.metrics.classification import measure_classification
from medassay.protocols.classification.figures import draw_reliability_diagram, wilson_interval


def predictions(n: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(k)
    labels = torch.arange(n) % k
    return (torch.randn(n, k, generator=rng) + torch.nn.functional.one_hot(labels, k)).softmax(1), labels


@pytest.mark.parametrize("k", [2, 5])
def test_the_bins_are_those_of_the_expected_calibration_error(k: int) -> None:
    probabilities, labels = predictions(200, k)
    bins = bin_by_confidence(probabilities, labels)
    assert bins.ece == pytest.approx(measure_classification(probabilities, labels)["ece"], abs=1e-12)
    assert int(bins.counts.sum()) == 200


def test_a_bin_holds_its_upper_edge_and_means_of_what_is_in_it() -> None:
    confidence = torch.tensor([0.5, 0.55, 0.6, 0.61, 1.0], dtype=torch.float64)
    bins = bin_by_confidence(torch.stack([confidence, 1 - confidence], 1), torch.tensor([0, 1, 0, 0, 0]), bins=10)
    assert bins.counts.tolist() == [0, 0, 0, 0, 1, 2, 1, 0, 0, 1]
    assert float(bins.accuracy[5]) == 0.5
    assert float(bins.confidence[5]) == pytest.approx(0.575)
    assert torch.isnan(bins.accuracy[0])


def test_bins_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match=r"N >= 1"):
        bin_by_confidence(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))


def test_the_diagram_has_a_bar_of_the_accuracy_for_each_bin_that_holds_predictions() -> None:
    bins = bin_by_confidence(*predictions(300, 2))
    upper, lower = draw_reliability_diagram(bins, 2).axes
    used = bins.counts > 0
    bars = [patch for patch in upper.patches if isinstance(patch, Rectangle)]
    np.testing.assert_allclose([bar.get_height() for bar in bars], bins.accuracy[used].numpy())
    shares = [patch.get_height() for patch in lower.patches if isinstance(patch, Rectangle)]
    assert sum(shares) == pytest.approx(1)
    assert f"{bins.ece:.3f}" in upper.get_title(loc="left")
    assert upper.get_xlim()[0] == pytest.approx(7 / 15)  # no confidence of two classes is below 0.5


def test_wilsons_interval_is_the_published_one() -> None:
    # 81 of 263: 0.2553 to 0.3662 (Newcombe, Statistics in Medicine 1998, table I)
    low, high = wilson_interval(torch.tensor([81 / 263]).double(), torch.tensor([263]))
    assert (float(low), float(high)) == pytest.approx((0.2553, 0.3662), abs=5e-5)
