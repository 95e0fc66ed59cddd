"""Fréchet and kernel distance (KID) of two sets of features: how far they lie apart as distributions.

Both depend on the number of samples: the Fréchet distance falls with it, KID is unbiased. Only on Inception features is
the first one "FID". Everything is float64; features on MPS, which has no float64, are moved to the CPU.

One set of real features is compared with many sets: its :class:`Moments`, and its part of KID (:class:`KernelReference`), are
computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from medassay.metrics.distances import check_features


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean ``(d,)`` and unbiased covariance ``(d, d)`` (N - 1, as in torchmetrics and torch-fidelity) of a set, ``float64``."""

    mean: Tensor
    covariance: Tensor

    @cached_property
    def root(self) -> Tensor:
        """``(d, d)``, the symmetric square root of the covariance."""
        return _take_square_root(self.covariance)


def compute_moments(features: Tensor) -> Moments:
    """The moments of ``features (n, d)`` float.

    Raises:
        ValueError: if shape or dtype does not fit, values are not finite, or there are fewer than 2 points.
    """
    features = _check(features)
    return Moments(features.mean(0), _compute_covariance(features))


def compute_class_moments(
    features: Tensor, labels: Tensor, num_classes: int, name: str = "the"
) -> list[Moments | None]:
    """The moments of each class; None for one with fewer than 2 points.

    Args:
        features: Features, ``(n, d)`` float.
        labels: Classes, ``(n,) int64`` in 0..K-1, on the same device or on the CPU.
        num_classes: K.
        name: Name of the set, for the message.

    Raises:
        ValueError: if shapes or dtypes do not fit, values are not finite, or a label is out of range.
    """
    if labels.shape != (len(features),) or labels.dtype != torch.int64:
        raise ValueError(f"{name} labels must be ({len(features)},) int64, not {tuple(labels.shape)} {labels.dtype}")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError(
            f"{name} labels must lie in 0..{num_classes - 1}, not in {int(labels.min())}..{int(labels.max())}"
        )
    members = [features[labels == c] for c in range(num_classes)]
    return [compute_moments(of_class) if len(of_class) > 1 else None for of_class in members]


def compare_moments(real: Moments, generated: Moments) -> float:
    """Squared Fréchet distance of two Gaussians: ``|μ_R-μ_G|² + tr(Σ_R+Σ_G-2(Σ_R^½ Σ_G Σ_R^½)^½)``.

    Source: Heusel et al. 2017 (arXiv:1706.08500), equation 6, with the trace in its symmetric form: square roots of
    symmetric matrices by their eigenvalues, those below 0 (rounding) set to 0, so that no imaginary part arises and
    fewer points than dimensions are no special case.

    Returns:
        The distance, at least 0.

    Raises:
        ValueError: if they have not one dimension.
    """
    _check_dimensions(real.covariance, generated.covariance)
    product = real.root @ generated.covariance @ real.root
    # The product is symmetric but for rounding, and eigvalsh reads one triangle only
    cross = _take_roots(torch.linalg.eigvalsh((product + product.T) / 2)).sum()
    difference = real.mean - generated.mean
    distance = difference.square().sum() + real.covariance.trace() + generated.covariance.trace() - 2 * cross
    return max(0.0, float(distance))


def compare_class_moments(real: Sequence[Moments | None], generated: Sequence[Moments | None]) -> Tensor:
    """The Fréchet distance of each class, ``(K,) float64`` on the CPU; NaN for a class whose moments one side lacks."""
    distances = [
        torch.nan if mine is None or theirs is None else compare_moments(mine, theirs)
        for mine, theirs in zip(real, generated, strict=True)
    ]
    return torch.tensor(distances, dtype=torch.float64)


def frechet_distance(real: Tensor, generated: Tensor) -> float:
    """The Fréchet distance of the Gaussians with the sets' moments, see :func:`compare_moments`.

    Args:
        real: Features of the real images, ``(n, d)`` float, n at least 2.
        generated: Features of the samples, ``(m, d)`` float, m at least 2.

    Raises:
        ValueError: if shapes or dtypes do not fit, values are not finite, or a set has fewer than 2 points.
    """
    return compare_moments(compute_moments(real), compute_moments(generated))


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
    return compare_class_moments(
        compute_class_moments(real, real_labels, num_classes, "real"),
        compute_class_moments(generated, generated_labels, num_classes, "generated"),
    )


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
    x, y = _check(x), _check(y)
    _check_dimensions(x, y)
    kernel = _Kernel()
    return float(kernel.average_pairs(x) + kernel.average_pairs(y) - 2 * kernel.average(x, y))


class _Kernel:
    """Averages of the kernel ``(x.y / d + 1)³`` over pairs of points; keeps the memory that the values take for the next ones.

    Memory of a new matrix comes from the system page by page, which takes several times as long as the kernel itself.
    """

    def __init__(self) -> None:
        self._memory = torch.empty(0)

    def average(self, x: Tensor, y: Tensor) -> Tensor:
        """The mean over all pairs of a point of ``x (s, d)`` and one of ``y (t, d)``, a scalar."""
        return self._compute(x, y).mean()

    def average_pairs(self, x: Tensor) -> Tensor:
        """The mean over all pairs of two different points of ``x (s, d)``, a scalar."""
        values = self._compute(x, x)
        return (values.sum() - values.trace()) / (len(x) * (len(x) - 1))

    def _compute(self, x: Tensor, y: Tensor) -> Tensor:
        if self._memory.shape != (len(x), len(y)) or self._memory.device != x.device:
            self._memory = x.new_empty(len(x), len(y))
        return torch.mm(x, y.T, out=self._memory).div_(x.shape[1]).add_(1).pow_(3)


class Subsets(NamedTuple):
    """Random subsets of two sets for KID.

    Attributes:
        real: Indices of the real points in each subset, ``(subsets, size) int64``.
        generated: Indices of the generated points in each, likewise.
        real_averages: Mean of the kernel over all pairs of different real points of each subset, ``(subsets,) float64``.
    """

    real: Tensor
    generated: Tensor
    real_averages: Tensor


class KernelReference:
    """The real features, and what KID takes from them once for all sets of as many generated points.

    Args:
        real: Features of the real images, ``(n, d)`` float, n at least 2.
        subsets: Number of subsets.
        subset_size: Number of points of each set in a subset; n or m if that is smaller.
        seed: Seed of the subsets.

    Raises:
        ValueError: if shape or dtype does not fit, values are not finite, there are fewer than 2 points, no subsets, or they
            have fewer than 2 points.
    """

    def __init__(self, real: Tensor, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0) -> None:
        if subsets < 1 or subset_size < 2:
            raise ValueError(f"KID needs at least one subset of at least 2 points, not {subsets} of {subset_size}")
        self.real = _check(real)
        self.subsets, self.subset_size, self.seed = subsets, subset_size, seed
        self._kernel = _Kernel()
        self._drawn: dict[int, Subsets] = {}

    def draw(self, m: int) -> Subsets:
        """The subsets for ``m`` generated points, drawn without replacement from a CPU generator: the same on every device."""
        if m not in self._drawn:
            n, rng = len(self.real), torch.Generator().manual_seed(self.seed)
            size = min(self.subset_size, n, m)
            pairs = [[torch.randperm(count, generator=rng)[:size] for count in (n, m)] for _ in range(self.subsets)]
            real, generated = (torch.stack(side).to(self.real.device) for side in zip(*pairs, strict=True))
            averages = self.real.new_empty(self.subsets)  # filled in place, as in find_nearest
            for i, rows in enumerate(real):
                averages[i] = self._kernel.average_pairs(self.real[rows])
            self._drawn[m] = Subsets(real, generated, averages)
        return self._drawn[m]

    def measure(self, generated: Tensor) -> tuple[float, float]:
        """Mean and standard deviation of :func:`polynomial_mmd` over the subsets, see :func:`kid`.

        Args:
            generated: Features of the samples, ``(m, d)`` float, m at least 2.

        Raises:
            ValueError: if shape or dtype does not fit, values are not finite, or there are fewer than 2 points.
        """
        generated = _check(generated)
        _check_dimensions(self.real, generated)
        drawn, kernel = self.draw(len(generated)), self._kernel
        values = torch.empty_like(drawn.real_averages)
        for i, (real_rows, rows, average) in enumerate(zip(*drawn, strict=True)):
            y = generated[rows]
            values[i] = average + kernel.average_pairs(y) - 2 * kernel.average(self.real[real_rows], y)
        values = values.cpu()
        return float(values.mean()), float(values.std(correction=0))


def kid(
    real: Tensor, generated: Tensor, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Kernel distance: mean and standard deviation of :func:`polynomial_mmd` over random subsets of both sets.

    Subsets are drawn without replacement, so that ``seed`` means the same on every device. The standard deviation is that of
    the subsets (divisor ``subsets``), as in torchmetrics and torch-fidelity; it is no standard error, since subsets of one set
    overlap.

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
    return KernelReference(real, subsets=subsets, subset_size=subset_size, seed=seed).measure(generated)


def _check(features: Tensor) -> Tensor:
    # On the CPU where the device has no float64: eigenvalues of a covariance need it
    features = check_features(features.cpu() if features.device.type == "mps" else features, "features")
    if len(features) < 2:
        raise ValueError(f"a set of features must have at least 2 points, not {len(features)}")
    return features


def _check_dimensions(real: Tensor, generated: Tensor) -> None:
    if real.shape[1] != generated.shape[1]:
        raise ValueError(f"two sets of features must have one dimension, not {real.shape[1]} and {generated.shape[1]}")


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
