"""Distances between two sets of features as distributions: Fréchet distance and kernel distance (KID).

Both depend on the number of samples: the Fréchet distance falls with it, KID is unbiased. Only on Inception features is
the first one "FID". Everything is float64; features on MPS, which has no float64, are moved to the CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medassay.metrics.neighbours import check_features


def frechet_distance(real: Tensor, generated: Tensor) -> float:
    """Squared Fréchet distance of the Gaussians with the sets' moments: ``|μ_R-μ_G|² + tr(Σ_R+Σ_G-2(Σ_R^½ Σ_G Σ_R^½)^½)``.

    Source: Heusel et al. 2017 (arXiv:1706.08500), equation 6, with the trace in its symmetric form: square roots of
    symmetric matrices by their eigenvalues, those below 0 (rounding) set to 0, so that no imaginary part arises and
    fewer points than dimensions are no special case. Covariances are the unbiased ones (N - 1), as in torchmetrics and
    torch-fidelity.

    Args:
        real: Features of the real images, ``(n, d)`` float, n at least 2.
        generated: Features of the samples, ``(m, d)`` float, m at least 2.

    Returns:
        The distance, at least 0.

    Raises:
        ValueError: if shapes or dtypes do not fit, values are not finite, or a set has fewer than 2 points.
    """
    real, generated = _check_pair(real, generated)
    difference = real.mean(0) - generated.mean(0)
    real_cov, generated_cov = _compute_covariance(real), _compute_covariance(generated)
    root = _take_square_root(real_cov)
    product = root @ generated_cov @ root
    # The product is symmetric but for rounding, and eigvalsh reads one triangle only
    cross = _take_roots(torch.linalg.eigvalsh((product + product.T) / 2)).sum()
    distance = difference.square().sum() + real_cov.trace() + generated_cov.trace() - 2 * cross
    return max(0.0, float(distance))


def intra_class_frechet(
    real: Tensor, real_labels: Tensor, generated: Tensor, generated_labels: Tensor, num_classes: int
) -> Tensor:
    """The Fréchet distance of each class: real images of the class against those generated for it.

    A generator that ignores its label can have a small distance overall and has large ones here.

    Args:
        real: Features of the real images, ``(n, d)`` float.
        real_labels: Classes of the real images, ``(n,) int64`` in 0..K-1.
        generated: Features of the samples, ``(m, d)`` float.
        generated_labels: Classes requested of the samples, ``(m,) int64``.
        num_classes: K.

    Returns:
        ``(K,) float64`` on the CPU; NaN for a class with fewer than 2 points on one side.

    Raises:
        ValueError: if shapes or dtypes do not fit, values are not finite, or a label is out of range.
    """
    for features, labels, name in ((real, real_labels, "real"), (generated, generated_labels, "generated")):
        if labels.shape != (len(features),) or labels.dtype != torch.int64:
            raise ValueError(
                f"{name} labels must be ({len(features)},) int64, not {tuple(labels.shape)} {labels.dtype}"
            )
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
            raise ValueError(
                f"{name} labels must lie in 0..{num_classes - 1}, not in {int(labels.min())}..{int(labels.max())}"
            )

    def of_class(c: int) -> float:
        mine, theirs = real[real_labels == c], generated[generated_labels == c]
        return torch.nan if min(len(mine), len(theirs)) < 2 else frechet_distance(mine, theirs)

    return torch.tensor([of_class(c) for c in range(num_classes)], dtype=torch.float64)


def polynomial_mmd(x: Tensor, y: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy of two sets, kernel ``(x.y / d + 1)³``.

    Source: Bińkowski et al. 2018 (arXiv:1801.01401); sizes may differ.

    Args:
        x: The first set of features, ``(s, d)`` float, s at least 2.
        y: The second set of features, ``(t, d)`` float, t at least 2.

    Returns:
        The estimate; below 0 about half the time where both sets come from one distribution.

    Raises:
        ValueError: if shapes or dtypes do not fit, values are not finite, or a set has fewer than 2 points.
    """
    x, y = _check_pair(x, y)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1).pow(3)

    def mean_of_pairs(a: Tensor) -> Tensor:
        values = kernel(a, a)
        return (values.sum() - values.trace()) / (len(a) * (len(a) - 1))

    return float(mean_of_pairs(x) + mean_of_pairs(y) - 2 * kernel(x, y).mean())


def kid(
    real: Tensor, generated: Tensor, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Kernel distance: mean and standard deviation of :func:`polynomial_mmd` over random subsets of both sets.

    Subsets are drawn without replacement from a CPU generator, so that ``seed`` means the same on every device. The
    standard deviation is that of the subsets (divisor ``subsets``), as in torchmetrics and torch-fidelity; it is no
    standard error, since subsets of one set overlap.

    Args:
        real: Features of the real images, ``(n, d)`` float, n at least 2.
        generated: Features of the samples, ``(m, d)`` float, m at least 2.
        subsets: Number of subsets.
        subset_size: Number of points of each set in a subset; n or m if that is smaller.
        seed: Seed of the subsets.

    Returns:
        Mean and standard deviation.

    Raises:
        ValueError: as in :func:`polynomial_mmd`, or if there are no subsets or they have fewer than 2 points.
    """
    if subsets < 1 or subset_size < 2:
        raise ValueError(f"KID needs at least one subset of at least 2 points, not {subsets} of {subset_size}")
    real, generated = _check_pair(real, generated)
    size = min(subset_size, len(real), len(generated))
    rng = torch.Generator().manual_seed(seed)

    def draw(features: Tensor) -> Tensor:
        return features[torch.randperm(len(features), generator=rng)[:size].to(features.device)]

    values = torch.tensor([polynomial_mmd(draw(real), draw(generated)) for _ in range(subsets)], dtype=torch.float64)
    return float(values.mean()), float(values.std(correction=0))


def _check_pair(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    # On the CPU where the device has no float64: eigenvalues of a covariance need it
    x, y = (check_features(z.cpu() if z.device.type == "mps" else z, "features") for z in (x, y))
    if x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(
            "two sets of features must have one dimension and at least 2 points each, not "
            f"{tuple(x.shape)} and {tuple(y.shape)}"
        )
    return x, y


def _compute_covariance(features: Tensor) -> Tensor:
    centred = features - features.mean(0)
    return centred.T @ centred / (len(features) - 1)


def _take_square_root(matrix: Tensor) -> Tensor:
    """The symmetric root of a symmetric matrix ``(d, d)`` without negative eigenvalues but for rounding."""
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = (vectors * _take_roots(values)) @ vectors.T
    return root


def _take_roots(eigenvalues: Tensor) -> Tensor:
    """Square roots of the eigenvalues of a positive semidefinite matrix; what is 0 but for rounding is 0.

    The root of a rounding error of 1e-16 would be 1e-8, and another one for each order of the samples.
    """
    smallest = len(eigenvalues) * torch.finfo(eigenvalues.dtype).eps * eigenvalues.max()
    return torch.where(eigenvalues > smallest, eigenvalues, 0).clamp(min=0).sqrt()
