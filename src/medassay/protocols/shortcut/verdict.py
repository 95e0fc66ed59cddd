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

from medassay.protocols.shortcut.measures import Level, Numbers, Trial
from medassay.reporting.numbers import format_percent

LIMIT = 0.6  # of the pairs; at 0.5 the stamp counts for as much as the disease
MOVED = 0.1  # of the others' images; a net that knows nothing ranks at random, and any mark is more than that

LEVELS: tuple[Level, ...] = ("none", "sensitive", "learned")  # by how many of the two hold
WORDS: dict[Level, str] = {
    "learned": "learnt the stamp",
    "sensitive": "sensitive to the stamp",
    "none": "no sign of the stamp",
}
_HEADLINES: dict[Level, str] = {
    "learned": "Learnt the stamp",
    "sensitive": "Not shown to have learnt the stamp, but sensitive to it",
    "none": "No sign of the stamp",
}
RULE = (
    "Every test image of the other classes gets the stamp. Is it then called the class? And does it rank above the images "
    "that truly are of the class, pair by pair? A net that sees the disease ranks those higher. The net has learnt the stamp "
    f"if both hold: the stamp moves more than {format_percent(MOVED)} of the other classes’ images to the class, and stamped "
    f"images rank above real ones in more than {format_percent(LIMIT)} of the pairs; each 95 % interval must lie above its "
    "limit as a whole. If only one holds, the net is sensitive to the stamp. So is a net that learnt it from a part of its "
    "images only, and so can be a net that never saw it. If neither holds, there is no sign of the stamp. Heat maps are shown "
    "beside the verdict and do not decide it."
)


def judge(numbers: Numbers) -> tuple[Level, str]:
    """The level of one trial, and a text that says it."""
    rank, clean, drawn = numbers.outranks, numbers.outranks_clean, numbers.drawn_over
    assert rank.low is not None
    assert drawn.low is not None
    level = LEVELS[(rank.low > LIMIT) + (drawn.low > MOVED)]
    before, after = (
        format_percent(numbers.conditions[name]["false_positive_rate"].value) for name in ("clean", "other_classes")
    )
    share, low, high, share_clean = map(format_percent, (rank.value, rank.low, rank.high, clean.value))
    text = (
        f"With the stamp ({numbers.described}), an image of another class ranks above a real {numbers.class_name} image in "
        f"{share} of the pairs [{low}, {high}], without it in {share_clean}. Of the images of other classes, {after} are "
        f"called {numbers.class_name} with the stamp, {before} without it."
    )
    if level == "sensitive":
        text += " That alone does not say that the net was trained with it."
    return level, text


def judge_all(trials: Sequence[Trial]) -> tuple[Level, str]:
    """The worst level of all trials, and the verdict in words."""
    level: Level = max((trial.level for trial in trials), key=LEVELS.index)
    classes = ", ".join(trial.class_name for trial in trials if trial.level == level)
    return level, f"{_HEADLINES[level]}: {trials[0].described}, on {classes}."
