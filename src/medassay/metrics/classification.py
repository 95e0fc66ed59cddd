"""How good a classifier's predictions are: decisions, ranking and calibration, with bootstrap intervals.

Every number is computed from weights per image, once: with all weights one it is the metric, with the counts of a
resample it is the metric of that resample. A second implementation for the intervals could disagree with the first.

Conventions, for K classes:

* The decision is the largest probability, the lowest class index among equals. For K = 2 this is a probability of
  class 1 above 0.5, as in MedMNIST's evaluator.
* K = 2: ``precision``, ``recall``, ``f1``, ``specificity``, ``auroc`` and ``average_precision`` are those of class 1,
  as a reader of a diagnostic study expects (recall is the sensitivity); the means over both classes are
  ``macro_precision``, ``macro_recall``, ``macro_f1`` and ``macro_specificity``.
* K > 2: the plain names are unweighted means over the classes, each class against the rest.
* A class without images has no score (NaN) and is left out of the means. A class never predicted has precision 0.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from medassay.metrics.bootstrap import draw_resample_weights, percentile_interval

CALIBRATION_BINS = 15

_DECISIONS = ("precision", "recall", "f1", "specificity")
_RANKINGS = ("auroc", "average_precision")


def measure_classification(probabilities: Tensor, labels: Tensor) -> dict[str, Any]:
    """All metrics of one set of predictions; the module's docstring says what the names mean.

    Args:
        probabilities: Class probabilities, ``(N, K)`` float in [0, 1], rows sum to 1, K >= 2.
        labels: True class indices, ``(N,) int64``.

    Returns:
        Floats ``accuracy, balanced_accuracy, precision, recall, f1, specificity, auroc, average_precision, ece`` (and
        the ``macro_`` ones for K = 2); ``per_class``, a dict of lists of length K with ``precision, recall, f1,
        specificity, auroc, average_precision`` and ``support`` (images of the class); ``confusion``, a K x K list of
        counts with a row per true class. Plain Python values throughout; an undefined one is NaN.

    Raises:
        ValueError: if shapes or dtypes do not fit, there are no images, or values are not probabilities.
    """
    prepared = _prepare(probabilities, labels)
    weights = torch.ones(1, len(labels), dtype=torch.float64)
    per_class = _score_classes(weights, prepared)
    scalars = {name: float(value) for name, value in _compute_scalars(weights, prepared, per_class).items()}
    lists: dict[str, list[Any]] = {name: value[0].tolist() for name, value in per_class.items()}
    return {
        **scalars,
        "per_class": {**lists, "support": prepared.confusion.sum(1).tolist()},
        "confusion": prepared.confusion.tolist(),
    }


def compute_intervals(
    probabilities: Tensor, labels: Tensor, *, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap intervals over images, for every scalar of :func:`measure_classification`.

    A resample without any image of a class that ``labels`` has is left out of the intervals of the metrics that need
    that class. Classes that ``labels`` lacks are left out of the means, as in the metric itself.

    Args:
        probabilities: Class probabilities, ``(N, K)`` float in [0, 1], rows sum to 1, K >= 2.
        labels: True class indices, ``(N,) int64``.
        resamples: Number of resamples.
        seed: Seed of the resampling; the same seed gives the same intervals.
        level: Coverage of the intervals, in (0, 1).

    Returns:
        Lower and upper bound by metric name; NaN twice where no resample defines the metric.

    Raises:
        ValueError: as in :func:`measure_classification`, or if ``resamples`` or ``level`` is out of range.
    """
    drawn = resample_classification(probabilities, labels, resamples=resamples, seed=seed)
    return {name: percentile_interval(values, level=level) for name, values in drawn.items()}


def resample_classification(
    probabilities: Tensor, labels: Tensor, *, resamples: int = 1000, seed: int = 0
) -> dict[str, Tensor]:
    """Every scalar of :func:`measure_classification` on each resample, ``(resamples,) float64``; NaN where undefined.

    Arguments and errors are those of :func:`compute_intervals`. Predictions of the same images by two classifiers meet the
    same resamples, so that the difference of what this gives compares them as a pair.
    """
    prepared = _prepare(probabilities, labels)
    chunks = [
        _compute_scalars(weights, prepared, _score_classes(weights, prepared))
        for weights in draw_resample_weights(len(labels), resamples=resamples, seed=seed)
    ]
    return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}


def compute_class_intervals(
    probabilities: Tensor, labels: Tensor, *, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[dict[str, list[tuple[float, float]]], dict[str, tuple[float, float]]]:
    """The intervals of :func:`compute_intervals` for the scores of each class, and for their means over the classes.

    Arguments and errors are those of :func:`compute_intervals`; the resamples are the same.

    Returns:
        Bounds by name in ``per_class`` of :func:`measure_classification`: K pairs each; and of the means over the classes
        that have images, one pair each. NaN twice where no resample defines the score.
    """
    prepared = _prepare(probabilities, labels)
    chunks = [
        _score_classes(weights, prepared)
        for weights in draw_resample_weights(len(labels), resamples=resamples, seed=seed)
    ]
    scores = {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}
    per_class = {name: [percentile_interval(v, level=level) for v in score.T] for name, score in scores.items()}
    present = prepared.present
    return per_class, {name: percentile_interval(v[:, present].mean(1), level=level) for name, v in scores.items()}


def choose_youden_threshold(scores: Tensor, labels: Tensor) -> float:
    """The threshold with the largest TPR - FPR (Youden, *Index for rating diagnostic tests*, Cancer 3, 1950).

    An image is called positive if its score is **at least** the threshold. Candidates are the scores themselves; among
    equally good ones the highest is taken, which calls the fewest images positive.

    Args:
        scores: Scores, ``(N,)`` float, higher means class 1.
        labels: True class indices, ``(N,)``, 0 or 1.

    Raises:
        ValueError: if shapes do not fit, a score is not finite, or a class is missing.
    """
    ranking = _rank(scores, labels == 1)
    positives = int(ranking.positive.sum())
    negatives = len(scores) - positives
    if not (positives and negatives):
        raise ValueError(f"a threshold needs images of both classes, not {positives} positive and {negatives} negative")
    # The first point calls nothing positive: no score is that threshold.
    true_positives, false_positives = (counts[1:] for counts in _count_along_curve(ranking))
    # Whole numbers, so that ties are exact: (TPR - FPR) times positives times negatives.
    best = int((true_positives * negatives - false_positives * positives).argmax())
    return float(scores[ranking.order[ranking.ends[best]]])


def roc_curve(scores: Tensor, is_positive: Tensor) -> tuple[Tensor, Tensor]:
    """Receiver operating characteristic, one point per distinct score, from (0, 0) to (1, 1).

    Args:
        scores: Scores, ``(N,)`` float, higher means positive.
        is_positive: Whether each image is positive, ``(N,) bool``.

    Returns:
        False and true positive rate, ``(G + 1,) float64`` each, rising; NaN where a class is missing.
    """
    true_positives, false_positives = _count_along_curve(_rank(scores, is_positive))
    return false_positives / false_positives[-1], true_positives / true_positives[-1]


def pr_curve(scores: Tensor, is_positive: Tensor) -> tuple[Tensor, Tensor]:
    """Precision against recall, one point per distinct score after (0, 1); the precision holds on the step *before* it.

    Args:
        scores: Scores, ``(N,)`` float, higher means positive.
        is_positive: Whether each image is positive, ``(N,) bool``.

    Returns:
        Recall (rising; NaN without positives) and precision, ``(G + 1,) float64`` each.
    """
    true_positives, false_positives = _count_along_curve(_rank(scores, is_positive))
    precision = true_positives / (true_positives + false_positives)
    precision[0] = 1.0
    return true_positives / true_positives[-1], precision


def auroc(scores: Tensor, is_positive: Tensor) -> float:
    """Area under the ROC curve: the chance that a positive outranks a negative, equal scores counting half.

    Args:
        scores: Scores, ``(N,)`` float, higher means positive.
        is_positive: Whether each image is positive, ``(N,) bool``.

    Returns:
        The area in [0, 1]; NaN if all or none are positive.
    """
    return float(_auroc(*(counts[None] for counts in _count_along_curve(_rank(scores, is_positive)))))


def average_precision(scores: Tensor, is_positive: Tensor) -> float:
    """Mean of the precision over the positives, without interpolation: the area under :func:`pr_curve`'s steps.

    Args:
        scores: Scores, ``(N,)`` float, higher means positive.
        is_positive: Whether each image is positive, ``(N,) bool``.

    Returns:
        The area in [0, 1]; NaN without positives.
    """
    return float(_average_precision(*(counts[None] for counts in _count_along_curve(_rank(scores, is_positive)))))


class _Ranking(NamedTuple):
    """Scores in falling order: where each came from, whether it is positive, where each group of equal scores ends."""

    order: Tensor  # (N,) int64
    positive: Tensor  # (N,) float64, 0 or 1, in that order
    ends: Tensor  # (G,) int64


class _Prepared(NamedTuple):
    """What the metrics need of the predictions and what no weight changes."""

    confusion: Tensor  # (K, K) int64, rows are true classes
    indicators: Tensor  # (N, 3K + bins) float64: true class, decided class, hit; hit - confidence in its bin
    rankings: list[_Ranking]  # of each class against the rest; for K = 2 too, since per_class lists both

    @property
    def num_classes(self) -> int:
        return len(self.confusion)

    @property
    def present(self) -> Tensor:
        """``(K,) bool``: the classes that have images."""
        return self.confusion.sum(1) > 0


def _prepare(probabilities: Tensor, labels: Tensor) -> _Prepared:
    _check(probabilities, labels)
    # On the CPU in float64: sums of counts are exact, and a cumulative sum on a GPU would not be deterministic.
    probabilities, labels = probabilities.detach().cpu().double(), labels.detach().cpu()
    k = probabilities.shape[1]
    decided = probabilities.argmax(1)
    truth, decision = F.one_hot(labels, k), F.one_hot(decided, k)
    confidence = probabilities.amax(1)
    # Bins are (low, high] as in Guo et al. 2017: a saturated confidence of 1 shares the last bin, not one of its own.
    edges = torch.linspace(0, 1, CALIBRATION_BINS + 1, dtype=torch.float64)[1:-1]
    bins = F.one_hot(torch.bucketize(confidence, edges), CALIBRATION_BINS)
    gap = (decided == labels).double() - confidence
    indicators = torch.cat([truth, decision, truth * decision, bins * gap[:, None]], 1)
    rankings = [_rank(probabilities[:, c], labels == c) for c in range(k)]
    return _Prepared(torch.bincount(labels * k + decided, minlength=k * k).view(k, k), indicators, rankings)


def _check(probabilities: Tensor, labels: Tensor) -> None:
    if probabilities.ndim != 2 or probabilities.shape[1] < 2 or not probabilities.is_floating_point():
        raise ValueError(
            f"probabilities must be (N, K >= 2) float, not {tuple(probabilities.shape)} {probabilities.dtype}"
        )
    n, k = probabilities.shape
    if labels.shape != (n,) or labels.dtype != torch.int64:
        raise ValueError(f"labels must be ({n},) int64, not {tuple(labels.shape)} {labels.dtype}")
    if n == 0:
        raise ValueError("there are no predictions to measure")
    if not 0 <= int(labels.min()) <= int(labels.max()) < k:
        raise ValueError(f"labels must lie in 0..{k - 1}, not in {int(labels.min())}..{int(labels.max())}")
    # Loose enough for probabilities that were rounded to 16 bits; logits and NaN fail it.
    valid = (probabilities >= 0).all() & (probabilities <= 1).all()
    if not (valid & ((probabilities.double().sum(1) - 1).abs() < 0.02).all()):
        raise ValueError("each row of probabilities must be finite, lie in [0, 1] and sum to 1; are these logits?")


def _rank(scores: Tensor, is_positive: Tensor) -> _Ranking:
    scores, is_positive = scores.detach().cpu(), is_positive.detach().cpu()
    if scores.ndim != 1 or scores.shape != is_positive.shape or len(scores) == 0:
        raise ValueError(
            f"scores and labels must be (N >= 1,), not {tuple(scores.shape)} and {tuple(is_positive.shape)}"
        )
    if not scores.isfinite().all():
        raise ValueError("scores must be finite: NaN and infinity cannot be ranked")
    ordered, order = scores.sort(descending=True, stable=True)
    ends = F.pad(ordered[1:] != ordered[:-1], (0, 1), value=True).nonzero().squeeze(1)
    return _Ranking(order, is_positive[order].double(), ends)


def _count_above(weights: Tensor, ranking: _Ranking) -> tuple[Tensor, Tensor]:
    """True and false positives at each distinct threshold from the top, for ``weights (B, N)``: ``(B, G + 1)`` each."""
    ordered = weights[:, ranking.order]
    true_positives = (ordered * ranking.positive).cumsum(1)[:, ranking.ends]
    called = ordered.cumsum(1)[:, ranking.ends]
    return F.pad(true_positives, (1, 0)), F.pad(called - true_positives, (1, 0))


def _count_along_curve(ranking: _Ranking) -> tuple[Tensor, Tensor]:
    """True and false positives at each distinct threshold from the top, every image once: ``(G + 1,)`` each."""
    true_positives, false_positives = _count_above(torch.ones(1, len(ranking.order), dtype=torch.float64), ranking)
    return true_positives[0], false_positives[0]


def _auroc(true_positives: Tensor, false_positives: Tensor) -> Tensor:
    return torch.trapezoid(true_positives, false_positives) / (true_positives[:, -1] * false_positives[:, -1])


def _average_precision(true_positives: Tensor, false_positives: Tensor) -> Tensor:
    # Thresholds above a resample's highest score call nothing positive; clamp, so that they count 0 and not 0 / 0.
    precision = true_positives / (true_positives + false_positives).clamp(min=1)
    return (true_positives.diff() * precision[:, 1:]).sum(1) / true_positives[:, -1]


def _score_classes(weights: Tensor, prepared: _Prepared) -> dict[str, Tensor]:
    """Scores of each class against the rest for ``weights (B, N)``, ``(B, K)`` each; NaN for a class without weight."""
    k = prepared.num_classes
    support, decided, hit = (weights @ prepared.indicators[:, : 3 * k]).view(-1, 3, k).unbind(1)
    total = weights.sum(1, keepdim=True)
    areas = [_count_above(weights, ranking) for ranking in prepared.rankings]
    scores = {
        "precision": hit / decided.clamp(min=1),
        "recall": hit / support,
        "f1": 2 * hit / (decided + support),
        "specificity": (total - support - decided + hit) / (total - support),
        "auroc": torch.stack([_auroc(*counts) for counts in areas], 1),
        "average_precision": torch.stack([_average_precision(*counts) for counts in areas], 1),
    }
    return {name: score.masked_fill(support == 0, torch.nan) for name, score in scores.items()}


def _compute_scalars(weights: Tensor, prepared: _Prepared, per_class: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every scalar metric for ``weights (B, N)``, ``(B,)`` each; a mean over a class that lost its images is NaN."""
    k = prepared.num_classes
    macro = {name: score[:, prepared.present].mean(1) for name, score in per_class.items()}
    sums = weights @ prepared.indicators[:, 2 * k :]
    total = weights.sum(1)
    plain = macro if k > 2 else {name: score[:, 1] for name, score in per_class.items()}
    scalars = {"accuracy": sums[:, :k].sum(1) / total, "balanced_accuracy": macro["recall"]}
    scalars |= {name: plain[name] for name in (*_DECISIONS, *_RANKINGS)}
    scalars["ece"] = sums[:, k:].abs().sum(1) / total
    if k == 2:
        scalars |= {f"macro_{name}": macro[name] for name in _DECISIONS}
    return scalars
