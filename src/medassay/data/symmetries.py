"""The eight symmetries of a square, told by three bits: what can be done to an image by turning and mirroring it."""

from __future__ import annotations

import torch
from torch import Tensor


def draw_symmetries(n: int, device: torch.device) -> Tensor:
    """Bits of ``n`` symmetries, ``(n, 3) int64``, all eight equally likely, by torch's global random numbers of ``device``."""
    return torch.randint(0, 2, (n, 3), device=device)


def list_turns() -> Tensor:
    """The bits of the seven symmetries that change something, ``(7, 3) int64``."""
    return torch.cartesian_prod(*[torch.arange(2)] * 3)[1:]


def apply_symmetries(images: Tensor, bits: Tensor) -> Tensor:
    """``images (N, C, S, S)`` each changed by its ``bits (N, 3)``: mirrored left to right, then top to bottom, then transposed.

    Zeros change nothing. The eight rows of bits are the eight symmetries, quarter turns among them.
    """
    asked = bits.bool()[:, :, None, None, None]
    images = torch.where(asked[:, 0], images.flip(-1), images)
    images = torch.where(asked[:, 1], images.flip(-2), images)
    return torch.where(asked[:, 2], images.transpose(-1, -2), images)
