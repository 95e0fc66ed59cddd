"""What a fairness audit found, as it is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from medassay.core.estimate import Estimate
from medassay.core.results import UNWRITTEN
from medassay.metrics.chance import ChanceCheck

Level = Literal["found", "undecided", "none"]
Budget = Literal["quick", "full"]


@dataclass(frozen=True)
class GroupScores:
    """How good the classifier is on one group.

    Attributes:
        name: Name of the group.
        n: Number of its images.
        images_per_class: Number of its images of each class, by name.
        judged: Whether it has enough images to be compared.
        metrics: ``accuracy``, ``sensitivity``, ``specificity``, ``auroc`` and ``ece``, with 95 % intervals over its images.
        called: Share of its images that are called the positive class; None where several classes are.
        curve: Its ROC curve, false and true positive rates; drawn, not kept.
    """

    name: str
    n: int
    images_per_class: dict[str, int]
    judged: bool
    metrics: dict[str, Estimate]
    called: Estimate | None
    curve: tuple[list[float], list[float]] = field(metadata=UNWRITTEN)


@dataclass(frozen=True)
class Gap:
    """The largest difference between groups in one rate, beside what chance makes of it.

    Attributes:
        value: The gap with its 95 % bootstrap interval over images; NaN where no two groups have the rate.
        null_mean: Mean of the gaps with the groups dealt out at random.
        needed: Gap that is needed to be more than chance, by the rule.
        p: P-value against the null.
        p_corrected: The same, corrected for the number of comparisons.
        level: What the rule says of it.
        null: Gaps with the groups dealt out at random; drawn, not kept.
    """

    value: Estimate
    null_mean: float
    needed: float
    p: float
    p_corrected: float
    level: Level
    null: list[float] = field(metadata=UNWRITTEN)


@dataclass(frozen=True)
class Comparison:
    """The groups of one attribute, or of an intersection of several.

    Attributes:
        name: Name of the attribute, ``scanner``, or of the intersection, ``scanner × body_size``.
        attributes: Names of its attributes.
        groups: All groups that have images.
        gaps: Gaps between those with enough images, by name; empty where there are not two.
        level, text: What the rule says, and why.
    """

    name: str
    attributes: list[str]
    groups: list[GroupScores]
    gaps: dict[str, Gap]
    level: Level
    text: str

    @property
    def judged(self) -> list[GroupScores]:
        """The groups with enough images to be compared."""
        return [group for group in self.groups if group.judged]

    @property
    def too_small(self) -> list[GroupScores]:
        """The other ones."""
        return [group for group in self.groups if not group.judged]


@dataclass(frozen=True)
class FairnessResults:
    """What a fairness audit found on ``n`` images.

    Attributes:
        positives: Names of the classes whose detection is compared.
        chance: How the classifier compares with guessing.
        comparisons: One for each attribute, then for the intersections.
        permutations, resamples: Numbers of random deals behind each null, and of bootstrap resamples.
        rule: The rule in words.
        level: The rule's answer.
        verdict: The same in words.
        reasons: Why, a sentence or two for each comparison.
    """

    split: str
    n: int
    positives: list[str]
    chance: ChanceCheck
    comparisons: list[Comparison]
    permutations: int
    resamples: int
    rule: str
    level: Level
    verdict: str
    reasons: list[str]
