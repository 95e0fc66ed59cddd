"""The one form of a number with its uncertainty."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from typing import Any, Literal

Kind = Literal["bootstrap", "exact", "seeds", "sets", "runs", "draws", "images", "beats"]
_FIELDS: dict[Kind, tuple[str, ...]] = {  # what is written of each kind, undefined numbers included
    "bootstrap": ("low", "high", "n"),
    "exact": ("low", "high", "n"),
    "seeds": ("sd", "low", "high", "n"),
    "sets": ("sd", "n"),
    "runs": ("sd", "n"),
    "draws": ("sd", "n"),
    "images": ("sd", "low", "high", "n"),
    "beats": ("sd", "n"),
}


@dataclass(frozen=True)
class Estimate:
    """A number and how far it may be off.

    Attributes:
        value: The number: a mean, or a statistic of all images; NaN where it is undefined.
        low, high: Bounds of the 95 % interval; None where there is no interval.
        sd: Sample standard deviation of the numbers that ``value`` is the mean of; None for a single number, or where the
            deviation says nothing.
        n: Number of images (``bootstrap``, ``exact``, ``images``), seeds, sets, runs, draws or beats behind the number.
        kind: Where the uncertainty comes from. ``bootstrap``: percentile interval over images; ``exact``: binomial interval
            over images; ``seeds``: mean over seeds with Student's t interval; ``sets``: mean over disjoint sets of samples;
            ``runs``: mean over runs; ``draws``: mean over random draws on the same images; ``images``: mean over few images
            with Student's t interval, where a bootstrap would be too narrow; ``beats``: mean over a curve's repetitions,
            so few that no interval says anything.
        values: The single numbers behind a mean over seeds.
    """

    value: float
    low: float | None = None
    high: float | None = None
    sd: float | None = None
    n: int | None = None
    kind: Kind = "bootstrap"
    values: tuple[float, ...] = ()

    @property
    def known(self) -> bool:
        """Whether the number is defined and finite."""
        return isfinite(self.value)

    def is_above(self, limit: float) -> bool:
        """Whether the whole interval lies above ``limit``; False where there is no interval."""
        return self.low is not None and self.low > limit

    def reaches(self, limit: float) -> bool:
        """Whether any of the interval lies above ``limit``; also where there is no interval."""
        return self.high is None or not self.high <= limit

    def to_json(self) -> dict[str, Any]:
        """Plain values; the number itself is called ``mean``, which it is of all kinds but a few bootstrapped statistics."""
        written = {"mean": self.value, **{name: getattr(self, name) for name in _FIELDS[self.kind]}}
        return {**written, "kind": self.kind, **({"values": list(self.values)} if self.values else {})}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Estimate:
        """What :meth:`to_json` wrote, also by versions that wrote no kind; null is NaN."""
        mean = values.get("mean")
        rest = {name: values.get(name) for name in ("low", "high", "sd", "n")}
        kind: Kind = values.get("kind") or (
            "bootstrap" if "sd" not in values else "sets" if "low" not in values else "seeds"
        )
        return cls(nan if mean is None else float(mean), **rest, kind=kind, values=tuple(values.get("values", ())))


def mean_over(kind: Kind, values: Sequence[float]) -> Estimate:
    """Mean and sample standard deviation of ``values``; the latter is None for a single value, or where one is undefined."""
    sd = statistics.stdev(values) if len(values) > 1 and all(map(isfinite, values)) else None
    return Estimate(statistics.fmean(values), sd=sd, n=len(values), kind=kind)
