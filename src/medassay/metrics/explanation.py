"""How good a heat map is as an explanation: where it points, what the classifier does without it, whether weights matter.

Scores are per image, so that methods and baselines can be compared image by image; ``mean_over_images`` averages them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Classifier = Callable[[Tensor], Tensor]
"""``(B, C, H, W) float32 in [0, 1] -> class probabilities (B, K)``."""

CENTRE_WIDTH = 1 / 4  # standard deviation of the centre prior, as a share of the side
BLUR_WIDTH = 1 / 8  # that of the blurred image that insertion starts from
_CHUNK = 512  # images that the classifier sees at a time


# --- where it points -------------------------------------------------------------------------------------------------


def pointing_game(maps: Tensor, masks: Tensor) -> Tensor:
    """Whether the map's largest value lies inside the true mask (Zhang et al. 2018), with no tolerance around it.

    Args:
        maps: Heat maps, ``(N, H, W)`` float, not negative.
        masks: True masks, ``(N, H, W) bool``, at least one pixel each.

    Returns:
        ``(N,) float64``: 1 or 0; of several equal maxima the share inside, which is what drawing one of them gives on
        average. A map of zeros thus scores the mask's share of the image.

    Raises:
        ValueError: shapes do not fit, or a mask is empty.
    """
    _check_masks(maps, masks)
    largest = maps == maps.amax((1, 2), keepdim=True)
    return (largest & masks).sum((1, 2)).double() / largest.sum((1, 2))


def energy_inside(maps: Tensor, masks: Tensor) -> Tensor:
    """The share of the map's sum inside the true mask, the energy-based pointing game (Wang et al. 2020).

    Arguments and errors are those of :func:`pointing_game`.

    Returns:
        ``(N,) float64 in [0, 1]``; a map of zeros counts as an even one.
    """
    _check_masks(maps, masks)
    energy = maps.double()
    total = energy.sum((1, 2))
    inside = (energy * masks).sum((1, 2)) / total
    return torch.where(total > 0, inside, area_share(masks))


def area_share(masks: Tensor) -> Tensor:
    """The masks' shares of the image, ``(N, H, W) bool -> (N,) float64``.

    It is the random baseline of both scores: the chance that a random point hits, and the energy that an even map, or a
    random one on average, has inside.
    """
    return masks.double().mean((1, 2))


def centre_prior(height: int, width: int) -> Tensor:
    """The baseline that always points to the centre: a Gaussian as wide as a quarter of the image, ``(H, W) float32``."""
    y, x = ((torch.arange(side) - (side - 1) / 2) / (side * CENTRE_WIDTH) for side in (height, width))
    return torch.exp(-(y[:, None] ** 2 + x[None] ** 2) / 2)


def _check_masks(maps: Tensor, masks: Tensor) -> None:
    if maps.ndim != 3 or maps.shape != masks.shape or masks.dtype != torch.bool:
        raise ValueError(
            f"maps and boolean masks must both be (N, H, W), not {tuple(maps.shape)} and {tuple(masks.shape)} {masks.dtype}"
        )
    if not masks.flatten(1).any(1).all():
        raise ValueError("a mask is empty: leave out the images without a true mask")


# --- what the classifier does without it -----------------------------------------------------------------------------


def deletion_auc(classifier: Classifier, images: Tensor, maps: Tensor, labels: Tensor, *, steps: int = 28) -> Tensor:
    """Area under the probability of a class as pixels are deleted, the map's largest first (Petsiuk et al. 2018).

    A deleted pixel takes the mean colour of its image. A map that finds what the class depends on makes the probability
    fall early: lower is better.

    Args:
        classifier: The classifier that is explained.
        images: Images, ``(N, C, H, W)`` float in [0, 1].
        maps: Heat maps, ``(N, H, W)`` float; equal values are ordered at random, always the same way.
        labels: The class of each image to follow, ``(N,) int64``.
        steps: Number of steps from the whole image to nothing; the classifier is asked after each.

    Returns:
        ``(N,) float64 in [0, 1]``, the mean probability by the trapezoidal rule.
    """
    mean = images.mean((2, 3), keepdim=True).expand_as(images)
    return _compute_curve_area(classifier, images, mean, maps, labels, steps)


def insertion_auc(classifier: Classifier, images: Tensor, maps: Tensor, labels: Tensor, *, steps: int = 28) -> Tensor:
    """Area under the probability of a class as pixels are put back into a blurred image; higher is better.

    Arguments and result are those of :func:`deletion_auc`; the blur is a Gaussian as wide as an eighth of the image.
    """
    return _compute_curve_area(classifier, blur_images(images), images, maps, labels, steps)


def blur_images(images: Tensor) -> Tensor:
    """Images ``(N, C, H, W)`` float under a Gaussian as wide as an eighth of their side, edges repeated."""
    blurred = images
    for axis, side in ((2, images.shape[2]), (3, images.shape[3])):
        reach = min(side - 1, math.ceil(3 * BLUR_WIDTH * side))
        offsets = torch.arange(-reach, reach + 1, dtype=images.dtype)
        weights = torch.exp(-((offsets / (BLUR_WIDTH * side)) ** 2) / 2)
        shape = (1, 1, -1, 1) if axis == 2 else (1, 1, 1, -1)
        kernel = (weights / weights.sum()).view(shape).expand(images.shape[1], -1, -1, -1)
        padding = (0, 0, reach, reach) if axis == 2 else (reach, reach, 0, 0)
        blurred = F.conv2d(F.pad(blurred, padding, mode="replicate"), kernel, groups=images.shape[1])
    return blurred


def _compute_curve_area(
    classifier: Classifier, start: Tensor, end: Tensor, maps: Tensor, labels: Tensor, steps: int
) -> Tensor:
    """Mean probability of ``labels`` while ``start`` becomes ``end``, pixel by pixel in the maps' order."""
    if steps < 1 or maps.shape != (len(start), *start.shape[2:]) or labels.shape != (len(start),):
        raise ValueError(
            f"images {tuple(start.shape)} need maps (N, H, W), labels (N,) and a step, not {tuple(maps.shape)}, "
            f"{tuple(labels.shape)} and {steps}"
        )
    rank = rank_pixels(maps)
    pixels = rank[0].numel() if len(rank) else 0
    probabilities = []
    for step in range(steps + 1):
        changed = (rank < round(step * pixels / steps))[:, None]
        mixed = torch.where(changed, end, start)
        chunks = [classifier(part) for part in torch.split(mixed, _CHUNK)]
        probabilities.append(torch.cat(chunks).double().gather(1, labels[:, None])[:, 0])
    return torch.trapezoid(torch.stack(probabilities), dx=1 / steps, dim=0)


def rank_pixels(maps: Tensor, seed: int = 0) -> Tensor:
    """Each pixel's place in the order from the largest value to the smallest: ``(N, H, W) -> (N, H, W) int64`` from 0.

    Equal values come in a random order drawn by ``seed``, the same for every image: top to bottom would be an order of
    its own where half of a map is zero.
    """
    values = maps.flatten(1)
    shuffled = torch.randperm(values.shape[1], generator=torch.Generator().manual_seed(seed))
    order = shuffled[values[:, shuffled].argsort(stable=True, dim=1, descending=True)]
    return order.argsort(1).view_as(maps)


# --- whether weights matter ------------------------------------------------------------------------------------------


def spearman(first: Tensor, second: Tensor, where: Tensor | None = None) -> Tensor:
    """Spearman's rank correlation of the absolute values of two maps, image by image (Adebayo et al. 2018).

    Args:
        first, second: The two sets of maps, ``(N, H, W)`` float.
        where: Pixels to compare, ``(H, W) bool``; None for all.

    Returns:
        ``(N,) float64 in [-1, 1]``; equal values share their mean rank. Between a constant map and another it is not
        defined and counts as 0, the map being another; between two constant maps as 1.

    Raises:
        ValueError: shapes differ.
    """
    if first.shape != second.shape or first.ndim != 3:
        raise ValueError(f"two maps (N, H, W) are compared, not {tuple(first.shape)} and {tuple(second.shape)}")
    chosen = slice(None) if where is None else where.flatten()
    a, b = (compute_mean_ranks(maps.abs().flatten(1)[:, chosen]) for maps in (first, second))
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    norms = a.norm(dim=1) * b.norm(dim=1)
    both_constant = (a == 0).all(1) & (b == 0).all(1)
    return torch.where(norms > 0, (a * b).sum(1) / norms, both_constant.double())


def compute_mean_ranks(values: Tensor) -> Tensor:
    """Ranks from 1 along each row of ``(N, P)``, equal values sharing their mean, ``float64``."""
    ordered = values.contiguous().sort(1).values
    below = torch.searchsorted(ordered, values.contiguous())
    up_to = torch.searchsorted(ordered, values.contiguous(), right=True)
    return (below + up_to + 1).double() / 2
