"""Nearest neighbours between real and generated features: what fidelity and authenticity are computed from.

Sets that have points in common are compared together (:func:`compare_sets`): no distance is computed for each of them anew.
What holds of distances holds here, see :mod:`medassay.metrics.distances`: they are exact, and never kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from medassay.metrics.distances import CHUNK_ELEMENTS, check_features, check_pair, find_nearest, iterate_chunks

MANIFOLD_K = 3  # as Kynkäänniemi et al. 2019 choose it
DENSITY_K = 5  # as Naeem et al. 2020 choose it


class Reference:
    """The real training features, and what is computed once of them for every set they are compared with.

    Attributes:
        features: Features, ``(n, d) float64`` (float32 on MPS).
        k: Number of neighbours that are known of every point.

    Raises:
        ValueError: if the features are not ``(n, d)`` float and finite, or there are fewer than ``k + 1`` of them.
    """

    def __init__(self, features: Tensor, *, k: int = DENSITY_K) -> None:
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


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Who lies near whom, between real points R and generated points G.

    The ball of a point is centred there and reaches to its k-th nearest *other* point of the same set. Which of several
    equally near points is the nearest: the one of lowest index.

    Attributes:
        reference: Real training features.
        generated: Features of the samples, ``(m, d) float64`` (float32 on MPS).
        generated_to_real: Distance ``(m,)`` from every generated point to its nearest real one, and its index ``(m,) int64``.
        real_to_generated: Distance ``(n,)`` from every real point to its nearest generated one, and its index ``(n,) int64``.
        balls: Number of real ``density_k`` balls that hold each generated point strictly inside (``<``), ``(m,) int64``.
        in_real: Whether each generated point lies in at least one real ``manifold_k`` ball (``<=``), ``(m,) bool``.
        in_generated: Whether each real point lies in at least one ``manifold_k`` ball of G (``<=``), ``(n,) bool``.
        manifold_k: The k of the balls of precision and recall.
        density_k: The k of the balls of density, coverage and β-recall.
    """

    reference: Reference
    generated: Tensor
    generated_to_real: tuple[Tensor, Tensor]
    real_to_generated: tuple[Tensor, Tensor]
    balls: Tensor
    in_real: Tensor
    in_generated: Tensor
    manifold_k: int
    density_k: int

    @property
    def m(self) -> int:
        """Number of generated points."""
        return len(self.generated)

    @property
    def n(self) -> int:
        """Number of real points."""
        return self.reference.n


def find_neighbours(
    reference: Reference | Tensor,
    generated: Tensor,
    *,
    manifold_k: int = MANIFOLD_K,
    density_k: int = DENSITY_K,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> Neighbours:
    """The neighbours of one set of generated points; arguments and errors are those of :func:`compare_sets`.

    Args:
        generated: Features of the samples, ``(m, d)`` float, on the reference's device; m and n need not be equal.
    """
    compared = compare_sets(
        reference,
        generated,
        [torch.arange(len(generated))],
        manifold_k=manifold_k,
        density_k=density_k,
        chunk_elements=chunk_elements,
    )
    return compared.sets[0]


class Comparison(NamedTuple):
    """What :func:`compare_sets` finds.

    Attributes:
        nearest: Distance ``(p,)`` from every point, in a set or not, to its nearest real one, and its index ``(p,) int64``.
        sets: The neighbours of each set.
    """

    nearest: tuple[Tensor, Tensor]
    sets: list[Neighbours]


def compare_sets(
    reference: Reference | Tensor,
    points: Tensor,
    sets: Sequence[Tensor],
    *,
    manifold_k: int = MANIFOLD_K,
    density_k: int = DENSITY_K,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> Comparison:
    """The neighbours of several sets of generated points that are parts of ``points``, and may have points in common.

    All sets together take one pass over the distances between ``points`` and R, one over those inside every set that is not
    part of a larger one, and, once per :class:`Reference`, one over those inside R.

    Args:
        reference: Real training features, or those as ``(n, d)`` float.
        points: The points that the sets are taken from, ``(p, d)`` float, on the same device.
        sets: Of each set, the indices of its points, ``(m,) int64`` on the CPU, rising.
        manifold_k: The k of the balls of precision and recall.
        density_k: The k of the balls of density, coverage and β-recall.
        chunk_elements: Largest number of elements in one chunk of distances; results do not depend on it.

    Raises:
        ValueError: if shapes, dtypes or devices do not fit, values are not finite, the indices of a set do not rise, it has not
            more than ``manifold_k`` points, or the reference knows fewer neighbours than asked for.
    """
    if isinstance(reference, Tensor):
        reference = Reference(reference, k=max(manifold_k, density_k))
    if not 1 <= min(manifold_k, density_k) <= max(manifold_k, density_k) <= reference.k:
        raise ValueError(
            f"manifold_k and density_k must lie in 1..{reference.k} (k of the reference), not {manifold_k} and {density_k}"
        )
    points = check_features(points, "generated features")
    check_pair(points, reference.features)
    for rows in sets:
        _check_rows(rows, len(points))
        if len(rows) <= manifold_k:
            raise ValueError(f"manifold_k={manifold_k} needs more than {manifold_k} generated points, not {len(rows)}")
    inner, outer = reference.gaps[:, manifold_k - 1], reference.gaps[:, density_k - 1]
    gathered = [
        _RealSide(rows, radii, reference.n)
        for rows, radii in zip(sets, _find_radii(points, sets, manifold_k, chunk_elements), strict=True)
    ]
    # Filled in place, as in find_nearest
    distance, index = points.new_empty(len(points)), torch.empty(len(points), dtype=torch.int64, device=points.device)
    balls, in_real = torch.empty_like(index), torch.empty_like(index, dtype=torch.bool)
    for span, chunk in iterate_chunks(points, reference.features, chunk_elements):
        distance[span], index[span] = chunk.min(1)
        balls[span] = (chunk < outer).count_nonzero(1)
        in_real[span] = (chunk <= inner).any(1)
        for side in gathered:
            side.add(span, chunk)
    neighbours = [
        Neighbours(
            reference,
            points[rows],
            generated_to_real=(distance[rows], index[rows]),
            real_to_generated=(side.distance, side.index),
            balls=balls[rows],
            in_real=in_real[rows],
            in_generated=side.inside,
            manifold_k=manifold_k,
            density_k=density_k,
        )
        for rows, side in zip(map(_shorten, sets), gathered, strict=True)
    ]
    return Comparison((distance, index), neighbours)


def find_distances_to_sets(
    queries: Tensor, points: Tensor, sets: Sequence[Tensor], *, chunk_elements: int = CHUNK_ELEMENTS
) -> list[Tensor]:
    """Distances from every query to its nearest point of each set, by one pass over those to all of the sets' points.

    Args:
        queries: Points whose neighbours are looked for, ``(q, d)`` float.
        points: The points that the sets are taken from, ``(p, d)`` float, on the same device.
        sets: Of each set, the indices of its points, ``(m,) int64`` on the CPU, rising.
        chunk_elements: Largest number of elements in one chunk of distances; results do not depend on it.

    Returns:
        ``(q,) float64`` (float32 on MPS) for each set.

    Raises:
        ValueError: if shapes, dtypes or devices do not fit, values are not finite, or the indices of a set do not rise.
    """
    queries, points = check_features(queries, "queries"), check_features(points, "points")
    check_pair(queries, points)
    for rows in sets:
        _check_rows(rows, len(points))
    used = unite_sets(sets, len(points))
    places = [_shorten(torch.searchsorted(used, rows)) for rows in sets]
    distances = [queries.new_empty(len(queries)) for _ in sets]
    for span, chunk in iterate_chunks(queries, points[_shorten(used)], chunk_elements) if sets else ():
        for of_set, columns in zip(distances, places, strict=True):
            of_set[span] = chunk[:, columns].amin(1)
    return distances


def unite_sets(sets: Sequence[Tensor], available: int) -> Tensor:
    """The indices, of 0 to ``available - 1``, that occur in any of ``sets``: each once, rising."""
    used = torch.zeros(available, dtype=torch.bool)
    for rows in sets:
        used[rows] = True
    return used.nonzero()[:, 0]


class _RealSide:
    """What the real points have among the points of one set, gathered chunk by chunk.

    Attributes:
        distance, index: As in ``Neighbours.real_to_generated``.
        inside: As in ``Neighbours.in_generated``.
    """

    def __init__(self, rows: Tensor, radii: Tensor, n: int) -> None:
        self.rows, self.radii = rows, radii
        self.distance = radii.new_full((n,), torch.inf)
        self.index = torch.zeros_like(self.distance, dtype=torch.int64)
        self.inside = torch.zeros_like(self.index, dtype=torch.bool)

    def add(self, span: slice, chunk: Tensor) -> None:
        """Reads the distances ``chunk`` of the points in ``span`` to the real ones, later spans after earlier ones."""
        members, rows = _locate(self.rows, span)
        if members.start == members.stop:
            return
        mine = chunk[rows]
        self.inside |= (mine <= self.radii[members, None]).any(0)
        # min names the first of equals within a chunk, and only a nearer point replaces an earlier chunk's
        distance, index = mine.min(0)
        nearer = distance < self.distance
        self.distance[nearer], self.index[nearer] = distance[nearer], index[nearer] + members.start


def _find_radii(points: Tensor, sets: Sequence[Tensor], k: int, chunk_elements: int) -> list[Tensor]:
    """Of each set ``(m,)``: the distance from every point to its k-th nearest *other* point of the set.

    A set that is part of another is read off that one's distances.
    """
    radii = [points.new_empty(len(rows)) for rows in sets]
    left = sorted(range(len(sets)), key=lambda place: len(sets[place]), reverse=True)
    while left:
        whole = sets[left[0]]
        parts = {i: torch.searchsorted(whole, sets[i]) for i in left if bool(torch.isin(sets[i], whole).all())}
        left = [i for i in left if i not in parts]
        own = points[_shorten(whole)]
        for span, chunk in iterate_chunks(own, own, chunk_elements):
            chunk.diagonal(span.start).fill_(torch.inf)
            for i, places in parts.items():
                members, rows = _locate(places, span)
                if members.start < members.stop:
                    nearest = chunk[rows][:, _shorten(places)].topk(k, 1, largest=False).values
                    radii[i][members] = nearest[:, -1]
    return radii


def _locate(rows: Tensor, span: slice) -> tuple[slice, Tensor | slice]:
    """Which of the rising ``rows`` lie in ``span``: their places among ``rows``, and their places in the span."""
    start, stop = torch.searchsorted(rows, torch.tensor([span.start, span.stop])).tolist()
    return slice(start, stop), _shorten(rows[start:stop] - span.start)


def _shorten(rows: Tensor) -> Tensor | slice:
    """The rising indices ``rows`` as a slice where none is left out in between: it copies nothing."""
    if len(rows) and int(rows[-1] - rows[0]) == len(rows) - 1:
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows


def _check_rows(rows: Tensor, available: int) -> None:
    if rows.ndim != 1 or rows.dtype != torch.int64 or rows.device.type != "cpu":
        raise ValueError(f"indices of a set must be (m,) int64 on the CPU, not {tuple(rows.shape)} {rows.dtype}")
    rises = bool((rows.diff() > 0).all())
    if len(rows) and not (rises and int(rows[0]) >= 0 and int(rows[-1]) < available):
        raise ValueError(f"indices of a set must rise and lie in 0..{available - 1}")
