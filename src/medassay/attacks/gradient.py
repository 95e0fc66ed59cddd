"""Attacks by the gradient of the loss with respect to the image: FGSM and PGD, untargeted, in L-infinity and L2.

FGSM: Goodfellow, Shlens & Szegedy 2015 (arXiv:1412.6572). PGD: Madry et al. 2018 (arXiv:1706.06083). Images are in [0, 1],
before the net's own normalisation, and stay there. A net is called as it is: bring it into evaluation mode first. Its weights
get no gradient, whether they require one or not.

What rises is the log-odds against the true class. The cross-entropy is log(1 + exp(log-odds)), a rising function of it: both
have the same steepest direction, and only directions count here. The cross-entropy's gradient, however, is rounded to 0 where a
net is very sure, and an attack that follows it gets stuck there.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from medassay.attacks.norms import Norm, draw_start, find_steepest, project, spread

Net = Callable[[Tensor], Tensor]  # images (N, C, H, W) in [0, 1] -> logits (N, K)

# a step of PGD is 2.5 epsilon / steps (Madry et al.): from any start, all images within epsilon can be reached
STEP = 2.5


def measure_log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-odds against the true class, ``(N, K), (N,) int64 -> (N,)``: above 0 where its probability is below a half."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    true = F.one_hot(labels, logits.shape[1]).bool()
    return logits.masked_fill(true, -torch.inf).logsumexp(1) - logits[true]


def compute_gradient(net: Net, images: Tensor, labels: Tensor) -> Tensor:
    """Gradient of each image's log-odds with respect to its pixels, ``(N, C, H, W)``."""
    with torch.enable_grad():
        pixels = images.detach().requires_grad_()
        loss = measure_log_odds(net(pixels), labels).sum()
        (gradient,) = torch.autograd.grad(loss, pixels)  # of the pixels alone: nothing is added to the weights' own
    return gradient


def fgsm(net: Net, images: Tensor, labels: Tensor, epsilon: float | Tensor, *, norm: Norm) -> Tensor:
    """One step of size ``epsilon`` along the steepest direction; in L2 this is the fast gradient method.

    Args:
        net: The net, in evaluation mode.
        images: Images, ``(N, C, H, W)`` float in [0, 1].
        labels: True classes, ``(N,) int64``.
        epsilon: Distance in pixel values, one for all or ``(N,)``.
        norm: What a distance is.
    """
    limit = spread(epsilon, images)
    return _step(net, images, labels, limit, images, limit, norm)


def ascend(
    net: Net, images: Tensor, labels: Tensor, epsilon: float | Tensor, start: Tensor, *, norm: Norm, steps: int
) -> Tensor:
    """Projected gradient ascent from ``start``: ``steps`` steps of 2.5 epsilon / steps, each back to within ``epsilon``.

    Args:
        net, images, labels, epsilon, norm: As of :func:`fgsm`.
        start: Images within ``epsilon`` of ``images``.
        steps: Number of steps.
    """
    limit, attacked = spread(epsilon, images), start
    for _ in range(steps):
        attacked = _step(net, images, labels, limit, attacked, STEP * limit / steps, norm)
    return attacked


def pgd(
    net: Net,
    images: Tensor,
    labels: Tensor,
    epsilon: float | Tensor,
    *,
    norm: Norm,
    steps: int,
    restarts: int,
    rng: torch.Generator | None = None,
) -> Tensor:
    """:func:`ascend` from several random starts; of each image the strongest result is kept.

    A result that is misclassified is stronger than one that is not; among two alike, the one with the higher loss.

    Args:
        net, images, labels, epsilon, norm: As of :func:`fgsm`.
        steps: Number of steps from each start.
        restarts: Number of starts.
        rng: What draws the starts; None for torch's own generator.
    """
    limit, kept = spread(epsilon, images), images
    kept_wrong = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    kept_loss = torch.full((len(images),), -torch.inf, device=images.device)
    for _ in range(restarts):
        start = draw_start(images, limit, norm, rng)
        attacked = ascend(net, images, labels, limit, start, norm=norm, steps=steps)
        with torch.no_grad():
            logits = net(attacked)
        wrong, loss = logits.argmax(1) != labels, measure_log_odds(logits, labels).to(kept_loss)
        better = torch.where(wrong == kept_wrong, loss > kept_loss, wrong)
        kept = torch.where(better[:, None, None, None], attacked, kept)
        kept_wrong, kept_loss = torch.where(better, wrong, kept_wrong), torch.where(better, loss, kept_loss)
    return kept


def _step(
    net: Net, images: Tensor, labels: Tensor, limit: Tensor, attacked: Tensor, size: Tensor, norm: Norm
) -> Tensor:
    """``attacked`` moved by ``size (N,)``, then back to within ``limit (N,)`` of ``images`` and into [0, 1]."""
    direction = find_steepest(compute_gradient(net, attacked, labels), norm)
    changes = attacked + size[:, None, None, None] * direction - images
    return (images + project(changes, limit, norm)).clamp(0, 1)
