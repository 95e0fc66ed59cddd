"""The rule that says whether groups are treated differently. It was fixed before any net was audited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from medassay.core.estimate import Estimate
from medassay.evaluation.protocol import Outcome
from medassay.metrics.chance import ChanceCheck
from medassay.metrics.group_gaps import compute_p_value, correct_by_holm
from medassay.protocols.fairness.results import Comparison, Gap, GroupScores, Level
from medassay.reporting.classification import describe_chance
from medassay.reporting.numbers import format_fixed, format_with_bounds

LEAST = 30  # images of a group that is judged
LEAST_OF_CLASS = 10  # images of a class, or of the others, without which a group has no rate of them
LEVEL = 0.05  # chance that a net which treats all groups alike is accused, in one report
RELEVANT = 0.05  # a gap below it, however certain, is no disparity
VISIBLE = 0.15  # "none found" is said only where a gap of this size would have been found
DECIDING = ("equalised_odds", "accuracy")  # gaps that decide
SHARE = LEVEL / len(DECIDING)  # of the level, for each of these

NAMES = {
    "demographic_parity": "demographic parity",
    "equal_opportunity": "equal opportunity",
    "equalised_odds": "equalised odds",
    "accuracy": "accuracy",
}
HEADLINES: dict[Level, str] = {
    "found": "Disparity found",
    "undecided": "Undecided",
    "none": "No disparity found",
}
OUTCOMES: dict[Level, Outcome] = {"found": "bad", "undecided": "undecided", "none": "good"}
RULE = (
    f"Groups with fewer than {LEAST} images are shown and not judged, nor is a sensitivity or false positive rate that rests "
    f"on fewer than {LEAST_OF_CLASS} images of a group. Two gaps decide: equalised odds (sensitivity or false positive rate, "
    "whichever differs more between groups) and accuracy (best group less worst). Each is compared with its null, the same "
    "gap with the groups dealt out at random within each true class, and its p-value corrected by Holm over all attributes "
    f"and intersections. There is a disparity if a gap is at least {format_fixed(RELEVANT, 2)} and its corrected p-value at "
    f"most {SHARE:g} ({LEVEL:g} for both gaps together). There is none if neither gap is, and a gap of "
    f"{format_fixed(VISIBLE, 2)} would have been found in both. Otherwise it is undecided, and so it is where no disparity "
    "is found and the net is not shown to be better than guessing, or groups have too few images of the same classes as the "
    "others, so that nothing tells groups from classes. Demographic parity does not decide, since it differs wherever a "
    "disease is more frequent in one group; equal opportunity is a part of equalised odds. A disparity in an attribute or an "
    "intersection is a disparity; what is undecided in an intersection alone is said beside."
)


def judge_gaps(
    observed: Sequence[Mapping[str, Estimate]], nulls: Sequence[Mapping[str, Tensor]]
) -> list[dict[str, Gap]]:
    """Each gap of each comparison beside its null, and what the rule says of it.

    Args:
        observed: By comparison, the gaps by name.
        nulls: By comparison, the gaps with the groups dealt out at random, ``(B,)`` by name.

    Returns:
        By comparison, the gaps by name; those that no two groups define are left out of the correction and undecided.
    """
    judged: list[dict[str, Gap]] = [{} for _ in observed]
    for name in NAMES:
        known = [place for place, gaps in enumerate(observed) if name in gaps and gaps[name].known]
        p_values = {place: compute_p_value(observed[place][name].value, nulls[place][name]) for place in known}
        corrected = dict(zip(known, correct_by_holm([*p_values.values()]), strict=True))
        ranks = {place: rank for rank, place in enumerate(sorted(known, key=p_values.__getitem__))}
        for place, gaps in enumerate(observed):
            if name in gaps:
                p, p_corrected = p_values.get(place, torch.nan), corrected.get(place, torch.nan)
                factor = len(known) - (
                    ranks[place] if p_corrected <= SHARE else 0
                )  # Holm's where it lets the gap count
                judged[place][name] = judge_gap(gaps[name], nulls[place][name], p, p_corrected, factor)
    return judged


def judge_gap(value: Estimate, null: Tensor, p: float, p_corrected: float, factor: int) -> Gap:
    """One gap beside its null ``(B,)``; ``factor`` is what its p-value is multiplied by before it is compared."""
    needed = find_needed(null, factor) if value.known else torch.nan
    if p_corrected <= SHARE and value.value >= RELEVANT:
        level: Level = "found"
    else:
        level = "none" if max(needed, RELEVANT) <= VISIBLE else "undecided"
    mean = float(null.nanmean())
    return Gap(value, mean, needed, p, p_corrected, level, [] if not value.known else null.tolist())


def find_needed(null: Tensor, factor: int) -> float:
    """The smallest gap whose p-value, multiplied by ``factor``, is small enough; NaN where no gap's would be."""
    allowed = int(SHARE / factor * (len(null) + 1)) - 1  # deals that may reach it
    if allowed < 0:
        return torch.nan
    return float(null.sort(descending=True).values[allowed]) + 1e-9


def judge_comparison(
    groups: Sequence[GroupScores],
    gaps: Mapping[str, Gap],
    chance: ChanceCheck,
    extremes: Mapping[str, str],
    unlinked: Sequence[str] = (),
) -> tuple[Level, str]:
    """The rule's answer on one attribute or intersection, and why.

    Args:
        groups: All groups that have images.
        gaps: The gaps between those that are judged, by name.
        chance: How the net compares with guessing.
        extremes: The groups of each gap in words.
        unlinked: Names of the judged groups that have too few images of the same classes as the others.
    """
    small = [group for group in groups if not group.judged]
    beside = f" Not judged, with fewer than {LEAST} images: {_list_groups(small)}." if small else ""
    if not gaps:
        judged = [group.name for group in groups if group.judged]
        only = f"only {judged[0]} has" if judged else "no group has"
        if not small:
            return "undecided", f"Undecided: all images are of one group, {judged[0]}; there is nothing to compare."
        return "undecided", f"Undecided, too few images: {only} at least {LEAST}.{beside}"
    levels = {gaps[name].level for name in DECIDING}
    if "found" in levels:
        found = [name for name in DECIDING if gaps[name].level == "found"]
        texts = [f"{_describe_gap(name, gaps[name])}: {extremes[name]}" for name in found]
        return "found", f"Disparity found: {'; '.join(texts)}.{beside}"
    if not chance.passed:
        return "undecided", (
            f"Undecided: no gap was found, but the net is not shown to be above chance on these images "
            f"({describe_chance(chance)}), and one that knows nothing is as wrong on all groups.{beside}"
        )
    if unlinked:
        return "undecided", (
            f"Undecided: {' and '.join(unlinked)} {'has' if len(unlinked) == 1 else 'have'} fewer than {LEAST_OF_CLASS} images "
            "of the same classes as the other groups; what differs between the groups cannot be told from what differs between "
            f"classes.{beside}"
        )
    if "undecided" in levels:
        doubts = [_describe_doubt(name, gaps[name]) for name in DECIDING if gaps[name].level == "undecided"]
        few = ", too few images" if all(gaps[name].value.known for name in DECIDING) else ""
        return "undecided", f"Undecided{few}: {'; '.join(doubts)}.{beside}"
    shown = "; ".join(_describe_gap(name, gaps[name]) for name in DECIDING)
    limits = max(max(gaps[name].needed, RELEVANT) for name in DECIDING)
    return "none", f"No disparity found: {shown}. A gap of {format_fixed(limits, 2)} would have been found.{beside}"


def judge_all(comparisons: Sequence[Comparison]) -> tuple[Level, str]:
    """The answer on all comparisons: a finding on one outweighs the rest; single attributes decide what is undecided."""
    single = [one for one in comparisons if len(one.attributes) == 1]
    if any(one.level == "found" for one in comparisons):
        level: Level = "found"
    else:
        level = "undecided" if any(one.level == "undecided" for one in single) else "none"
    named = [one.name for one in (single if level == "none" else comparisons) if one.level == level]
    words = f"{HEADLINES[level]}: {', '.join(named)}."
    doubtful = [one.name for one in comparisons if one.level == "undecided"]
    return level, words if level == "undecided" or not doubtful else f"{words} Undecided: {', '.join(doubtful)}."


def _describe_gap(name: str, gap: Gap) -> str:
    return (
        f"{NAMES[name]} differ{'s' if name == 'accuracy' else ''} by {format_with_bounds(gap.value)}, by chance "
        f"{format_fixed(gap.null_mean)} on average (corrected p = {format_fixed(gap.p_corrected)})"
    )


def _describe_doubt(name: str, gap: Gap) -> str:
    if not gap.value.known:
        return f"{NAMES[name]} cannot be compared, since no two groups have {LEAST_OF_CLASS} images of the same class"
    return (
        f"{NAMES[name]} differ{'s' if name == 'accuracy' else ''} by {format_with_bounds(gap.value)}, and only a gap of "
        f"{format_fixed(gap.needed, 2)} would be more than chance"
    )


def _list_groups(groups: Sequence[GroupScores]) -> str:
    return ", ".join(f"{group.name} ({group.n})" for group in groups)
