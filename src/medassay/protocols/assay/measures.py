"""The rows of a table: numbers of sets of images, in the features of each encoder and over all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from medassay.core.estimate import Estimate, mean_over
from medassay.data.symmetries import apply_symmetries, list_turns
from medassay.evaluation.encoders import Encoder
from medassay.metrics.neighbours import unite_sets
from medassay.protocols.assay.results import Curves, Metrics, PerClass, Row
from medassay.protocols.assay.space import PoolNumbers, PoolSet, SetNumbers, Space, compute_class_shares
from medassay.protocols.assay.subjects import Real, Subject
from medassay.protocols.assay.turned import Suspicion
from medassay.tasks.classification import Classification
from medassay.tasks.predictions import make_unlabelled, predict

VERSION = 2  # part of every cached row's key: raise it where a number's definition changes


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
        begins = [*accumulate((len(one.sets) for one in subjects[:-1]), initial=0)]
        turned = [begin for begin, one in zip(begins, subjects, strict=True) if one.turned]
        numbers = [
            _measure_in_space(space, pool, sets, searched if space is headline else 0, turned) for space in self.spaces
        ]
        used = unite_sets([one.rows for one in sets], len(pool))
        images = pool[used]
        decisions = predict(self.task, make_unlabelled(images), self.device).decisions
        copied = self.real.find_copies(images)
        measured = []
        for begin, one in zip(begins, subjects, strict=True):
            span = slice(begin, begin + len(one.sets))
            rows = [torch.searchsorted(used, chosen) for chosen in one.sets]
            right = [decisions[chosen] == own.labels for chosen, own in zip(rows, sets[span], strict=True)]
            shares = [float(copied[chosen].double().mean()) for chosen in rows]
            of_encoders: dict[str, Sequence[SetNumbers]] = {
                space.encoder.name: of_pool.sets[span] for space, of_pool in zip(self.spaces, numbers, strict=True)
            }
            row = self._make_row(one, sets[span], of_encoders, right, shares)
            if one.turned:
                share = self._measure_exact_copies_turned(images[rows[0]], copied[rows[0]])
                row = replace(row, exact_copies_turned=mean_over("sets", [share]))
            measured.append(Measured(row, Suspicion(*(found[: one.searched] for found in numbers[0].suspicion))))
        return measured

    def _measure_exact_copies_turned(self, images: Tensor, upright: Tensor) -> float:
        """The share of ``images (m, C, S, S)`` that equal a training image in any of eight forms; ``upright``: as they are."""
        forms = torch.cat([apply_symmetries(images, bits.expand(len(images), -1)) for bits in list_turns()])
        copied = self.real.find_copies(forms).view(-1, len(images)).any(0) | upright
        return float(copied.double().mean())

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
                encoder: Metrics(**{name: _average(name, each) for name in each[0].values})
                for encoder, each in numbers.items()
            },
            class_consistency=mean_over("sets", [float(mask.double().mean()) for mask in right]),
            exact_copies=mean_over("sets", copied),
            per_class=PerClass(lists["coverage"], lists["authenticity"], lists["frechet"], average_lists(consistency)),
            curves=Curves(lists["alpha"], lists["beta"]),
        )


def _measure_in_space(
    space: Space, pool: Tensor, sets: Sequence[PoolSet], searched: int, turned: Sequence[int]
) -> PoolNumbers:
    """The numbers of a pool's sets in one encoder's features; those ``turned`` have the numbers of their turned forms, too."""
    upright = space.measure(pool, sets, searched)
    if not turned:
        return upright
    copies = [upright.copies[place] for place in turned]
    values, suspicion = space.measure_turned(pool, [sets[place] for place in turned], copies, upright.suspicion)
    of_sets = list(upright.sets)
    for place, found in zip(turned, values, strict=True):
        of_sets[place] = of_sets[place].join(SetNumbers(found, {}))
    return PoolNumbers(of_sets, upright.copies, suspicion)


def _average(name: str, sets: Sequence[SetNumbers]) -> Estimate:
    """The mean of a number over the sets that have it."""
    return mean_over("sets", [one.values[name] for one in sets if name in one.values])


def average_lists(lists: Sequence[list[float]]) -> list[float]:
    """The element-wise mean; NaN is left out where another list has a number."""
    means: list[float] = torch.tensor(lists, dtype=torch.float64).nanmean(0).tolist()
    return means
