"""Augmentation of batches, on images made by hand."""

from __future__ import annotations

import typing

import pytest
import torch
from torch import Tensor

from medassay.data.augment import BatchAugment

EVERYTHING: dict[str, float] = {
    "horizontal_flip": 0.5,
    "vertical_flip": 0.5,
    "quarter_turn": 0.5,
    "rotation": 20,
    "translation": 0.1,
    "scale": 0.2,
    "contrast": 0.3,
    "brightness": 0.2,
    "colour": 0.2,
    "blur": 0.5,
    "sharpen": 0.5,
    "gaussian_noise": 0.1,
    "poisson_noise": 0.1,
    "speckle_noise": 0.1,
    "salt_pepper": 0.05,
    "erasing": 0.5,
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(batch: int = 16, channels: int = 3, height: int = 28, width: int = 28) -> Tensor:
    return torch.rand((batch, channels, height, width), generator=generator(1))


def smooth(batch: int, height: int = 28, width: int = 28) -> Tensor:
    """Grey images of one blob 5 pixels to the right of the middle, smooth enough for interpolation not to matter."""
    y = torch.arange(height)[:, None] - (height - 1) / 2
    x = torch.arange(width)[None, :] - (width - 1) / 2
    blob = torch.exp(-((x - 5) ** 2 + y**2) / (2 * 1.5**2))
    return blob.expand(batch, 1, height, width).contiguous()


def centres(images: Tensor) -> Tensor:
    """The centre of mass of each image in pixels from the middle, ``(B, 2)``: x to the right, y down."""
    weights = images[:, 0] / images[:, 0].sum(dim=(1, 2), keepdim=True)
    y = torch.arange(images.shape[2]) - (images.shape[2] - 1) / 2
    x = torch.arange(images.shape[3]) - (images.shape[3] - 1) / 2
    return torch.stack(((weights.sum(1) * x).sum(1), (weights.sum(2) * y).sum(1)), dim=1)


def changed(before: Tensor, after: Tensor) -> Tensor:
    """Which images of a batch differ."""
    return (before != after).flatten(1).any(dim=1)


def test_nothing_happens_when_everything_is_off() -> None:
    images = noise()
    augment = BatchAugment()
    assert not augment.active
    assert augment(images, rng=generator()) is images


@pytest.mark.parametrize("name", EVERYTHING)
def test_one_change_alone_makes_it_active_and_changes_images(name: str) -> None:
    images = noise()
    augment = BatchAugment(**{name: EVERYTHING[name]})
    assert augment.active
    assert changed(images, augment(images, rng=generator())).any()


@pytest.mark.parametrize("name", EVERYTHING)
def test_each_change_keeps_shape_dtype_range_and_the_images_given(name: str) -> None:
    images = noise().round()  # black and white: every shift leaves the range
    copy = images.clone()
    result = BatchAugment(**{name: EVERYTHING[name]})(images, rng=generator())
    assert result.shape == images.shape
    assert result.dtype == torch.float32
    assert result.min() >= 0
    assert result.max() <= 1
    assert torch.equal(images, copy)


def test_every_argument_has_its_change_tested_and_a_declared_range() -> None:
    hints = typing.get_type_hints(BatchAugment.__init__, include_extras=True)
    hints.pop("return")
    assert set(hints) == {*EVERYTHING, "erasing_size"}
    for hint in hints.values():
        assert not hint.__metadata__[0].accepts(-0.1)


def test_all_together_keep_shape_and_range_on_oblong_images() -> None:
    images = noise(8, 3, 20, 36)
    with pytest.raises(ValueError, match="quarter_turn needs square images, not 20x36"):
        BatchAugment(**EVERYTHING)(images, rng=generator())
    result = BatchAugment(**{**EVERYTHING, "quarter_turn": 0})(images, rng=generator())
    assert result.shape == images.shape
    assert result.min() >= 0
    assert result.max() <= 1


def test_the_same_seed_gives_the_same_images_and_another_seed_others() -> None:
    images, augment = noise(), BatchAugment(**EVERYTHING)
    first, again, other = (augment(images, rng=generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_all_randomness_comes_from_the_generator() -> None:
    state = torch.get_rng_state()
    BatchAugment(**EVERYTHING)(noise(), rng=generator())
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", ["rotation", "translation", "scale", "contrast", "brightness", "colour"])
def test_equal_images_of_a_batch_get_parameters_of_their_own(name: str) -> None:
    images = noise(1).expand(12, -1, -1, -1)
    result = BatchAugment(**{name: EVERYTHING[name]})(images, rng=generator())
    assert len(result.flatten(1).unique(dim=0)) == 12


@pytest.mark.parametrize("name", ["horizontal_flip", "vertical_flip", "quarter_turn", "blur", "sharpen", "erasing"])
def test_a_probability_is_the_share_of_images_changed(name: str) -> None:
    images = noise(2000, 1, 6, 6)
    share = changed(images, BatchAugment(**{name: 0.3})(images, rng=generator())).float().mean()
    assert share == pytest.approx(0.3, abs=0.04)


def test_flips_are_exact() -> None:
    images = noise()
    assert torch.equal(BatchAugment(horizontal_flip=1)(images, rng=generator()), images.flip(3))
    assert torch.equal(BatchAugment(vertical_flip=1)(images, rng=generator()), images.flip(2))
    assert torch.equal(BatchAugment(quarter_turn=1)(images, rng=generator()), images.rot90(1, (2, 3)))


def test_flips_and_quarter_turns_give_the_eight_symmetries_equally_often() -> None:
    image = torch.arange(9.0).view(1, 1, 3, 3) / 9
    augment = BatchAugment(horizontal_flip=0.5, vertical_flip=0.5, quarter_turn=0.5)
    turned = augment(image.expand(4000, -1, -1, -1), rng=generator())
    kinds, counts = turned.unique(dim=0, return_counts=True)
    assert len(kinds) == 8
    assert counts.min() > 400
    assert counts.max() < 600


@pytest.mark.parametrize(("height", "width"), [(28, 28), (28, 44)])
def test_rotation_turns_about_the_centre_by_up_to_the_angle_given(height: int, width: int) -> None:
    images = smooth(400, height, width)
    after = centres(BatchAugment(rotation=90)(images, rng=generator()))
    angles = torch.rad2deg(torch.atan2(after[:, 1], after[:, 0]))
    assert angles.abs().max() <= 90.5
    assert angles.min() < -85
    assert angles.max() > 85
    assert torch.allclose(after.norm(dim=1), torch.full((400,), 5.0), atol=0.1)  # no shear, no zoom


def test_translation_moves_a_dot_by_up_to_the_fraction_given() -> None:
    images = torch.zeros(400, 1, 20, 40)
    images[:, :, 10, 20] = 1
    result = BatchAugment(translation=0.1)(images, rng=generator())
    moved = centres(result) - centres(images)
    assert torch.allclose(result.sum(dim=(1, 2, 3)), torch.ones(400), atol=1e-4)
    assert 3.9 < moved[:, 0].abs().max() <= 4.001  # a tenth of 40
    assert 1.9 < moved[:, 1].abs().max() <= 2.001  # a tenth of 20
    assert moved.mean(dim=0).abs().max() < 0.3


def test_scale_enlarges_and_shrinks_by_up_to_the_factor_given() -> None:
    images = smooth(400)
    zoom = centres(BatchAugment(scale=0.2)(images, rng=generator()))[:, 0] / centres(images)[:, 0]
    assert zoom.min() == pytest.approx(0.8, abs=0.02)
    assert zoom.max() == pytest.approx(1.2, abs=0.02)


def test_what_comes_in_from_outside_is_a_reflection_and_not_black() -> None:
    result = BatchAugment(rotation=45, translation=0.5, scale=0.5)(torch.ones(16, 1, 28, 28), rng=generator())
    assert torch.allclose(result, torch.ones_like(result))


def test_brightness_shifts_all_values_of_an_image_alike() -> None:
    images = 0.3 + 0.4 * noise(500, 3, 4, 4)
    shift = (BatchAugment(brightness=0.2)(images, rng=generator()) - images).flatten(1)
    assert torch.allclose(shift, shift[:, :1].expand_as(shift), atol=1e-6)
    assert shift.min() == pytest.approx(-0.2, abs=0.01)
    assert shift.max() == pytest.approx(0.2, abs=0.01)


def test_contrast_changes_the_distance_to_the_mean_and_not_the_mean() -> None:
    images = 0.3 + 0.4 * noise(500, 1, 8, 8)
    result = BatchAugment(contrast=0.3)(images, rng=generator())
    factor = result.flatten(1).std(dim=1) / images.flatten(1).std(dim=1)
    assert torch.allclose(result.mean(dim=(1, 2, 3)), images.mean(dim=(1, 2, 3)), atol=1e-5)
    assert factor.min() == pytest.approx(0.7, abs=0.01)
    assert factor.max() == pytest.approx(1.3, abs=0.01)


def test_colour_gives_each_channel_a_gain_of_its_own() -> None:
    gain = BatchAugment(colour=0.2)(torch.full((500, 3, 2, 2), 0.5), rng=generator()) / 0.5
    assert torch.equal(gain, gain[:, :, :1, :1].expand_as(gain))
    assert gain.min() == pytest.approx(0.8, abs=0.01)
    assert gain.max() == pytest.approx(1.2, abs=0.01)
    assert (gain[:, 0] - gain[:, 1]).abs().max() > 0.2


def test_colour_leaves_grey_images_alone() -> None:
    images = noise(channels=1)
    assert torch.equal(BatchAugment(colour=0.5)(images, rng=generator()), images)


def test_blur_spreads_a_dot_by_the_binomial_kernel() -> None:
    images = torch.zeros(1, 1, 5, 5)
    images[0, 0, 2, 2] = 1
    expected = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 16
    result = BatchAugment(blur=1)(images, rng=generator())
    assert torch.equal(result[0, 0, 1:4, 1:4], expected)
    assert result.sum() == 1


def test_sharpening_steepens_an_edge_and_leaves_flat_areas() -> None:
    images = torch.full((1, 1, 8, 8), 0.4)
    images[..., 4:] = 0.6
    row = BatchAugment(sharpen=1)(images, rng=generator())[0, 0, 4]
    assert torch.allclose(row, torch.tensor([0.4, 0.4, 0.4, 0.35, 0.65, 0.6, 0.6, 0.6]))


def test_gaussian_noise_has_the_standard_deviation_given_and_no_mean() -> None:
    images = torch.full((64, 1, 28, 28), 0.5)
    added = BatchAugment(gaussian_noise=0.05)(images, rng=generator()) - images
    assert added.std() == pytest.approx(0.05, rel=0.02)
    assert added.mean() == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("value", [0.2, 0.8])
def test_shot_noise_has_a_variance_in_proportion_to_the_value(value: float) -> None:
    added = BatchAugment(poisson_noise=0.05)(torch.full((64, 1, 28, 28), value), rng=generator()) - value
    assert added.std() == pytest.approx(0.05 * value**0.5, rel=0.02)
    assert added.mean() == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("value", [0.2, 0.8])
def test_speckle_has_a_deviation_in_proportion_to_the_value(value: float) -> None:
    added = BatchAugment(speckle_noise=0.05)(torch.full((64, 1, 28, 28), value), rng=generator()) - value
    assert added.std() == pytest.approx(0.05 * value, rel=0.02)
    assert added.mean() == pytest.approx(0, abs=1e-3)


def test_salt_and_pepper_take_their_share_in_equal_parts_and_whole_pixels() -> None:
    result = BatchAugment(salt_pepper=0.1)(torch.full((64, 3, 28, 28), 0.5), rng=generator())
    assert torch.equal(result[:, 0], result[:, 1])
    assert (result == 1).float().mean() == pytest.approx(0.05, abs=0.005)
    assert (result == 0).float().mean() == pytest.approx(0.05, abs=0.005)


def test_erasing_fills_one_rectangle_with_the_mean_colour() -> None:
    images = noise(300)
    erased = (BatchAugment(erasing=1, erasing_size=0.5)(images, rng=generator()) != images).all(dim=1)
    rows, columns = erased.any(dim=2), erased.any(dim=1)
    assert torch.equal(erased, rows[:, :, None] & columns[:, None, :])
    for side in (rows, columns):
        starts = (side[:, 1:] & ~side[:, :-1]).sum(dim=1) + side[:, 0]
        assert torch.equal(starts, torch.ones_like(starts))  # one interval, so one rectangle
        assert side.sum(dim=1).min() == 1
        assert side.sum(dim=1).max() == 14
        assert side.any(dim=0).all()  # anywhere in the image


def test_the_erased_rectangle_holds_the_mean_colour() -> None:
    images = noise(1)
    result = BatchAugment(erasing=1, erasing_size=1)(images, rng=generator(2))
    inside = (result != images).all(dim=1)[0]
    assert torch.allclose(result[0][:, inside], images.mean(dim=(2, 3))[0][:, None].expand(-1, int(inside.sum())))


@pytest.mark.parametrize("images", [torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(3, 8, 8)])
def test_what_is_not_a_float_batch_is_refused(images: Tensor) -> None:
    with pytest.raises(ValueError, match="images must be"):
        BatchAugment(blur=1)(images, rng=generator())
