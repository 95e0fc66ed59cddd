"""Phantoms of laboratory reports: patients, healthy or ill, whose values lie around given normal ranges.

A normal range holds 95 of 100 healthy people. A healthy phantom's values are drawn from the normal distribution that it
describes; values of one patient are correlated. An ill one has a few values, other ones in each patient, that are moved up or
down. No real disease is meant: how far the classes can be told apart is set here, and known.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

CLASSES = ("healthy", "ill")
WIDTH = 2 * 1.96  # standard deviations between the ends of a range of 95 %
VARIATION = 0.2  # standard deviation by mean where only the lower bound is known
SHARED = 0.3  # correlation of any two values of a patient, up to its sign
MOVED = (2, 6)  # values of an ill patient that are moved ...
SHIFT = (1.5, 4.0)  # ... by so many standard deviations


class Cohort(NamedTuple):
    """Phantoms: ``values (N, F) float64``, NaN where missing, in standard deviations from the middle of the normal range, and
    ``labels (N,) int64``, 0 healthy or 1 ill."""

    values: Floats
    labels: npt.NDArray[np.int64]


def standardise(values: Floats, low: Floats, high: Floats) -> Floats:
    """Values in standard deviations from the middle of their normal ranges; NaN where value or range is missing.

    Of a range without a lower bound (``< 5``), 0 is taken for it; of one without an upper bound (``> 60``), the standard
    deviation is a fifth of the mean.

    Args:
        values: Measurements, ``(..., F)``.
        low, high: Bounds of the normal ranges, ``(F,)``; infinite where a side is open, NaN where there is no range.
    """
    only_low = np.isposinf(high)
    floor = np.where(np.isneginf(low), 0.0, low)
    mean_of_low = floor / (1 - WIDTH / 2 * VARIATION)
    with np.errstate(invalid="ignore"):
        middle = np.where(only_low, mean_of_low, (floor + high) / 2)
        deviation = np.where(only_low, VARIATION * mean_of_low, (high - floor) / WIDTH)
        scaled: Floats = (values - middle) / np.where(deviation > 0, deviation, np.nan)
    return scaled


def draw_signs(analytes: int, rng: np.random.Generator) -> Floats:
    """Which values of a population rise and fall together, ``(F,)`` of -1 and 1: two of one sign are correlated positively."""
    return rng.choice([-1.0, 1.0], size=analytes)


def render_cohort(signs: Floats, patients: int, missing: float = 0.1, *, rng: np.random.Generator) -> Cohort:
    """Renders patients of one population, healthy and ill in turn.

    Args:
        signs: The population's, of :func:`draw_signs`, ``(F,)``: cohorts to be compared are of the same one.
        patients: Number of patients.
        missing: Share of values that are missing, at random.
        rng: The only source of randomness.
    """
    labels, analytes = np.arange(patients) % len(CLASSES), len(signs)
    common = rng.standard_normal((patients, 1))
    values = np.sqrt(SHARED) * common * signs + np.sqrt(1 - SHARED) * rng.standard_normal((patients, analytes))
    moved = rng.integers(MOVED[0], MOVED[1] + 1, size=(patients, 1))
    rank = rng.random((patients, analytes)).argsort(axis=1).argsort(axis=1)
    shift = rng.uniform(*SHIFT, size=(patients, analytes)) * rng.choice([-1.0, 1.0], size=(patients, analytes))
    values += np.where((rank < moved) & (labels[:, None] == 1), shift, 0.0)
    values[rng.random((patients, analytes)) < missing] = np.nan
    return Cohort(values, labels)
