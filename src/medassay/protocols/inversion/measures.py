"""How near reconstructed images come to the originals, beside what somebody without the gradient would show.

Intervals of means are Student's t over images, those of shares exact binomial ones: images are few. Images of one batch are
reconstructed together, so that their numbers hang together, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from medassay.core.estimate import Estimate
from medassay.core.results import UNWRITTEN
from medassay.core.types import LabelledImages
from medassay.metrics.estimates import estimate_share, mean_over_few_images
from medassay.metrics.reconstruction import (
    find_nearest_others,
    match_images,
    measure_psnr,
    measure_ssim,
    rank_original,
)
from medassay.protocols.inversion.cases import Case

Level = Literal["recognisable", "undecided", "not_recognisable"]
RANKED = 1000  # training images that the original is ranked among, itself included


@dataclass(frozen=True)
class Originals:
    """The attacked images and what they are compared with; images are ``(N, C, H, W) float32 in [0, 1]``.

    Attributes:
        indices: Places in the training split.
        images, labels: Images, and their classes ``(N,) int64``.
        mean: The mean training image, for each of them.
        nearest: The nearest other training image of each; copies of the image itself are no other.
        others: Of each, at most 999 other training images of its class, without copies of it.
    """

    indices: list[int]
    images: Tensor
    labels: Tensor
    mean: Tensor
    nearest: Tensor
    others: list[Tensor]

    def __len__(self) -> int:
        return len(self.images)


def choose_originals(train: LabelledImages, indices: Tensor, seed: int) -> Originals:
    """The training images at ``indices (N,)``; ``seed`` is that of the choice of the others."""
    images, labels = train.images[indices].float() / 255, train.labels[indices]
    every = train.images.float() / 255
    nearest = every[find_nearest_others(images, every)]
    rng, others = torch.Generator().manual_seed(seed), []
    for place in indices.tolist():
        unlike = (train.images != train.images[place]).flatten(1).any(1)
        candidates = (unlike & (train.labels == train.labels[place])).nonzero()[:, 0]
        others.append(every[candidates[torch.randperm(len(candidates), generator=rng)[: RANKED - 1]]])
    mean = every.mean(0).expand_as(images)
    return Originals(indices.tolist(), images, labels, mean, nearest, others)


@dataclass(frozen=True)
class Nearness:
    """PSNR in dB and SSIM, means over images."""

    psnr: Estimate
    ssim: Estimate


@dataclass(frozen=True)
class CaseResult:
    """What one case gives away of ``n`` images.

    Attributes:
        case, name: What was tried, and that in words.
        n: Number of images.
        reconstruction: How near the reconstructed images are.
        gain: The same less that of the nearest other training image, image by image.
        first: Share of the images that are nearer to their reconstruction than the others they are ranked among.
        ranks: Place of each image among these, from 1.
        right_labels: Share of the labels read off the last layer's bias; None where labels were given to the attack.
        distance: Distance of what was sent from what the reconstructed images give, 1 - cosine; mean over batches.
        epsilon: Privacy loss of one look at the noisy gradient; None without noise.
        level, reason: The rule's answer, and why.
        images: The reconstructed images, in the order of the originals; drawn, not kept.
    """

    case: Case
    name: str
    n: int
    reconstruction: Nearness
    gain: Nearness
    first: Estimate
    ranks: list[int]
    right_labels: Estimate | None
    distance: float
    epsilon: float | None
    level: Level
    reason: str
    images: Tensor = field(metadata=UNWRITTEN, repr=False)


@dataclass(frozen=True)
class Scores:
    """The numbers of a case before the rule; see :class:`CaseResult`."""

    n: int
    reconstruction: Nearness
    gain: Nearness
    first: Estimate
    ranks: list[int]
    images: Tensor


def score_images(found: Tensor, originals: Originals) -> Scores:
    """Scores reconstructed images.

    Args:
        found: ``(G, B, C, H, W) float32 in [0, 1]``, batch by batch; of each batch the best matching counts.
        originals: The images; the first G * B were attacked.
    """
    groups, batch = found.shape[:2]
    n = groups * batch
    true = originals.images[:n]
    matched = torch.cat(
        [part[match_images(part, own)] for part, own in zip(found, torch.split(true, batch), strict=True)]
    )
    psnr, ssim = measure_psnr(matched, true), measure_ssim(matched, true)
    nearest = originals.nearest[:n]
    ranks = [rank_original(*trio) for trio in zip(matched, true, originals.others[:n], strict=True)]
    return Scores(
        n,
        average(psnr, ssim),
        Nearness(
            mean_over_few_images((psnr - measure_psnr(nearest, true)).tolist()),
            mean_over_few_images((ssim - measure_ssim(nearest, true)).tolist()),
        ),
        estimate_share(sum(rank == 1 for rank in ranks), n),
        ranks,
        matched,
    )


def average(psnr: Tensor, ssim: Tensor) -> Nearness:
    """Means of numbers ``(N,)`` each; the interval of the SSIM ends at 1."""
    mean = mean_over_few_images(ssim.tolist())
    return Nearness(
        mean_over_few_images(psnr.tolist()), replace(mean, high=None if mean.high is None else min(mean.high, 1.0))
    )


@dataclass(frozen=True)
class InversionResults:
    """What a gradient of a run gives away.

    Attributes:
        net, parameters: Name of the architecture, and how many numbers a gradient has.
        budget: Name of the budget.
        indices, labels: The attacked images by their places among the training images, and their classes.
        ranked: The number of training images of its own class that each is ranked among, itself included.
        labels_read: Whether labels of single images were read off the gradient; else they were given to the attack.
        steps, restarts, lr, total_variation, seed: Settings of the search.
        bound, delta: Largest norm of one image's gradient where noise follows, and delta of the privacy loss.
        sampling_rate: Share of the training images in one gradient of one image.
        mean_image, nearest_other: The two nulls: what somebody without any gradient would show.
        cases: Each case; the first is one gradient of one image.
        rule: The rule in words.
        level, verdict, reason: The answer on what is sent without a defence, in words, and why.
        findings: What else was found, a sentence each.
    """

    net: str
    parameters: int
    budget: str
    indices: list[int]
    labels: list[int]
    ranked: list[int]
    labels_read: bool
    steps: int
    restarts: int
    lr: float
    total_variation: float
    seed: int = field(metadata={"name": "protocol_seed"})
    bound: float
    delta: float
    sampling_rate: float
    mean_image: Nearness
    nearest_other: Nearness
    cases: Sequence[CaseResult]
    rule: str
    level: Level
    verdict: str
    reason: str
    findings: list[str]
