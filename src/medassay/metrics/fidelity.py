"""Do samples look real, and are all kinds of real images among them? Pairs of scores, each pair read together.

Precision and recall (Kynkäänniemi et al. 2019, arXiv:1904.06991), density and coverage (Naeem et al. 2020,
arXiv:2002.09797), α-precision and β-recall (Alaa et al. 2022, arXiv:2102.08921). Of each pair the first asks whether
samples are like real images and the second whether real images are like samples: a generator of one perfect image wins
the first, noise over the whole space can win the second. All depend on the number of samples; compare at equal m.

The order of the samples changes no value. Scaling all features changes none either.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medassay.metrics.distances import check_features, compute_distances
from medassay.metrics.neighbours import Neighbours, Reference

GRID = torch.linspace(0, 1, 101, dtype=torch.float64)


def precision(neighbours: Neighbours) -> float:
    """Share of generated points inside at least one real ball (``manifold_k``, ``<=``).

    Source: Kynkäänniemi et al. 2019 (arXiv:1904.06991), equation 2.
    """
    return _compute_share(neighbours.in_real)


def recall(neighbours: Neighbours) -> float:
    """Share of real points inside at least one ball of generated points (``manifold_k``, ``<=``).

    Source: Kynkäänniemi et al. 2019 (arXiv:1904.06991), equation 2.
    """
    return _compute_share(neighbours.in_generated)


def density(neighbours: Neighbours) -> float:
    """Mean number of real balls around a generated point, over k (``density_k``, strict ``<``); can exceed 1.

    Source: Naeem et al. 2020 (arXiv:2002.09797). With the strict ``<`` of the authors' code identical sets
    have density 1 exactly (if no distances are equal): each ball holds its centre and its k - 1 nearest points.
    """
    return int(neighbours.balls.sum()) / (neighbours.density_k * neighbours.m)


def find_covered(neighbours: Neighbours) -> Tensor:
    """``(n,) bool``: the ball of this real point holds a generated one (``density_k``, strict ``<``)."""
    return neighbours.real_to_generated[0] < neighbours.reference.gaps[:, neighbours.density_k - 1]


def coverage(neighbours: Neighbours) -> float:
    """Share of real balls that hold at least one generated point (``density_k``, strict ``<``).

    Source: Naeem et al. 2020 (arXiv:2002.09797).
    """
    return _compute_share(find_covered(neighbours))


def alpha_precision(reference: Reference, generated: Tensor, alphas: Tensor = GRID) -> Tensor:
    """Share of generated points within the ball around the real mean that holds a share α of the real points.

    Source: Alaa et al. 2022 (arXiv:2102.08921), with the features as they are (no one-class embedding) and the mean
    as centre. A generator of the real distribution gives the diagonal, P(α) = α.

    Args:
        reference: The real points.
        generated: Features of the samples, ``(m, d)`` float.
        alphas: Levels α, ``(A,)`` float in [0, 1].

    Returns:
        The curve, ``(A,) float64`` on the CPU, rising with α.

    Raises:
        ValueError: if shapes, dtypes or devices do not fit, values are not finite, or an α is out of range.
    """
    generated = check_features(generated, "generated features")
    if generated.shape[1] != reference.features.shape[1] or generated.device != reference.features.device:
        raise ValueError("generated features must have the real ones' dimension and device")
    radii = _compute_quantiles(_compute_radii(reference.features, reference.mean), alphas)
    return (_compute_radii(generated, reference.mean) <= radii[:, None]).double().mean(1)


def beta_recall(neighbours: Neighbours, betas: Tensor = GRID) -> Tensor:
    """Share of real points covered by a generated one that is typical of G at level β.

    A real point r counts at β if its nearest generated point g is no farther than r's k-th nearest other real point
    (``density_k``, ``<=``), and if g lies within the β-quantile around the mean of G. The quantile is that of the
    matched points: the nearest g of every r, counted once for each r, as in the authors' code.

    Source: Alaa et al. 2022 (arXiv:2102.08921), with the features as they are.

    Args:
        neighbours: Neighbours of real and generated points.
        betas: Levels β, ``(B,)`` float in [0, 1].

    Returns:
        The curve, ``(B,) float64`` on the CPU, rising with β.

    Raises:
        ValueError: if a β is out of range.
    """
    distance, index = neighbours.real_to_generated
    near = (distance <= neighbours.reference.gaps[:, neighbours.density_k - 1]).cpu()
    matched = _compute_radii(neighbours.generated, neighbours.generated.mean(0))[index.cpu()]
    radii = _compute_quantiles(matched, betas)
    return (near & (matched <= radii[:, None])).double().mean(1)


def integrate_curve(curve: Tensor, grid: Tensor = GRID) -> float:
    """A curve's closeness to the diagonal, ``1 - 2 ∫ |P(α) - α| dα`` by the trapezoidal rule; 1 is on it.

    Source: Alaa et al. 2022 (arXiv:2102.08921). To be read beside the value of real held-out images: the
    curves of a perfect generator leave the diagonal too, that of β-recall most.

    Args:
        curve: Values P of the curve at the points of the grid, ``(A,)`` float.
        grid: Points of the grid, ``(A,)`` float, rising from 0 to 1.

    Raises:
        ValueError: if shapes differ.
    """
    if curve.shape != grid.shape or curve.ndim != 1:
        raise ValueError(
            f"a curve has one value per point of its grid, not {tuple(curve.shape)} at {tuple(grid.shape)}"
        )
    return 1 - 2 * float(torch.trapezoid((curve - grid).abs(), grid))


def _compute_share(mask: Tensor) -> float:
    # A count is exact, whatever the order of the points and on every device
    return int(mask.sum()) / len(mask)


def _compute_radii(features: Tensor, centre: Tensor) -> Tensor:
    """Distances of ``features (N, D)`` to ``centre (D,)``: ``(N,) float64`` on the CPU."""
    return compute_distances(features, centre[None]).squeeze(1).cpu().double()


def _compute_quantiles(values: Tensor, levels: Tensor) -> Tensor:
    """Quantiles ``(A,)`` of ``values (N,) float64``, by linear interpolation between order statistics."""
    levels = levels.detach().cpu().double()
    if levels.ndim != 1 or not ((levels >= 0) & (levels <= 1)).all():
        raise ValueError("the levels of a curve must be (A,) and lie in [0, 1]")
    return torch.quantile(values, levels)
