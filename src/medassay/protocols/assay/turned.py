"""Copies in another form: training images turned or mirrored, as a generator trained on such forms may give them back."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from medassay.data.symmetries import apply_symmetries, list_turns
from medassay.metrics.authenticity import MembershipAttack, find_authentic, membership_attack, suspicion
from medassay.metrics.neighbours import Neighbours, Reference, compare_sets, find_distances_to_sets


class Suspicion(NamedTuple):
    """Of some images, ``(s,)`` each: :func:`suspicion`, and the index of the nearest training image."""

    ratio: Tensor
    nearest: Tensor

    @classmethod
    def of(cls, reference: Reference, nearest: tuple[Tensor, Tensor]) -> Suspicion:
        """The suspicion of images whose distance to their nearest training image, and its index, are ``nearest``."""
        return cls(suspicion(reference, nearest), nearest[1].cpu())

    def join(self, other: Suspicion, rows: Tensor) -> Suspicion:
        """Of each image, the more suspicious of two forms; the other form is known of the images ``rows (r,)``, and those among
        them that are beyond the ``s`` images here are left out."""
        ratio, nearest = self.ratio.clone(), self.nearest.clone()
        known = rows < len(ratio)
        at, found, index = rows[known], other.ratio[known], other.nearest[known]
        worse = found < ratio[at]
        ratio[at[worse]], nearest[at[worse]] = found[worse], index[worse]
        return Suspicion(ratio, nearest)


class Copies(NamedTuple):
    """What tells copies in one set of samples.

    Attributes:
        authentic: Which of the samples are authentic, ``(m,) bool``.
        to_training: Distance from every training image to its nearest sample, ``(n,)``.
        to_unseen: Distance from every image that nobody trained on to its nearest sample, ``(v,)``.
    """

    authentic: Tensor
    to_training: Tensor
    to_unseen: Tensor

    @classmethod
    def of(cls, around: Neighbours, attacked: Neighbours, to_unseen: Tensor) -> Copies:
        """Those of samples with neighbours ``around``, of which ``attacked`` play the generator in the membership attack."""
        return cls(find_authentic(around), attacked.real_to_generated[0], to_unseen)

    def join(self, other: Copies) -> Copies:
        """Of each sample, the nearer of two forms."""
        return Copies(
            self.authentic & other.authentic,
            torch.minimum(self.to_training, other.to_training),
            torch.minimum(self.to_unseen, other.to_unseen),
        )

    def attack(self, members: Tensor | None) -> MembershipAttack:
        """The membership attack; ``members`` as in ``Subject``."""
        return membership_attack(self.to_training if members is None else self.to_training[members], self.to_unseen)

    def measure(self, members: Tensor | None) -> dict[str, float]:
        """Authenticity and the membership attack over all forms; ``members`` as in ``Subject``."""
        attack = self.attack(members)
        return {
            "authenticity_turned": float(self.authentic.double().mean()),
            "membership_auc_turned": attack.auc,
            "membership_auc_se_turned": attack.standard_error,
        }


def find_turned_copies(
    images: Tensor,
    sets: Sequence[Tensor],
    attacked: Sequence[Tensor],
    encode: Callable[[Tensor], Tensor],
    reference: Reference,
    unseen: Tensor,
) -> tuple[list[Copies], Suspicion]:
    """The copies in each set, and the suspicion of each image, in the nearest of its seven turned and mirrored forms.

    Args:
        images: Samples, ``(u, C, S, S) uint8``.
        sets: Of each set, the indices of its images, rising.
        attacked: Of each set, the indices of the images that play the generator in the membership attack, rising; ``sets``
            itself where these are all.
        encode: Images to features, ``(u, d)``.
        reference: Features of the real training images.
        unseen: Features of real images that nobody trained on, ``(v, d)``.
    """
    forms: list[tuple[list[Copies], Suspicion]] = []
    for bits in list_turns():
        features = encode(apply_symmetries(images, bits.expand(len(images), -1)))
        compared = compare_sets(reference, features, sets if attacked is sets else [*sets, *attacked])
        around, of_attacked = compared.sets[: len(sets)], compared.sets[-len(sets) :]
        to_unseen = find_distances_to_sets(unseen, features, attacked)
        copies = [Copies.of(*found) for found in zip(around, of_attacked, to_unseen, strict=True)]
        forms.append((copies, Suspicion.of(reference, compared.nearest)))
    of_sets, suspected = zip(*forms, strict=True)
    everywhere = torch.arange(len(images))
    nearest = [functools.reduce(Copies.join, of_set) for of_set in zip(*of_sets, strict=True)]
    return nearest, functools.reduce(lambda one, other: one.join(other, everywhere), suspected)
