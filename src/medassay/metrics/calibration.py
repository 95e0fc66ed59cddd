"""Whether probabilities can be taken at their word: confidence against accuracy, bin by bin.

Source: Guo et al., *On Calibration of Modern Neural Networks*, ICML 2017. The bins are those of the expected calibration
error in :mod:`medassay.metrics.classification`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from medassay.metrics.classification import CALIBRATION_BINS


class CalibrationBins(NamedTuple):
    """Predictions by their largest probability, in equal bins ``(i / B, (i + 1) / B]`` of [0, 1].

    Attributes:
        counts: Numbers of predictions by bin, ``(B,) int64``.
        confidence: Mean largest probability by bin, ``(B,) float64``; NaN in an empty bin.
        accuracy: Share of right decisions by bin, ``(B,) float64``; NaN in an empty bin.
    """

    counts: Tensor
    confidence: Tensor
    accuracy: Tensor

    @property
    def ece(self) -> float:
        """The expected calibration error: the mean over predictions of their bin's ``|accuracy - confidence|``."""
        gaps = (self.accuracy - self.confidence).abs().nan_to_num(0)
        return float((self.counts * gaps).sum() / self.counts.sum())


def bin_by_confidence(probabilities: Tensor, labels: Tensor, bins: int = CALIBRATION_BINS) -> CalibrationBins:
    """Predictions in bins of confidence.

    Args:
        probabilities: Class probabilities, ``(N, K)`` float in [0, 1], N at least 1.
        labels: True class indices, ``(N,) int64``.
        bins: Number of bins.

    Raises:
        ValueError: shapes that do not fit, or no predictions.
    """
    if probabilities.ndim != 2 or len(probabilities) == 0 or labels.shape != probabilities.shape[:1]:
        raise ValueError(
            f"probabilities and labels must be (N >= 1, K) and (N,), not {tuple(probabilities.shape)} and {tuple(labels.shape)}"
        )
    values, labels = probabilities.detach().cpu().double(), labels.detach().cpu()
    confidence, decided = values.max(1)
    place = torch.bucketize(confidence, torch.linspace(0, 1, bins + 1, dtype=torch.float64)[1:-1])
    counts = torch.bincount(place, minlength=bins)

    def mean(weights: Tensor) -> Tensor:
        return torch.bincount(place, weights, minlength=bins) / counts

    return CalibrationBins(counts, mean(confidence), mean((decided == labels).double()))
