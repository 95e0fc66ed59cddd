"""What a domain-shift audit holds."""

from __future__ import annotations

import typing
from dataclasses import dataclass, field
from typing import Literal

from medassay.core.estimate import Estimate
from medassay.metrics.chance import ChanceCheck

Level = Literal["holds", "undecided", "open", "unclear", "silent"]  # from harmless to worst
LEVELS: tuple[Level, ...] = typing.get_args(Level)
Answer = Literal["yes", "no", "undecided"]

METRICS = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "auroc": "AUROC", "ece": "ECE"}
SCORES = {"max_softmax": "max. softmax", "energy": "energy", "neighbours": "k-NN distance"}


@dataclass(frozen=True)
class BatchTest:
    """Batches of ``m`` images tested beside as many usual ones: the share with p <= 0.05, of ``alarms.n`` draws."""

    m: int
    alarms: Estimate


@dataclass(frozen=True)
class Fall:
    """What is lost from the unchanged images to others.

    Attributes:
        accuracy, balanced_accuracy, confidence: By how much each falls.
        surplus: Half of the accuracy's fall less the confidence's: above 0, confidence falls less than half as much.
    """

    accuracy: Estimate
    balanced_accuracy: Estimate
    confidence: Estimate
    surplus: Estimate


@dataclass(frozen=True)
class Remedy:
    """Accuracy with batch-norm statistics of the images themselves, and how much more that is than without."""

    accuracy: Estimate
    gain: Estimate


@dataclass(frozen=True)
class Condition:
    """Some images, and what the net makes of them.

    Attributes:
        key: A corruption's name, ``clean`` or ``external``.
        name: The same in words.
        severity: Severity of a corruption; None for the others.
        parameter: The corruption's parameter in words.
        n: Number of images.
        scores: ``METRICS``.
        confidence: Mean of the largest probability.
        recall: Recall of each class; NaN for a class without images.
        fall: What is lost from the unchanged images; None for these themselves.
        detection: AUROC of each of ``SCORES`` between the unchanged images and these; empty for the unchanged ones.
        batch_tests: The kernel test by size of the batch; of unchanged images the false alarms.
        remedy: None for a net without batch norm.
        level: What the rule says; None for the unchanged images, and where the net is not judged.
        noticed: Whether the largest batches raise the alarm; None where there is nothing to be noticed by.
    """

    key: str
    name: str
    severity: int | None
    parameter: str
    n: int
    scores: dict[str, Estimate]
    confidence: Estimate
    recall: list[float]
    fall: Fall | None
    detection: dict[str, Estimate]
    batch_tests: list[BatchTest]
    remedy: Remedy | None
    level: Level | None
    noticed: Answer | None

    @property
    def title(self) -> str:
        """The name, with the severity where there is one."""
        return self.name if self.severity is None else f"{self.name}, severity {self.severity}"


@dataclass(frozen=True)
class CorruptionError:
    """Errors over all corruptions and severities.

    Attributes:
        mean: Mean error of the net.
        baseline: What it is compared with: a run's path, or None for the net's own error on unchanged images.
        baseline_model: That run's model and data in words.
        by_corruption: By corruption, the sum of the errors over that of the baseline.
        relative: The mean of these; with a baseline this is Hendrycks & Dietterich's mean corruption error.
        rise: With a baseline, the same of the errors' rises over the unchanged images (their relative mCE); None where the
            baseline's error does not rise under every corruption.
        undefined: Why there is no such number; None where there is.
    """

    mean: Estimate
    baseline: str | None
    baseline_model: str | None
    by_corruption: dict[str, Estimate]
    relative: Estimate
    rise: Estimate | None
    undefined: str | None


@dataclass(frozen=True)
class External:
    """Another set's images.

    Attributes:
        path, md5: The file or folder.
        classes: Its names by index; "class 0" and so on where it has none.
        named: Whether the names are the set's own.
        n_by_class: Number of images of each class.
        converted: What was done to the images to bring them to the net's format.
        condition: What the net makes of them.
    """

    path: str
    md5: str
    classes: list[str]
    named: bool
    n_by_class: list[int]
    converted: list[str]
    condition: Condition


@dataclass(frozen=True)
class Finding:
    """A question, the rule's answer to it, and the answer in words."""

    question: str
    look: Literal["good", "missing", "suspicious", "undecided"]
    text: str


@dataclass(frozen=True)
class DomainShiftResults:
    """What an audit found on ``n`` images of ``split``, of which ``of`` were there.

    Attributes:
        budget: ``quick`` or ``full``.
        classes, n_by_class: Names by label, and images of each.
        severities: Those that were tried.
        seed: Seed of the corruptions, of the choice of images and of the batches.
        chance: How the net compares with guessing on the unchanged images.
        clean: The unchanged images.
        corrupted: Every corruption at every severity.
        external: Another set; None for none.
        validation_alarms: Unchanged images of ``split`` tested against validation images.
        error: Errors over all corruptions.
        reference: Number of training images that neighbours are looked for among; 0 where the net gives no features.
        skipped: What was left out and why, a sentence each.
        level: The worst of all levels; None where the net is not judged.
        rule: The rule in words.
        verdict: The verdict in a sentence.
        reason: What it rests on.
        findings: The answers to the single questions.
    """

    split: str
    budget: str
    n: int
    of: int
    classes: list[str]
    n_by_class: list[int]
    severities: list[int]
    seed: int = field(metadata={"name": "protocol_seed"})
    chance: ChanceCheck
    clean: Condition
    corrupted: list[Condition]
    external: External | None
    validation_alarms: list[BatchTest]
    error: CorruptionError | None
    reference: int
    skipped: list[str]
    level: Level | None
    rule: str
    verdict: str
    reason: str
    findings: list[Finding]

    @property
    def conditions(self) -> list[Condition]:
        """All changed images: the corruptions, and the other set where there is one."""
        return [*self.corrupted, *([self.external.condition] if self.external else [])]

    def flatten(self) -> dict[str, float]:
        """Single numbers by name: ``clean/accuracy``, ``blur/3/accuracy``, ``external/fall`` and so on."""
        flat: dict[str, float] = {}
        for one in [self.clean, *self.conditions]:
            where = one.key if one.severity is None else f"{one.key}/{one.severity}"
            flat |= {f"{where}/{name}": estimate.value for name, estimate in one.scores.items()}
            flat[f"{where}/confidence"] = one.confidence.value
            if one.fall is not None:
                flat[f"{where}/fall"] = one.fall.accuracy.value
            flat |= {f"{where}/detection_{name}": estimate.value for name, estimate in one.detection.items()}
            flat |= {f"{where}/alarms_{test.m}": test.alarms.value for test in one.batch_tests}
            if one.remedy is not None:
                flat[f"{where}/remedied_accuracy"] = one.remedy.accuracy.value
        if self.error is not None:
            flat["mean_corruption_error"] = self.error.mean.value
            flat["relative_corruption_error"] = self.error.relative.value
        if self.level is not None:
            levels = [one.level for one in self.conditions]
            flat |= {f"share_{level}": levels.count(level) / len(levels) for level in LEVELS}
        return flat
