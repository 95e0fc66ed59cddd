"""Predictive performance: what a classifier learns from generated images, against one that learns from real ones."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy.stats import t as student_t

from medassay.core.types import LabelledImages
from medassay.evaluation import arms
from medassay.metrics.classification import classification_metrics
from medassay.protocols.assay.subjects import Candidate, Real
from medassay.protocols.classification import predict
from medassay.tasks.classification import Classification

SIZES = (1, 2, 5)  # times the real training set: the points of the learning curve
REPORTED = ("accuracy", "balanced_accuracy", "auroc")


@dataclass(frozen=True)
class Trainer:
    """Where classifiers are trained and kept.

    Attributes:
        cache: folder of the kept ones.
        device: where predictions are computed.
        jobs, gpus: as for :func:`medassay.evaluation.arms.trained`.
    """

    cache: Path
    device: torch.device
    jobs: int | None = None
    gpus: int | list[int] | None = 0

    def train(self, wanted: Sequence[arms.Arm]) -> list[Classification]:
        """The trained classifiers."""
        return arms.trained(wanted, self.cache, jobs=self.jobs, gpus=self.gpus, progress="training classifiers")


def tested(task: Classification, images: LabelledImages, trainer: Trainer) -> dict[str, Any]:
    """All metrics of a classifier on ``images``."""
    predictions = predict(task, images, trainer.device)
    return classification_metrics(predictions.probabilities, predictions.labels)


def performance(
    real: Real, candidate: Candidate, trainer: Trainer, *, seeds: int, steps: int, full: bool
) -> dict[str, Any]:
    """Trains all arms and tests each once.

    Args:
        real: the real images; their test images are looked at once per arm.
        candidate: the generated images.
        trainer: trains and keeps the classifiers.
        seeds: classifiers per arm, seeds from 0.
        steps: of the optimizer, the same in every arm.
        full: all arms; otherwise TRTR and TSTR at one time the training set's size.

    Returns:
        ``steps``, ``seeds``, ``n`` (real training images), ``arms`` by name (``TRTR``, ``TSTR``, ``TSTR 2x``, ``TSTR 5x``,
        ``TR+STR``, ``TRTS``), each with ``images`` and its numbers summarised over the seeds, and ``ratio``, TSTR / TRTR seed
        by seed.
    """
    sets = _training_sets(real, candidate, full)
    wanted = {
        (name, seed): arms.Arm(f"{name}, seed {seed}", train, held_out, len(real.classes), seed, steps)
        for seed in range(seeds)
        for name, (train, held_out) in sets.items()
    }
    tasks = dict(zip(wanted, trainer.train(list(wanted.values())), strict=True))
    values = {key: tested(task, real.test, trainer) for key, task in tasks.items()}
    sizes = {name: len(train) for name, (train, _) in sets.items()}
    if full:  # what a classifier of real images makes of generated ones
        shown = candidate.images[: len(real.test)]
        values |= {("TRTS", seed): tested(tasks["TRTR", seed], shown, trainer) for seed in range(seeds)}
        sizes["TRTS"] = len(real.train)
    found = {name: _summary([values[name, seed] for seed in range(seeds)]) | {"images": sizes[name]} for name in sizes}
    ratio = {
        name: interval([values["TSTR", seed][name] / values["TRTR", seed][name] for seed in range(seeds)])
        for name in ("accuracy", "balanced_accuracy")
    }
    return {
        "steps": steps,
        "seeds": list(range(seeds)),
        "n": len(real.train),
        "test": len(real.test),
        "arms": found,
        "ratio": ratio,
    }


def _training_sets(real: Real, candidate: Candidate, full: bool) -> dict[str, tuple[LabelledImages, LabelledImages]]:
    """``{arm: (images to learn from, images that choose the epoch)}``."""
    n = len(real.train)
    once = candidate.images[:n]
    sets = {"TRTR": (real.train, real.val), "TSTR": (once, candidate.held_out)}
    if not full:
        return sets
    largest = max(SIZES)
    pool = candidate.images
    if candidate.more is not None and len(pool) < largest * n:
        pool = joined(pool, candidate.more(largest * n - len(pool)))
    for size in SIZES[1:]:
        if len(pool) >= size * n:
            sets[f"TSTR {size}x"] = (pool[: size * n], candidate.held_out)
    return {**sets, "TR+STR": (joined(real.train, once), real.val)}


def joined(first: LabelledImages, second: LabelledImages) -> LabelledImages:
    """Both sets, one after the other; masks are left out."""
    return LabelledImages(torch.cat([first.images, second.images]), torch.cat([first.labels, second.labels]))


def _summary(values: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The numbers of one arm over its seeds."""
    recall = torch.tensor([v["per_class"]["recall"] for v in values], dtype=torch.float64).nanmean(0)
    return {**{name: interval([v[name] for v in values]) for name in REPORTED}, "recall": recall.tolist()}


def interval(values: Sequence[float]) -> dict[str, Any]:
    """Mean, sample standard deviation and 95 % confidence interval of the mean (Student's t) over the seeds.

    Deviation and bounds are None for a single seed.
    """
    mean = statistics.fmean(values)
    if len(values) < 2:
        return {"mean": mean, "sd": None, "low": None, "high": None, "values": list(values)}
    sd = statistics.stdev(values)
    half = float(student_t.ppf(0.975, len(values) - 1)) * sd / math.sqrt(len(values))
    return {"mean": mean, "sd": sd, "low": mean - half, "high": mean + half, "values": list(values)}
