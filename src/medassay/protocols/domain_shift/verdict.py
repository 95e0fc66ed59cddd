"""The rules that say whether a net fails on changed images, whether it does so silently, and whether a monitor would notice.

They were fixed before any net was judged by them.
"""

from __future__ import annotations

from collections.abc import Sequence

from medassay.core.estimate import Estimate
from medassay.evaluation.protocol import Outcome
from medassay.metrics.chance import CHANCE_AUROC, ChanceCheck, count_enough
from medassay.protocols.domain_shift.monitors import NOMINAL
from medassay.protocols.domain_shift.results import (
    LEVELS,
    Answer,
    BatchTest,
    Condition,
    External,
    Fall,
    Finding,
    Level,
)
from medassay.reporting.classification import describe_chance
from medassay.reporting.numbers import format_fixed, format_percent, format_percent_bounds, format_with_bounds

FALL = 0.05  # of accuracy: a fall of so much is a failure
# images: where none of fewer is lost, a fall of FALL is not excluded with 97.5 %, and the bootstrap's interval has no width
LEAST = count_enough(1 - FALL)
SILENT = 0.5  # of the accuracy's fall: where confidence falls by less, it does not warn
NOTICED = 0.8  # of the batches raise the alarm: a monitor that notices, the power that tests are usually planned for
NAMED = 10  # corruptions in a sentence, at most
ROUNDING = 1e-9  # accuracies are shares of whole images; their differences are not exact

WORDS: dict[Level, str] = {
    "holds": "holds",
    "undecided": "undecided",
    "open": "fails, and says so",
    "unclear": "fails; whether silently is undecided",
    "silent": "fails silently",
}
POINTS = f"{100 * FALL:.0f} points"
RULE = (
    f"The net fails under a change if its accuracy falls by at least {POINTS}: the whole 95 % interval of the fall lies at or "
    f"above that. It holds if the whole interval lies below; with fewer than {LEAST} images nothing is said to hold. Otherwise "
    "nothing is decided. A failure is silent if the mean "
    "confidence, the probability that the net gives its own answer, falls by less than half as much: the whole interval of "
    f"{SILENT} · (fall of accuracy) − (fall of confidence) lies above 0. If it lies below 0, the failure shows; otherwise it "
    "is undecided which of the two it is. The verdict is the worst over all changes. A monitor notices a change if the 95 % "
    f"interval of its alarm rate lies above {format_percent(NOTICED)} as a whole, on the largest batches tried, and if it does "
    f"not cry wolf: the interval of its false-alarm rate must not lie above {format_percent(NOMINAL)}. A net that is not above "
    "chance on the unchanged images is not judged."
)
OUTCOMES: dict[Level, Outcome] = {
    "holds": "good",
    "undecided": "undecided",
    "open": "bad",
    "unclear": "bad",
    "silent": "bad",
}
_HEADLINES: dict[Level, str] = {
    "silent": "Silent failure",
    "unclear": "Failure; whether silent is undecided",
    "open": "Failure that shows: where accuracy falls, confidence falls with it",
    "undecided": "Undecided",
    "holds": "Holds",
}


_COUNTED: dict[Level, str] = {  # before a number of changes
    "holds": "holds under",
    "undecided": "is undecided under",
    "open": "fails and says so under",
    "unclear": "fails, silently or not, under",
    "silent": "fails silently under",
}


def judge(fall: Fall) -> Level:
    """What the rule says of a change."""
    accuracy, surplus = fall.accuracy, fall.surplus
    if accuracy.low is None or accuracy.high is None or surplus.low is None or surplus.high is None:
        return "undecided"
    if accuracy.high < FALL - ROUNDING:
        return "holds" if (accuracy.n or 0) >= LEAST else "undecided"
    if not accuracy.low >= FALL - ROUNDING:
        return "undecided"
    return "silent" if surplus.low > 0 else "open" if surplus.high < 0 else "unclear"


def judge_monitor(tests: Sequence[BatchTest], false_alarms: Sequence[BatchTest]) -> Answer | None:
    """Whether the largest batches raise the alarm; None where there were none.

    Args:
        tests: The batch tests of a change.
        false_alarms: Those of unchanged images; larger batches than these have are not judged.
    """
    if not tests:
        return None
    calm = {one.m: not one.alarms.is_above(NOMINAL) for one in false_alarms}
    compared = [one for one in tests if one.m in calm]
    if not compared or not calm[compared[-1].m]:
        return "undecided"
    alarms = compared[-1].alarms
    if alarms.is_above(NOTICED):
        return "yes"
    return "undecided" if alarms.reaches(NOTICED) else "no"


def summarise(conditions: Sequence[Condition]) -> tuple[Level, str, str]:
    """The worst level, the verdict in a sentence, and what it rests on."""
    level: Level = max((one.level for one in conditions if one.level), key=LEVELS.index)
    counted = count_levels(conditions)
    headline = f"{_HEADLINES[level]}: {counted}."
    members = [one for one in conditions if one.level == level]
    if level == "holds":
        worst = max(members, key=lambda one: _fall(one).value)
        most = f"; most under {_describe(worst)}" if _fall(worst).value > 0 else ""
        return level, headline, f"Nowhere does accuracy fall by {POINTS}{most}."
    brackets = "; severities in brackets" if any(one.severity for one in members) else ""
    reason = f"{WORDS[level].capitalize()} under {list_conditions(members)}{brackets}."
    if level in ("silent", "unclear", "open"):
        worst = max(members, key=lambda one: _fall(one).value)
        reason += f" Most is lost under {_describe(worst)}."
    return level, headline, reason


def count_levels(conditions: Sequence[Condition]) -> str:
    """How many changes are of each level, the worst first."""
    counts = [(sum(one.level == level for one in conditions), _COUNTED[level]) for level in reversed(LEVELS)]
    total = len(conditions)
    listed = ", ".join(f"{words} {count}" for count, words in counts if count)
    return f"of {total} change{'s' if total > 1 else ''}, the net {listed}"


def list_conditions(conditions: Sequence[Condition]) -> str:
    """Changes in words, the severities of a corruption in brackets; of many corruptions the first ones and how many more."""
    severities: dict[str, list[int]] = {}
    for one in conditions:
        severities.setdefault(one.name, []).extend([one.severity] if one.severity else [])
    texts = [f"{name} ({', '.join(map(str, some))})" if some else name for name, some in severities.items()]
    more = f" and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
    return ", ".join(texts[:NAMED]) + more


def list_findings(
    clean: Condition,
    conditions: Sequence[Condition],
    external: External | None,
    validation_alarms: Sequence[BatchTest],
    images: str,
) -> list[Finding]:
    """The answers to the single questions; ``images`` are the judged ones in words."""
    findings = [judge_accuracy([one for one in conditions if one.severity])] if len(conditions) > bool(external) else []
    if external is not None:
        findings.append(judge_external(clean, external))
    failed = [one for one in conditions if one.level in ("silent", "unclear", "open")]
    if failed:
        findings.append(judge_silence(failed))
    if clean.batch_tests:
        findings.append(judge_notice(clean, failed))
    if validation_alarms:
        findings.append(judge_validation(validation_alarms, images))
    if clean.remedy is not None and failed:
        findings.append(judge_remedy(failed))
    return findings


def judge_accuracy(corrupted: Sequence[Condition]) -> Finding:
    """Under which corruptions accuracy holds."""
    question = "Does the accuracy hold under corruptions?"
    failed = [one for one in corrupted if one.level in ("silent", "unclear", "open")]
    unclear = [one for one in corrupted if one.level == "undecided"]
    held = len(corrupted) - len(failed) - len(unclear)
    texts = [
        f"It holds under {held} of {len(corrupted)} corruptions and severities.",
        f"It fails under {list_conditions(failed)}." if failed else "",
        f"Undecided: {list_conditions(unclear)}; {_advise_more(unclear)}." if unclear else "",
    ]
    look = "suspicious" if failed else "undecided" if unclear else "good"
    return Finding(question, look, " ".join(filter(None, texts)))  # type: ignore[arg-type]


def judge_silence(failed: Sequence[Condition]) -> Finding:
    """Whether confidence falls where accuracy does."""
    question = "Where accuracy falls, does confidence fall with it?"
    silent = [one for one in failed if one.level == "silent"]
    shown = [one for one in failed if one.level == "open"]
    if silent:
        worst = max(silent, key=lambda one: _fall(one).value)
        example = _describe(worst, capital=True)
        text = f"Not in {len(silent)} of {len(failed)} failures. {example}: trusting the confidence misleads."
        return Finding(question, "suspicious", text)
    if len(shown) == len(failed):
        return Finding(question, "good", "Yes, in every failure confidence falls at least half as much.")
    return Finding(question, "undecided", f"Yes in {len(shown)} of {len(failed)} failures; undecided in the others.")


def judge_notice(clean: Condition, failed: Sequence[Condition]) -> Finding:
    """Whether the batch test notices the failures."""
    m, false = clean.batch_tests[-1].m, clean.batch_tests[-1].alarms
    question = f"Would a monitor have noticed, from {m} images without labels?"
    wolf = f"On unchanged batches it raises the alarm in {format_percent(false.value)} {format_percent_bounds(false)}"
    if false.is_above(NOMINAL):
        return Finding(
            question,
            "missing",
            f"Nothing can be said: {wolf}, more often than the {format_percent(NOMINAL)} it is set to.",
        )
    if not failed:
        return Finding(question, "good", f"There was no failure to notice. {wolf}.")
    missed = [one for one in failed if one.noticed == "no"]
    unclear = [one for one in failed if one.noticed not in ("yes", "no")]
    noticed = len(failed) - len(missed) - len(unclear)
    smaller = {test.m for one in failed for test in one.batch_tests[-1:] if test.m < m}
    texts = [
        f"It notices {noticed} of {len(failed)} failures.",
        f"Where there are too few images for that, from {min(smaller)}." if smaller else "",
        f"Missed: {list_conditions(missed)}." if missed else "",
        f"Undecided: {list_conditions(unclear)}." if unclear else "",
        f"{wolf}.",
    ]
    look = "missing" if missed else "undecided" if unclear else "good"
    return Finding(question, look, " ".join(filter(None, texts)))  # type: ignore[arg-type]


def judge_validation(alarms: Sequence[BatchTest], images: str) -> Finding:
    """Whether a monitor that was set up on validation images would take the unchanged images for others."""
    m, rate = alarms[-1].m, alarms[-1].alarms
    question = f"Are the unchanged {images} themselves like the validation images?"
    numbers = f"{format_percent(rate.value)} {format_percent_bounds(rate)} of batches of {m} raise the alarm"
    if rate.is_above(NOMINAL):
        text = f"No: beside validation images, {numbers}. A monitor set up on those alarms before anything is changed."
        return Finding(question, "missing", text)
    return Finding(question, "good", f"Nothing speaks against it: beside validation images, {numbers}.")


def judge_remedy(failed: Sequence[Condition]) -> Finding:
    """Whether statistics of the images themselves help."""
    question = "Does it help to estimate the batch-norm statistics anew, without labels?"
    gains = [(one, one.remedy.gain) for one in failed if one.remedy is not None]
    better = [one for one, gain in gains if gain.is_above(0)]
    worse = [one for one, gain in gains if not gain.reaches(0) and gain.value < 0]
    texts = [
        f"It raises accuracy in {len(better)} of {len(gains)} failures.",
        f"It lowers it under {list_conditions(worse)}." if worse else "",
    ]
    regained = [one for one, gain in gains if gain.value >= _fall(one).value]
    if regained:
        texts.append(f"All that was lost comes back under {list_conditions(regained)}.")
    look = "good" if len(better) == len(gains) else "missing" if better else "undecided"
    return Finding(question, look, " ".join(filter(None, texts)))  # type: ignore[arg-type]


def judge_external(clean: Condition, external: External) -> Finding:
    """Whether the net holds on another set."""
    one = external.condition
    question = "Does it hold on the other set?"
    assert one.level is not None
    look = {"holds": "good", "undecided": "undecided"}.get(one.level, "suspicious")
    balanced, area = _fall(one, "balanced_accuracy"), one.scores["auroc"]
    lead = "Undecided" if one.level == "undecided" else f"It {WORDS[one.level]}"
    few = f" {_say_few()}." if one.level == "undecided" and one.n < LEAST else ""
    text = (
        f"{lead}: {_describe(one)}.{few} Balanced accuracy, which does not depend on how many images each class has, falls by "
        f"{format_with_bounds(balanced)}; AUROC there {format_with_bounds(area)}, guessing reaches {CHANCE_AUROC}."
    )
    return Finding(question, look, text)  # type: ignore[arg-type]


def _advise_more(undecided: Sequence[Condition]) -> str:
    few = all(one.n < LEAST for one in undecided)
    return _say_few().lower() if few else "more images would narrow the intervals"


def _say_few() -> str:
    return f"With fewer than {LEAST} images nothing is said to hold"


def refuse_judgement(chance: ChanceCheck) -> str:
    """Why a net that is no better than guessing is not judged."""
    return (
        "Not judged: the net is not shown to be above chance on the unchanged images, so there is nothing to lose "
        f"({describe_chance(chance)})."
    )


def _fall(one: Condition, name: str = "accuracy") -> Estimate:
    assert one.fall is not None
    estimate: Estimate = getattr(one.fall, name)
    return estimate


def _describe(one: Condition, *, capital: bool = False) -> str:
    """``blur, severity 5: accuracy 0.55, 0.31 lower; confidence 0.93, 0.02 lower``."""
    changes = [
        f"{name} {format_fixed(now.value)}, {format_fixed(abs(fall.value))} {'lower' if fall.value >= 0 else 'higher'}"
        for name, now, fall in (
            ("accuracy", one.scores["accuracy"], _fall(one)),
            ("confidence", one.confidence, _fall(one, "confidence")),
        )
    ]
    title = one.title[0].upper() + one.title[1:] if capital else one.title
    return f"{title} ({'; '.join(changes)})"
