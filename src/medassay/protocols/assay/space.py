"""The real images in the features of one encoder, and the numbers of other sets of images beside them.

Sets of one pool of images are measured together: every image is encoded once, and every distance is computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from medassay.evaluation.encoders import Encoder
from medassay.metrics import authenticity, fidelity, frechet
from medassay.metrics.distances import check_features, find_nearest
from medassay.metrics.neighbours import Neighbours, Reference, compare_sets, find_distances_to_sets, unite_sets
from medassay.protocols.assay.subjects import Real
from medassay.protocols.assay.turned import Copies, Suspicion, find_turned_copies

CELLS = 10  # of C_T


class PoolSet(NamedTuple):
    """Some images of a pool: their indices ``(m,) int64``, rising, the classes requested ``(m,)``, and ``Subject.members``."""

    rows: Tensor
    labels: Tensor
    members: Tensor | None = None


class SetNumbers(NamedTuple):
    """Numbers of one set in one encoder's features: those of ``Metrics``, and those of ``PerClass`` and ``Curves``."""

    values: dict[str, float]
    lists: dict[str, list[float]]

    def join(self, other: SetNumbers) -> SetNumbers:
        """The numbers of both."""
        return SetNumbers(self.values | other.values, self.lists | other.lists)


class PoolNumbers(NamedTuple):
    """Of each set of a pool its numbers, and what tells copies in it; and the suspicion of the pool's first images."""

    sets: list[SetNumbers]
    copies: list[Copies]
    suspicion: Suspicion


class _Roles(NamedTuple):
    """Indices of each set's images, of those that play the generator in a membership attack, and of the validation images that
    nobody trained on there."""

    rows: list[Tensor]
    attacked: list[Tensor]  # ``rows`` itself where these are all
    unseen: Tensor

    def place(self, used: Tensor) -> _Roles:
        """The same, images being told by their places among the pool's images ``used``, rising."""
        rows = [torch.searchsorted(used, each) for each in self.rows]
        if self.attacked is self.rows:
            return _Roles(rows, rows, self.unseen)
        return _Roles(rows, [torch.searchsorted(used, each) for each in self.attacked], self.unseen)


class Space:
    """The real images as one encoder sees them, computed once for all sets that are compared with them on ``device``."""

    def __init__(self, encoder: Encoder, real: Real, device: torch.device) -> None:
        self.encoder, self.real, self.device = encoder, real, device
        self.num_classes, self.labels = len(real.classes), real.unique.labels
        self.reference = Reference(self._encode(real.unique.images))
        self.validation = check_features(self._encode(real.val.images), "validation features")
        self._to_training: Tensor | None = None

    def _encode(self, images: Tensor) -> Tensor:
        return self.encoder(images, progress=f"encoding: {self.encoder.name}").to(self.device)

    @property
    def validation_distances(self) -> Tensor:
        """``(V,)``: from each validation image to its nearest training image."""
        if self._to_training is None:
            self._to_training = find_nearest(self.validation, self.reference.features)[0][:, 0]
        return self._to_training

    @cached_property
    def _cells(self) -> authenticity.Cells:
        return authenticity.Cells(self.reference.features, cells=CELLS)

    @cached_property
    def _validation_cells(self) -> Tensor:
        return self._cells(self.validation)

    @cached_property
    def _moments(self) -> frechet.Moments:
        return frechet.compute_moments(self.reference.features)

    @cached_property
    def _class_moments(self) -> list[frechet.Moments | None]:
        return frechet.compute_class_moments(self.reference.features, self.labels, self.num_classes)

    @cached_property
    def _kernel(self) -> frechet.KernelReference:
        return frechet.KernelReference(self.reference.features)

    def _encode_generated(self, images: Tensor) -> Tensor:
        return check_features(self._encode(images), "generated features")

    def _take_features(self, pool: Tensor, rows: Tensor) -> Tensor:
        """The features ``(r, d)`` of some images of a pool; those of real images are known."""
        if pool is self.real.val.images:
            return self.validation[rows]
        if pool is self.real.unique.images:
            return self.reference.features[rows]
        return self._encode_generated(pool[rows])

    def measure(self, pool: Tensor, sets: Sequence[PoolSet], searched: int = 0) -> PoolNumbers:
        """All metrics of some sets of a pool but those of turned forms, and the suspicion of its first images.

        Args:
            pool: Images, ``(P, C, H, W) uint8``. Those of ``Real.unique`` and ``Real.val`` are known by being the same tensor.
            sets: Sets of the pool's images, which may have images in common.
            searched: Number of the first images whose suspicion is wanted.
        """
        of_validation = pool is self.real.val.images
        wanted = [torch.arange(len(pool) if of_validation else searched), *(one.rows for one in sets)]
        used = unite_sets(wanted, len(pool))
        features = self._take_features(pool, used)
        rows, copying, unseen = self._assign_roles(pool, sets).place(used)
        compared = compare_sets(self.reference, features, rows if copying is rows else [*rows, *copying])
        if of_validation:
            self._to_training = compared.nearest[0]
        around, of_copying = compared.sets[: len(sets)], compared.sets[-len(sets) :]
        to_samples = find_distances_to_sets(self.validation[unseen], features, copying)
        cells = self._validation_cells if of_validation else self._cells(features)
        copies = [Copies.of(*found) for found in zip(around, of_copying, to_samples, strict=True)]
        numbers: list[SetNumbers] = []
        for i, one in enumerate(sets):
            # Of sets with the same images, those of classes alone may differ
            first = next(j for j in range(i + 1) if torch.equal(rows[j], rows[i]) and sets[j].members is one.members)
            if first < i:
                known = numbers[first]
            else:
                copied = self._measure_copying(of_copying[i], copies[i].attack(one.members), cells[copying[i]], unseen)
                known = self._measure_points(around[i]).join(copied)
            numbers.append(known.join(self._measure_classes(around[i], one.labels)))
        distance, index = (found[:searched] for found in compared.nearest)
        return PoolNumbers(numbers, copies, Suspicion.of(self.reference, (distance, index)))

    def measure_turned(
        self, pool: Tensor, sets: Sequence[PoolSet], copies: Sequence[Copies], suspicion: Suspicion
    ) -> tuple[list[dict[str, float]], Suspicion]:
        """The numbers of some sets of a pool where each image counts in the nearest of its turned and mirrored forms.

        Args:
            pool: As in :meth:`measure`.
            sets: Sets of the pool's images.
            copies: What that found of each set.
            suspicion: What that found of the pool's first images; given back with that of their forms.
        """
        used = unite_sets([one.rows for one in sets], len(pool))
        rows, copying, unseen = self._assign_roles(pool, sets).place(used)
        turned, suspected = find_turned_copies(
            pool[used], rows, copying, self._encode_generated, self.reference, self.validation[unseen]
        )
        joined = [upright.join(other) for upright, other in zip(copies, turned, strict=True)]
        numbers = [found.measure(one.members) for found, one in zip(joined, sets, strict=True)]
        return numbers, suspicion.join(suspected, used)

    def _assign_roles(self, pool: Tensor, sets: Sequence[PoolSet]) -> _Roles:
        """Where copying is looked for, the validation images of a set that lie in one half of all play the generator, and the
        other half the images that nobody trained on. Other sets play it as they are, beside all validation images.
        """
        rows = [one.rows for one in sets]
        if pool is not self.real.val.images:
            return _Roles(rows, rows, torch.arange(len(self.validation)))
        generated, unseen = self.real.halves
        return _Roles(rows, [chosen[torch.isin(chosen, generated)] for chosen in rows], unseen)

    def _measure_points(self, around: Neighbours) -> SetNumbers:
        """What depends neither on classes nor on validation images."""
        alpha = fidelity.alpha_precision(self.reference, around.generated)
        beta = fidelity.beta_recall(around)
        distance, distance_sd = self._kernel.measure(around.generated)
        values = {
            "frechet": frechet.compare_moments(self._moments, frechet.compute_moments(around.generated)),
            "kid": distance,
            "kid_subsets_sd": distance_sd,
            "precision": fidelity.precision(around),
            "recall": fidelity.recall(around),
            "density": fidelity.density(around),
            "coverage": fidelity.coverage(around),
            "alpha_precision": fidelity.integrate_curve(alpha),
            "beta_recall": fidelity.integrate_curve(beta),
            "authenticity": authenticity.authenticity(around),
        }
        return SetNumbers(values, {"alpha": alpha.tolist(), "beta": beta.tolist()})

    def _measure_classes(self, around: Neighbours, labels: Tensor) -> SetNumbers:
        """What depends on the classes ``labels (m,)`` that were requested."""
        theirs = frechet.compute_class_moments(around.generated, labels, self.num_classes, "generated")
        own = frechet.compare_class_moments(self._class_moments, theirs)
        lists = {
            "coverage": compute_class_shares(fidelity.find_covered(around).cpu(), self.labels, self.num_classes),
            "authenticity": compute_class_shares(authenticity.find_authentic(around).cpu(), labels, self.num_classes),
            "frechet": own.tolist(),
        }
        return SetNumbers({"intra_class_frechet": float(own.nanmean())}, lists)

    def _measure_copying(
        self, around: Neighbours, attack: authenticity.MembershipAttack, cells: Tensor, unseen: Tensor
    ) -> SetNumbers:
        """Memorisation ratio, C_T and membership attack.

        Args:
            around: Neighbours of the samples.
            attack: The attack by these samples.
            cells: Cells of the samples, ``(m,)``.
            unseen: Indices of the validation images not used as samples, ``(v,)``.
        """
        to_training = self.validation_distances[unseen]
        distances, of_training = around.generated_to_real[0], around.real_to_generated[0]
        # The null: training images against training images
        shuffled = torch.randperm(len(of_training), generator=torch.Generator().manual_seed(0))
        cut = min(len(unseen), len(shuffled) // 2)
        pretended, rest = shuffled[:cut], shuffled[cut:]
        null = authenticity.membership_attack(of_training[rest], of_training[pretended])
        values = {
            "memorisation_ratio": authenticity.memorisation_ratio(distances, to_training),
            "c_t": authenticity.c_t(distances, to_training, cells, self._validation_cells[unseen]),
            "membership_auc": attack.auc,
            "membership_auc_se": attack.standard_error,
            "membership_tpr_at_1_fpr": attack.tpr_at_1_fpr,
            "membership_null_auc": null.auc,
        }
        return SetNumbers(values, {})


def compute_class_shares(mask: Tensor, labels: Tensor, num_classes: int) -> list[float]:
    """The share of True in each class; NaN for a class without members."""
    return [float(mask[labels.cpu() == label].double().mean()) for label in range(num_classes)]
