"""Pictures of a classifier's predictions: the calibration diagram and grids of captioned images."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.patches import Rectangle

from medassay.metrics.calibration import calibration_bins
from medassay.metrics.classification import classification_metrics
from medassay.reporting import figures
from medassay.reporting.classification_figures import (
    address,
    beside_heat_map,
    captioned,
    drawable,
    reliability_diagram,
    wilson,
)


def predictions(n: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(k)
    labels = torch.arange(n) % k
    return (torch.randn(n, k, generator=rng) + torch.nn.functional.one_hot(labels, k)).softmax(1), labels


# --- calibration -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [2, 5])
def test_the_bins_are_those_of_the_expected_calibration_error(k: int) -> None:
    probabilities, labels = predictions(200, k)
    bins = calibration_bins(probabilities, labels)
    assert bins.ece == pytest.approx(classification_metrics(probabilities, labels)["ece"], abs=1e-12)
    assert int(bins.counts.sum()) == 200


def test_a_bin_holds_its_upper_edge_and_means_of_what_is_in_it() -> None:
    confidence = torch.tensor([0.5, 0.55, 0.6, 0.61, 1.0], dtype=torch.float64)
    bins = calibration_bins(torch.stack([confidence, 1 - confidence], 1), torch.tensor([0, 1, 0, 0, 0]), bins=10)
    assert bins.counts.tolist() == [0, 0, 0, 0, 1, 2, 1, 0, 0, 1]
    assert float(bins.accuracy[5]) == 0.5
    assert float(bins.confidence[5]) == pytest.approx(0.575)
    assert torch.isnan(bins.accuracy[0])


def test_bins_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match=r"N >= 1"):
        calibration_bins(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))


def test_the_diagram_has_a_bar_of_the_accuracy_for_each_bin_that_holds_predictions() -> None:
    bins = calibration_bins(*predictions(300, 2))
    upper, lower = reliability_diagram(bins, 2).axes
    used = bins.counts > 0
    bars = [patch for patch in upper.patches if isinstance(patch, Rectangle)]
    np.testing.assert_allclose([bar.get_height() for bar in bars], bins.accuracy[used].numpy())
    shares = [patch.get_height() for patch in lower.patches if isinstance(patch, Rectangle)]
    assert sum(shares) == pytest.approx(1)
    assert f"{bins.ece:.3f}" in upper.get_title(loc="left")
    assert upper.get_xlim()[0] == pytest.approx(7 / 15)  # no confidence of two classes is below 0.5


def test_wilsons_interval_is_the_published_one() -> None:
    # 81 of 263: 0.2553 to 0.3662 (Newcombe, Statistics in Medicine 1998, table I)
    low, high = wilson(torch.tensor([81 / 263]).double(), torch.tensor([263]))
    assert (float(low), float(high)) == pytest.approx((0.2553, 0.3662), abs=5e-5)


# --- images ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_stands_beside_itself_enlarged_with_its_pixels_as_they_are(channels: int) -> None:
    images = torch.randint(256, (2, channels, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    rows = beside_heat_map(images, torch.rand(2, 28, 28))
    assert rows.shape == (2, 3, 84, 84 + 3 + 84)
    assert rows.dtype == torch.uint8
    assert torch.equal(rows[:, :, 1:84:3, 1:84:3], images.expand(2, 3, 28, 28))
    assert (rows[:, :, :, 84:87] == 255).all()


def test_a_hot_pixel_is_red_and_a_cold_one_blue() -> None:
    maps = torch.zeros(1, 28, 28)
    maps[0, :14] = 1
    row = beside_heat_map(torch.full((1, 1, 28, 28), 128, dtype=torch.uint8), maps)[0]
    hot, cold = row[:, 10, 120].tolist(), row[:, 74, 120].tolist()
    assert hot[0] > hot[2]
    assert cold[2] > cold[0]


def test_large_images_are_shown_as_they_are() -> None:
    assert beside_heat_map(torch.zeros(1, 1, 100, 100, dtype=torch.uint8), torch.zeros(1, 100, 100)).shape[2] == 100


def test_every_caption_stands_below_its_image(tmp_path: Path) -> None:
    images = torch.zeros(5, 1, 28, 28, dtype=torch.uint8)
    captions = [(f"true: {i}", f"said: {i}") for i in range(5)]
    figure = captioned(images, captions, columns=3)
    assert [text.get_text() for text in figure.texts] == [line for lines in captions for line in lines]
    assert len(figure.axes) == 5
    assert figure.axes[3].get_position().y1 < figure.axes[0].get_position().y0  # the second row
    figures.save(figure, tmp_path / "x.png")


def test_names_that_the_font_cannot_draw_or_that_are_long_draw_without_a_warning(tmp_path: Path) -> None:
    names = ["肺炎/図.png", "a$b$_{c.png", "x" * 300 + "_end.png"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = captioned(torch.zeros(3, 1, 28, 28, dtype=torch.uint8), [(name,) for name in names], columns=3)
        figures.save(figure, tmp_path / "x.png")
    assert figure.texts[2].get_text().endswith("_end.png")
    assert all(len(text.get_text()) <= 32 for text in figure.texts)


def test_a_short_text_stays_as_it_is() -> None:
    assert drawable("Größe → 3.png", 32) == "Größe → 3.png"


def test_another_number_of_captions_is_refused() -> None:
    with pytest.raises(ValueError, match="caption for each"):
        captioned(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), [("a",)], columns=2)


def test_the_address_of_an_image_is_a_png_of_its_size() -> None:
    assert address(torch.zeros(3, 5, 7, dtype=torch.uint8)).startswith("data:image/png;base64,")
