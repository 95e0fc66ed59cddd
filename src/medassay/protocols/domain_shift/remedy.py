"""Batch normalisation with the statistics of the images that come in, without their labels.

Source: Schneider et al., *Improving robustness against common corruptions by covariate shift adaptation*, NeurIPS 2020
(arXiv:2006.16971); Nado et al. 2020 (arXiv:2006.10963). Their statistics may be mixed with the training set's; here they
replace them, which suits batches of hundreds.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from medassay.tasks.predictions import BATCH


def has_batch_norm(net: nn.Module) -> bool:
    """Whether ``net`` has a batch normalisation with running statistics."""
    return any(isinstance(part, _BatchNorm) and part.track_running_stats for part in net.modules())


@torch.no_grad()
def reestimate_batch_norm(net: nn.Module, images: Tensor, device: torch.device, *, seed: int = 0) -> nn.Module:
    """A copy of ``net`` whose batch normalisations have the statistics of ``images``; all else stays, ``net`` itself too.

    Args:
        net: A net with batch normalisation.
        images: Images, ``(N, C, H, W) uint8``, at least two.
        device: Device to compute on.
        seed: Seed of the order, so that no batch holds one class alone where images are sorted by class.

    Returns:
        The copy, in evaluation mode on ``device``.

    Raises:
        ValueError: if there are fewer than two images.
    """
    if len(images) < 2:
        raise ValueError(f"statistics need at least two images, not {len(images)}")
    adapted = copy.deepcopy(net).to(device).eval()
    norms = [part for part in adapted.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:  # nothing else is switched to training mode: dropout stays off
        norm.reset_running_stats()
        norm.momentum = None  # the plain average over the batches
        norm.train()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    for batch in order.tensor_split(-(-len(images) // BATCH)):  # of equal size, so that the average is fair
        adapted(images[batch].to(device).float() / 255)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return adapted.eval()
