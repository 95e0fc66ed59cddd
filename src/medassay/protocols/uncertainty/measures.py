"""What is measured of a classifier's certainty: ambiguous images, accuracy of the surest, images of no class, blurred ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medassay.core.estimate import Estimate
from medassay.data.classes import list_likeliest
from medassay.metrics.estimates import estimate_share
from medassay.metrics.out_of_distribution import estimate_detection
from medassay.metrics.selective import Kept, compute_entropy, compute_log_odds, compute_margin, measure_kept

NEAREST = 3  # classes whose probability stands beside an image
PAIRS = 10  # pairs of classes that are listed, at most


@dataclass(frozen=True)
class Answers:
    """What a net says of some images.

    Attributes:
        logits: ``(N, K) float64``.
        labels: ``(N,) int64``.
    """

    logits: Tensor
    labels: Tensor

    @property
    def probabilities(self) -> Tensor:
        return self.logits.softmax(1)

    @property
    def confidence(self) -> Tensor:
        """The largest probability of each image, ``(N,) float64``."""
        return self.probabilities.amax(1)

    @property
    def decisions(self) -> Tensor:
        return self.logits.argmax(1)

    @property
    def correct(self) -> Tensor:
        """Whether each decision is right, ``(N,) bool``."""
        return self.decisions == self.labels


@dataclass(frozen=True)
class Ambiguous:
    """An image that a net is not sure of.

    Attributes:
        index: Position in the split, from 0.
        true: Name of its class.
        chances: Its most probable classes with their probabilities.
        entropy: In bits.
        margin: Largest probability minus the second.
    """

    index: int
    true: str
    chances: list[tuple[str, float]]
    entropy: float
    margin: float

    @property
    def is_right(self) -> bool:
        return self.chances[0][0] == self.true


@dataclass(frozen=True)
class Pair:
    """Two classes between which a net hovers, and the number of images that it is not sure of where these are the likeliest."""

    classes: tuple[str, str]
    n: int


@dataclass(frozen=True)
class KeptImages:
    """The surest images.

    Attributes:
        asked: Share of all images that was asked for.
        share: Share that is kept; more where images at the limit are equally sure.
        lowest: The lowest largest probability among them.
        accuracy: Accuracy on them.
    """

    asked: float
    share: float
    n: int
    lowest: float
    accuracy: Estimate


@dataclass(frozen=True)
class Sure:
    """The images that a net is sure of: their share, and the accuracy on them; and the mean largest probability of all."""

    share: Estimate
    accuracy: Estimate
    confidence: float


@dataclass(frozen=True)
class Letter:
    """What a net says of a letter in all fonts: the most frequent class, in how many of the fonts, and how sure it is."""

    letter: str
    called: str
    fonts: int
    sure: int
    confidence: float


@dataclass(frozen=True)
class Foreign:
    """What a net says of images of none of its classes.

    Attributes:
        kind: ``letters`` or ``shuffled``.
        n: Number of images.
        sure: Share of them that the net is sure of; these are all there are, so that there is no interval.
        confidence: Mean of the largest probability.
        decided: Number of images given to each class, by label.
        detection: The chance that a foreign image has a lower largest probability than one of the data set's (AUROC).
        letters: Letter by letter, the surest first; empty of another kind.
    """

    kind: str
    n: int
    sure: float
    confidence: float
    decided: list[int]
    detection: Estimate
    letters: list[Letter]


@dataclass(frozen=True)
class Blurred:
    """A net on blurred images.

    Attributes:
        severity: From 0, not blurred, to 5.
        pixels: Standard deviation of the Gaussian in pixels.
        accuracy: Accuracy.
        sure: Share of the images that the net is sure of.
        confidence: Mean of the largest probability.
    """

    severity: int
    pixels: float
    accuracy: Estimate
    sure: Estimate
    confidence: float


def find_ambiguous(answers: Answers, classes: Sequence[str], by: str, most: int) -> list[Ambiguous]:
    """The images with the highest entropy, or by ``margin`` those with the smallest margin; the most ambiguous first."""
    entropy, margin, probabilities = (
        compute_entropy(answers.logits),
        compute_margin(answers.logits),
        answers.probabilities,
    )
    order = (-entropy if by == "entropy" else margin).argsort(stable=True)[:most]
    return [
        Ambiguous(
            index,
            classes[int(answers.labels[index])],
            list_likeliest(probabilities[index].tolist(), classes, NEAREST),
            float(entropy[index]),
            float(margin[index]),
        )
        for index in order.tolist()
    ]


def count_pairs(answers: Answers, classes: Sequence[str], sure: float) -> list[Pair]:
    """Between which two classes the net hovers on the images that it is not sure of, the most frequent pair first."""
    unsure = answers.probabilities[answers.confidence < sure]
    pairs = [tuple(sorted(pair)) for pair in unsure.topk(2, 1).indices.tolist()] if len(unsure) else []
    return [Pair((classes[a], classes[b]), n) for (a, b), n in Counter(pairs).most_common(PAIRS)]


def keep_surest(answers: Answers, shares: Sequence[float]) -> list[KeptImages]:
    """Accuracy on the surest images, for each share that is kept, from all to few."""
    shares = sorted(set(shares), reverse=True)
    rows: list[Kept] = measure_kept(compute_log_odds(answers.logits), answers.correct, shares)
    lowest = torch.tensor([row.lowest for row in rows], dtype=torch.float64).sigmoid().tolist()
    return [
        KeptImages(share, row.share, row.n, least, row.accuracy)
        for share, row, least in zip(shares, rows, lowest, strict=True)
    ]


def measure_sure(answers: Answers, sure: float) -> Sure:
    """How many images the net is sure of, and its accuracy on them."""
    chosen = answers.confidence >= sure
    n = int(chosen.sum())
    right, mean = int(answers.correct[chosen].sum()), float(answers.confidence.mean())
    return Sure(estimate_share(n, len(chosen)), estimate_share(right, n), mean)


def judge_foreign(
    kind: str, logits: Tensor, own: Answers, classes: Sequence[str], sure: float, shown: Sequence[str] = ()
) -> Foreign:
    """What the net says of images of none of its classes, beside its ``own``; ``shown`` are the letters of each, if any."""
    answers = Answers(logits, torch.full((len(logits),), -1))
    confidence = answers.confidence
    return Foreign(
        kind,
        len(logits),
        float((confidence >= sure).double().mean()),
        float(confidence.mean()),
        torch.bincount(answers.decisions, minlength=len(classes)).tolist(),
        estimate_detection(-compute_log_odds(own.logits), -compute_log_odds(logits), paired=False),
        judge_letters(answers, shown, classes, sure),
    )


def judge_letters(answers: Answers, shown: Sequence[str], classes: Sequence[str], sure: float) -> list[Letter]:
    """Letter by letter, the one that the net is surest of first."""
    rows = []
    for letter in dict.fromkeys(shown):
        place = torch.tensor([one == letter for one in shown])
        decisions, confidence = answers.decisions[place], answers.confidence[place]
        called = int(torch.bincount(decisions, minlength=len(classes)).argmax())
        certain, fonts = int((confidence >= sure).sum()), int((decisions == called).sum())
        rows.append(Letter(letter, classes[called], fonts, certain, float(confidence.mean())))
    return sorted(rows, key=lambda row: -row.confidence)


def judge_blurred(severity: int, pixels: float, answers: Answers, sure: float) -> Blurred:
    """The net on images of one severity."""
    n, confidence = len(answers.labels), answers.confidence
    return Blurred(
        severity,
        pixels,
        estimate_share(int(answers.correct.sum()), n),
        estimate_share(int((confidence >= sure).sum()), n),
        float(confidence.mean()),
    )
