"""Nearest neighbours between real and generated features: what fidelity and authenticity are computed from.

All distances are Euclidean and taken from direct differences (``torch.cdist`` without its matrix product). The product
form ``|a|^2 + |b|^2 - 2 a.b`` is several times faster and loses half the digits where they matter here: a copied point
would lie at about 1e-7 instead of 0, ``d(a, b)`` would differ from ``d(b, a)``, and both would change with the chunk.
The metrics ask ``<``, ``<=`` and ``== 0`` of these numbers, so they have to be exact.

Distance matrices are computed in chunks of rows and never kept: memory beside the features is a few times the chunk.
Features are float64, on the device they came on; float32 on MPS, which has no float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

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
    _check_pair(queries, reference)
    if exclude_self and not torch.equal(queries, reference):
        raise ValueError("exclude_self needs the same points as queries and as reference")
    available = len(reference) - exclude_self
    if not 1 <= k <= available:
        raise ValueError(f"k must lie in 1..{available}, the number of points to choose from, not {k}")
    # Filled in place: small results kept between the chunks would fragment the heap, by up to all distances
    smallest = queries.new_empty(len(queries), k)
    index = torch.empty_like(smallest, dtype=torch.int64)
    for rows, chunk in _iterate_chunks(queries, reference, chunk_elements):
        if exclude_self:
            chunk.diagonal(rows.start).fill_(torch.inf)
        for column in range(k):  # not topk, which leaves open which of equal values it returns: min returns the first
            value, nearest_index = chunk.min(1)
            smallest[rows, column], index[rows, column] = value, nearest_index
            chunk.scatter_(1, nearest_index[:, None], torch.inf)
    return smallest, index


class Reference:
    """The real training features, and what is computed once of them for every set they are compared with.

    Attributes:
        features: Features, ``(n, d) float64`` (float32 on MPS).
        k: Number of neighbours that are known of every point.

    Raises:
        ValueError: if the features are not ``(n, d)`` float and finite, or there are fewer than ``k + 1`` of them.
    """

    def __init__(self, features: Tensor, *, k: int = 5) -> None:
        self.features = check_features(features, "real features")
        self.k = k
        if not 1 <= k < self.n:
            raise ValueError(f"k must lie in 1..{self.n - 1}, the number of other real points, not {k}")

    @property
    def n(self) -> int:
        """Number of real points."""
        return len(self.features)

    @cached_property
    def mean(self) -> Tensor:
        """``(d,)``, the centre of the real points."""
        return self.features.mean(0)

    @cached_property
    def gaps(self) -> Tensor:
        """``(n, k)``: distances of every real point to its k nearest *other* ones, rising."""
        return find_nearest(self.features, self.features, self.k, exclude_self=True)[0]


class Neighbours:
    """Who lies near whom, between real points R and generated points G.

    Made by one pass over the distances inside G (and inside R, once per :class:`Reference`) and one over those between G
    and R.

    The ball of a point is centred there and reaches to its k-th nearest *other* point of the same set. Which of several
    equally near points is the nearest: the one of lowest index.

    Args:
        reference: Real training features, or those as ``(n, d)`` float.
        generated: Features of the samples, ``(m, d)`` float, on the same device; m and n need not be equal.
        manifold_k: The k of the balls of precision and recall.
        density_k: The k of the balls of density, coverage and β-recall.
        chunk_elements: Largest number of elements in one chunk of distances; results do not depend on it.

    Attributes:
        generated_to_real: Distance ``(m,)`` from every generated point to its nearest real one, and its index ``(m,) int64``.
        real_to_generated: Distance ``(n,)`` from every real point to its nearest generated one, and its index ``(n,) int64``.
        balls: Number of real ``density_k`` balls that hold each generated point strictly inside (``<``), ``(m,) int64``.
        in_real: Whether each generated point lies in at least one real ``manifold_k`` ball (``<=``), ``(m,) bool``.
        in_generated: Whether each real point lies in at least one ``manifold_k`` ball of G (``<=``), ``(n,) bool``.

    Raises:
        ValueError: if shapes, dtypes or devices do not fit, values are not finite, there are not more than
            ``manifold_k`` generated points, or the reference knows fewer neighbours than asked for.
    """

    def __init__(
        self,
        reference: Reference | Tensor,
        generated: Tensor,
        *,
        manifold_k: int = 3,
        density_k: int = 5,
        chunk_elements: int = CHUNK_ELEMENTS,
    ) -> None:
        if isinstance(reference, Tensor):
            reference = Reference(reference, k=max(manifold_k, density_k))
        if not 1 <= min(manifold_k, density_k) <= max(manifold_k, density_k) <= reference.k:
            raise ValueError(
                f"manifold_k and density_k must lie in 1..{reference.k} (k of the reference), "
                f"not {manifold_k} and {density_k}"
            )
        self.reference = reference
        self.generated = check_features(generated, "generated features")
        _check_pair(self.generated, reference.features)
        if self.m <= manifold_k:
            raise ValueError(f"manifold_k={manifold_k} needs more than {manifold_k} generated points, not {self.m}")
        self.manifold_k, self.density_k = manifold_k, density_k
        inner, outer = reference.gaps[:, manifold_k - 1], reference.gaps[:, density_k - 1]
        own, _ = find_nearest(
            self.generated, self.generated, manifold_k, exclude_self=True, chunk_elements=chunk_elements
        )
        m, n, device = self.m, self.n, inner.device
        # Filled in place, as in nearest
        to_real, real_index = inner.new_empty(m), torch.empty(m, dtype=torch.int64, device=device)
        to_generated, generated_index = inner.new_full((n,), torch.inf), torch.zeros_like(inner, dtype=torch.int64)
        self.balls = torch.empty_like(real_index)
        self.in_real = torch.empty(m, dtype=torch.bool, device=device)
        self.in_generated = torch.zeros(n, dtype=torch.bool, device=device)
        for rows, chunk in _iterate_chunks(self.generated, reference.features, chunk_elements):
            to_real[rows], real_index[rows] = chunk.min(1)
            self.balls[rows] = (chunk < outer).sum(1)
            self.in_real[rows] = (chunk <= inner).any(1)
            self.in_generated |= (chunk <= own[rows, -1:]).any(0)
            # min names the first of equals within a chunk, and only a nearer point replaces an earlier chunk's
            distance, index = chunk.min(0)
            nearer = distance < to_generated
            to_generated[nearer], generated_index[nearer] = distance[nearer], index[nearer] + rows.start
        self.generated_to_real = to_real, real_index
        self.real_to_generated = to_generated, generated_index

    @property
    def m(self) -> int:
        """Number of generated points."""
        return len(self.generated)

    @property
    def n(self) -> int:
        """Number of real points."""
        return self.reference.n


def _check_pair(queries: Tensor, reference: Tensor) -> None:
    if queries.shape[1] != reference.shape[1] or queries.device != reference.device:
        raise ValueError(
            "two sets of features must have one dimension and one device, not "
            f"{tuple(queries.shape)} on {queries.device} and {tuple(reference.shape)} on {reference.device}"
        )


def _iterate_chunks(queries: Tensor, reference: Tensor, chunk_elements: int) -> Iterator[tuple[slice, Tensor]]:
    """Some rows of the queries at a time, in order, and their distances to the reference ``(rows, n)``."""
    size = max(1, chunk_elements // len(reference))
    for start in range(0, len(queries), size):
        rows = slice(start, min(start + size, len(queries)))
        yield rows, compute_distances(queries[rows], reference)
