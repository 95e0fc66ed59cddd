"""The rule that says whether a simple classifier on the features does as well as the net's own last layer.

It looks at one classifier alone, the one that validation images prefer: the best of several on the judged images would look
good by chance. The margin is what a reader would call the same; it was fixed before any result was known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medassay.core.estimate import Estimate
from medassay.metrics.chance import ENOUGH, ChanceCheck, are_enough
from medassay.protocols.features.classifiers import CRITERION
from medassay.protocols.features.results import ClassifierResult, LastLayer, Level
from medassay.reporting.numbers import format_bounds, format_fixed, format_with_bounds

MARGIN = 0.02  # of balanced accuracy: less is no difference worth a word

WORDS: dict[Level, str] = {"as_good": "as well", "better": "better", "worse": "worse", "undecided": "undecided"}
RULE = (
    "The classifier that is best on validation images is compared with the net’s last layer, image by image, in balanced "
    f"accuracy. It does as well if the whole 95 % interval of the difference lies between −{MARGIN} and +{MARGIN}; otherwise "
    "it does better if the whole interval lies above 0, and worse if the whole interval lies below 0. In all other cases, and "
    "where the last layer itself is not shown to be above chance, nothing is decided: the intervals of its balanced accuracy "
    f"and of its AUROC must lie above what guessing reaches, {ENOUGH}."
)


def judge(difference: Estimate, last_layer: Mapping[str, Estimate], counts: Sequence[int]) -> Level:
    """What the rule says.

    Args:
        difference: Balanced accuracy of the classifier minus that of the last layer.
        last_layer: The last layer's scores.
        counts: Number of the judged images of each class that has any.
    """
    low, high = difference.low, difference.high
    if low is None or high is None or not is_above_chance(last_layer, counts):
        return "undecided"
    if low > -MARGIN and high < MARGIN:
        return "as_good"
    return "better" if low > 0 else "worse" if high < 0 else "undecided"


def is_above_chance(scores: Mapping[str, Estimate], counts: Sequence[int]) -> bool:
    """Whether the intervals of balanced accuracy and AUROC both lie above those of guessing as a whole."""
    chance = 1 / len(counts)
    return ChanceCheck(scores[CRITERION], scores["auroc"], chance, are_enough(counts, chance)).passed


def summarise(best: ClassifierResult, last_layer: LastLayer | None, counts: Sequence[int], images: str) -> str:
    """The verdict in two sentences.

    Args:
        best: The classifier that validation images prefer.
        last_layer: The net's own last layer; None where it does not apply.
        counts: Number of the judged images of each class that has any.
        images: The judged images, in words.
    """
    chance = 1 / len(counts)
    reached = f"balanced accuracy of {format_with_bounds(best.scores[CRITERION])} on the {images}"
    if last_layer is None or best.difference is None:
        if is_above_chance(best.scores, counts):
            return f"The features tell the classes apart: {best.name} reaches a {reached}, chance is {chance:.3f}."
        return f"Undecided: {best.name} is not shown to be above chance, {chance:.3f}, with a {reached}."
    own = format_with_bounds(last_layer.scores[CRITERION])
    numbers = f"{best.name} reaches a {reached}, the last layer {own}; the difference is {format_difference(best.difference)}."
    if best.level == "undecided":
        if not is_above_chance(last_layer.scores, counts):
            return f"Undecided, since the net’s last layer is not shown to be above chance, {chance:.3f}: {numbers}"
        return f"Undecided, since the interval of the difference is too wide; more images would narrow it: {numbers}"
    assert best.level is not None
    conjunction = "as" if best.level == "as_good" else "than"
    return f"On the net’s features a simple classifier does {WORDS[best.level]} {conjunction} the net’s last layer: {numbers}"


def format_difference(difference: Estimate) -> str:
    """A difference with its sign and its interval."""
    sign = "+" if difference.value > 0 else ""
    return f"{sign}{format_fixed(difference.value)} {format_bounds(difference)}".strip()
