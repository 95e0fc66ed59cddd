"""A phantom of cultured cells under a microscope: cells of all sizes that touch in clusters, each of them known.

Bright and dim cells lie side by side on ground that is unevenly lit, so that no one threshold finds them all, and where cells
touch there is no dark pixel between them, only a dimmer seam: what is above a threshold is clusters, not cells.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from medassay.core.types import SegmentedImages
from medassay.data.phantoms.shapes import (
    Ellipse,
    Grid,
    blob_radius,
    blur,
    draw_wobble,
    grid,
    smooth_noise,
    to_uint8,
    uniform,
)
from medassay.data.segmentation.objects import separate_touching

CLASSES = ("background", "cell")
SMALLEST = 32
"""Pixels a side; below that a cell has too few pixels for a border."""

CELLS = 22
"""Cells drawn for each image; those that others would hide, or that the image's edge cuts to a few pixels, are left out."""

SMALLEST_CELL = 24
"""Pixels of the smallest cell at 128 pixels a side; the area scales with the image's."""

CHUNK = 32
"""Images rendered at once. It bounds memory, and it is fixed because the order of random draws depends on it."""


class Cells(NamedTuple):
    """The cells of each image.

    Attributes:
        shape: Their outlines, ``(N, K, 1, 1)``.
        wobble: How these depart from ellipses, ``(4, N, K, 1, 1)``.
        present: Which of the cells are there, ``(N, K) bool``.
    """

    shape: Ellipse
    wobble: Tensor
    present: Tensor


def render(n: int, *, rng: torch.Generator, size: int = 128) -> SegmentedImages:
    """Renders images of cells.

    Args:
        n: Number of images.
        rng: The only source of randomness, a CPU generator. Images are drawn in chunks of a fixed size: the same seed, number
            and size give the same images bit for bit, but more images may be others from the start.
        size: Height and width in pixels; the picture is described in relative units.

    Returns:
        Images ``(1, size, size) uint8``; instances ``(size, size) int32``, numbered from 1 without gaps, each one connected
        region; masks ``(size, size) uint8``, 1 inside a cell, with a border of 0 between cells that touch.

    Raises:
        ValueError: ``n`` is less than 1, or ``size`` is too small.
    """
    if n < 1 or size < SMALLEST:
        raise ValueError(f"expected at least 1 image of at least {SMALLEST} pixels a side, not {n} of {size}")
    points = grid(size)
    images, instances = [], []
    for start in range(0, n, CHUNK):
        pictures, numbers = _draw(min(CHUNK, n - start), points, rng)
        images += list(pictures)
        instances += list(numbers)
    return SegmentedImages(images, [separate_touching(numbers) for numbers in instances], instances)


def _draw(n: int, points: Grid, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images ``(N, 1, H, W) uint8`` and instances ``(N, H, W) int32`` of one chunk."""
    cells = _place_cells(n, rng)
    radius, owner = _find_owners(points, cells)
    owner = _leave_out_small(owner, SMALLEST_CELL * (points.x.shape[-1] / 128) ** 2)
    image = _photograph(radius, owner, rng)
    return to_uint8(image)[:, None], owner.to(torch.int32)


def _place_cells(n: int, rng: torch.Generator) -> Cells:
    """Cells in clusters: each one begins a cluster somewhere, or lies against one drawn before."""
    size = uniform(rng, (n, CELLS), 0.07, 0.2) * uniform(rng, (n, 1), 0.75, 1.15)
    oval = uniform(rng, (n, CELLS), 0.8, 1.25)
    beside = torch.rand((n, CELLS), generator=rng) < 0.72
    before = (torch.rand((n, CELLS), generator=rng) * torch.arange(CELLS)).long()
    direction = uniform(rng, (n, CELLS), 0, 6.2832)[..., 0, 0]
    nearness = uniform(rng, (n, CELLS), 0.78, 0.98)[..., 0, 0]
    centre = uniform(rng, (n, CELLS, 2), -1, 1)[..., 0, 0]
    radius, present = size[..., 0, 0], torch.ones(n, CELLS, dtype=torch.bool)
    images = torch.arange(n)
    for k in range(1, CELLS):
        other = before[:, k]
        step = nearness[:, k] * (radius[:, k] + radius[images, other])
        way = torch.stack((direction[:, k].sin(), direction[:, k].cos()), dim=1) * step[:, None]
        centre[:, k] = torch.where(beside[:, k, None], centre[images, other] + way, centre[:, k])
        apart = (centre[:, :k] - centre[:, k, None]).norm(dim=2)
        hidden = (apart < 0.75 * (radius[:, :k] + radius[:, k, None])) & present[:, :k]
        present[:, k] = ~hidden.any(1)
    shape = Ellipse(
        cy=centre[..., 0, None, None],
        cx=centre[..., 1, None, None],
        ry=size * oval,
        rx=size / oval,
        angle=uniform(rng, (n, CELLS), 0, 6.2832),
    )
    return Cells(shape, draw_wobble(rng, (n, CELLS), 0.06), present)


def _find_owners(points: Grid, cells: Cells) -> tuple[Tensor, Tensor]:
    """Distance of each pixel to the nearest cell's centre, 1 on its outline; and that cell's number from 1, 0 outside of it."""
    nearest = torch.full((len(cells.present), *points.x.shape[1:]), torch.inf)
    owner = torch.zeros_like(nearest, dtype=torch.int64)
    for k in range(CELLS):
        shape = Ellipse(*(values[:, k] for values in cells.shape))
        radius = blob_radius(points, shape, cells.wobble[:, :, k])
        nearer = (radius < nearest) & cells.present[:, k, None, None]
        nearest = torch.where(nearer, radius, nearest)
        owner = torch.where(nearer & (radius < 1), k + 1, owner)
    return nearest, owner


def _leave_out_small(owner: Tensor, smallest: float) -> Tensor:
    """Without regions of fewer pixels, and numbered anew in each image, without gaps."""
    n = len(owner)
    keys = owner + (CELLS + 1) * torch.arange(n)[:, None, None]
    areas = torch.bincount(keys.flatten(), minlength=n * (CELLS + 1)).view(n, CELLS + 1)
    kept = areas >= smallest
    kept[:, 0] = False
    numbers = torch.where(kept, kept.cumsum(1), 0)
    return numbers.flatten()[keys]


def _photograph(radius: Tensor, owner: Tensor, rng: torch.Generator) -> Tensor:
    """Images ``(N, H, W)``: uneven light, cells of their own brightness, dimmer to their outlines, focus, noise."""
    n, size, _ = radius.shape
    per_cell = uniform(rng, (n, CELLS + 1), 0.16, 0.8)[..., 0, 0]
    flatness = uniform(rng, (n, CELLS + 1), 0.3, 0.6)[..., 0, 0]
    brightness, rim = (values.gather(1, owner.flatten(1)).view_as(radius) for values in (per_cell, flatness))
    inside = (owner > 0).float()
    dome = 1 - rim * radius.clamp(0, 1) ** 3
    texture = 1 + 0.18 * smooth_noise(rng, n, size, 24)
    light = uniform(rng, (n,), 0.08, 0.2) + uniform(rng, (n,), 0.05, 0.16) * smooth_noise(rng, n, size, 4)
    image = light.clamp_min(0.02) + inside * brightness * dome * texture
    image = blur(image[:, None], uniform(rng, (n,), 1.2, 2.6) / size)[:, 0]
    return image + torch.randn(image.shape, generator=rng) * uniform(rng, (n,), 0.015, 0.05)
