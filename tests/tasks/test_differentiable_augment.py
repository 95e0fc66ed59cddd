"""Differentiable augmentation: what it does to an image, that gradients pass it, and that off means off."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from medassay.tasks.differentiable_augment import GREY, DifferentiableAugment

OFF: dict[str, Any] = {"probability": 1.0, "flip": False, "quarter_turn": False, "translation": 0.0, "cutout": 0.0}
ALONE: dict[str, dict[str, Any]] = {
    "flip": {"flip": True},
    "quarter_turn": {"quarter_turn": True},
    "translation": {"translation": 0.25},
    "cutout": {"cutout": 0.5},
}


def only(name: str, **changes: Any) -> DifferentiableAugment:
    return DifferentiableAugment(**{**OFF, **ALONE[name], **changes})


def one_image(n: int = 64, side: int = 8) -> Tensor:
    """The same image ``n`` times, all values different, none of them grey."""
    return (torch.arange(2 * side**2).reshape(1, 2, side, side) / (2 * side**2 + 1) + 1e-3).expand(n, -1, -1, -1)


def variants(images: Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


@pytest.mark.parametrize("side", [7, 28])
def test_shape_dtype_and_range_stay(side: int) -> None:
    for dtype in (torch.float32, torch.float64):
        images = torch.rand(16, 3, side, side, dtype=dtype)
        changed = DifferentiableAugment(probability=1.0)(images)
        assert (changed.shape, changed.dtype) == (images.shape, dtype)
        assert 0 <= changed.min() < changed.max() <= 1
        assert not torch.equal(changed, images)


def test_a_probability_of_zero_gives_the_images_themselves_and_draws_nothing() -> None:
    images = torch.rand(4, 3, 8, 8)
    before = torch.get_rng_state()
    assert DifferentiableAugment(probability=0.0)(images) is images
    assert DifferentiableAugment(**OFF)(images) is images
    assert torch.equal(torch.get_rng_state(), before)


def test_a_flip_mirrors_half_of_the_images_left_to_right() -> None:
    torch.manual_seed(0)
    images = one_image()
    changed = only("flip")(images)
    mirrored = (changed == images.flip(3)).flatten(1).all(1)
    kept = (changed == images).flatten(1).all(1)
    assert (mirrored ^ kept).all()
    assert 20 < int(mirrored.sum()) < 44


def test_quarter_turns_give_the_four_directions_equally_often() -> None:
    torch.manual_seed(0)
    images = one_image(400)
    changed = only("quarter_turn")(images)
    counts = [int((changed == images.rot90(k, (2, 3))).flatten(1).all(1).sum()) for k in range(4)]
    assert sum(counts) == 400
    assert min(counts) > 70


def test_a_shift_moves_by_whole_pixels_and_reflects_at_the_edge() -> None:
    torch.manual_seed(0)
    images = one_image(200)
    padded = torch.nn.functional.pad(images[:1], (2, 2, 2, 2), mode="reflect")[0]
    expected = variants(torch.stack([padded[:, y : y + 8, x : x + 8] for y in range(5) for x in range(5)]))
    assert variants(only("translation")(images)) == expected  # a quarter of 8 pixels: 2 at most


def test_a_cut_out_square_is_grey_and_half_a_side_wide_unless_the_edge_cuts_it_off() -> None:
    torch.manual_seed(0)
    images = one_image(200)
    changed = only("cutout")(images)
    grey = changed == GREY
    assert torch.equal(changed[~grey], images[~grey])
    assert torch.equal(grey[:, 0], grey[:, 1])  # all channels alike
    heights, widths = grey[:, 0].any(2).sum(1), grey[:, 0].any(1).sum(1)
    assert torch.equal(grey[:, 0].sum((1, 2)), heights * widths)  # a rectangle
    assert set(heights.tolist()) == set(widths.tolist()) == {2, 3, 4}


@pytest.mark.parametrize("name", ALONE)
def test_all_channels_of_an_image_are_changed_alike(name: str) -> None:
    torch.manual_seed(0)
    images = torch.rand(32, 1, 8, 8).expand(-1, 3, -1, -1)
    changed = only(name)(images)
    assert torch.equal(changed[:, 0], changed[:, 1])
    assert torch.equal(changed[:, 0], changed[:, 2])


@pytest.mark.parametrize(("name", "changed_share"), [("flip", 0.5), ("quarter_turn", 0.75), ("cutout", 1.0)])
def test_an_image_is_changed_with_the_probability_given(name: str, changed_share: float) -> None:
    torch.manual_seed(0)
    images = one_image(2000)
    changed = (only(name, probability=0.4)(images) != images).flatten(1).any(1).float().mean()
    assert float(changed) == pytest.approx(0.4 * changed_share, abs=0.04)


@pytest.mark.parametrize("name", ALONE)
def test_images_of_a_batch_are_changed_differently(name: str) -> None:
    torch.manual_seed(0)
    assert len(variants(only(name)(one_image()))) > 1


def test_gradients_flow_to_the_pixels_that_are_shown() -> None:
    torch.manual_seed(0)
    images = torch.rand(16, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    changed = only("cutout")(images)
    weights = torch.rand_like(changed)
    (gradient,) = torch.autograd.grad((changed * weights).sum(), images)
    torch.testing.assert_close(gradient, torch.where(changed == GREY, 0.0, weights))


def test_first_and_second_derivatives_are_those_of_finite_differences() -> None:
    augment = DifferentiableAugment(probability=1.0, translation=0.25)
    weights = torch.rand(2, 1, 4, 4, dtype=torch.float64)

    def judge(images: Tensor) -> Tensor:
        torch.manual_seed(3)
        return (augment(images) ** 3 * weights).sum()

    images = torch.rand(2, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(judge, (images,))
    assert torch.autograd.gradgradcheck(judge, (images,))


def test_the_global_generator_alone_decides() -> None:
    augment, images = DifferentiableAugment(), torch.rand(32, 3, 8, 8)
    torch.manual_seed(1)
    first = augment(images)
    torch.manual_seed(1)
    assert torch.equal(augment(images), first)
    assert not torch.equal(augment(images), first)
