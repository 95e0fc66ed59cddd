"""The numbers of sets of images, in the features of each encoder and over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from medassay.core.estimate import mean_over
from medassay.core.types import LabelledImages
from medassay.data.order import make_stratified_order
from medassay.evaluation.encoders import Encoder
from medassay.metrics import authenticity, fidelity, frechet
from medassay.metrics.neighbours import Neighbours, Reference, find_nearest
from medassay.protocols.assay.results import Curves, Kind, Metrics, PerClass, Row
from medassay.protocols.assay.subjects import Real
from medassay.tasks.classification import Classification
from medassay.tasks.predictions import make_unlabelled, predict

VERSION = 1  # part of every cached row's key: raise it where a number's definition changes
CELLS = 10  # of C_T


class SetNumbers(NamedTuple):
    """Numbers of one set in one encoder's features: those of :class:`Metrics`, and those of ``PerClass`` and ``Curves``."""

    values: dict[str, float]
    lists: dict[str, list[float]]


class Space:
    """The real images as one encoder sees them, computed once for all sets that are compared with them on ``device``."""

    def __init__(self, encoder: Encoder, real: Real, device: torch.device) -> None:
        self.encoder = encoder
        self.device = device
        self.num_classes, self.labels = len(real.classes), real.unique.labels
        self.reference = Reference(self.encode(real.unique.images))
        self.validation = self.encode(real.val.images)
        order = make_stratified_order(real.val.labels, 1).to(device)
        self.halves = order[: len(order) // 2], order[len(order) // 2 :]

    def encode(self, images: Tensor) -> Tensor:
        return self.encoder(images, progress=f"encoding: {self.encoder.name}").to(self.device)

    @cached_property
    def _cells(self) -> authenticity.Cells:
        return authenticity.Cells(self.reference.features, cells=CELLS)

    @cached_property
    def validation_distances(self) -> Tensor:
        """``(V,)``: from each validation image to its nearest training image."""
        return find_nearest(self.validation, self.reference.features)[0][:, 0]

    def measure(
        self, features: Tensor, labels: Tensor, *, members: Tensor | None = None, validation: Tensor | None = None
    ) -> SetNumbers:
        """All metrics of one set of :meth:`encode`'s ``features (m, d)``, with the classes requested.

        Args:
            members: Indices of the training images that a membership attack should find; None for all.
            validation: Indices of the validation images that the set consists of: for copying, those of them in one half of
                all play the generator, and the other half the images that nobody trained on.
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
            "alpha_precision": fidelity.integrate_curve(alpha),
            "beta_recall": fidelity.integrate_curve(beta),
            "authenticity": authenticity.authenticity(around),
        }
        copying, unseen = around, torch.arange(len(self.validation), device=self.device)
        if validation is not None:
            generated, unseen = self.halves
            chosen = validation.to(self.device)
            copying = Neighbours(self.reference, self.validation[chosen[torch.isin(chosen, generated)]])
        lists = {
            "coverage": compute_class_shares(fidelity.find_covered(around).cpu(), self.labels, self.num_classes),
            "authenticity": compute_class_shares(authenticity.find_authentic(around).cpu(), labels, self.num_classes),
            "frechet": own.tolist(),
            "alpha": alpha.tolist(),
            "beta": beta.tolist(),
        }
        return SetNumbers(values | self._measure_copying(copying, unseen, members), lists)

    def _measure_copying(self, around: Neighbours, unseen: Tensor, members: Tensor | None) -> dict[str, float]:
        """Memorisation ratio, C_T and membership attack; ``unseen`` are the validation images not used as samples."""
        validation, to_training = self.validation[unseen], self.validation_distances[unseen]
        distances, of_training = around.generated_to_real[0], around.real_to_generated[0]
        known = of_training if members is None else of_training[members.to(self.device)]
        attack = authenticity.membership_attack(known, find_nearest(validation, around.generated)[0][:, 0])
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


@dataclass(frozen=True)
class Yardstick:
    """What every row of a table is measured with, and against."""

    real: Real
    encoders: Sequence[Encoder]  # the headline first
    task: Classification  # trained on the real images
    device: torch.device

    @cached_property
    def spaces(self) -> list[Space]:
        """The real images as each encoder sees them; made on first use, since rows that are kept need none."""
        return [Space(encoder, self.real, self.device) for encoder in self.encoders]

    def measure(
        self,
        key: str,
        name: str,
        kind: Kind,
        sets: Sequence[LabelledImages],
        members: Tensor | None = None,
        validation: Tensor | None = None,
    ) -> Row:
        """One row of a table: every encoder's numbers by :meth:`Space.measure`, as means over ``sets`` of equal size."""
        numbers = [
            [space.measure(space.encode(s.images), s.labels, members=members, validation=validation) for s in sets]
            for space in self.spaces
        ]
        right = [predict(self.task, make_unlabelled(s.images), self.device).decisions == s.labels for s in sets]
        consistency = [
            compute_class_shares(mask, s.labels, len(self.real.classes)) for mask, s in zip(right, sets, strict=True)
        ]
        lists = {name: average_lists([one.lists[name] for one in numbers[0]]) for name in numbers[0][0].lists}
        return Row(
            key,
            name,
            kind,
            m=len(sets[0]),
            sets=len(sets),
            encoders={
                space.encoder.name: Metrics(
                    **{name: mean_over("sets", [one.values[name] for one in each]) for name in each[0].values}
                )
                for space, each in zip(self.spaces, numbers, strict=True)
            },
            class_consistency=mean_over("sets", [float(mask.double().mean()) for mask in right]),
            exact_copies=mean_over("sets", [self.real.measure_share_of_copies(s) for s in sets]),
            per_class=PerClass(lists["coverage"], lists["authenticity"], lists["frechet"], average_lists(consistency)),
            curves=Curves(lists["alpha"], lists["beta"]),
        )


def compute_class_shares(mask: Tensor, labels: Tensor, num_classes: int) -> list[float]:
    """The share of True in each class; NaN for a class without members."""
    return [float(mask[labels.cpu() == label].double().mean()) for label in range(num_classes)]


def average_lists(lists: Sequence[list[float]]) -> list[float]:
    """The element-wise mean; NaN is left out where another list has a number."""
    means: list[float] = torch.tensor(lists, dtype=torch.float64).nanmean(0).tolist()
    return means
