"""Do two samples of features come from one distribution? The maximum mean discrepancy and its permutation test.

Source: Gretton et al., *A Kernel Two-Sample Test*, JMLR 13 (2012); of nets' features: Rabanser et al., *Failing Loudly*,
NeurIPS 2019 (arXiv:1810.11953).
"""

from __future__ import annotations

import torch
from torch import Tensor

from medassay.metrics.distances import check_features, check_pair, compute_distances

PERMUTATIONS = 99  # with the sample itself 100 arrangements, of which exactly a twentieth gives p <= 0.05
_MOST = 1000  # points that the bandwidth is taken from


def choose_bandwidth(features: Tensor) -> float:
    """The median distance between different points of ``features (n, d)``, of 1000 evenly spaced ones where there are more.

    Raises:
        ValueError: if there are fewer than two points, or values are not finite.
    """
    points = check_features(features, "features")
    if len(points) < 2:
        raise ValueError(f"a bandwidth needs at least two points, not {len(points)}")
    chosen = points[torch.linspace(0, len(points) - 1, min(len(points), _MOST)).round().long()]
    rows, columns = torch.triu_indices(len(chosen), len(chosen), offset=1)
    median = float(compute_distances(chosen, chosen)[rows, columns].median())
    return median or 1.0  # more than half of the points are copies


def compute_kernel(a: Tensor, b: Tensor, bandwidth: float) -> Tensor:
    """``exp(-|a - b|^2 / (2 bandwidth^2))`` of all pairs of ``a (n, d)`` and ``b (m, d)``, ``(n, m) float64``.

    Raises:
        ValueError: if shapes or devices do not fit, values are not finite, or the bandwidth is not positive.
    """
    a, b = check_features(a, "features"), check_features(b, "features")
    check_pair(a, b)
    if not bandwidth > 0:
        raise ValueError(f"the bandwidth must be positive, not {bandwidth}")
    return torch.exp(-(compute_distances(a, b) ** 2) / (2 * bandwidth**2))


def compute_mmd(kernel: Tensor, first: Tensor) -> Tensor:
    """The unbiased estimate of MMD² (Gretton 2012, equation 3), for several ways to divide the same points in two.

    Args:
        kernel: Kernel of all pairs of points, ``(n, n)``, symmetric.
        first: Whether each point is of the first sample, ``(P, n) bool``; at least two points are on either side.

    Returns:
        ``(P,) float64``; it may be negative.
    """
    member, kernel = first.to(kernel.dtype), kernel - torch.diag(kernel.diagonal())
    sums = member @ kernel
    within_first = (sums * member).sum(1)
    between = sums.sum(1) - within_first
    within_second = kernel.sum() - within_first - 2 * between
    n = member.sum(1)
    m = member.shape[1] - n
    return within_first / (n * (n - 1)) + within_second / (m * (m - 1)) - 2 * between / (n * m)


def compute_mmd_p_value(kernel: Tensor, first: int, *, rng: torch.Generator, permutations: int = PERMUTATIONS) -> float:
    """The permutation test of ``MMD² = 0``: how often a random division of the points gives at least the MMD of the true one.

    The true division counts as one of the ``permutations + 1``. If both samples come from one distribution, p is at most α with
    a probability of at most α, whatever that distribution is, as long as the kernel was not fitted to the division.

    Args:
        kernel: Kernel of all pairs of the pooled points, ``(n, n)``, those of the first sample first.
        first: Number of points of the first sample, at least 2 and at most n - 2.
        rng: A CPU generator, of the random divisions.
        permutations: Number of random divisions.

    Raises:
        ValueError: if a sample has fewer than two points.
    """
    n = len(kernel)
    if not 2 <= first <= n - 2:
        raise ValueError(f"each sample needs at least two points, not {first} and {n - first}")
    true = torch.arange(n) < first
    draw = torch.rand(permutations, n, generator=rng, dtype=torch.float64)  # no two alike, and no sorting is needed
    divisions = torch.cat([true[None], draw <= draw.kthvalue(first, 1, keepdim=True).values])
    values = compute_mmd(kernel, divisions.to(kernel.device))
    # sums in another order differ in the last digits: a division as good as the true one must not count as smaller
    slack = 1e-12 * float(kernel.abs().max())
    return float((values[1:] >= values[0] - slack).sum() + 1) / (permutations + 1)
