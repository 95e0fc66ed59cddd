"""The rule that says how robust a classifier is. Its limits were fixed before any net was reported.

Two of 255 grey levels are less than one per cent of the range, a change that is hardly visible. What is judged is the lead over
guessing and not the accuracy itself: of two classes, half of the accuracy is worth nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from medassay.attacks.norms import NAMES
from medassay.evaluation.protocol import Outcome
from medassay.metrics.chance import ENOUGH, ChanceCheck, count_enough
from medassay.protocols.adversarial.results import Attacked, Check, Level
from medassay.protocols.adversarial.soundness import list_failed
from medassay.reporting.classification import describe_chance
from medassay.reporting.numbers import format_fixed, format_percent, format_percent_bounds, format_with_bounds

JUDGED = 2.0  # grey levels of 255
ROBUST = 0.8  # of the lead over guessing; a robust net keeps more
FRAGILE = 0.5  # of the lead over guessing; a fragile net keeps less

HEADLINES: dict[Level, str] = {
    "robust": "Robust against these attacks",
    "weakened": "Weakened by these attacks",
    "fragile": "Fragile",
    "undecided": "Undecided",
    "not sound": "Not sound",
    "not judged": "Not judged",
}
OUTCOMES: dict[Level, Outcome] = {
    "robust": "good",
    "weakened": "bad",
    "fragile": "bad",
    "undecided": "undecided",
    "not sound": "undecided",
    "not judged": "undecided",
}
RULE = (
    f"Judged is PGD in L∞ at {JUDGED:g} of 255 grey levels. The lead is the balanced accuracy less that of guessing. The net "
    f"is robust if it keeps more than {format_percent(ROBUST)} of its lead, fragile if it keeps less than "
    f"{format_percent(FRAGILE)}, weakened between; the 95 % interval must lie on one side of each limit as a whole, or the "
    "verdict is undecided. An attack that fails one of the checks of soundness may have missed what is there, so then nothing "
    "but fragile can be said: the verdict is not sound. A fragile net stays fragile, since the images that it errs on have "
    "been found. Robust is said only where each class has so many images that a net which withstood on all would be shown to "
    "keep that much (of two classes 36 each, of eight 20). A net that is not above chance on plain images has nothing to lose "
    "and is not judged: the intervals of its balanced accuracy and of its AUROC must lie above what guessing reaches, "
    f"{ENOUGH}."
)


def judge_lead(attacked: Attacked, *, enough: bool) -> Level:
    """What the share of the lead that is kept says, if the attack can be believed.

    Args:
        attacked: The judged attack.
        enough: Whether there are images enough to show a net robust. Resamples of a few images that all withstood have all
            withstood, too: the interval has no width, and says nothing.
    """
    kept = attacked.kept
    if kept.is_above(ROBUST):
        return "robust" if enough else "undecided"
    if not kept.reaches(FRAGILE):
        return "fragile"
    return "weakened" if kept.is_above(FRAGILE) and not kept.reaches(ROBUST) else "undecided"


def judge(
    chance: ChanceCheck, attacked: Attacked, noise: Attacked, checks: Sequence[Check], counts: Sequence[int]
) -> tuple[Level, str]:
    """The verdict and its reason.

    Args:
        chance: How the net compares with guessing on plain images.
        attacked, noise: The judged attack, and noise of its size.
        checks: Signs that the attack works.
        counts: Number of images of each class that has any.
    """
    if not chance.passed:
        return "not judged", f"The net is not shown to be above chance on the plain images: {describe_chance(chance)}."
    least, fewest = count_enough(chance.chance + ROBUST * (1 - chance.chance)), min(counts)
    level, failed = judge_lead(attacked, enough=fewest >= least), list_failed(checks)
    if level == "undecided" and attacked.kept.is_above(ROBUST) and not failed:
        return level, (
            f"{describe_loss(chance, attacked, noise)} A net that withstood on all images would be shown to be robust by "
            f"{least} of each class, and of one there are {fewest}: protocol.images takes more where the split has them."
        )
    found = describe_loss(chance, attacked, noise)
    if not failed:
        return level, f"{found} {explain(level, attacked)}"
    names = " ".join(f"“{check.name}”" for check in failed)
    if level == "fragile":
        return (
            level,
            f"{found} {explain(level, attacked)} A check of the attack failed, too: {names} It may be worse still.",
        )
    return "not sound", f"The attack cannot be believed, so what is left says nothing. Failed: {names} {found}"


def describe_loss(chance: ChanceCheck, attacked: Attacked, noise: Attacked) -> str:
    """What the judged attack and noise of the same size leave."""
    return (
        f"With no pixel changed by more than {attacked.epsilon:g} of 255 grey levels, balanced accuracy falls from "
        f"{format_fixed(chance.balanced_accuracy.value)} to {format_with_bounds(attacked.balanced_accuracy)} (PGD, "
        f"{NAMES[attacked.norm]}); guessing reaches {format_fixed(chance.chance)}. Of the lead over guessing this leaves "
        f"{format_percent(attacked.kept.value)} {format_percent_bounds(attacked.kept)}, random noise of the same size "
        f"{format_percent(noise.kept.value)}."
    )


def explain(level: Level, attacked: Attacked) -> str:
    """What a level means for whoever relies on the classifier."""
    if level == "robust":
        return "The attacks tried here do not take it; that is no proof that none does."
    if level == "weakened":
        return "Changes that are hardly visible cost a part of what the net can do."
    if level == "fragile":
        return (
            "Changes that are hardly visible turn its answers: they must not be relied on where an image may have been altered "
            "on purpose."
        )
    known = ""
    if not attacked.kept.reaches(ROBUST):
        known = "It is not robust; whether it is weakened or fragile is open. "
    elif attacked.kept.is_above(FRAGILE):
        known = "It is not fragile; whether it is weakened or robust is open. "
    return f"{known}The interval contains a limit of the rule; more images would narrow it."
