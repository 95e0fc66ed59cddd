"""Orders of training images in which every cell, a class within a group, occurs equally often."""

from __future__ import annotations

import torch
from torch import Tensor


def draw_balanced_order(cells: Tensor, rng: torch.Generator) -> Tensor:
    """As many indices as there are images, each cell in equal numbers (± 1), shuffled.

    The images of a cell that is too small come again once all of them have been there; of one that is too large some are left
    out, others the next time. Source: Idrissi et al., *Simple data balancing achieves competitive worst-group-accuracy* (2022),
    their RWG, drawn without replacement as far as a cell reaches.

    Args:
        cells: Number of each image's cell, from 0 and without gaps, ``(N,) int64``, N at least 1.
        rng: CPU generator, the only source of randomness.

    Returns:
        ``(N,) int64`` on the CPU.
    """
    sizes = torch.bincount(cells).tolist()
    shares = torch.full((len(sizes),), len(cells) // len(sizes))
    shares[torch.randperm(len(sizes), generator=rng)[: len(cells) % len(sizes)]] += 1
    chosen = []
    for cell, (size, share) in enumerate(zip(sizes, shares.tolist(), strict=True)):
        members = (cells == cell).nonzero()[:, 0]
        rounds = [torch.randperm(size, generator=rng) for _ in range(-(-share // size))]
        chosen.append(members[torch.cat(rounds)[:share]])
    order = torch.cat(chosen)
    return order[torch.randperm(len(order), generator=rng)]


def count_balanced(labels: Tensor, cells: Tensor, num_classes: int) -> Tensor:
    """How many images of each class an epoch of such orders holds, up to the remainder, ``(num_classes,) int64``.

    Args:
        labels: Class of each image, ``(N,) int64``.
        cells: Number of each image's cell, ``(N,) int64``; a cell lies in one class.
        num_classes: Number of classes.
    """
    classes = torch.zeros(int(cells.max()) + 1, dtype=torch.int64).scatter_(0, cells, labels.cpu())
    return torch.bincount(classes, minlength=num_classes) * (len(cells) // len(classes))
