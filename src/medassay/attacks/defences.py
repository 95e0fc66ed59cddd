"""What a client can do to its gradient before it sends it."""

from __future__ import annotations

import torch
from torch import Tensor


def clip_per_example(gradients: Tensor, bound: float) -> Tensor:
    """Gradients ``(B, P)`` of single images, longer ones shortened to the Euclidean norm ``bound`` (Abadi et al. 2016)."""
    norms = gradients.norm(dim=1, keepdim=True)
    clipped: Tensor = gradients * (bound / norms.clamp(min=torch.finfo(norms.dtype).tiny)).clamp(max=1)
    return clipped


def add_noise(gradients: Tensor, bound: float, multiplier: float, rng: torch.Generator) -> Tensor:
    """One step of DP-SGD: the mean of clipped gradients ``(B, P) -> (P,)``, with noise on their sum.

    The noise is Gaussian, its standard deviation ``multiplier * bound`` in each entry of the sum. Source: Abadi et al.,
    *Deep learning with differential privacy* (2016, arXiv:1607.00133), algorithm 1.

    Args:
        gradients: Gradients of single images.
        bound: Largest Euclidean norm of one.
        multiplier: The noise multiplier.
        rng: Generator of the noise, on the CPU.
    """
    total = clip_per_example(gradients, bound).sum(0)
    noise = torch.randn(len(total), generator=rng, dtype=total.dtype).to(total.device)
    return (total + multiplier * bound * noise) / len(gradients)


def prune(gradients: Tensor, share: float) -> Tensor:
    """Gradients ``(G, P)`` whose smallest entries, the ``share`` of them rounded to a whole number, are 0.

    Source: Zhu, Liu & Han, *Deep leakage from gradients* (2019, arXiv:1906.08935), section 5.2.
    """
    count = round(share * gradients.shape[1])
    smallest = gradients.abs().argsort(dim=1, stable=True)[:, :count]
    return gradients.scatter(1, smallest, 0.0)
