"""How unusual an image looks to a net, without its label; and how well such a score tells unusual images from usual ones."""

from __future__ import annotations

import torch
from torch import Tensor

from medassay.core.estimate import Estimate
from medassay.metrics.bootstrap import draw_resample_weights, percentile_interval
from medassay.metrics.distances import CHUNK_ELEMENTS, check_features, check_pair, iterate_chunks

RESAMPLES = 1000


def score_max_softmax(logits: Tensor) -> Tensor:
    """Minus the largest class probability, ``logits (N, K) -> (N,) float64`` (Hendrycks & Gimpel 2017, arXiv:1610.02136)."""
    return -logits.double().softmax(1).amax(1)


def score_energy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """The energy ``-T log sum exp(logits / T)``, ``logits (N, K) -> (N,) float64`` (Liu et al. 2020, arXiv:2010.03759)."""
    return -temperature * (logits.double() / temperature).logsumexp(1)


def score_neighbours(
    features: Tensor, reference: Tensor, k: int = 10, *, chunk_elements: int = CHUNK_ELEMENTS
) -> Tensor:
    """The distance to the k-th nearest reference point, all features scaled to length 1 (Sun et al. 2022, arXiv:2204.06507).

    Args:
        features: Features of the images, ``(N, d)`` float.
        reference: Features of usual images, ``(M, d)`` float, on the same device.
        k: Which neighbour; the last of them where there are fewer.
        chunk_elements: Largest number of elements in one chunk of distances.

    Returns:
        ``(N,) float64`` (float32 on MPS), higher is more unusual.

    Raises:
        ValueError: if shapes, dtypes or devices do not fit, or values are not finite.
    """
    queries, points = check_features(features, "features"), check_features(reference, "reference features")
    check_pair(queries, points)
    queries, points = (torch.nn.functional.normalize(one, dim=1) for one in (queries, points))
    distances = queries.new_empty(len(queries))
    for rows, chunk in iterate_chunks(queries, points, chunk_elements):
        distances[rows] = chunk.kthvalue(min(k, len(points)), 1).values
    return distances


def estimate_detection(usual: Tensor, unusual: Tensor, *, paired: bool, seed: int = 0) -> Estimate:
    """The chance that an unusual image has a higher score than a usual one, equal scores counting half: the AUROC.

    Args:
        usual, unusual: Scores, ``(N,)`` and ``(M,)`` float.
        paired: Whether both are of the same images in the same order, once changed and once not: they are then drawn together
            in each resample. Else each set is resampled by itself.
        seed: Seed of the resamples.

    Returns:
        The area with its 95 % percentile bootstrap interval over images.

    Raises:
        ValueError: if a set is empty, a score is not finite, or pairs are asked of two lengths.
    """
    usual, unusual = usual.detach().cpu().double(), unusual.detach().cpu().double()
    if not (len(usual) and len(unusual) and usual.isfinite().all() and unusual.isfinite().all()):
        raise ValueError("both sets need finite scores, at least one each")
    if paired and len(usual) != len(unusual):
        raise ValueError(f"pairs need as many usual as unusual images, not {len(usual)} and {len(unusual)}")
    levels, place = torch.unique(torch.cat([usual, unusual]), return_inverse=True)
    places = place[: len(usual)], place[len(usual) :]

    def measure(weights: Tensor, other_weights: Tensor) -> Tensor:
        low, high = (
            torch.zeros(len(some), len(levels), dtype=torch.float64).index_add_(1, where, some)
            for some, where in zip((weights, other_weights), places, strict=True)
        )
        below = low.cumsum(1) - low / 2
        return (high * below).sum(1) / (low.sum(1) * high.sum(1))

    value = measure(torch.ones(1, len(usual)).double(), torch.ones(1, len(unusual)).double())
    ours = draw_resample_weights(len(usual), resamples=RESAMPLES, seed=seed)
    if paired:
        drawn = torch.cat([measure(weights, weights) for weights in ours])
    else:
        theirs = torch.cat([*draw_resample_weights(len(unusual), resamples=RESAMPLES, seed=seed + 1)])
        start, parts = 0, []
        for weights in ours:
            parts.append(measure(weights, theirs[start : start + len(weights)]))
            start += len(weights)
        drawn = torch.cat(parts)
    return Estimate(float(value), *percentile_interval(drawn), n=len(usual) + len(unusual))
