"""The verdict in plain words, by rules fixed beforehand; every value is read beside the floor's, never alone.

The floor is real images that nobody trained on: what it scores is the best that can be expected at this number of samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from medassay.metrics.chance import CHANCE_AUROC
from medassay.protocols.assay.results import ArmScores, Fault, Finding, Level, Metrics, Performance, Row
from medassay.reporting.numbers import format_percent

EXACT_COPIES = 0.01  # share of pixel-identical training images above the floor's: copying
AUTHENTICITY = 0.5  # of the floor's in an encoder: below, and found by the membership attack there too: copying
MEMBERSHIP_DIFFERENCE, MEMBERSHIP_Z = 0.03, 4.0  # above the floor's area, and in standard errors
CLASS_COVERAGE = 0.25  # of the floor's coverage of that class: below, the class is missing
CLASS_CONSISTENCY = 0.75  # of the floor's, means over the classes: below, labels and images do not agree
PRECISION = 0.8  # of the floor's
COVERAGE = 0.7  # of the floor's
# times chance: a balanced accuracy of TRTR below it is no yardstick, nor is one whose interval reaches chance
LEARNABLE = 1.5
USEFUL, NEARLY_AS_USEFUL = 0.8, 0.95  # TSTR / TRTR in balanced accuracy

FAULTS: dict[Fault, str] = {
    "copies": "samples repeat training images",
    "missing_class": "classes are missing",
    "labels": "labels and images do not agree",
    "fidelity": "many samples do not look real",
    "diversity": "part of the variety is missing",
    "usefulness": "a classifier learns much less from them than from real images",
}


def judge(row: Row, floor: Row, classes: Sequence[str], trtr: ArmScores) -> list[Finding]:
    """The findings on one row of the table, of as many samples as the floor.

    ``trtr`` is what classifiers of real images reach, one of which looks for the requested classes in the samples.
    """
    return [
        _judge_fidelity(row.headline, floor.headline),
        _judge_diversity(row.headline, floor.headline),
        *_find_missing_classes(row, floor, classes),
        _judge_labels(row, floor, trtr),
        _judge_copying(row, floor),
    ]


def is_at_chance(trtr: ArmScores) -> bool:
    """Whether classifiers of real images have learnt too little from them to judge anything by."""
    reached, chance = trtr.balanced_accuracy, 1 / len(trtr.recall)
    intervals = ((reached, chance), (trtr.auroc, CHANCE_AUROC))
    return reached.value < LEARNABLE * chance or any(
        one.low is not None and not one.is_above(limit) for one, limit in intervals
    )


def list_faults(findings: Sequence[Finding]) -> list[Fault]:
    """The names of what is wrong."""
    return [finding.fault for finding in findings if finding.fault is not None]


def summarise(findings: Sequence[Finding]) -> str:
    """The verdict in a sentence, and a second one where something cannot be judged."""
    faults = list_faults(findings)
    count = "no fault" if not faults else "one fault" if len(faults) == 1 else f"{len(faults)} faults"
    named = f": {'; '.join(FAULTS[fault] for fault in faults)}" if faults else ""
    undecided = any(finding.level == "undecided" for finding in findings)
    return f"The rules find {count}{named}.{' Not all can be judged, see below.' if undecided else ''}"


def _make_finding(fault: Fault | None, text: str, numbers: str) -> Finding:
    level: Level = "good" if fault is None else "suspicious" if fault in ("labels", "copies") else "missing"
    return Finding(level, fault, f"{text}: {numbers}.")


def _make_undecided(text: str, numbers: str) -> Finding:
    return Finding(
        "undecided", None, f"{text}, since a classifier learns next to nothing even from real images: {numbers}."
    )


def _judge_fidelity(own: Metrics, best: Metrics) -> Finding:
    numbers = (
        f"{format_percent(own.precision.value)} of the samples lie among real images (new real images: "
        f"{format_percent(best.precision.value)}), density {own.density.value:.2f} ({best.density.value:.2f})"
    )
    if own.precision.value < PRECISION * best.precision.value:
        return _make_finding("fidelity", "Many samples do not look like any real image", numbers)
    return _make_finding(None, "Single samples look real", numbers)


def _judge_diversity(own: Metrics, best: Metrics) -> Finding:
    numbers = (
        f"they cover {format_percent(own.coverage.value)} of the training images (new real images: "
        f"{format_percent(best.coverage.value)}), recall {own.recall.value:.2f} ({best.recall.value:.2f})"
    )
    if own.coverage.value < COVERAGE * best.coverage.value:
        return _make_finding("diversity", "The samples miss part of the variety of real images", numbers)
    return _make_finding(None, "The samples vary as real images do", numbers)


def _find_missing_classes(row: Row, floor: Row, classes: Sequence[str]) -> list[Finding]:
    gone = [
        f"{name} ({format_percent(own)} covered; new real images: {format_percent(best)})"
        for name, own, best in zip(classes, row.per_class.coverage, floor.per_class.coverage, strict=True)
        if best > 0 and own < CLASS_COVERAGE * best
    ]
    text = "Classes that are missing or hardly covered"
    return [_make_finding("missing_class", text, ", ".join(gone))] if gone else []


def _judge_labels(row: Row, floor: Row, trtr: ArmScores) -> Finding:
    """Takes means over the classes: where one is frequent, wrong labels would be right by chance."""
    pairs = zip(row.per_class.class_consistency, floor.per_class.class_consistency, strict=True)
    both = [(own, best) for own, best in pairs if not math.isnan(own) and not math.isnan(best)]
    own, best = (fmean(values) for values in zip(*both, strict=True))
    numbers = (
        f"a classifier of real images finds the requested class in {format_percent(own)} of the samples (in new real images: "
        f"{format_percent(best)}; means over the classes)"
    )
    if is_at_chance(trtr) or best < LEARNABLE / len(both):
        return _make_undecided("Whether labels and images agree cannot be judged", numbers)
    if own < CLASS_CONSISTENCY * best:
        return _make_finding("labels", "Labels and images do not agree", numbers)
    return _make_finding(None, "Samples show the class that was asked for", numbers)


class _Sight(NamedTuple):
    """What one encoder shows of copies, of images as they are or ``turned``; of the row, and of the floor (``best_``)."""

    encoder: str
    turned: bool
    authenticity: float
    best_authenticity: float
    attack: float
    best_attack: float
    error: float  # of the difference of the attacks' areas

    @classmethod
    def of(cls, encoder: str, turned: bool, own: Metrics, best: Metrics) -> _Sight:
        suffix = "_turned" if turned else ""
        names = ("authenticity", "membership_auc", "membership_auc_se")
        (shown, attack, error), (best_shown, best_attack, best_error) = (
            [getattr(row, name + suffix).value for name in names] for row in (own, best)
        )
        return cls(encoder, turned, shown, best_shown, attack, best_attack, math.hypot(error, best_error))

    @property
    def is_crowded(self) -> bool:
        """Whether samples are nearer to training images than new ones are."""
        return self.authenticity < AUTHENTICITY * self.best_authenticity

    @property
    def is_attacked(self) -> bool:
        """Whether training images are told from new ones."""
        difference = self.attack - self.best_attack
        return difference > MEMBERSHIP_DIFFERENCE and difference > MEMBERSHIP_Z * self.error


def _judge_copying(row: Row, floor: Row) -> Finding:
    """Looks in every encoder's features, at images as they are and turned: noise, say, hides a copy from the one and not from
    the other, and a turn from all that do not look for it."""
    sights = [
        _Sight.of(encoder, turned, own, floor.encoders[encoder])
        for turned in (False, True)
        for encoder, own in row.encoders.items()
    ]
    crowded, attacked = ([one for one in sights if getattr(one, kind)] for kind in ("is_crowded", "is_attacked"))
    copied = [one for one in crowded if one in attacked]
    shown = (copied or crowded or attacked or sights)[0]
    form = ", images turned and mirrored, too" if shown.turned else ""
    other_forms = (
        f" ({format_percent(row.exact_copies_turned.value)} turned or mirrored)"
        if row.exact_copies_turned.value > row.exact_copies.value
        else ""
    )
    numbers = (
        f"{format_percent(shown.authenticity)} of the samples are authentic (new real images: "
        f"{format_percent(shown.best_authenticity)}), {format_percent(row.exact_copies.value)} equal a training image pixel by "
        f"pixel{other_forms}, and a membership attack, which guesses the training images, reaches an AUC of "
        f"{shown.attack:.2f} ({shown.best_attack:.2f}; encoder: {shown.encoder}{form})"
    )
    exact = [(row.exact_copies, floor.exact_copies), (row.exact_copies_turned, floor.exact_copies_turned)]
    if copied or any(own.value > best.value + EXACT_COPIES for own, best in exact):
        return _make_finding("copies", "Samples are copies of training images, or nearly so", numbers)
    if crowded:
        text = "Samples lie close to training images, but the attack cannot tell these from new real images"
    elif attacked:
        text = "The attack tells training images from new real images, but samples are no copies"
    else:
        text = "No sign of copying"
    return _make_finding(None, text, numbers)


def judge_usefulness(performance: Performance) -> Finding:
    """What classifiers learn from the generator's images, beside those of real ones."""
    ratio = performance.ratio.balanced_accuracy.value
    tstr, trtr = performance.tstr.balanced_accuracy.value, performance.trtr.balanced_accuracy.value
    numbers = (
        f"a classifier trained on them reaches {format_percent(tstr)} balanced accuracy on real images, one trained on "
        f"real images {format_percent(trtr)} (ratio {ratio:.2f})"
    )
    if is_at_chance(performance.trtr):
        return _make_undecided("Usefulness cannot be judged", numbers)
    if ratio >= NEARLY_AS_USEFUL:
        return _make_finding(None, "Nearly as useful as real images", numbers)
    if ratio >= USEFUL:
        return _make_finding(None, "Useful, but less so than real images", numbers)
    return _make_finding("usefulness", "Much less useful than real images", numbers)
