"""What a net makes of images, unchanged and changed, with 95 % percentile bootstrap intervals over images.

Changed images are the same images: all conditions are judged on the same resamples, so that a fall compares image by image.
Another set's images are resampled by themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from medassay.core.errors import ConfigError
from medassay.core.estimate import Estimate
from medassay.core.types import LabelledImages
from medassay.metrics.bootstrap import draw_resample_weights, percentile_interval
from medassay.metrics.classification import measure_classification, resample_classification
from medassay.protocols.domain_shift import verdict
from medassay.protocols.domain_shift.results import METRICS, CorruptionError, Fall
from medassay.tasks.predictions import extract_features, predict_logits

RESAMPLES = 1000
CLEAN_SEED, OTHER_SEED = 0, 1  # of the resamples: of the run's own images, and of another set's


@dataclass(frozen=True)
class Observed:
    """What a net says of some images, on the CPU.

    Attributes:
        logits: ``(N, K) float64``.
        labels: ``(N,) int64``.
        features: What its last layer sees, ``(N, d) float32``; None for a net that gives none.
    """

    logits: Tensor
    labels: Tensor
    features: Tensor | None = None

    @property
    def probabilities(self) -> Tensor:
        return self.logits.softmax(1)

    @property
    def right(self) -> Tensor:
        """Whether each decision is right, ``(N,) float64``."""
        return (self.logits.argmax(1) == self.labels).double()

    @property
    def confidence(self) -> Tensor:
        """The largest probability of each image, ``(N,) float64``."""
        return self.probabilities.amax(1)


def observe(net: nn.Module, split: LabelledImages, device: torch.device, *, features: bool = True) -> Observed:
    """What ``net`` says of ``split``; without ``features`` its logits alone."""
    seen = extract_features(net, split.images, device) if features else None
    return Observed(predict_logits(net, split.images, device), split.labels, seen)


def explain_missing_features(net: nn.Module, split: LabelledImages, device: torch.device) -> str | None:
    """Why the net gives no features; None where it does."""
    try:
        extract_features(net, split.images[:1], device)
    except ConfigError as error:
        return str(error)
    return None


class Measured(NamedTuple):
    """Some images' numbers, and the same on each resample.

    Attributes:
        values: ``METRICS`` and ``confidence``.
        drawn: The same, ``(RESAMPLES,) float64`` each.
        recall: Recall of each class, NaN for a class without images.
        n: Number of images.
    """

    values: dict[str, float]
    drawn: dict[str, Tensor]
    recall: list[float]
    n: int

    def estimate(self, name: str) -> Estimate:
        return Estimate(self.values[name], *percentile_interval(self.drawn[name]), n=self.n)


def measure(observed: Observed, *, seed: int = CLEAN_SEED) -> Measured:
    """All numbers of some images.

    Args:
        observed: What the net says of them.
        seed: Seed of the resamples: the same one for the same images.
    """
    probabilities, labels = observed.probabilities, observed.labels
    values = measure_classification(probabilities, labels)
    drawn = resample_classification(probabilities, labels, resamples=RESAMPLES, seed=seed)
    confidence = observed.confidence
    return Measured(
        {**{name: values[name] for name in METRICS}, "confidence": float(confidence.mean())},
        {**{name: drawn[name] for name in METRICS}, "confidence": resample_mean(confidence, seed=seed)},
        values["per_class"]["recall"],
        len(labels),
    )


def resample_mean(scores: Tensor, *, seed: int = CLEAN_SEED) -> Tensor:
    """The mean of ``scores (N,)`` or ``(N, M)`` on each resample, ``(RESAMPLES,)`` or ``(RESAMPLES, M) float64``."""
    drawn = draw_resample_weights(len(scores), resamples=RESAMPLES, seed=seed)
    return torch.cat([weights @ scores.double() / len(scores) for weights in drawn])


def compare(clean: Measured, changed: Measured) -> Fall:
    """What is lost from the unchanged images to the changed ones."""
    drawn = {name: clean.drawn[name] - changed.drawn[name] for name in clean.drawn}
    values = {name: clean.values[name] - changed.values[name] for name in clean.values}

    def estimate(value: float, numbers: Tensor) -> Estimate:
        return Estimate(value, *percentile_interval(numbers), n=changed.n)

    return Fall(
        accuracy=estimate(values["accuracy"], drawn["accuracy"]),
        balanced_accuracy=estimate(values["balanced_accuracy"], drawn["balanced_accuracy"]),
        confidence=estimate(values["confidence"], drawn["confidence"]),
        surplus=estimate(
            verdict.SILENT * values["accuracy"] - values["confidence"],
            verdict.SILENT * drawn["accuracy"] - drawn["confidence"],
        ),
    )


def compare_pairs(before: Tensor, after: Tensor, *, seed: int) -> tuple[Estimate, Estimate]:
    """The mean of ``after (N,)``, and how much more that is than the mean of ``before``, image by image."""
    pair = torch.stack([after, after - before], 1)
    drawn, means = resample_mean(pair, seed=seed), pair.double().mean(0).tolist()
    first, second = (Estimate(means[place], *percentile_interval(drawn[:, place]), n=len(after)) for place in range(2))
    return first, second


def measure_errors(
    clean: Tensor,
    wrong: Mapping[str, Sequence[Tensor]],
    baseline: tuple[Tensor, Mapping[str, Sequence[Tensor]]] | None,
    named: tuple[str, str] | None = None,
) -> CorruptionError:
    """Errors over all corruptions, relative to a baseline's on the same images.

    Source: Hendrycks & Dietterich 2019, section 4.2: of each corruption the errors of all severities are added up and divided
    by those of the baseline; the mean over the corruptions is the mCE, the same of the rises over the unchanged images'
    error the relative mCE. Without a baseline the net's own error on unchanged images, once for each severity, divides.

    Args:
        clean: Whether the net is wrong on each unchanged image, ``(N,)``.
        wrong: The same by corruption, for each severity.
        baseline: The same of the baseline's net; None for none.
        named: The baseline's path, and its model and data in words.
    """
    n, severities = len(clean), len(next(iter(wrong.values())))

    def sum_errors(tables: Mapping[str, Sequence[Tensor]]) -> Tensor:
        """Sum over the severities by corruption, of all images and of each resample: ``(1 + RESAMPLES, corruptions)``."""
        summed = torch.stack([torch.stack([*some]).double().sum(0) for some in tables.values()], 1)
        return torch.cat([summed.mean(0, keepdim=True), resample_mean(summed)])

    def clean_errors(some: Tensor) -> Tensor:
        whole = some.double()[:, None]
        return severities * torch.cat([whole.mean(0, keepdim=True), resample_mean(whole)])

    def estimate(numbers: Tensor) -> Estimate:
        defined = numbers[1:].where(numbers[1:].isfinite(), torch.nan)
        return Estimate(float(numbers[0]), *percentile_interval(defined), n=n)

    own, own_clean = sum_errors(wrong), clean_errors(clean)
    divisor, rise, undefined = own_clean.expand_as(own), None, None
    if baseline is not None:
        divisor = sum_errors(baseline[1])
        excess = divisor - clean_errors(baseline[0])
        if bool((excess[0] > verdict.ROUNDING).all()):  # a baseline that gets no worse is no yardstick
            rise = estimate(((own - own_clean) / excess.where(excess > verdict.ROUNDING, torch.nan)).mean(1))
    ratio = own / divisor
    if not bool(divisor[0].gt(0).all()):
        whose = (
            "the baseline makes no error under a corruption"
            if baseline
            else "the net makes no error on unchanged images"
        )
        undefined = f"{whose}, and nothing can be divided by 0"
    return CorruptionError(
        mean=estimate(own.mean(1) / severities),
        baseline=named[0] if named else None,
        baseline_model=named[1] if named else None,
        by_corruption={name: estimate(ratio[:, place]) for place, name in enumerate(wrong)},
        relative=estimate(ratio.mean(1)),
        rise=rise,
        undefined=undefined,
    )
