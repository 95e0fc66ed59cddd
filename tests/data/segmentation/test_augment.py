"""Augmentation of images with their masks and weights: what moves moves together, what recolours leaves masks alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from medassay.data.segmentation.augment import SegmentationAugment, deform

GEOMETRY: dict[str, float] = {"horizontal_flip": 0.5, "vertical_flip": 0.5, "quarter_turn": 0.5, "elastic": 3.0}
COLOURS: dict[str, float] = {"gamma": 0.5, "contrast": 0.4, "brightness": 0.2, "noise": 0.1}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def disc(batch: int = 8, side: int = 48) -> tuple[Tensor, Tensor, Tensor]:
    """A grey disc off the middle, its mask, of classes 0 and 2, and weights that are 5 on it."""
    along = torch.arange(side).float()
    inside = ((along[:, None] - 14) ** 2 + (along - 28) ** 2).sqrt() < 10
    images = inside.float().mul(0.6).add(0.2).expand(batch, 1, side, side)
    return images, 2 * inside.long().expand(batch, side, side), 1 + 4 * inside.float().expand(batch, side, side)


def test_nothing_happens_when_everything_is_off() -> None:
    augment = SegmentationAugment()
    given = disc()
    assert not augment.active
    assert all(after is before for before, after in zip(given, augment(*given, rng=generator()), strict=True))


@pytest.mark.parametrize("name", [*GEOMETRY, *COLOURS])
def test_each_change_alone_is_active_and_keeps_shapes_dtypes_ranges_and_what_is_given(name: str) -> None:
    settings: dict[str, Any] = {name: {**GEOMETRY, **COLOURS}[name]}
    given = disc()
    copies = [tensor.clone() for tensor in given]
    images, masks, weights = SegmentationAugment(**settings)(*given, rng=generator())
    assert SegmentationAugment(**settings).active
    assert not torch.equal(images, given[0])
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(given, copies, strict=True))
    assert [(t.shape, t.dtype) for t in (images, masks, weights)] == [(t.shape, t.dtype) for t in given]
    assert (float(images.min()) >= 0, float(images.max()) <= 1) == (True, True)
    assert set(masks.unique().tolist()) == {0, 2}


@pytest.mark.parametrize("name", GEOMETRY)
def test_what_moves_moves_images_masks_and_weights_together(name: str) -> None:
    images, masks, weights = SegmentationAugment(**{name: GEOMETRY[name]})(*disc(), rng=generator())  # type: ignore[arg-type]
    inside = masks == 2
    # interpolation blurs an image by less than a pixel: value and mask agree but on the disc's own edge
    assert float(((images[:, 0] > 0.5) == inside).float().mean()) > 0.995
    assert float(((weights > 3) == inside).float().mean()) > 0.995
    assert not torch.equal(masks, disc()[1])


@pytest.mark.parametrize("name", COLOURS)
def test_what_recolours_leaves_masks_and_weights_alone(name: str) -> None:
    given = disc()
    _, masks, weights = SegmentationAugment(**{name: COLOURS[name]})(*given, rng=generator())  # type: ignore[arg-type]
    assert torch.equal(masks, given[1])
    assert torch.equal(weights, given[2])


def test_flips_and_turns_give_the_eight_symmetries_of_a_square() -> None:
    picture = torch.arange(9.0).view(1, 1, 3, 3) / 9
    batch = picture.expand(400, 1, 3, 3)
    augment = SegmentationAugment(horizontal_flip=0.5, vertical_flip=0.5, quarter_turn=0.5)
    masks = torch.arange(9).view(1, 3, 3).expand(400, 3, 3)
    images, masks, weights = augment(batch, masks, batch[:, 0], rng=generator())
    assert torch.equal(images[:, 0], weights)
    assert torch.equal((images[:, 0] * 9).round().long(), masks)
    assert len(masks.flatten(1).unique(dim=0)) == 8


def test_displacements_are_in_pixels_x_and_y() -> None:
    layers = torch.zeros(1, 2, 9, 9)
    layers[0, :, 4, 6] = 1
    displacements = torch.zeros(1, 2, 9, 9)
    displacements[:, 0], displacements[:, 1] = 2, -1
    moved = deform(layers, displacements)
    expected = torch.zeros(1, 2, 9, 9)
    expected[0, :, 5, 4] = 1
    assert torch.allclose(moved, expected, atol=1e-5)


def test_displacements_have_the_standard_deviation_asked_for_and_are_smooth() -> None:
    augment = SegmentationAugment(elastic=10.0)
    field = augment._draw_displacements(torch.zeros(300, 3, 65, 65), generator())
    assert field.shape == (300, 2, 65, 65)
    # points of the 3x3 grid: corners, middles of the edges, the middle
    points = field[:, :, ::32, ::32]
    assert float(points.std()) == pytest.approx(10, rel=0.05)
    # two points 32 pixels apart differ by 14 on average: half a pixel for each pixel of the way
    assert 0.3 < float((field[..., 1:] - field[..., :-1]).square().mean().sqrt()) < 0.7


def test_a_deformation_reaches_three_standard_deviations() -> None:
    assert SegmentationAugment(elastic=2.5).reach == 8
    assert SegmentationAugment(horizontal_flip=1).reach == 0


def test_the_same_generator_gives_the_same_batch() -> None:
    augment = SegmentationAugment(**GEOMETRY, **COLOURS)  # type: ignore[arg-type]
    one, other, third = (augment(*disc(), rng=generator(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert not torch.equal(one[0], third[0])


def test_gamma_keeps_black_and_white() -> None:
    images = torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 1, 3).expand(64, 1, 3, 3)
    zeros = torch.zeros(64, 3, 3)
    changed, _, _ = SegmentationAugment(gamma=1.0)(images, zeros.long(), zeros, rng=generator())
    assert torch.equal(changed[..., [0, 2]], images[..., [0, 2]])
    # exponents from 1/2 to 2
    assert 0.25 <= float(changed[..., 1].min()) < 0.35 < 0.6 < float(changed[..., 1].max()) <= 0.5**0.5


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((2, 1, 4, 4), (2, 4, 5), (2, 4, 4)), r"masks and weights \(B, H, W\)"),
        (((2, 1, 4, 4), (2, 4, 4), (2, 1, 4, 4)), r"masks and weights \(B, H, W\)"),
        (((2, 1, 4, 6), (2, 4, 6), (2, 4, 6)), "square images, not 4x6"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes: tuple[tuple[int, ...], ...], message: str) -> None:
    images, masks, weights = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match=message):
        SegmentationAugment(quarter_turn=0.5)(images, masks.long(), weights, rng=generator())
