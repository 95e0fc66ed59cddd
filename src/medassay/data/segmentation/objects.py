"""Objects in class maps: numbered, counted apart, and separated where they touch."""

from __future__ import annotations

import torch
from torch import Tensor


def separate_touching(instances: Tensor) -> Tensor:
    """The class map of objects, 1 inside and 0 outside, with a border of class 0 between objects that touch.

    Without it, objects that touch would be one region of class 1, and a net could not learn to tell them apart (Ronneberger
    et al. 2015, section 3). A pixel whose 3x3 neighbourhood has another object becomes border, so that a border is two
    pixels wide, one from each side.

    Args:
        instances: ``(H, W) int32``, 0 for background.

    Returns:
        ``(H, W) uint8``.
    """
    height, width = instances.shape
    touching = torch.zeros_like(instances, dtype=torch.bool)
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        one = (slice(height - down), slice(max(-right, 0), width - max(right, 0)))
        other = (slice(down, height), slice(max(right, 0), width - max(-right, 0)))
        differ = (instances[one] > 0) & (instances[other] > 0) & (instances[one] != instances[other])
        touching[one] |= differ
        touching[other] |= differ
    return ((instances > 0) & ~touching).to(torch.uint8)
