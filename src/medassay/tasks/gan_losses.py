"""Losses of the two players, on logits: each function gives ``(discriminator loss, generator loss)`` parts as scalars."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

GANLoss = Literal["bce", "hinge", "relativistic"]


def discriminator_loss(kind: GANLoss, real: Tensor, fake: Tensor) -> Tensor:
    """What the discriminator minimises; ``real``, ``fake``: logits ``(B,)``, paired by class.

    ``bce``: Goodfellow et al. 2014, the mean of the two halves summed. ``hinge``: Lim & Ye 2017. ``relativistic``: a real
    image shall look more real than the fake beside it (Jolicoeur-Martineau 2018, arXiv:1807.00734, RSGAN).
    """
    if kind == "bce":
        return F.softplus(-real).mean() + F.softplus(fake).mean()
    if kind == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    return F.softplus(fake - real).mean()


def generator_loss(kind: GANLoss, real: Tensor, fake: Tensor) -> Tensor:
    """What the generator minimises: for ``bce`` the non-saturating form, that the discriminator answers "real"."""
    if kind == "bce":
        return F.softplus(-fake).mean()
    if kind == "hinge":
        return -fake.mean()
    return F.softplus(real - fake).mean()


def gradient_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """Half the mean squared norm of each logit's gradient by its own image, a scalar that can be minimised.

    R1 of real images (Mescheder et al. 2018, arXiv:1801.04406), R2 of generated ones. The gradient is by images scaled to
    [-1, 1], as in the papers, so that weights mean the same here.

    Args:
        logits: Logits, ``(B,)``, made of ``images`` with their graph.
        images: Images, ``(B, C, H, W)`` in [0, 1], that require a gradient.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return (0.5 * gradient).square().sum((1, 2, 3)).mean() / 2
