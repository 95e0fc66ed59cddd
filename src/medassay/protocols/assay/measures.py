"""The numbers of one set of images, in the features of one encoder and over all of them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from medassay.core.types import LabelledImages
from medassay.data.modules import stratified_order
from medassay.evaluation.encoders import Encoder
from medassay.metrics import authenticity, fidelity, frechet
from medassay.metrics.neighbours import Neighbours, Reference, nearest
from medassay.protocols.assay.subjects import Real

VERSION = 1  # part of every cached row's key: raise it where a number's definition changes
CELLS = 10  # of C_T
DISTANCES = ("frechet", "kid", "intra_class_frechet")


@dataclass(frozen=True)
class Measured:
    """Numbers of one set.

    Attributes:
        values: single numbers by name.
        per_class: lists with one number per class.
        curves: α-precision and β-recall over their grid.
    """

    values: dict[str, float]
    per_class: dict[str, list[float]] = field(default_factory=dict)
    curves: dict[str, list[float]] = field(default_factory=dict)


class Space:
    """The real images as one encoder sees them, computed once for all sets that are compared with them.

    Args:
        encoder: images to features.
        real: the real images.
        device: where distances are computed.
    """

    def __init__(self, encoder: Encoder, real: Real, device: torch.device) -> None:
        self.encoder = encoder
        self.device = device
        self.num_classes = len(real.classes)
        self.labels = real.unique.labels
        self.reference = Reference(self.encode(real.unique.images))
        self.validation = self.encode(real.val.images)
        order = stratified_order(real.val.labels, 1)
        self.halves = order[: len(order) // 2], order[len(order) // 2 :]

    def encode(self, images: Tensor) -> Tensor:
        return self.encoder(images, progress=f"encoding: {self.encoder.name}").to(self.device)

    @cached_property
    def _cells(self) -> authenticity.Cells:
        return authenticity.Cells(self.reference.features, cells=CELLS)

    @cached_property
    def validation_distances(self) -> Tensor:
        """``(V,)``: from each validation image to its nearest training image."""
        return nearest(self.validation, self.reference.features)[0][:, 0]

    def measure(
        self, features: Tensor, labels: Tensor, *, members: Tensor | None = None, validation: Tensor | None = None
    ) -> Measured:
        """All metrics of one set.

        Args:
            features: ``(m, d)``, by :meth:`encode`.
            labels: ``(m,) int64``, requested classes.
            members: indices of the training images that a membership attack should find; None for all.
            validation: the set consists of these validation images (indices): for copying, those of them in one half of all
                play the generator, and the other half the images that nobody trained on.
        """
        around = Neighbours(self.reference, features)
        real = self.reference.features
        alpha = fidelity.alpha_precision(self.reference, around.generated)
        beta = fidelity.beta_recall(around)
        distance, distance_sd = frechet.kid(real, around.generated)
        own = frechet.intra_class_frechet(real, self.labels, around.generated, labels, self.num_classes)
        values = {
            "frechet": frechet.frechet_distance(real, around.generated),
            "kid": distance,
            "kid_subsets_sd": distance_sd,
            "intra_class_frechet": float(own.nanmean()),
            "precision": fidelity.precision(around),
            "recall": fidelity.recall(around),
            "density": fidelity.density(around),
            "coverage": fidelity.coverage(around),
            "alpha_precision": fidelity.integrated(alpha),
            "beta_recall": fidelity.integrated(beta),
            "authenticity": authenticity.authenticity(around),
        }
        if validation is not None:
            generated, others = self.halves
            half = validation[torch.isin(validation, generated)]
            values |= self._copying(Neighbours(self.reference, self.validation[half.to(self.device)]), others, members)
        else:
            values |= self._copying(around, None, members)
        covered, authentic = fidelity.covered(around).cpu(), authenticity.authentic(around).cpu()
        per_class = {
            "coverage": _by_class(covered, self.labels, self.num_classes),
            "authenticity": _by_class(authentic, labels, self.num_classes),
            "frechet": own.tolist(),
        }
        return Measured(values, per_class, {"alpha": alpha.tolist(), "beta": beta.tolist()})

    def _copying(self, around: Neighbours, others: Tensor | None, members: Tensor | None) -> dict[str, float]:
        """Memorisation ratio, C_T and membership attack; ``others`` are the validation images not used as samples."""
        validation = self.validation if others is None else self.validation[others.to(self.device)]
        to_training = self.validation_distances if others is None else self.validation_distances[others.to(self.device)]
        distances = around.generated_to_real[0]
        of_training = around.real_to_generated[0]
        known = of_training if members is None else of_training[members.to(self.device)]
        attack = authenticity.membership_attack(known, nearest(validation, around.generated)[0][:, 0])
        # The null: training images against training images
        shuffled = torch.randperm(len(of_training), generator=torch.Generator().manual_seed(0)).to(self.device)
        pretended, rest = shuffled[: len(validation)], shuffled[len(validation) :]
        null = authenticity.membership_attack(of_training[rest], of_training[pretended])
        return {
            "memorisation_ratio": authenticity.memorisation_ratio(distances, to_training),
            "c_t": authenticity.c_t(distances, to_training, self._cells(around.generated), self._cells(validation)),
            "membership_auc": attack.auc,
            "membership_auc_se": attack.standard_error,
            "membership_tpr_at_1_fpr": attack.tpr_at_1_fpr,
            "membership_null_auc": null.auc,
        }


def _by_class(mask: Tensor, labels: Tensor, num_classes: int) -> list[float]:
    """The share of True in each class; NaN for a class without members."""
    return [float(mask[labels.cpu() == label].double().mean()) for label in range(num_classes)]


def measure_sets(
    spaces: Sequence[Space],
    real: Real,
    predict: Any,
    sets: Sequence[LabelledImages],
    *,
    members: Tensor | None = None,
    validation: Tensor | None = None,
) -> dict[str, Any]:
    """One row of a table: every encoder's numbers, as mean and standard deviation over ``sets`` of equal size.

    Args:
        spaces: one per encoder; per-class numbers and curves are of the first, the headline.
        real: the real images.
        predict: images to the classes that the classifier trained on real images assigns, ``(N,) int64``.
        sets: disjoint sets of images, with the classes requested.
        members, validation: as for :meth:`Space.measure`.
    """
    found = [
        [space.measure(space.encode(s.images), s.labels, members=members, validation=validation) for s in sets]
        for space in spaces
    ]
    consistent = [predict(s.images) == s.labels for s in sets]
    per_class = _mean_lists([measured.per_class for measured in found[0]])
    per_class["class_consistency"] = _mean_over(
        [_by_class(mask, s.labels, len(real.classes)) for mask, s in zip(consistent, sets, strict=True)]
    )
    return {
        "m": len(sets[0]),
        "sets": len(sets),
        "encoders": {
            space.encoder.name: {
                name: summarised([measured.values[name] for measured in of_sets]) for name in of_sets[0].values
            }
            for space, of_sets in zip(spaces, found, strict=True)
        },
        "class_consistency": summarised([float(mask.double().mean()) for mask in consistent]),
        "exact_copies": summarised([real.copies_among(s) for s in sets]),
        "per_class": per_class,
        "curves": _mean_lists([measured.curves for measured in found[0]]),
    }


def summarised(values: Sequence[float]) -> dict[str, float | None]:
    """``{"mean", "sd"}``; the sample standard deviation is None for a single value."""
    return {"mean": statistics.fmean(values), "sd": statistics.stdev(values) if len(values) > 1 else None}


def _mean_lists(dictionaries: Sequence[dict[str, list[float]]]) -> dict[str, list[float]]:
    return {name: _mean_over([d[name] for d in dictionaries]) for name in dictionaries[0]}


def _mean_over(lists: Sequence[list[float]]) -> list[float]:
    """The element-wise mean; NaN is left out where another list has a number."""
    means: list[float] = torch.tensor(lists, dtype=torch.float64).nanmean(0).tolist()
    return means
