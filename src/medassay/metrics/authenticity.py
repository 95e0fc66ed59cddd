"""Are samples new, or training images again? Nearest-neighbour tests for copying, and an attack on membership.

Every real image has a neighbour somewhere: authenticity, C_T and the memorisation ratio are read beside the value that
held-out real images get in place of samples, and more is not better.

All distances to the training set come with the *index of the training image* (:class:`Neighbours`), and its gap is
looked up there. A published implementation of authenticity looks the gap up under the index of the sample instead, so
that shuffling the samples changes the score and more samples than training images are an error. Here the order of the
samples changes nothing and m may differ from n.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from medassay.metrics.classification import auroc, roc_curve
from medassay.metrics.distances import check_features, find_nearest
from medassay.metrics.neighbours import Neighbours, Reference

MAX_FPR = 0.01


def find_authentic(neighbours: Neighbours) -> Tensor:
    """``(m,) bool``: the sample is farther from its nearest training image than that one's nearest *other* one (``>``).

    Source: Alaa et al. 2022 (arXiv:2102.08921). A copy lies at distance 0 and is never authentic.
    """
    distance, gap = _look_up_distance_and_gap(neighbours.reference, neighbours.generated_to_real)
    return distance > gap


def authenticity(neighbours: Neighbours) -> float:
    """Share of authentic samples; clearly under the value of held-out real images where training images are copied.

    Source: Alaa et al. 2022 (arXiv:2102.08921).
    """
    mask = find_authentic(neighbours)
    return int(mask.sum()) / len(mask)


def suspicion(reference: Reference, nearest: tuple[Tensor, Tensor]) -> Tensor:
    """Distance to the nearest training image over that image's gap to its nearest other one: small is suspicious.

    Args:
        reference: Features of the real training images.
        nearest: Distance ``(m,)`` from every sample to its nearest training image, and its index ``(m,) int64``.

    Returns:
        ``(m,) float64`` on the CPU; above 1 where the sample is authentic. A copy has 0, also of a training
        image that has a duplicate; another sample next to such an image has infinity.
    """
    distance, gap = (value.cpu().double() for value in _look_up_distance_and_gap(reference, nearest))
    return (distance / gap).masked_fill(distance == 0, 0.0)


def memorisation_ratio(generated_distances: Tensor, validation_distances: Tensor) -> float:
    """Median distance of samples to their nearest training image, over that of validation images to theirs.

    Args:
        generated_distances: Distances of the samples to their nearest training images, ``(m,)`` float.
        validation_distances: Distances of the validation images to theirs, ``(v,)`` float.

    Returns:
        The ratio: about 1 for new images, 0 for copies; NaN if the validation median is 0.

    Raises:
        ValueError: if distances are not ``(N,)`` float, finite and at least 0, or there are none.
    """
    # quantile, not median, which takes the lower of the middle two
    generated, validation = (
        float(torch.quantile(_check_distances(values), 0.5)) for values in (generated_distances, validation_distances)
    )
    return generated / validation if validation > 0 else torch.nan


class Cells:
    """Cells of the feature space, by k-means on the real training points, for :func:`c_t`.

    Args:
        real: Features of the real training images, ``(n, d)`` float, n at least ``cells``.
        cells: Number of cells.
        seed: Seed of k-means; the same seed gives the same cells.

    Raises:
        ValueError: if shapes or dtypes do not fit, values are not finite, or there are fewer points than cells.
    """

    def __init__(self, real: Tensor, cells: int = 10, seed: int = 0) -> None:
        from sklearn.cluster import KMeans  # a second to import, and only C_T needs it

        points = check_features(real, "real features").cpu().double()
        if not 1 <= cells <= len(points):
            raise ValueError(f"cells must lie in 1..{len(points)}, the number of real points, not {cells}")
        fitted = KMeans(n_clusters=cells, n_init=1, random_state=seed).fit(points.numpy())
        self.centres = torch.from_numpy(fitted.cluster_centers_).to(real.device)

    def __call__(self, points: Tensor) -> Tensor:
        """The cell of each of ``points (N, d)``, ``(N,) int64`` on the CPU."""
        return find_nearest(points, self.centres)[1][:, 0].cpu()


def c_t(
    generated_distances: Tensor,
    validation_distances: Tensor,
    generated_cells: Tensor,
    validation_cells: Tensor,
    *,
    minimum: int = 20,
) -> float:
    """Data-copying statistic: are samples nearer to the training set than validation images of the same region are?

    In each cell the Mann-Whitney statistic of the two sets of distances to the nearest training image, in standard
    deviations under "no difference": equal distances count half, ``σ² = m v (m + v + 1) / 12`` with m generated and v
    validation points in the cell, no correction for continuity. The result is the mean over cells with enough samples,
    weighted by the cell's share of validation points.

    Source: Meehan et al. 2020 (arXiv:2004.05675). Its τ is ``minimum / m``.

    Args:
        generated_distances: Distances of the samples to their nearest training images, ``(m,)`` float.
        validation_distances: Distances of the validation images to theirs, ``(v,)`` float.
        generated_cells: Cells of the samples, ``(m,) int64``, from :class:`Cells`.
        validation_cells: Cells of the validation images, ``(v,) int64``.
        minimum: Number of generated points below which a cell is left out; so is one without a validation point.

    Returns:
        About N(0, 1) per cell without copying; clearly below 0 (-3 and less) with it, above 0 for samples that stay
        away from the training images. NaN if no cell is left.

    Raises:
        ValueError: if shapes or dtypes do not fit, or distances are negative or not finite.
    """
    generated, validation = _check_distances(generated_distances), _check_distances(validation_distances)
    mine, theirs = generated_cells.cpu(), validation_cells.cpu()
    if mine.shape != generated.shape or theirs.shape != validation.shape:
        raise ValueError("every distance needs the cell of its point")
    total, weight = 0.0, 0
    for cell in sorted(set(theirs.tolist())):
        a, b = generated[mine == cell], validation[theirs == cell]
        if len(a) >= max(1, minimum):
            total += len(b) * _mann_whitney_z(a, b)
            weight += len(b)
    return total / weight if weight else torch.nan


class MembershipAttack(NamedTuple):
    """How well an attacker tells training images from others by their distance to the nearest sample.

    Attributes:
        auc: Area under the ROC curve; 0.5 if samples betray nothing.
        tpr_at_1_fpr: Share of training images found at a false alarm for at most 1 % of the others.
        standard_error: Standard error of ``auc``, by Hanley & McNeil 1982.
    """

    auc: float
    tpr_at_1_fpr: float
    standard_error: float


def membership_attack(member_distances: Tensor, non_member_distances: Tensor) -> MembershipAttack:
    """Attack with score = -distance to the nearest generated image; members are the positives.

    Equal scores count half in the area and fall on one side of every threshold together. Of the thresholds with a false
    positive rate of at most 1 %, the one with the largest true positive rate counts.

    Source: Chen et al. 2020, *GAN-Leaks* (arXiv:1909.03935), the attack from samples alone; the standard error is that
    of Hanley & McNeil, Radiology 143, 1982.

    Args:
        member_distances: Distances of training images to their nearest samples, ``(p,)`` float.
        non_member_distances: Distances of held-out images to their nearest samples, ``(q,)`` float.

    Raises:
        ValueError: if distances are not ``(N,)`` float, finite and at least 0, or there are none.
    """
    members, others = _check_distances(member_distances), _check_distances(non_member_distances)
    scores = -torch.cat([members, others])
    is_member = torch.arange(len(scores)) < len(members)
    auc = auroc(scores, is_member)
    fpr, tpr = roc_curve(scores, is_member)
    # A chance for two members, or two others, to lie on the same side of one of the other kind (Hanley & McNeil's Q)
    two_members, two_others = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (len(members) - 1) * (two_members - auc**2) + (len(others) - 1) * (two_others - auc**2)
    error = math.sqrt(max(0.0, variance) / (len(members) * len(others)))
    return MembershipAttack(auc, float(tpr[fpr <= MAX_FPR].max()), error)


def _look_up_distance_and_gap(reference: Reference, nearest: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Of each sample ``(m,)``: distance to its nearest training image, and that image's to its nearest other one."""
    distance, index = nearest
    return distance, reference.gaps[index, 0]


def _check_distances(values: Tensor) -> Tensor:
    if values.ndim != 1 or not values.is_floating_point() or not len(values):
        raise ValueError(f"distances must be (N,) float, not {tuple(values.shape)} {values.dtype}")
    values = values.detach().cpu().double()
    if not (values.isfinite() & (values >= 0)).all():
        raise ValueError("distances must be finite and at least 0")
    return values


def _mann_whitney_z(a: Tensor, b: Tensor) -> float:
    """How much ``a`` lies above ``b``, in standard deviations of the Mann-Whitney statistic; ``(N,) float64`` each."""
    ordered = b.sort().values
    # Twice U, in whole numbers: pairs with a above b count 2, equal ones 1
    twice = int((torch.searchsorted(ordered, a) + torch.searchsorted(ordered, a, right=True)).sum())
    pairs = len(a) * len(b)
    return (twice - pairs) / 2 / math.sqrt(pairs * (len(a) + len(b) + 1) / 12)
