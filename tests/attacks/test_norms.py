"""Distances and what lies within them, against numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medassay.attacks.norms import (
    NORMS,
    Norm,
    draw_noise,
    draw_start,
    find_steepest,
    measure_size,
    project,
    scale_epsilon,
)


def image(*values: float) -> Tensor:
    """One image of 2 x 2 pixels, or several with four values each."""
    return torch.tensor(values, dtype=torch.float64).view(-1, 1, 2, 2)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_an_l2_distance_is_that_of_the_same_change_in_every_pixel_and_channel() -> None:
    assert scale_epsilon(2, "linf", (3, 28, 28)) == pytest.approx(2 / 255)
    assert scale_epsilon(2, "l2", (3, 28, 28)) == pytest.approx(2 / 255 * math.sqrt(2352))
    everywhere = torch.full((1, 3, 28, 28), 2 / 255)
    assert float(measure_size(everywhere, "l2")) == pytest.approx(scale_epsilon(2, "l2", (3, 28, 28)), rel=1e-5)


@pytest.mark.parametrize(
    ("norm", "expected"),
    [("linf", image(1, -1, 0.5, 0, 0, 0, 0.1, 0)), ("l2", image(0.6, -0.8, 0, 0, 0, 0, 0.1, 0))],
)
def test_the_nearest_change_within_a_distance(norm: Norm, expected: Tensor) -> None:
    changes = image(3, -4, 0.5, 0, 0, 0, 0.1, 0) if norm == "linf" else image(3, -4, 0, 0, 0, 0, 0.1, 0)
    torch.testing.assert_close(project(changes, torch.tensor([1.0, 1.0]).double(), norm), expected)


def test_each_image_has_its_own_distance() -> None:
    found = project(image(3, -4, 0, 0, 3, -4, 0, 0), torch.tensor([10.0, 2.5]).double(), "l2")
    torch.testing.assert_close(found, image(3, -4, 0, 0, 1.5, -2, 0, 0))


def test_the_steepest_change_has_size_1_and_none_where_there_is_no_gradient() -> None:
    gradient = image(3, -4, 0, 0, 0, 0, 0, 0)
    torch.testing.assert_close(find_steepest(gradient, "linf"), image(1, -1, 0, 0, 0, 0, 0, 0))
    torch.testing.assert_close(find_steepest(gradient, "l2"), image(0.6, -0.8, 0, 0, 0, 0, 0, 0))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("draw", [draw_start, draw_noise])
def test_what_is_drawn_lies_within_the_distance_and_in_0_to_1(draw: object, norm: Norm) -> None:
    images = torch.rand(64, 3, 4, 4, generator=seeded()).round()  # black and white: half of all changes lead outside
    epsilon = torch.linspace(0.01, 3, 64)
    drawn = draw(images, epsilon, norm, seeded(1))  # type: ignore[operator]
    assert bool((measure_size(drawn - images, norm) <= epsilon + 1e-6).all())
    assert 0 <= float(drawn.min()) <= float(drawn.max()) <= 1


def test_starts_are_even_over_all_that_is_within_the_distance() -> None:
    images = torch.full((4000, 1, 2, 2), 0.5, dtype=torch.float64)
    within = (draw_start(images, 0.1, "linf", seeded()) - images) / 0.1
    assert float(within.abs().mean()) == pytest.approx(0.5, abs=0.01)
    assert float(within.mean()) == pytest.approx(0, abs=0.02)
    radius = measure_size(draw_start(images, 0.1, "l2", seeded()) - images, "l2") / 0.1
    assert float((radius**4).median()) == pytest.approx(0.5, abs=0.03)  # the volume within r grows with r ** 4


@pytest.mark.parametrize("norm", NORMS)
def test_noise_is_as_large_as_an_attack_may_be(norm: Norm) -> None:
    images = torch.full((8, 1, 4, 4), 0.5)
    noise = draw_noise(images, 0.2, norm, seeded()) - images
    torch.testing.assert_close(measure_size(noise, norm), torch.full((8,), 0.2))
    if norm == "linf":
        torch.testing.assert_close(noise.abs(), torch.full_like(noise, 0.2))


def test_what_is_drawn_depends_on_the_generator_alone() -> None:
    images = torch.rand(3, 1, 4, 4)
    for draw in (draw_start, draw_noise):
        first, again, other = (draw(images, 0.1, "l2", seeded(seed)) for seed in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
    torch.manual_seed(5)
    first = draw_start(images, 0.1, "linf")
    torch.manual_seed(5)
    assert torch.equal(first, draw_start(images, 0.1, "linf"))
