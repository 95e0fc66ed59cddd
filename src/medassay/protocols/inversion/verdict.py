"""The rule that says whether images can be recognised from what is sent. It was fixed before any net was reported."""

from __future__ import annotations

from collections.abc import Sequence

from medassay.evaluation.protocol import Outcome
from medassay.protocols.inversion.cases import Case
from medassay.protocols.inversion.measures import CaseResult, Level, Nearness, Scores
from medassay.reporting.numbers import format_fixed, format_significant, format_with_bounds

MOST = 0.5  # of the images; where more come first among their likes, images are recognised in most cases
LEVELS: tuple[Level, ...] = ("not_recognisable", "undecided", "recognisable")
OUTCOMES: dict[Level, Outcome] = {"not_recognisable": "good", "undecided": "undecided", "recognisable": "bad"}
WORDS: dict[Level, str] = {
    "recognisable": "recognisable",
    "undecided": "undecided",
    "not_recognisable": "not recognisable",
}
RULE = (
    "The images are recognisable if the reconstructions are nearer to the originals than the nearest other training image is, "
    "in PSNR and in SSIM, each 95 % interval of the gain lying above 0 as a whole; or if in more than half of the cases, and "
    "more often than luck allows (exact 95 % interval), no other of up to 999 training images of the same class lies nearer to "
    "the reconstruction than the original does. By luck each comes first once in as many images as it is ranked among. They "
    "are not recognisable if the interval of the gain in PSNR or in SSIM lies below 0 as a whole and the original comes first "
    "no more often than luck allows. Anything else is undecided. "
    "The verdict on the net is that of the case without a defence in which most is given away. It is “not recognisable” only "
    "where the same attack succeeds on this net in another case: an attack that never works shows nothing. It speaks of this "
    "attack; a better one may find more."
)


def judge_case(scores: Scores, luck: float) -> tuple[Level, str]:
    """The rule's answer on one case, and why.

    Args:
        scores: Its numbers.
        luck: The share of originals that come first by luck.
    """
    gain, first = scores.gain, scores.first
    count = sum(rank == 1 for rank in scores.ranks)
    ranked = f"the original comes first in {count} of {scores.n}"
    gained = f"gain over the nearest other image {describe_gain(gain)}"
    if first.value > MOST and first.is_above(luck):
        return "recognisable", f"{ranked}; {gained}"
    if gain.psnr.is_above(0) and gain.ssim.is_above(0):
        return "recognisable", f"{gained}; {ranked}"
    worse = not gain.psnr.reaches(0) or not gain.ssim.reaches(0)
    if worse and not first.is_above(luck):
        return "not_recognisable", f"{gained}; {ranked}"
    return (
        "undecided",
        f"{ranked}, which is {'more than luck' if first.is_above(luck) else 'no more than luck'}; {gained}",
    )


def describe_gain(gain: Nearness) -> str:
    """Both gains with their intervals."""
    return f"{format_with_bounds(gain.psnr, 1)} dB PSNR, {format_with_bounds(gain.ssim, 2)} SSIM"


def judge(cases: Sequence[CaseResult]) -> tuple[Level, str, str]:
    """The answer on what is sent without a defence: level, verdict and reason in words; the first case names the weights."""
    weights = cases[0].case.weights
    open_cases = [one for one in cases if one.case.weights == weights and not one.case.is_defended]
    worst = max(open_cases, key=lambda one: LEVELS.index(one.level))
    works = any(one.level == "recognisable" for one in cases)
    if worst.level == "recognisable":
        told = [one.name for one in open_cases if one.level == "recognisable"]
        return worst.level, f"Recognisable: who gets this gradient sees the image ({'; '.join(told)}).", worst.reason
    if worst.level == "not_recognisable" and not works:
        reason = "the attack finds no image with any weights, so that its failure shows nothing"
        return "undecided", f"Undecided: {reason}.", f"{reason}; {worst.reason}"
    if worst.level == "not_recognisable":
        others = "; ".join(one.name for one in cases if one.level == "recognisable")
        verdict = f"Not recognisable by this attack, which succeeds elsewhere ({others})."
        return worst.level, verdict, worst.reason
    unclear = "; ".join(one.name for one in open_cases if one.level == "undecided")
    return "undecided", f"Undecided: {unclear}.", worst.reason


# --- what else is said -----------------------------------------------------------------------------------------------


def list_findings(cases: Sequence[CaseResult], delta: float) -> list[str]:
    """What a sender would have given away, and what stops it, a sentence each."""
    base = cases[0]
    return [
        *_describe_labels(base),
        *_describe_images(base),
        *_compare_weights(base, cases),
        *_describe_changes("With the statistics of the batch in batch normalisation", cases, base, "mode"),
        *_describe_changes("Larger batches", cases, base, "batch"),
        *_describe_changes("The change of the weights after several local steps", cases, base, "local_steps"),
        *_describe_noise(cases, delta),
        *_describe_changes("Pruning", cases, base, "pruned"),
    ]


def _describe_labels(base: CaseResult) -> list[str]:
    labels = base.right_labels
    if labels is None:
        return ["The diagnosis was given to the attack, not read off the gradient."]
    count = round(labels.value * base.n)
    return [f"The diagnosis: read off the gradient rightly in {count} of {base.n} images, without any search."]


def _describe_images(base: CaseResult) -> list[str]:
    near = base.reconstruction
    return [
        f"The image, from one gradient ({base.name}): {WORDS[base.level]}. PSNR {format_with_bounds(near.psnr, 1)} dB, SSIM "
        f"{format_with_bounds(near.ssim, 2)}; {base.reason}."
    ]


def _compare_weights(base: CaseResult, cases: Sequence[CaseResult]) -> list[str]:
    return [
        f"With {one.case.weights} weights: {WORDS[one.level]}, PSNR {format_with_bounds(one.reconstruction.psnr, 1)} dB "
        f"instead of {format_fixed(base.reconstruction.psnr.value, 1)} dB."
        for one in cases
        if one.case.weights != base.case.weights
    ]


def _describe_changes(what: str, cases: Sequence[CaseResult], base: CaseResult, name: str) -> list[str]:
    """A sentence on the cases in which one attribute differs from the first case; none where there are no such cases."""
    changed = [
        one
        for one in cases[1:]
        if getattr(one.case, name) != getattr(base.case, name) and one.case.weights == base.case.weights
    ]
    if not changed:
        return []
    told = "; ".join(f"{_name_change(one.case, name)}: {WORDS[one.level]} ({_describe_ranks(one)})" for one in changed)
    return [f"{what}: {told}."]


def _name_change(case: Case, name: str) -> str:
    return {
        "mode": "one image" if case.batch == 1 else f"{case.batch} images",
        "batch": f"{case.batch} images",
        "local_steps": f"{case.local_steps} steps",
        "pruned": f"{100 * case.pruned:g} % of the entries",
    }[name]


def _describe_ranks(one: CaseResult) -> str:
    count = sum(rank == 1 for rank in one.ranks)
    return f"first in {count} of {one.n}, {format_fixed(one.reconstruction.psnr.value, 1)} dB"


def _describe_noise(cases: Sequence[CaseResult], delta: float) -> list[str]:
    noisy = [one for one in cases if one.case.noise is not None]
    told = "; ".join(
        f"noise {one.case.noise:g} (epsilon {format_epsilon(one.epsilon)}): {WORDS[one.level]} ({_describe_ranks(one)})"
        for one in noisy
    )
    return [f"Clipping and noise, at delta {delta:g}: {told}."] if noisy else []


def format_epsilon(epsilon: float | None) -> str:
    """An epsilon with three significant digits; of large ones whole thousands' separators."""
    if epsilon is None:
        return "–"
    if epsilon == float("inf"):
        return "∞"
    return f"{epsilon:,.0f}" if epsilon >= 100 else format_significant(epsilon)


def expect_luck(ranked: Sequence[int]) -> float:
    """The share of originals that come first by luck among so many images each."""
    return sum(1 / count for count in ranked) / len(ranked)
