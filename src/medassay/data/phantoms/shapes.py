"""Soft shapes from which the phantoms are composed.

Coordinates are relative: an image spans -1 to 1 in both directions (y down, x right) whatever its size in pixels, so
one description renders at any size. Parameters broadcast against the grid: ``(N, 1, 1)`` for one shape an image,
``(N, K, 1, 1)`` for ``K`` of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from medassay.core.types import LabelledImages

CHUNK = 512
"""Images rendered at once. It bounds memory, and it is fixed because the order of random draws depends on it."""


class Grid(NamedTuple):
    """Coordinates of pixel centres, each ``(..., H, W) float32``, and the width of a pixel in the same units."""

    y: Tensor
    x: Tensor
    pixel: float


class Ellipse(NamedTuple):
    """Centre, half axes (relative units) and angle (radians, clockwise on screen); each broadcasts against the grid."""

    cy: Tensor
    cx: Tensor
    ry: Tensor
    rx: Tensor
    angle: Tensor


def grid(size: int) -> Grid:
    """The grid of a square image of ``size`` pixels: ``y`` and ``x`` are ``(1, size, size) float32`` in (-1, 1).

    Raises:
        ValueError: ``size`` is less than 8, where no shape of a phantom can be told from another.
    """
    if size < 8:
        raise ValueError(f"size must be at least 8 pixels, not {size}")
    centres = (torch.arange(size, dtype=torch.float32) + 0.5) * (2 / size) - 1
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    return Grid(y[None], x[None], 2 / size)


def uniform(rng: torch.Generator, shape: tuple[int, ...], low: float | Tensor, high: float | Tensor) -> Tensor:
    """Uniform numbers ``(*shape, 1, 1) float32`` in [low, high), ready to broadcast against a grid."""
    return low + (high - low) * torch.rand((*shape, 1, 1), generator=rng)


def move_grid(points: Grid, *, dy: Tensor, dx: Tensor, angle: Tensor, zoom: Tensor) -> Grid:
    """The grid as seen by an object that is shifted, turned by ``angle`` and magnified by ``zoom``; ``(N, H, W)``."""
    y, x = points.y - dy, points.x - dx
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    return Grid(y * cos - x * sin, x * cos + y * sin, points.pixel)


def blob_radius(points: Grid, shape: Ellipse, wobble: Tensor | None = None) -> Tensor:
    """Distance from the centre in units of the outline: below 1 inside, 1 on the outline.

    Args:
        points: The points at which to measure.
        shape: The ellipse.
        wobble: ``(4, ...)``, amplitudes of cos 2t, sin 2t, cos 3t and sin 3t by which the outline departs from the
            ellipse, as a fraction of its radius; t is the angle around the centre. None for a plain ellipse.
    """
    y, x = points.y - shape.cy, points.x - shape.cx
    cos, sin = shape.angle.cos(), shape.angle.sin()
    u, v = (x * cos + y * sin) / shape.rx, (y * cos - x * sin) / shape.ry
    radius = torch.sqrt(u * u + v * v + 1e-8)
    if wobble is None:
        return radius
    c, s = u / radius, v / radius
    c2, s2 = c * c - s * s, 2 * c * s
    outline = 1 + wobble[0] * c2 + wobble[1] * s2 + wobble[2] * (c2 * c - s2 * s) + wobble[3] * (s2 * c + c2 * s)
    return radius / outline


def coverage(distance: Tensor, pixel: float) -> Tensor:
    """Share of a pixel inside a shape, in [0, 1], from the signed distance to its outline (negative inside)."""
    return (0.5 - distance / pixel).clamp(0, 1)


def ellipse(points: Grid, shape: Ellipse, wobble: Tensor | None = None) -> Tensor:
    """Anti-aliased ellipse or blob: the share of each pixel inside it, in [0, 1]."""
    distance = (blob_radius(points, shape, wobble) - 1) * torch.sqrt(shape.rx * shape.ry)
    return coverage(distance, points.pixel)


def draw_wobble(rng: torch.Generator, shape: tuple[int, ...], amplitude: float | Tensor) -> Tensor:
    """Random outline departures for :func:`blob_radius`, ``(4, *shape, 1, 1)``, each within ±``amplitude``."""
    return amplitude * (2 * torch.rand((4, *shape, 1, 1), generator=rng) - 1)


def smooth_noise(rng: torch.Generator, n: int, size: int, cells: int) -> Tensor:
    """Smooth random fields ``(n, size, size)``, mean 0, variance near 1/2, with about ``cells`` features across."""
    coarse = torch.randn((n, 1, cells, cells), generator=rng)
    return F.interpolate(coarse, (size, size), mode="bicubic", align_corners=True)[:, 0]


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur with a width for each image.

    Args:
        images: ``(N, C, H, W)`` with H = W.
        sigma: ``(N, 1, 1)``, standard deviation in relative units.
    """
    size = images.shape[-1]
    centres = torch.arange(size, dtype=torch.float32) * (2 / size)
    kernel = torch.exp(-0.5 * ((centres[:, None] - centres) / sigma) ** 2)
    kernel = (kernel / kernel.sum(-1, keepdim=True))[:, None]  # rows sum to 1, so that the border does not darken
    return kernel @ images @ kernel.transpose(-1, -2)


def to_uint8(images: Tensor) -> Tensor:
    """Images in [0, 1] (values beyond are clipped) as uint8."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def render_in_chunks(
    labels: Tensor, num_classes: int, draw: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> LabelledImages:
    """Calls ``draw(labels) -> (images, masks)`` on :data:`CHUNK` labels at a time and joins the results.

    Raises:
        ValueError: ``labels`` is not ``(N,) int64`` with N > 0, or has a value outside 0 .. ``num_classes`` - 1.
    """
    if labels.ndim != 1 or labels.dtype != torch.int64 or len(labels) == 0:
        raise ValueError(f"labels must be (N,) int64 with N > 0, not {tuple(labels.shape)} {labels.dtype}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise ValueError(f"labels must lie in 0..{num_classes - 1}, not {low}..{high}")
    labels = labels.cpu()
    parts = [draw(part) for part in torch.split(labels, CHUNK)]
    images, masks = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return LabelledImages(images, labels, masks)
