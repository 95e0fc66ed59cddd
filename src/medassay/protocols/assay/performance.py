"""Predictive performance: what a classifier learns from generated images, against one that learns from real ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from medassay.core.estimate import Estimate
from medassay.core.types import LabelledImages
from medassay.evaluation import arms
from medassay.evaluation.protocol import ComputeContext
from medassay.metrics.classification import measure_classification
from medassay.metrics.estimates import mean_over_seeds
from medassay.protocols.assay.measures import average_lists
from medassay.protocols.assay.results import SCORES, ArmScores, Performance, Ratio
from medassay.protocols.assay.subjects import Candidate, Real
from medassay.tasks.classification import Classification
from medassay.tasks.predictions import predict


@dataclass(frozen=True)
class Trainer:
    """Trains classifiers, ``jobs`` at a time, keeps them, and tests them."""

    context: ComputeContext
    jobs: int | None = None

    def train(self, all_arms: Sequence[arms.Arm]) -> list[Classification]:
        """The trained classifiers."""
        place = self.context
        return arms.train_arms(all_arms, place.cache, jobs=self.jobs, gpus=place.gpus, progress="training classifiers")

    def test(self, task: Classification, images: LabelledImages) -> dict[str, Any]:
        """All metrics of a classifier on ``images``."""
        predictions = predict(task, images, self.context.device)
        return measure_classification(predictions.probabilities, predictions.labels)


def measure_performance(
    real: Real,
    candidate: Candidate,
    trainer: Trainer,
    *,
    seeds: int,
    steps: int,
    full: bool,
    multiples: Sequence[int] = (),
) -> Performance:
    """Trains all arms, so many ``seeds`` from 0 each, and looks at the test images once per classifier.

    Unless ``full``, these are only TRTR and TSTR at one time the training set's size; otherwise also at its ``multiples``.
    """
    sets = _list_training_sets(real, candidate, full, multiples)
    all_arms = {
        (name, seed): arms.Arm(f"{name}, seed {seed}", train, held_out, len(real.classes), seed, steps)
        for seed in range(seeds)
        for name, (train, held_out) in sets.items()
    }
    tasks = dict(zip(all_arms, trainer.train(list(all_arms.values())), strict=True))
    tested = {key: trainer.test(task, real.test) for key, task in tasks.items()}
    sizes = {name: len(train) for name, (train, _) in sets.items()}
    if full:  # what a classifier of real images makes of generated ones
        shown = candidate.images[: len(real.test)]
        tested |= {("TRTS", seed): trainer.test(tasks["TRTR", seed], shown) for seed in range(seeds)}
        sizes["TRTS"] = len(real.train)

    def ratio(name: str) -> Estimate:
        pairs = [(tested["TSTR", seed][name], tested["TRTR", seed][name]) for seed in range(seeds)]
        return mean_over_seeds([tstr / trtr if trtr else math.nan for tstr, trtr in pairs])

    return Performance(
        steps=steps,
        seeds=list(range(seeds)),
        n=len(real.train),
        test=len(real.test),
        arms={name: _average([tested[name, seed] for seed in range(seeds)], n) for name, n in sizes.items()},
        ratio=Ratio(ratio("accuracy"), ratio("balanced_accuracy")),
    )


def _list_training_sets(
    real: Real, candidate: Candidate, full: bool, multiples: Sequence[int]
) -> dict[str, tuple[LabelledImages, LabelledImages]]:
    """``{arm: (images to learn from, images that choose the epoch)}``."""
    n, pool = len(real.train), candidate.images
    once = pool[:n]
    sets = {"TRTR": (real.train, real.val), "TSTR": (once, candidate.held_out)}
    if not full:
        return sets
    wanted = max(multiples, default=1) * n
    if candidate.more is not None and len(pool) < wanted:
        pool = join(pool, candidate.more(wanted - len(pool)))
    sets |= {f"TSTR {k}x": (pool[: k * n], candidate.held_out) for k in multiples if len(pool) >= k * n}
    return {**sets, "TR+STR": (join(real.train, once), real.val)}


def join(first: LabelledImages, second: LabelledImages) -> LabelledImages:
    """Both sets, one after the other; masks are left out."""
    return LabelledImages(torch.cat([first.images, second.images]), torch.cat([first.labels, second.labels]))


def _average(tested: Sequence[dict[str, Any]], images: int) -> ArmScores:
    """The numbers of one arm over its seeds."""
    recall = average_lists([one["per_class"]["recall"] for one in tested])
    scores = {name: mean_over_seeds([one[name] for one in tested]) for name in SCORES}
    return ArmScores(**scores, recall=recall, images=images)
