"""Objects in class maps: numbered, counted apart, and separated where they touch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def label_components(foreground: Tensor) -> Tensor:
    """Numbers the connected regions of a map from 1; pixels that meet at a corner only are not connected.

    Args:
        foreground: ``(H, W) bool``, or class indices of which all but 0 are foreground.

    Returns:
        ``(H, W) int32``, 0 for background.
    """
    from scipy.ndimage import label

    numbers, _ = label(foreground.numpy() != 0)
    return torch.from_numpy(numbers).to(torch.int32)


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
    numbers = instances[None, None].double()  # exact for every int32
    padded = F.pad(numbers, (1, 1, 1, 1), mode="replicate")
    highest = F.max_pool2d(padded, 3, 1)
    # the lowest number but 0: background is made larger than every number
    lowest = -F.max_pool2d(torch.where(padded == 0, -torch.inf, -padded), 3, 1)
    touching = (numbers > 0) & (lowest < highest)
    return ((numbers > 0) & ~touching)[0, 0].to(torch.uint8)
