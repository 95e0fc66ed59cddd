"""The rows of a table: numbers of sets of images, in the features of each encoder and over all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from medassay.core.estimate import mean_over
from medassay.evaluation.encoders import Encoder
from medassay.metrics.neighbours import unite_sets
from medassay.protocols.assay.results import Curves, Metrics, PerClass, Row
from medassay.protocols.assay.space import PoolSet, SetNumbers, Space, Suspicion, compute_class_shares
from medassay.protocols.assay.subjects import Real, Subject
from medassay.tasks.classification import Classification
from medassay.tasks.predictions import make_unlabelled, predict

VERSION = 1  # part of every cached row's key: raise it where a number's definition changes


class Measured(NamedTuple):
    """A subject's row, and the suspicion of the images searched, in the headline's features."""

    row: Row
    suspicion: Suspicion


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

    def measure_rows(self, subjects: Sequence[Subject]) -> list[Measured]:
        """The rows of all ``subjects``: every encoder's numbers by :meth:`Space.measure`, as means over a subject's sets."""
        pools: dict[int, list[int]] = {}
        # Validation images first: all the others are compared with them, by distances that are then known
        for place in sorted(range(len(subjects)), key=lambda i: subjects[i].pool.images is not self.real.val.images):
            pools.setdefault(id(subjects[place].pool.images), []).append(place)
        measured: dict[int, Measured] = {}
        for places in pools.values():
            measured |= zip(places, self._measure_pool([subjects[place] for place in places]), strict=True)
        return [measured[place] for place in range(len(subjects))]

    def _measure_pool(self, subjects: Sequence[Subject]) -> list[Measured]:
        """The rows of subjects of one pool."""
        pool, headline = subjects[0].pool.images, self.spaces[0]
        sets = [PoolSet(rows, one.pool.labels[rows], one.members) for one in subjects for rows in one.sets]
        searched = max(one.searched for one in subjects)
        numbers = [space.measure(pool, sets, searched if space is headline else 0) for space in self.spaces]
        used = unite_sets([one.rows for one in sets], len(pool))
        images = pool[used]
        decisions = predict(self.task, make_unlabelled(images), self.device).decisions
        copied = self.real.find_copies(images)
        measured, done = [], 0
        for one in subjects:
            span = slice(done, done := done + len(one.sets))
            rows = [torch.searchsorted(used, chosen) for chosen in one.sets]
            right = [decisions[chosen] == own.labels for chosen, own in zip(rows, sets[span], strict=True)]
            shares = [float(copied[chosen].double().mean()) for chosen in rows]
            of_encoders: dict[str, Sequence[SetNumbers]] = {
                space.encoder.name: of_pool.sets[span] for space, of_pool in zip(self.spaces, numbers, strict=True)
            }
            row = self._make_row(one, sets[span], of_encoders, right, shares)
            measured.append(Measured(row, Suspicion(*(found[: one.searched] for found in numbers[0].suspicion))))
        return measured

    def _make_row(
        self,
        subject: Subject,
        sets: Sequence[PoolSet],
        numbers: Mapping[str, Sequence[SetNumbers]],
        right: Sequence[Tensor],
        copied: Sequence[float],
    ) -> Row:
        """A subject's row, from the numbers of its sets by encoder.

        Args:
            right: Of each set, whether the classifier finds the class requested, ``(m,) bool``.
            copied: Of each set, the share that equals a training image.
        """
        headline = next(iter(numbers.values()))
        consistency = [
            compute_class_shares(mask, one.labels, len(self.real.classes))
            for mask, one in zip(right, sets, strict=True)
        ]
        lists = {name: average_lists([one.lists[name] for one in headline]) for name in headline[0].lists}
        return Row(
            subject.key,
            subject.name,
            subject.kind,
            m=len(sets[0].rows),
            sets=len(sets),
            encoders={
                encoder: Metrics(
                    **{name: mean_over("sets", [one.values[name] for one in each]) for name in each[0].values}
                )
                for encoder, each in numbers.items()
            },
            class_consistency=mean_over("sets", [float(mask.double().mean()) for mask in right]),
            exact_copies=mean_over("sets", copied),
            per_class=PerClass(lists["coverage"], lists["authenticity"], lists["frechet"], average_lists(consistency)),
            curves=Curves(lists["alpha"], lists["beta"]),
        )


def average_lists(lists: Sequence[list[float]]) -> list[float]:
    """The element-wise mean; NaN is left out where another list has a number."""
    means: list[float] = torch.tensor(lists, dtype=torch.float64).nanmean(0).tolist()
    return means
