"""How far two images are apart, L-infinity and L2, and what lies within a distance of an image.

Images and distances are in [0, 1] pixel values. An L-infinity distance is the largest change of a pixel, an L2 distance the
root of the sum of the squared changes of all pixels and channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

Norm = Literal["linf", "l2"]
NORMS: tuple[Norm, ...] = ("linf", "l2")
NAMES: dict[Norm, str] = {"linf": "L∞", "l2": "L2"}


def scale_epsilon(levels: float, norm: Norm, shape: Sequence[int]) -> float:
    """The distance of a change by ``levels`` of 255 grey levels in every pixel of an image of ``shape (C, H, W)``.

    L-infinity: levels / 255. L2: the same times sqrt(C H W), which makes both norms comparable.
    """
    return levels / 255 * (math.sqrt(math.prod(shape)) if norm == "l2" else 1)


def spread(epsilon: float | Tensor, images: Tensor) -> Tensor:
    """A distance for each image, ``(N,)``, of the images' type and on their device; one for all, or one each is given."""
    return torch.as_tensor(epsilon, dtype=images.dtype, device=images.device).expand(len(images))


def measure_size(changes: Tensor, norm: Norm) -> Tensor:
    """The size of each change, ``(N, C, H, W) -> (N,)``."""
    flat = changes.flatten(1)
    return flat.abs().amax(1) if norm == "linf" else torch.linalg.vector_norm(flat, dim=1)


def project(changes: Tensor, epsilon: Tensor, norm: Norm) -> Tensor:
    """The nearest changes, ``(N, C, H, W)``, of at most the size ``epsilon (N,)``."""
    limit = epsilon[:, None, None, None]
    if norm == "linf":
        return torch.maximum(torch.minimum(changes, limit), -limit)
    size = measure_size(changes, norm)[:, None, None, None]
    return changes * (limit / size.clamp(min=torch.finfo(changes.dtype).tiny)).clamp(max=1.0)


def find_steepest(gradient: Tensor, norm: Norm) -> Tensor:
    """The change of size 1 along which a loss rises fastest, ``(N, C, H, W)``; 0 where its gradient is 0."""
    if norm == "linf":
        return gradient.sign()
    size = measure_size(gradient, norm)[:, None, None, None]
    return gradient / size.clamp(min=torch.finfo(gradient.dtype).tiny)


def draw_start(images: Tensor, epsilon: float | Tensor, norm: Norm, rng: torch.Generator | None = None) -> Tensor:
    """Images drawn evenly from all within ``epsilon`` of ``images (N, C, H, W)``, then cut to [0, 1].

    Args:
        images: The images, in [0, 1].
        epsilon: The distance, one for all or ``(N,)``.
        norm: What distances are.
        rng: What draws, on any device; None for torch's own generator, on the images' device.
    """
    if norm == "linf":
        changes = 2 * _draw(torch.rand, images.shape, images, rng) - 1
    else:
        direction = find_steepest(_draw(torch.randn, images.shape, images, rng), norm)
        dimensions = math.prod(images.shape[1:])
        changes = direction * (_draw(torch.rand, (len(images), 1, 1, 1), images, rng) ** (1 / dimensions))
    return (images + changes * spread(epsilon, images)[:, None, None, None]).clamp(0, 1)


def draw_noise(images: Tensor, epsilon: float | Tensor, norm: Norm, rng: torch.Generator | None = None) -> Tensor:
    """``images`` under noise that is as large as an attack may be, then cut to [0, 1]; arguments as :func:`draw_start`.

    L-infinity: each pixel rises or falls by ``epsilon``. L2: Gaussian noise scaled to ``epsilon``.
    """
    noise = find_steepest(_draw(torch.randn, images.shape, images, rng), norm)
    return (images + noise * spread(epsilon, images)[:, None, None, None]).clamp(0, 1)


def _draw(draw: Callable[..., Tensor], shape: Sequence[int], images: Tensor, rng: torch.Generator | None) -> Tensor:
    """Numbers by ``draw``, of the images' type and on their device."""
    device = images.device if rng is None else rng.device
    return draw(tuple(shape), generator=rng, device=device, dtype=images.dtype).to(images.device)
