"""What the epochs of a generator are worth, and which one is chosen. Importing this imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from medassay.reporting.numbers import format_fixed, format_significant
from medassay.reporting.tables import Table

By = Literal["tstr", "frechet"]


class Criterion(NamedTuple):
    """What an epoch can be chosen by: its name among logged values, its name for a reader, and which values are better."""

    logged: str
    name: str
    mode: Literal["min", "max"]


CRITERIA: dict[By, Criterion] = {
    "tstr": Criterion("val/tstr_balanced_accuracy", "TSTR", "max"),
    "frechet": Criterion("val/frechet", "Fréchet distance", "min"),
}


@dataclass(frozen=True)
class EpochScores:
    """What samples drawn after an epoch are worth.

    Attributes:
        epoch: The epoch, counted from 1.
        tstr: Balanced accuracy of a classifier trained on the samples, on real validation images.
        frechet: Fréchet distance of the samples to real validation images.
    """

    epoch: int
    tstr: float
    frechet: float

    def to_logged(self) -> dict[str, float]:
        """The scores by the names they are logged under."""
        return {criterion.logged: getattr(self, by) for by, criterion in CRITERIA.items()}


@dataclass(frozen=True)
class Selection:
    """How the epoch of a run was chosen, beside what else would have been chosen.

    Attributes:
        by: What chose the epoch.
        scores: The scores of the epochs measured.
    """

    by: By
    scores: list[EpochScores]

    def find_best(self, by: By) -> EpochScores:
        """The epoch that ``by`` chooses; of equal ones the first."""
        sign = 1 if CRITERIA[by].mode == "max" else -1
        return max(self.scores, key=lambda one: sign * float(getattr(one, by)))

    @property
    def criterion(self) -> Criterion:
        return CRITERIA[self.by]

    @property
    def chosen(self) -> EpochScores:
        return self.find_best(self.by)

    def list_rows(self) -> list[tuple[str, EpochScores]]:
        """What to compare: the epoch chosen, the one that the other criterion would have chosen, and the last."""
        others = [by for by in CRITERIA if by != self.by]
        rows = [(f"chosen, by {CRITERIA[self.by].name}", self.chosen)]
        rows += [(f"best by {CRITERIA[by].name}", self.find_best(by)) for by in others]
        return [*rows, ("last", self.scores[-1])]

    def to_table(self) -> Table:
        """What is compared, a row each."""
        rows = [
            [name, str(one.epoch), format_fixed(one.tstr), format_significant(one.frechet)]
            for name, one in self.list_rows()
        ]
        header = ["", "epoch", *(criterion.name for criterion in CRITERIA.values())]
        count = len(self.scores)
        note = f"The best of {count} epochs measured." if count > 1 else "The only epoch measured."
        return Table("Choice of the epoch", header, rows, note)
