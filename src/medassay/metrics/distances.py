"""Distances between features, and the nearest of them: what neighbours are found by.

All distances are Euclidean and taken from direct differences (``torch.cdist`` without its matrix product). The product
form ``|a|^2 + |b|^2 - 2 a.b`` is several times faster and loses half the digits where they matter here: a copied point
would lie at about 1e-7 instead of 0, ``d(a, b)`` would differ from ``d(b, a)``, and both would change with the chunk.
The metrics ask ``<``, ``<=`` and ``== 0`` of these numbers, so they have to be exact.

Distance matrices are computed in chunks of rows and never kept: memory beside the features is a few times the chunk.
Features are float64, on the device they came on; float32 on MPS, which has no float64.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

# 8 MiB of float64 per chunk; larger ones gain nothing (one core, 12,000 points): the differences take the time.
CHUNK_ELEMENTS = 1 << 20


def check_features(features: Tensor, name: str) -> Tensor:
    """Features as the metrics compute with them: ``(N, D) float64``, float32 on MPS; without gradients.

    Args:
        features: Features, ``(N, D)`` float, N and D at least 1.
        name: Name of the features, for the message.

    Raises:
        ValueError: if they are not ``(N, D)`` float, are empty, or hold NaN or infinity.
    """
    if features.ndim != 2 or not features.is_floating_point() or 0 in features.shape:
        raise ValueError(f"{name} must be (N, D) float, not {tuple(features.shape)} {features.dtype}")
    if not features.isfinite().all():
        raise ValueError(f"{name} must be finite: NaN and infinity have no neighbours")
    return features.detach().to(torch.float32 if features.device.type == "mps" else torch.float64)


def compute_distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances ``(m, n)`` between the rows of ``a (m, d)`` and ``b (n, d)``, from direct differences."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def find_nearest(
    queries: Tensor,
    reference: Tensor,
    k: int = 1,
    *,
    exclude_self: bool = False,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> tuple[Tensor, Tensor]:
    """The ``k`` nearest reference points of every query, the lowest index first among equally near ones.

    Distances come from direct differences (see the module): a copy lies at exactly 0, ``d(a, b) == d(b, a)`` bit for
    bit, and neither depends on ``chunk_elements``.

    Args:
        queries: Points whose neighbours are looked for, ``(m, d)`` float.
        reference: Points among which they are looked for, ``(n, d)`` float, on the same device.
        k: Number of neighbours per query, at least 1.
        exclude_self: Whether the queries are the reference points, and point i is no neighbour of itself. It is left out by its
            index, so that an exact duplicate of it still counts, at distance 0.
        chunk_elements: Largest number of elements in one chunk of distances (a chunk has one row at least).

    Returns:
        Distances ``(m, k) float64`` (float32 on MPS), rising along k, and indices ``(m, k) int64`` into ``reference``.

    Raises:
        ValueError: if shapes, dtypes or devices do not fit, values are not finite, there are fewer than ``k`` reference
            points (``k + 1`` with ``exclude_self``), or ``exclude_self`` is asked of two different sets.
    """
    queries, reference = check_features(queries, "queries"), check_features(reference, "reference points")
    check_pair(queries, reference)
    if exclude_self and not torch.equal(queries, reference):
        raise ValueError("exclude_self needs the same points as queries and as reference")
    available = len(reference) - exclude_self
    if not 1 <= k <= available:
        raise ValueError(f"k must lie in 1..{available}, the number of points to choose from, not {k}")
    # Filled in place: small results kept between the chunks would fragment the heap, by up to all distances
    smallest = queries.new_empty(len(queries), k)
    index = torch.empty_like(smallest, dtype=torch.int64)
    for rows, chunk in iterate_chunks(queries, reference, chunk_elements):
        if exclude_self:
            chunk.diagonal(rows.start).fill_(torch.inf)
        for column in range(k):  # not topk, which leaves open which of equal values it returns: min returns the first
            value, nearest_index = chunk.min(1)
            smallest[rows, column], index[rows, column] = value, nearest_index
            chunk.scatter_(1, nearest_index[:, None], torch.inf)
    return smallest, index


def check_pair(queries: Tensor, reference: Tensor) -> None:
    """Raises ValueError unless both are of one dimension and on one device."""
    if queries.shape[1] != reference.shape[1] or queries.device != reference.device:
        raise ValueError(
            "two sets of features must have one dimension and one device, not "
            f"{tuple(queries.shape)} on {queries.device} and {tuple(reference.shape)} on {reference.device}"
        )


def iterate_chunks(queries: Tensor, reference: Tensor, chunk_elements: int) -> Iterator[tuple[slice, Tensor]]:
    """Some rows of the queries at a time, in order, and their distances to the reference ``(rows, n)``."""
    size = max(1, chunk_elements // len(reference))
    for start in range(0, len(queries), size):
        rows = slice(start, min(start + size, len(queries)))
        yield rows, compute_distances(queries[rows], reference)
