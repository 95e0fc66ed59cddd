"""The smallest distance at which an attack succeeds, image by image."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def find_smallest_epsilon(
    succeeds: Callable[[Tensor, Tensor], Tensor], images: int, largest: float, rounds: int
) -> Tensor:
    """The smallest distance at which an attack was seen to succeed, by bisection, ``(images,) float64``.

    It is an upper bound: a better attack may succeed nearer by. Where the attack succeeds at every distance above its own
    smallest, the result is larger than that by ``largest / 2 ** rounds`` at most.

    Args:
        succeeds: Attacks the images at the positions ``(M,) int64``, each at its own distance, ``(M,) float64``; gives where
            that succeeds, ``(M,) bool``.
        images: Number of images.
        largest: Distance that is tried first; an image that withstands it gets infinity.
        rounds: Number of halvings.
    """
    everyone = torch.arange(images)
    found = torch.full((images,), torch.inf, dtype=torch.float64)
    if images == 0:
        return found
    members = everyone[succeeds(everyone, torch.full((images,), largest, dtype=torch.float64))]
    if len(members) == 0:
        return found
    low, high = torch.zeros(2, len(members), dtype=torch.float64)
    high = high + largest
    for _ in range(rounds):
        middle = (low + high) / 2
        success = succeeds(members, middle)
        low, high = torch.where(success, low, middle), torch.where(success, middle, high)
    found[members] = high
    return found
