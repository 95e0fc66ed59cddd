"""Heat maps in colour, over their images and beside them."""

from __future__ import annotations

import torch
from matplotlib import colormaps
from torch import Tensor
from torch.nn import functional as F

from medassay.reporting.captions import choose_enlargement


def colour_maps(maps: Tensor, colormap: str) -> Tensor:
    """``(N, H, W)`` in [0, 1] in matplotlib's colours: ``(N, 3, H, W) uint8``."""
    colours = colormaps[colormap](maps.clamp(0, 1).numpy())[..., :3]
    return torch.from_numpy(colours).permute(0, 3, 1, 2).mul(255).round().to(torch.uint8)


def overlay(images: Tensor, maps: Tensor, colormap: str = "jet", opacity: float = 0.45) -> Tensor:
    """Heat maps laid over images, everywhere with the same opacity.

    Args:
        images: Images, ``(N, C, H, W) uint8``, C 1 or 3.
        maps: Heat maps, ``(N, H, W)`` in [0, 1].
        colormap: Name of the colours in matplotlib.
        opacity: Opacity of the heat map, from 0 to 1.

    Returns:
        ``(N, 3, H, W) uint8``.
    """
    mixed = (1 - opacity) * images.expand(-1, 3, -1, -1) + opacity * colour_maps(maps, colormap)
    return mixed.round().to(torch.uint8)


def draw_colour_bar(colormap: str) -> Tensor:
    """The colours from 0 to 1, left to right, ``(1, 3, 4, 64) uint8``."""
    return colour_maps(torch.linspace(0, 1, 64).expand(1, 4, -1), colormap)


def place_beside_heat_map(images: Tensor, maps: Tensor) -> Tensor:
    """Images beside themselves under a heat map, small ones enlarged, which keeps their pixels visible.

    Args:
        images: Images, ``(N, C, H, W) uint8``, C 1 or 3.
        maps: Heat maps, ``(N, H, W) float32 in [0, 1]``.

    Returns:
        ``(N, 3, s H, 2 s W + s) uint8`` with a whole s: image, a white gap, image with its map.
    """
    n, _, height, width = images.shape
    scale = choose_enlargement(max(height, width))
    large = images.expand(n, 3, height, width).repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    heat = F.interpolate(maps[:, None], scale_factor=scale, mode="bilinear", align_corners=False)[:, 0]
    gap = torch.full((n, 3, scale * height, scale), 255, dtype=torch.uint8)
    return torch.cat([large, gap, overlay(large, heat)], 3)
