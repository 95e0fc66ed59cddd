"""A classifier's scores on groups of images, and the gaps between them; no picture and no page."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from medassay.core.estimate import Estimate
from medassay.core.groups import Groups
from medassay.metrics.bootstrap import percentile_interval
from medassay.metrics.chance import check_against_chance
from medassay.metrics.classification import (
    compute_class_intervals,
    compute_intervals,
    measure_classification,
    roc_curve,
)
from medassay.metrics.estimates import mean_over_images
from medassay.metrics.group_gaps import (
    GroupedDecisions,
    compute_rates,
    find_extremes,
    find_unlinked,
    permute_gaps,
    resample_gaps,
)
from medassay.protocols.fairness import verdict
from medassay.protocols.fairness.results import Budget, Comparison, FairnessResults, GroupScores
from medassay.reporting.numbers import format_fixed
from medassay.tasks.predictions import Predictions

METRICS = {
    "accuracy": "accuracy",
    "sensitivity": "recall",
    "specificity": "specificity",
    "auroc": "auroc",
    "ece": "ece",
}
BUDGETS: dict[Budget, tuple[int, int]] = {"quick": (400, 200), "full": (1000, 1000)}  # permutations, resamples
_SEED = 0  # of resamples and permutations
_POINTS = 201  # of a mean ROC curve


def measure_fairness(
    predictions: Predictions,
    groups: Groups,
    classes: Sequence[str],
    *,
    positive: int | None,
    attributes: Sequence[str],
    depth: int = 2,
    budget: Budget = "full",
    split: str = "test",
) -> FairnessResults:
    """Scores and gaps of a classifier by each attribute and each intersection, and the rule's answer.

    Args:
        predictions: What the classifier says of ``n`` images.
        groups: The groups of these images.
        classes: Class names, by label.
        positive: Class whose detection is compared, against the rest; None for class 1 of two, and of more classes for each
            of them: rates of a group are then means over the classes, gaps those of the class where they are largest.
        attributes: Attributes to compare by.
        depth: Number of attributes that are crossed, at most; 1 for no intersections.
        budget: How many permutations and resamples.
        split: Name of the images' split.
    """
    positives = choose_positives(positive, len(classes))
    chance = check_against_chance(predictions.probabilities, predictions.labels)
    crossed = [
        names for size in range(1, depth + 1) for names in itertools.combinations(attributes, size)
    ]  # single attributes first
    permutations, resamples = BUDGETS[budget]
    permutations = max(permutations, math.ceil(len(crossed) / verdict.SHARE))  # fewer could find nothing in so many
    splits = [groups.cross(names) for names in crossed]
    scores = [score_groups(predictions, one, classes, positives, resamples) for one in splits]
    compared = [select_judged(predictions, one, own, positives) for one, own in zip(splits, scores, strict=True)]
    observed = [{} if one is None else estimate_gaps(one, resamples) for one in compared]
    nulls = [{} if one is None else permute_gaps(one, permutations=permutations, seed=_SEED) for one in compared]
    comparisons = []
    judged = verdict.judge_gaps(observed, nulls)
    for names, one, own, gaps, images in zip(crossed, splits, scores, judged, compared, strict=True):
        of_judged = [group.name for group in own if group.judged]
        extremes = {} if images is None else describe_extremes(images, of_judged, classes)
        unlinked = [] if images is None else [of_judged[group] for group in find_unlinked(images)]
        level, text = verdict.judge_comparison(own, gaps, chance, extremes, unlinked)
        comparisons.append(Comparison(next(iter(one.levels)), list(names), own, gaps, level, text))
    level, words = verdict.judge_all(comparisons)
    return FairnessResults(
        split=split,
        n=len(predictions.labels),
        positives=[classes[label] for label in positives],
        chance=chance,
        comparisons=comparisons,
        permutations=permutations,
        resamples=resamples,
        rule=verdict.RULE,
        level=level,
        verdict=words,
        reasons=[f"{one.name}: {one.text}" for one in comparisons],
    )


def choose_positives(positive: int | None, num_classes: int) -> list[int]:
    """The classes whose detection is compared, by index."""
    if positive is not None:
        return [positive]
    return [1] if num_classes == 2 else list(range(num_classes))


def score_groups(
    predictions: Predictions, groups: Groups, classes: Sequence[str], positives: Sequence[int], resamples: int
) -> list[GroupScores]:
    """The scores on each group of the one attribute of ``groups`` that has images."""
    ((_, names),) = groups.levels.items()
    scores = []
    for index, name in enumerate(names):
        own = groups.indices[:, 0] == index
        part = Predictions(predictions.probabilities[own], predictions.labels[own])
        n = len(part.labels)
        called = None
        if len(positives) == 1:
            called = mean_over_images((part.decisions == positives[0]).double(), resamples=resamples)
        counts = torch.bincount(part.labels, minlength=len(classes)).tolist()
        scores.append(
            GroupScores(
                name=name,
                n=n,
                images_per_class=dict(zip(classes, counts, strict=True)),
                judged=n >= verdict.LEAST,
                metrics=score_group(part, positives, resamples),
                called=called,
                curve=trace_curve(part, positives),
            )
        )
    return scores


def score_group(part: Predictions, positives: Sequence[int], resamples: int) -> dict[str, Estimate]:
    """The metrics of one group with their intervals; of several positive classes means over those that have images.

    A class without images has no sensitivity, and one without others no specificity: NaN.
    """
    values = measure_classification(part.probabilities, part.labels)
    intervals = compute_intervals(part.probabilities, part.labels, resamples=resamples, seed=_SEED)
    if len(positives) == 1:
        own = positives[0]
        values |= {name: values["per_class"][name][own] for name in ("recall", "specificity", "auroc")}
        of_classes, _ = compute_class_intervals(part.probabilities, part.labels, resamples=resamples, seed=_SEED)
        intervals |= {name: of_classes[name][own] for name in ("recall", "specificity", "auroc")}
    n = len(part.labels)
    scores = {name: Estimate(values[key], *intervals[key], n=n) for name, key in METRICS.items()}
    if len(positives) == 1 and not (part.labels == positives[0]).any():  # all images are of the rest: one rate is known
        scores["specificity"] = mean_over_images((part.decisions != positives[0]).double(), resamples=resamples)
    return scores


def trace_curve(part: Predictions, positives: Sequence[int]) -> tuple[list[float], list[float]]:
    """The ROC curve of one positive class, or the mean over several at equal false positive rates; empty where undefined."""
    curves = []
    for label in positives:
        own = part.labels == label
        if own.any() and not own.all():
            x, y = roc_curve(part.probabilities[:, label], own)
            curves.append((x.numpy(), y.numpy()))
    if not curves:
        return [], []
    if len(positives) == 1:
        return curves[0][0].tolist(), curves[0][1].tolist()
    grid = np.linspace(0, 1, _POINTS)
    mean = np.mean([np.interp(grid, x, y) for x, y in curves], axis=0)
    return grid.tolist(), mean.tolist()


def select_judged(
    predictions: Predictions, groups: Groups, scores: Sequence[GroupScores], positives: Sequence[int]
) -> GroupedDecisions | None:
    """The decisions on images of groups that are judged, these numbered anew; None where there are not two such groups."""
    judged = [index for index, group in enumerate(scores) if group.judged]
    if len(judged) < 2:
        return None
    numbers = torch.full((len(scores),), -1)
    numbers[judged] = torch.arange(len(judged))
    own: Tensor = numbers[groups.indices[:, 0]]
    chosen = own >= 0
    return GroupedDecisions(
        predictions.decisions[chosen],
        predictions.labels[chosen],
        own[chosen],
        len(judged),
        list(positives),
        least=verdict.LEAST_OF_CLASS,
    )


def describe_extremes(images: GroupedDecisions, names: Sequence[str], classes: Sequence[str]) -> dict[str, str]:
    """The two groups that make each gap, in words: ``sensitivity to pneumonia: B 0.64, A 0.97``."""
    rates, texts = compute_rates(images), {}
    of_classes = [classes[label] for label in images.positives]
    for gap, (row, high, low) in find_extremes(images).items():
        of_gap = rates.list_rates(gap)[0, row]
        what = "accuracy"
        if gap == "demographic_parity":
            what = f"share called {of_classes[row]}"
        elif gap != "accuracy":
            kind = "sensitivity to" if row < len(of_classes) else "false positive rate of"
            what = f"{kind} {of_classes[row % len(of_classes)]}"
        ends = ", ".join(f"{names[group]} {format_fixed(float(of_gap[group]))}" for group in (low, high))
        texts[gap] = f"{what}: {ends}"
    return texts


def estimate_gaps(images: GroupedDecisions, resamples: int) -> dict[str, Estimate]:
    """The gaps by name with their bootstrap intervals."""
    drawn = resample_gaps(images, resamples=resamples, seed=_SEED)
    n = len(images.labels)
    return {
        name: Estimate(float(gap[0]), *percentile_interval(drawn[name]), n=n)
        for name, gap in compute_rates(images).compute_gaps().items()
    }
