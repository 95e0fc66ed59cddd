"""What a monitor sees that knows no labels: scores of single images, and a test of whole batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medassay.core.estimate import Estimate
from medassay.core.seeds import derive_seed
from medassay.metrics.estimates import estimate_share
from medassay.metrics.mmd import compute_kernel, compute_mmd_p_value
from medassay.metrics.out_of_distribution import (
    estimate_detection,
    score_energy,
    score_max_softmax,
    score_neighbours,
)
from medassay.protocols.domain_shift.results import BatchTest

SIZES = (50, 200)  # images in a batch
NOMINAL = 0.05  # false-alarm rate that the batch test is set to
NEIGHBOUR = 10  # which neighbour's distance is taken
POOL = 1000  # images that batches are drawn from, at most: all their kernels are kept


def score_images(logits: Tensor, features: Tensor | None, reference: Tensor | None) -> dict[str, Tensor]:
    """Each score by its name, ``(N,)``, higher is more unusual.

    Args:
        logits: ``(N, K)``.
        features: What the last layer sees, ``(N, d)``; None for a net that gives none.
        reference: The same of training images, ``(M, d)``.
    """
    scores = {"max_softmax": score_max_softmax(logits), "energy": score_energy(logits)}
    if features is not None and reference is not None:
        scores["neighbours"] = score_neighbours(features, reference, NEIGHBOUR)
    return scores


def compare_scores(usual: dict[str, Tensor], unusual: dict[str, Tensor], *, paired: bool) -> dict[str, Estimate]:
    """The AUROC of each score between usual and unusual images."""
    return {name: estimate_detection(usual[name], unusual[name], paired=paired) for name in usual}


def count_alarms(
    usual: Tensor, batch: Tensor, *, same: bool, sizes: Sequence[int], trials: int, bandwidth: float, seed: int
) -> list[BatchTest]:
    """How often a batch of images raises the alarm.

    In each trial ``m`` usual images and ``m`` of the batch's are drawn, never the same image twice, and compared by the
    permutation test.

    Args:
        usual: Features of usual images, ``(N, d)``.
        batch: Features of the images to test, ``(M, d)``.
        same: Whether both are of the same images in the same order; an image is then drawn for one side only.
        sizes: The sizes ``m``; those that need more images than there are are left out.
        trials: Number of draws.
        bandwidth: Bandwidth of the kernel, chosen before.
        seed: Seed of the draws and permutations.
    """
    usual = usual[_choose(len(usual), seed)]
    batch = batch[_choose(len(batch), seed)]
    pool = torch.cat([usual, batch])
    kernel = compute_kernel(pool, pool, bandwidth).cpu()
    found = []
    for m in sizes:
        if min(len(usual), len(batch)) < (2 * m if same else m):
            continue
        rng = torch.Generator().manual_seed(derive_seed(seed, m))
        alarms = 0
        for _ in range(trials):
            if same:
                order = torch.randperm(len(usual), generator=rng)
                left, right = order[:m], order[m : 2 * m]
            else:
                left = torch.randperm(len(usual), generator=rng)[:m]
                right = torch.randperm(len(batch), generator=rng)[:m]
            chosen = torch.cat([left, right + len(usual)])
            alarms += compute_mmd_p_value(kernel[chosen[:, None], chosen], m, rng=rng) <= NOMINAL
        found.append(BatchTest(m, estimate_share(alarms, trials)))
    return found


def _choose(n: int, seed: int) -> Tensor:
    """The places of at most ``POOL`` of ``n`` images; the same for sets of one size."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:POOL]
