"""How well a curve fits repetitions of a measurement, beside how much these differ among themselves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medassay.core.estimate import Estimate, mean_over
from medassay.core.types import Curve


def measure_between_beats(curve: Curve, reference: Curve) -> float:
    """How far the beats of ``curve`` lie from the mean of the ``reference`` beats: the mean squared deviation over all points.

    Of a curve with itself as reference this is the variance between its beats (around their mean at each time, divided by their
    number), averaged over the times: the least squared error that one curve for all of them can have. Points at times that the
    reference has not are left out; NaN where none is left.
    """
    times, place = torch.unique(reference.x[:, 0], return_inverse=True)
    sums = torch.zeros(len(times), dtype=torch.float64).index_add_(0, place, reference.y[:, 0].double())
    means = sums / torch.bincount(place)
    nearest = torch.searchsorted(times, curve.x[:, 0].contiguous()).clamp_max(len(times) - 1)
    shared = times[nearest] == curve.x[:, 0]
    return float((curve.y[:, 0].double() - means[nearest])[shared].square().mean())


@dataclass(frozen=True)
class CurveScores:
    """What a fitted curve is worth on one split.

    Attributes:
        n: Number of points.
        beats: Numbers of the beats, from 0 in the order of the data.
        errors: Mean squared error of each beat.
        error: Their mean.
        between_beats: Mean squared deviation of these beats from the mean of the training beats: the error of the best curve
            that could be known from the training beats alone; on the training beats the variance between them.
    """

    n: int
    beats: list[int]
    errors: list[float]
    error: Estimate
    between_beats: float

    @property
    def ratio(self) -> float:
        """The error in units of the difference between beats: 1 is about all that one curve can do; NaN of equal beats."""
        return self.error.value / self.between_beats if self.between_beats > 0 else math.nan

    @property
    def rmse(self) -> float:
        """Root of the mean squared error, in the unit of y."""
        return math.sqrt(self.error.value)

    def to_json(self) -> dict[str, Any]:
        """The form of a group in ``metrics.json``; ``loss`` as in training is the mean squared error."""
        return {
            "n": self.n,
            "loss": self.error.value,
            "rmse": self.rmse,
            "between_beats": self.between_beats,
            "error_over_between_beats": self.ratio,
            "beats": [beat + 1 for beat in self.beats],
            "loss_of_beats": self.errors,
            "loss_sd": self.error.sd,
        }


def score_curve(answers: Tensor, curve: Curve, reference: Curve) -> CurveScores:
    """All scores of ``answers (N, 1)`` at the points of ``curve``, the training beats being the ``reference``."""
    squared = (answers.double() - curve.y.double()).square()[:, 0]
    beats = curve.list_beats()
    errors = [float(squared[curve.beats == beat].mean()) for beat in beats]
    between = measure_between_beats(curve, reference)
    return CurveScores(len(curve), beats, errors, mean_over("beats", errors), between)
