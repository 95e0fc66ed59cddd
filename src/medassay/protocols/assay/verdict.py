"""The verdict in plain words, by rules fixed beforehand; every value is read beside the floor's, never alone.

The floor is real images that nobody trained on: what it scores is the best that can be expected at this number of samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Level = Literal["good", "missing", "suspicious"]
Fault = Literal["copies", "missing_class", "labels", "fidelity", "diversity", "usefulness"]

EXACT_COPIES = 0.01  # share of pixel-identical training images above the floor's: copying
AUTHENTICITY = 0.5  # of the floor's in an encoder: below, and found by the membership attack there too: copying
MEMBERSHIP_DIFFERENCE, MEMBERSHIP_Z = 0.03, 4.0  # above the floor's area, and in standard errors
CLASS_COVERAGE = 0.25  # of the floor's coverage of that class: below, the class is missing
CLASS_CONSISTENCY = 0.75  # of the floor's: below, labels and images do not agree
PRECISION = 0.8  # of the floor's
COVERAGE = 0.7  # of the floor's
LEARNABLE = 1.5  # times chance: TRTR below it is no yardstick
USEFUL, NEARLY_AS_USEFUL = 0.8, 0.95  # TSTR / TRTR in balanced accuracy


@dataclass(frozen=True)
class Finding:
    """One sentence of the verdict.

    Attributes:
        level: good, missing or suspicious.
        fault: its name where something is wrong, else None.
        text: the sentence.
    """

    level: Level
    fault: Fault | None
    text: str


def judge(
    row: dict[str, Any], floor: dict[str, Any], classes: Sequence[str], performance: dict[str, Any] | None = None
) -> list[dict[str, Any]]:
    """The findings on one row of the table, as plain dictionaries.

    Args:
        row, floor: rows of one table, of equal numbers of samples; the first encoder is the headline.
        classes: names.
        performance: the arms, where there are any.
    """
    headline = next(iter(row["encoders"]))
    mine, best = ({k: v["mean"] for k, v in r["encoders"][headline].items()} for r in (row, floor))
    found = [
        _fidelity(mine, best),
        _diversity(mine, best),
        *_classes(row, floor, classes),
        _labels(row, floor),
        _copying(row, floor),
        *([] if performance is None else [_usefulness(performance)]),
    ]
    return [asdict(finding) for finding in found]


def faults(findings: Sequence[dict[str, Any]]) -> list[str]:
    """The names of what is wrong."""
    return [finding["fault"] for finding in findings if finding["fault"] is not None]


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _fidelity(mine: dict[str, float], best: dict[str, float]) -> Finding:
    numbers = (
        f"{_percent(mine['precision'])} of the samples lie among real images (new real images: {_percent(best['precision'])}), "
        f"density {mine['density']:.2f} ({best['density']:.2f})"
    )
    if mine["precision"] < PRECISION * best["precision"]:
        return Finding("missing", "fidelity", f"Many samples do not look like any real image: {numbers}.")
    return Finding("good", None, f"Single samples look real: {numbers}.")


def _diversity(mine: dict[str, float], best: dict[str, float]) -> Finding:
    numbers = (
        f"they cover {_percent(mine['coverage'])} of the training images (new real images: {_percent(best['coverage'])}), "
        f"recall {mine['recall']:.2f} ({best['recall']:.2f})"
    )
    if mine["coverage"] < COVERAGE * best["coverage"]:
        return Finding("missing", "diversity", f"The samples miss part of the variety of real images: {numbers}.")
    return Finding("good", None, f"The samples vary as real images do: {numbers}.")


def _classes(row: dict[str, Any], floor: dict[str, Any], classes: Sequence[str]) -> list[Finding]:
    pairs = zip(classes, row["per_class"]["coverage"], floor["per_class"]["coverage"], strict=True)
    gone = [
        f"{name} ({_percent(own)} covered; new real images: {_percent(best)})"
        for name, own, best in pairs
        if best > 0 and own < CLASS_COVERAGE * best
    ]
    if not gone:
        return []
    return [Finding("missing", "missing_class", f"Classes that are missing or hardly covered: {', '.join(gone)}.")]


def _labels(row: dict[str, Any], floor: dict[str, Any]) -> Finding:
    own, best = row["class_consistency"]["mean"], floor["class_consistency"]["mean"]
    numbers = (
        f"a classifier of real images finds the requested class in {_percent(own)} of the samples "
        f"(in new real images: {_percent(best)})"
    )
    if own < CLASS_CONSISTENCY * best:
        return Finding("suspicious", "labels", f"Labels and images do not agree: {numbers}.")
    return Finding("good", None, f"Samples show the class that was asked for: {numbers}.")


def _copying(row: dict[str, Any], floor: dict[str, Any]) -> Finding:
    """Looked for in every encoder's features: noise, say, hides a copy from the one and not from the other."""
    exact = row["exact_copies"]["mean"]
    crowded, attacked, copied = [], [], []
    for encoder, values in row["encoders"].items():
        mine, best = (
            {name: v["mean"] for name, v in numbers.items()} for numbers in (values, floor["encoders"][encoder])
        )
        difference = mine["membership_auc"] - best["membership_auc"]
        error = math.hypot(mine["membership_auc_se"], best["membership_auc_se"])
        near = mine["authenticity"] < AUTHENTICITY * best["authenticity"]
        found_out = difference > MEMBERSHIP_DIFFERENCE and difference > MEMBERSHIP_Z * error
        crowded += [encoder] if near else []
        attacked += [encoder] if found_out else []
        copied += [encoder] if near and found_out else []
    encoder = (copied or crowded or attacked or list(row["encoders"]))[0]
    mine, best = ({k: v["mean"] for k, v in r["encoders"][encoder].items()} for r in (row, floor))
    numbers = (
        f"{_percent(mine['authenticity'])} are authentic (new real images: {_percent(best['authenticity'])}), "
        f"{_percent(exact)} equal a training image pixel by pixel, a membership attack reaches an area of "
        f"{mine['membership_auc']:.2f} ({best['membership_auc']:.2f}; encoder: {encoder})"
    )
    if exact > floor["exact_copies"]["mean"] + EXACT_COPIES or copied:
        return Finding("suspicious", "copies", f"Samples are copies of training images, or nearly so: {numbers}.")
    if crowded:
        return Finding(
            "good",
            None,
            f"Samples crowd near training images, but the attack does not tell these from new ones: {numbers}.",
        )
    if attacked:
        return Finding(
            "good", None, f"Training images can be told from new ones, but samples are no copies: {numbers}."
        )
    return Finding("good", None, f"No sign of copying: {numbers}.")


def _usefulness(performance: dict[str, Any]) -> Finding:
    chance = 1 / len(performance["arms"]["TRTR"]["recall"])
    ratio = performance["ratio"]["balanced_accuracy"]["mean"]
    tstr, trtr = (performance["arms"][name]["balanced_accuracy"]["mean"] for name in ("TSTR", "TRTR"))
    numbers = (
        f"a classifier trained on them reaches {_percent(tstr)} balanced accuracy on real images, one trained on real images "
        f"{_percent(trtr)} (ratio {ratio:.2f})"
    )
    if trtr < LEARNABLE * chance:
        return Finding(
            "missing", None, f"Usefulness cannot be judged, real images themselves teach next to nothing: {numbers}."
        )
    if ratio >= NEARLY_AS_USEFUL:
        return Finding("good", None, f"Nearly as useful as real images: {numbers}.")
    if ratio >= USEFUL:
        return Finding("good", None, f"Useful, but less so than real images: {numbers}.")
    return Finding("missing", "usefulness", f"Much less useful than real images: {numbers}.")
