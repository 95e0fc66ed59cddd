"""Losses of the two players, on logits: each function gives ``(discriminator loss, generator loss)`` parts as scalars."""

from __future__ import annotations

from typing import Literal

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
