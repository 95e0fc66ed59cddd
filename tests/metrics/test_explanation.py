"""Scores of heat maps, beside values by hand, scipy and a plain loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from torch import Tensor

from medassay.metrics import explanation
from medassay.metrics.explanation import (
    area_share,
    centre_prior,
    deletion_auc,
    energy_inside,
    insertion_auc,
    pointing_game,
    rank_pixels,
    spearman,
)


def mask(*pixels: tuple[int, int], side: int = 4) -> Tensor:
    found = torch.zeros(1, side, side, dtype=torch.bool)
    for y, x in pixels:
        found[0, y, x] = True
    return found


def heat(values: dict[tuple[int, int], float], side: int = 4) -> Tensor:
    found = torch.zeros(1, side, side)
    for (y, x), value in values.items():
        found[0, y, x] = value
    return found


def random_maps(n: int, side: int = 6, seed: int = 0) -> Tensor:
    return torch.rand(n, side, side, generator=torch.Generator().manual_seed(seed))


# --- where it points -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("place", "hit"), [((1, 2), 1.0), ((2, 1), 0.0)])
def test_a_map_points_where_it_is_largest(place: tuple[int, int], hit: float) -> None:
    assert pointing_game(heat({place: 0.9, (0, 0): 0.8}), mask((1, 2))).tolist() == [hit]


def test_equal_maxima_count_by_their_share_inside() -> None:
    maps = heat({(0, 0): 1.0, (1, 1): 1.0, (3, 3): 1.0, (2, 2): 0.5})
    assert pointing_game(maps, mask((0, 0), (1, 1))).item() == pytest.approx(2 / 3)


def test_energy_is_the_share_of_the_sum_inside() -> None:
    assert energy_inside(heat({(0, 0): 3.0, (3, 3): 1.0}), mask((0, 0), (0, 1))).item() == pytest.approx(0.75)


def test_a_map_of_zeros_scores_what_a_random_one_scores() -> None:
    masks = mask((0, 0), (0, 1), (2, 2))
    zeros = torch.zeros(1, 4, 4)
    assert (
        pointing_game(zeros, masks).item() == energy_inside(zeros, masks).item() == area_share(masks).item() == 3 / 16
    )


def test_random_maps_score_the_mask_s_share_on_average() -> None:
    maps, masks = random_maps(4000, side=4), mask((0, 0), (1, 3), (2, 2)).expand(4000, -1, -1)
    assert pointing_game(maps, masks).mean().item() == pytest.approx(3 / 16, abs=0.02)
    assert energy_inside(maps, masks).mean().item() == pytest.approx(3 / 16, abs=0.005)


@pytest.mark.parametrize("score", [pointing_game, energy_inside])
def test_an_image_without_a_mask_is_refused(score: object) -> None:
    with pytest.raises(ValueError, match="a mask is empty"):
        score(torch.ones(2, 4, 4), torch.cat([mask((0, 0)), mask()]))  # type: ignore[operator]


def test_masks_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="must both be"):
        pointing_game(torch.ones(1, 4, 4), mask((0, 0), side=5))


@pytest.mark.parametrize("shape", [(28, 28), (7, 9)])
def test_the_centre_prior_is_symmetric_and_largest_in_the_middle(shape: tuple[int, int]) -> None:
    prior = centre_prior(*shape)
    assert torch.equal(prior, prior.flip(0, 1))
    assert torch.equal(prior, prior.flip(1))
    assert prior[shape[0] // 2, shape[1] // 2] == prior.max()


def test_the_centre_prior_falls_to_e_to_the_minus_a_half_within_a_quarter_of_the_side() -> None:
    prior = centre_prior(81, 81)
    assert prior[40, 40] == 1
    assert prior[40, 60].item() == pytest.approx(math.exp(-0.5 * (20 / 81 * 4) ** 2), abs=1e-5)


# --- deletion and insertion ------------------------------------------------------------------------------------------


def bright_corner(images: Tensor) -> Tensor:
    """Class 1 in proportion to the upper left quarter's brightness."""
    p = images[:, :, :3, :3].mean((1, 2, 3))
    return torch.stack([1 - p, p], 1)


@pytest.fixture
def corner() -> tuple[Tensor, Tensor, Tensor]:
    """Images with a bright corner, a map that finds it, and the class."""
    images = torch.zeros(2, 1, 6, 6)
    images[:, :, :3, :3] = 1
    return images, images[:, 0].clone(), torch.tensor([1, 1])


def test_deletion_agrees_with_a_plain_loop() -> None:
    images, maps = random_maps(3, seed=1)[:, None], random_maps(3, seed=2)
    labels, steps = torch.tensor([1, 0, 1]), 9
    expected = []
    for image, map_, label in zip(images.numpy(), maps.numpy(), labels.tolist(), strict=True):
        order = np.argsort(-map_.ravel(), kind="stable")
        curve = []
        for step in range(steps + 1):
            changed = image.copy().reshape(-1)
            changed[order[: round(36 * step / steps)]] = image.mean()
            curve.append(bright_corner(torch.from_numpy(changed.reshape(1, 1, 6, 6)))[0, label].item())
        expected.append(
            np.trapezoid(curve, dx=1 / steps) if hasattr(np, "trapezoid") else np.trapz(curve, dx=1 / steps)
        )
    found = deletion_auc(bright_corner, images, maps, labels, steps=steps)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def test_a_map_that_finds_what_the_class_depends_on_deletes_early(corner: tuple[Tensor, Tensor, Tensor]) -> None:
    images, maps, labels = corner
    good, bad = (deletion_auc(bright_corner, images, found, labels) for found in (maps, 1 - maps))
    assert (good < bad - 0.3).all()


def test_a_map_that_finds_what_the_class_depends_on_inserts_early(corner: tuple[Tensor, Tensor, Tensor]) -> None:
    images, maps, labels = corner
    good, bad = (insertion_auc(bright_corner, images, found, labels) for found in (maps, 1 - maps))
    assert (good > bad + 0.1).all()


def test_a_classifier_that_ignores_the_image_has_its_probability_as_area() -> None:
    def constant(images: Tensor) -> Tensor:
        return torch.tensor([[0.3, 0.7]]).expand(len(images), -1)

    images, maps = random_maps(2)[:, None], random_maps(2)
    for score in (deletion_auc, insertion_auc):
        assert score(constant, images, maps, torch.tensor([0, 1])).tolist() == pytest.approx([0.3, 0.7])


def test_the_order_goes_from_the_largest_value_and_scatters_equal_ones() -> None:
    maps = torch.zeros(1, 6, 6)
    maps[0, 4, 4], maps[0, 1, 1] = 2, 1
    rank = rank_pixels(maps)
    assert (rank[0, 4, 4], rank[0, 1, 1]) == (0, 1)
    assert sorted(rank.flatten().tolist()) == list(range(36))
    others = rank.flatten()[rank.flatten() > 1]
    assert not torch.equal(others, others.sort().values)
    assert torch.equal(rank_pixels(maps), rank)


def test_blur_is_the_gaussian_of_an_eighth_of_the_side() -> None:
    image = random_maps(1, side=16)[:, None]
    expected = ndimage.gaussian_filter(image[0, 0].double().numpy(), 2.0, mode="nearest", truncate=3.0)
    np.testing.assert_allclose(explanation.blur_images(image)[0, 0].numpy(), expected, atol=1e-5)


def test_maps_that_do_not_fit_the_images_are_refused() -> None:
    with pytest.raises(ValueError, match="need maps"):
        deletion_auc(bright_corner, torch.rand(2, 1, 6, 6), torch.rand(2, 5, 6), torch.tensor([0, 1]))


# --- rank correlation ------------------------------------------------------------------------------------------------


def test_rank_correlation_agrees_with_scipy_where_values_are_equal_too() -> None:
    first, second = (random_maps(5, seed=seed).mul(4).floor() for seed in (1, 2))
    expected = [stats.spearmanr(a.flatten(), b.flatten()).statistic for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(spearman(first, second).numpy(), expected, atol=1e-12)


def test_rank_correlation_of_chosen_pixels_ignores_the_others() -> None:
    first, second = random_maps(2, seed=1), random_maps(2, seed=2)
    where = torch.zeros(6, 6, dtype=torch.bool)
    where[1:4, 2:] = True
    expected = [stats.spearmanr(a[where], b[where]).statistic for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(spearman(first, second, where).numpy(), expected, atol=1e-12)


def test_rank_correlation_is_of_absolute_values() -> None:
    maps = random_maps(2)
    assert spearman(maps, -maps).tolist() == pytest.approx([1, 1])


def test_a_constant_map_is_unlike_another_and_like_a_constant_one() -> None:
    constant, other = torch.zeros(1, 6, 6), random_maps(1)
    assert spearman(constant, other).item() == 0
    assert spearman(constant, constant + 1).item() == 1
