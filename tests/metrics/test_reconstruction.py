"""PSNR, SSIM, matching and ranks against hand-worked numbers and plain numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from medassay.metrics.estimates import estimate_share, mean_over_few_images
from medassay.metrics.reconstruction import (
    LARGEST_PSNR,
    find_nearest_others,
    match_images,
    measure_psnr,
    measure_ssim,
    rank_original,
)

RNG = torch.Generator().manual_seed(0)
IMAGES = torch.rand(3, 1, 28, 28, generator=RNG)


def test_psnr_of_constant_errors() -> None:
    errors = torch.tensor([0.1, 0.01, 0.0]).view(3, 1, 1, 1)
    assert measure_psnr(IMAGES + errors, IMAGES).tolist() == pytest.approx([20.0, 40.0, LARGEST_PSNR], abs=1e-4)


def test_the_largest_psnr_is_that_of_rounding_to_8_bits() -> None:
    fine = torch.rand(1, 1, 200, 200, generator=RNG).double()
    assert float(measure_psnr((fine * 255).round() / 255, fine)) == pytest.approx(LARGEST_PSNR, abs=0.1)


def test_ssim_is_wang_s_formula_with_a_gaussian_window() -> None:
    noisy = (IMAGES[:1] + 0.3 * torch.randn(1, 1, 28, 28, generator=RNG)).clamp(0, 1)
    x, y = (image[0, 0].double().numpy() for image in (noisy, IMAGES))

    def blur(values: np.ndarray) -> np.ndarray:
        return gaussian_filter(values, 1.5, truncate=5 / 1.5, mode="mirror")

    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y, cov = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2, blur(x * y) - mean_x * mean_y
    similarity = (
        (2 * mean_x * mean_y + 1e-4) * (2 * cov + 9e-4) / ((mean_x**2 + mean_y**2 + 1e-4) * (var_x + var_y + 9e-4))
    )
    assert float(measure_ssim(noisy, IMAGES[:1])) == pytest.approx(similarity[5:-5, 5:-5].mean(), abs=0.02)
    assert measure_ssim(IMAGES, IMAGES).tolist() == pytest.approx([1.0, 1.0, 1.0])


def test_a_batch_in_another_order_is_matched() -> None:
    order = torch.tensor([2, 0, 1])
    shuffled = IMAGES[order] + 0.01
    match = match_images(shuffled, IMAGES)
    torch.testing.assert_close(shuffled[match], IMAGES + 0.01)


def test_the_best_order_as_a_whole_counts_not_the_nearest_of_each() -> None:
    originals, images = (torch.tensor(values).view(2, 1, 1, 1) for values in ([0.0, 0.4], [0.3, 1.0]))
    assert match_images(images, originals).tolist() == [
        0,
        1,
    ]  # 0.3 is the nearest of both: 0.09 + 0.36 against 1 + 0.01


def test_the_rank_counts_the_others_that_are_as_near_or_nearer() -> None:
    def image(value: float) -> torch.Tensor:
        return torch.full((1, 2, 2), value)

    others = torch.stack([image(value) for value in (0.0, 0.5, 0.6, 0.9)])
    assert rank_original(image(0.5), image(0.55), others) == 2
    assert rank_original(image(0.0), image(1.0), others) == 5
    assert rank_original(image(0.75), image(0.75), others) == 1
    assert rank_original(image(0.5), image(0.5), others) == 2  # a tie does not count for the attack


def test_the_nearest_other_image_is_no_copy() -> None:
    images = torch.stack([IMAGES[0], IMAGES[1], IMAGES[0], IMAGES[0] + 0.1])
    assert find_nearest_others(IMAGES[:1], images).tolist() == [3]


def test_intervals_of_few_images_are_student_s_and_clopper_and_pearson_s() -> None:
    mean = mean_over_few_images([1.0, 3.0])
    assert (mean.value, mean.n, mean.kind) == (2.0, 2, "images")
    assert [mean.low, mean.high] == pytest.approx([2 - 12.706, 2 + 12.706], abs=1e-3)
    assert mean_over_few_images([1.0]).low is None
    whole, none, some = estimate_share(8, 8), estimate_share(0, 2), estimate_share(1, 2)
    assert [whole.low, whole.high] == pytest.approx([0.025 ** (1 / 8), 1.0])
    assert [none.low, none.high] == pytest.approx([0.0, 1 - 0.025**0.5])
    assert [some.low, some.high] == pytest.approx([1 - 0.975**0.5, 0.975**0.5])
    assert math.isnan(estimate_share(0, 0).value)
