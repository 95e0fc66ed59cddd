"""The rule that says what a net's blocks are worth. It was fixed before any net was reported."""

from __future__ import annotations

from collections.abc import Sequence

from medassay.core.estimate import Estimate
from medassay.metrics.chance import ENOUGH, ChanceCheck
from medassay.protocols.lesion.measures import Finding, Lesion, Level, MeanRises
from medassay.reporting.classification import describe_chance
from medassay.reporting.numbers import format_fixed, format_percent, format_with_bounds

BORNE = 0.1  # of the whole net's lead over guessing; so much of it may go with a block that is not missed
NAMED = 6  # blocks in a sentence, at most

RULE = (
    "The lead of the whole net is the error of always guessing the most frequent class, less its own. The net bears the loss "
    f"of a block if the error then rises by less than {format_percent(BORNE)} of the lead, and of one block if that holds for "
    "every block. The downsampling blocks matter most if the error rises more without one of them than without one of the "
    "others, on average. The 95 % interval must lie on one side of the limit as a whole; where it contains the limit, the "
    "answer is undecided. A net that is no better than guessing is not judged: the intervals of its error, its balanced "
    f"accuracy and its AUROC must lie on the better side of guessing, {ENOUGH}."
)


def is_judged(chance: ChanceCheck, error: Estimate, guessing: float) -> bool:
    """Whether a net with this ``error`` is better than guessing, so that it has something to lose."""
    return chance.passed and not error.reaches(guessing)


def judge(lesions: Sequence[Lesion], rises: MeanRises) -> list[Finding]:
    """The rule's answers on a net that is better than guessing."""
    return [judge_bearing(lesions), judge_kinds(rises)]


def judge_loss(rise: Estimate, lead: float) -> Level:
    """Whether a net with this ``lead`` over guessing bears the loss of a block without which the error rises so."""
    if rise.is_above(BORNE * lead):
        return "no"
    return "undecided" if rise.reaches(BORNE * lead) else "yes"


def judge_bearing(lesions: Sequence[Lesion]) -> Finding:
    """Whether the net bears the loss of any one of its blocks."""
    question = "Does the net bear the loss of one block?"
    borne, lost, unclear = ([one for one in lesions if one.borne == level] for level in ("yes", "no", "undecided"))
    if len(borne) == len(lesions):
        worst = max(lesions, key=lambda one: one.rise.value)
        text = (
            f"Yes, of any of its {len(lesions)} blocks. Most is lost with {worst.name}: the error rises by "
            f"{format_with_bounds(worst.rise)}."
        )
        return Finding(question, "yes", text)
    texts = [
        "No." if lost else "Undecided.",
        f"It bears the loss of {len(borne) or 'none'} of its {len(lesions)} blocks.",
        f"Not borne, with the rise of the error: {_list_blocks(lost)}." if lost else "",
        f"Undecided: {_list_blocks(unclear)}." if unclear else "",
    ]
    return Finding(question, "no" if lost else "undecided", " ".join(filter(None, texts)))


def judge_kinds(rises: MeanRises) -> Finding:
    """Whether the downsampling blocks matter most."""
    level: Level = "yes" if rises.difference.is_above(0) else "undecided" if rises.difference.reaches(0) else "no"
    text = (
        f"{level.capitalize()}. Without one of them the error rises by {format_fixed(rises.downsampling.value)} on average, "
        f"without one of the others by {format_fixed(rises.others.value)}; difference {format_with_bounds(rises.difference)}."
    )
    return Finding("Do the downsampling blocks matter most?", level, text)


def refuse_judgement(chance: ChanceCheck, error: Estimate, guessing: float) -> str:
    """Why a net that is no better than guessing is not judged."""
    return (
        "Not judged: the whole net is not shown to be better than guessing on these images, so it has nothing to lose (error "
        f"{format_with_bounds(error)}, guessing the most frequent class {format_fixed(guessing)}; {describe_chance(chance)})."
    )


def _list_blocks(lesions: Sequence[Lesion]) -> str:
    """Blocks with the rises without them, the largest first; of many the first ones and how many more."""
    order = sorted(lesions, key=lambda one: -one.rise.value)
    names = ", ".join(f"{one.name} ({format_fixed(one.rise.value)})" for one in order[:NAMED])
    return names + (f" and {len(order) - NAMED} more" if len(order) > NAMED else "")
