"""The rule that says whether a net has learnt a stamp.

Its limits were fixed on chest phantoms (``phantom_seed=7``, 1024 training images, 10 epochs, seeds 100 to 124) before any run
that is reported. Stamped images outranked those of the class in at most 22 % of the pairs for eight clean nets, three stamps
and both classes, and in at least 96 % for seven nets whose class carried a stamp in 90 or 100 % of its training images: 60 %
lies midway. With half of the images stamped it was 32 to 70 %, with a fifth 28 %: as much as in a clean net that a bright mark
misleads, so that the verdict is mostly "sensitive". Heat maps did not tell the two apart: in clean nets, too, a fifth of the
map's sum lay in a mark that was new to them.
"""

from __future__ import annotations

from collections.abc import Sequence

from medassay.evaluation.protocol import Outcome
from medassay.metrics.chance import ENOUGH, ChanceCheck
from medassay.protocols.shortcut.measures import Level, Numbers, Trial
from medassay.reporting.classification import describe_chance
from medassay.reporting.numbers import format_percent, format_percent_bounds

LIMIT = 0.6  # of the pairs; at 0.5 the stamp counts for as much as the disease
MOVED = 0.1  # of the others' images; a net that knows nothing ranks at random, and any mark is more than that

LEVELS: tuple[Level, ...] = (
    "none",
    "undecided",
    "sensitive",
    "learned",
)  # a finding on one class outweighs none on another
WORDS: dict[Level, str] = {
    "learned": "learnt the stamp",
    "sensitive": "sensitive to the stamp",
    "undecided": "undecided",
    "none": "no sign of the stamp",
}
OUTCOMES: dict[Level, Outcome] = {"learned": "bad", "sensitive": "bad", "undecided": "undecided", "none": "good"}
_HEADLINES: dict[Level, str] = {
    "learned": "Learnt the stamp",
    "sensitive": "Not shown to have learnt the stamp, but sensitive to it",
    "undecided": "Undecided",
    "none": "No sign of the stamp",
}
_LEVELS: tuple[Level, ...] = ("none", "sensitive", "learned")  # by how many of the two hold
RULE = (
    "Every test image of the other classes gets the stamp. Is it then called the class? And does it rank above the images "
    "that truly are of the class, pair by pair? A net that sees the disease ranks those higher. The net has learnt the stamp "
    f"if both hold: the stamp moves more than {format_percent(MOVED)} of the other classes’ images to the class, and stamped "
    f"images rank above real ones in more than {format_percent(LIMIT)} of the pairs; each 95 % interval must lie above its "
    "limit as a whole. If only one holds, the net is sensitive to the stamp. So is a net that learnt it from a part of its "
    "images only, and so can be a net that never saw it. If neither holds, each interval lying below its limit as a whole, "
    "there is no sign of the stamp. The verdict is undecided where an interval contains its limit, and where the net is not "
    "above chance: on images like those it was trained on, the intervals of its balanced accuracy and of its AUROC for the "
    f"class must lie above 0.5, {ENOUGH}. A net that knows nothing ranks at random, and any mark may move it. Heat maps are "
    "shown beside the verdict and do not decide it."
)


def judge(numbers: Numbers, chance: ChanceCheck) -> tuple[Level, str]:
    """The level of one trial, and a text that says it."""
    rank, clean = numbers.outranks, numbers.outranks_clean
    doubts = list_doubts(numbers, chance)
    level: Level = "undecided" if doubts else _LEVELS[rank.is_above(LIMIT) + numbers.drawn_over.is_above(MOVED)]
    before, after = (
        format_percent(numbers.conditions[name]["false_positive_rate"].value) for name in ("clean", "other_classes")
    )
    text = (
        f"With the stamp ({numbers.described}), an image of another class ranks above a real {numbers.class_name} image in "
        f"{format_percent(rank.value)} of the pairs {format_percent_bounds(rank)}, without it in "
        f"{format_percent(clean.value)}. Of the images of other classes, {after} are "
        f"called {numbers.class_name} with the stamp, {before} without it."
    )
    if level == "sensitive":
        text += " That alone does not say that the net was trained with it."
    return level, " ".join([*doubts, text])


def list_doubts(numbers: Numbers, chance: ChanceCheck) -> list[str]:
    """Why nothing can be decided, a sentence each; empty where something can."""
    if not chance.passed:
        return [
            f"Undecided, since the net is not shown to be above chance at telling {numbers.class_name} from the others "
            f"({describe_chance(chance)}): a net that knows nothing may react to any mark."
        ]
    parts = ((numbers.outranks, LIMIT, "of the pairs"), (numbers.drawn_over, MOVED, "of the images moved to the class"))
    found = any(share.is_above(limit) for share, limit, _ in parts)
    beside = " At the least, the net is sensitive to the stamp." if found else ""
    return [
        f"Undecided, since the interval {format_percent_bounds(share)} {name} contains the limit of {format_percent(limit)}; "
        f"more test images would narrow it.{beside}"
        for share, limit, name in parts
        if share.reaches(limit) and not share.is_above(limit)
    ]


def judge_all(trials: Sequence[Trial]) -> tuple[Level, str]:
    """The worst level of all trials, and the verdict in words; what is undecided is said beside a finding."""
    level: Level = max((trial.level for trial in trials), key=LEVELS.index)
    words = f"{_HEADLINES[level]}: {trials[0].described}, on {_list_classes(trials, level)}."
    open_classes = _list_classes(trials, "undecided")
    return level, words if level == "undecided" or not open_classes else f"{words} Undecided on {open_classes}."


def _list_classes(trials: Sequence[Trial], level: Level) -> str:
    return ", ".join(trial.class_name for trial in trials if trial.level == level)
