"""The rule that says which method's heat maps to trust on one classifier, and the verdict in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medassay.core.estimate import Estimate
from medassay.evaluation.protocol import Outcome
from medassay.protocols.gradcam.results import BASELINES, FOLLOWS, LOCATES, Comparison, MethodScores
from medassay.reporting.classification import describe_chance
from medassay.reporting.numbers import format_percent

SIMILAR = 0.5  # correlation with a random net's maps from which a map does not depend on what was learnt
FEWEST_MASKS = 10  # images with a true mask, below which an interval says nothing
AT_CHANCE = "the net is not shown to be above chance"
CENTRED = 0.9  # share of the images with the true mask at the centre, from which the pointing game separates nothing


def judge_method(
    gains: Mapping[str, Mapping[str, Estimate]], similarity: float, with_mask: int
) -> tuple[bool | None, list[str]]:
    """Whether a method is to be trusted on this classifier, None where masks are too few to say, and why not.

    It is where its maps beat both baselines in the pointing game and in energy, the interval of the difference lying
    above 0, and it passes the sanity check: maps of random nets correlate with its own by less than 0.5.
    """
    reasons = []
    if not similarity < SIMILAR:
        reasons.append(f"a net with random weights gives similar maps (correlation {similarity:.2f})")
    if with_mask < FEWEST_MASKS:
        return (False if reasons else None), [*reasons, "too few true masks to say where it points"]
    names = {"pointing": "pointing game", "energy": "energy inside the mask"}
    for score in LOCATES:
        missed = [BASELINES[key] for key, over in gains[score].items() if not _is_above_zero(over)]
        if missed:
            reasons.append(f"{names[score]} not above {' and '.join(missed)}")
    return not reasons, reasons


def judge_methods(comparison: Comparison | None) -> Outcome | None:
    """Good where a method can be trusted, bad where none can; None where nothing was scored."""
    if comparison is None:
        return None
    trusted = [row.trusted for row in comparison.rows]
    if not comparison.chance.passed or (None in trusted and True not in trusted):
        return "undecided"
    return "good" if True in trusted else "bad"


def summarise_scores(comparison: Comparison | None) -> str:
    """The verdict on all methods in a few sentences."""
    if comparison is None:
        return "Nothing was scored: a heat map alone shows where a method points, not whether that explains anything."
    if not comparison.chance.passed:
        return (
            f"Not judged: {AT_CHANCE} on these {comparison.images:,} images ({describe_chance(comparison.chance)}). "
            "Maps of a net that has learnt nothing explain nothing, whatever they look like."
        )
    trusted = [row.name for row in comparison.rows if row.trusted]
    failed = [row.name for row in comparison.rows if row.trusted is False]
    if comparison.with_mask < comparison.fewest_masks:
        passed = [row.name for row in comparison.rows if row.trusted is None]
        followed = [
            row.name
            for row in comparison.rows
            if all(_is_above_zero(over) for score in FOLLOWS for over in row.gain[score].values())
        ]
        return (
            "Whether the maps point to what matters cannot be said: too few of these images have a true mask. "
            f"Methods that pass the sanity check: {_join(passed)}{f'; that fail it: {_join(failed)}' if failed else ''}. "
            f"Methods that beat both baselines in deletion and in insertion: {_join(followed)}."
        )
    centre = next(row.scores["pointing"].value for row in comparison.baselines if row.key == "centre")
    told = [
        f"Methods to be trusted on this classifier, by the rule below: {_join(trusted)}.",
        f"Not to be trusted: {_join(failed)}." if failed else "",
        _describe_best(comparison.rows),
        f"The mask holds the image’s centre in {format_percent(centre)}, so pointing says little here."
        if centre >= CENTRED
        else "",
    ]
    return " ".join(filter(None, told))


def _describe_best(rows: Sequence[MethodScores]) -> str:
    """Which method points best; none where the intervals of all overlap with that of the highest."""
    pointing = {row.name: row.scores["pointing"] for row in rows}
    best = max(pointing, key=lambda name: pointing[name].value)
    tied = [name for name, share in pointing.items() if name == best or share.reaches(pointing[best].low or 0)]
    where = f"into the true mask in {format_percent(pointing[best].value)} of the images"
    if len(rows) == 1:
        return f"{best} points {where}."
    if tied == [best]:
        return f"{best} points best: {where}."
    if len(tied) == len(rows):
        return f"No method points best: the intervals of all overlap with that of {best}, which points {where}."
    return f"Which of {_join(tied)} points best cannot be said: their intervals overlap. {best} points {where}."


def _is_above_zero(gain: Estimate) -> bool:
    return gain.is_above(0)


def _join(names: Sequence[str]) -> str:
    if not names:
        return "none"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
