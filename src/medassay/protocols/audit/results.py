"""What an audit found: a verdict of each part, and all that the parts found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from medassay.protocols.audit.card import ModelCard

Status = Literal["bad", "undecided", "good", "unjudged", "not applicable", "failed"]

WORDS: dict[Status, str] = {
    "bad": "objection",
    "undecided": "undecided",
    "good": "no objection",
    "unjudged": "described, not judged",
    "not applicable": "not applicable",
    "failed": "failed",
}


@dataclass(frozen=True)
class PartVerdict:
    """What became of one part.

    Attributes:
        name: Name of the protocol.
        question: What it answers; empty where it does not say.
        status: Its outcome, ``unjudged`` where no rule judges; or that it does not fit the run, or failed.
        verdict: The verdict in words; why there is none where it does not fit or failed.
        reasons: What the verdict rests on, in words.
        page: Its page, relative to the audit's directory; None for none.
    """

    name: str
    question: str
    status: Status
    verdict: str
    reasons: Sequence[str]
    page: str | None

    @property
    def title(self) -> str:
        """The name for a reader."""
        return self.name.replace("_", " ").capitalize()


@dataclass(frozen=True)
class AuditResults:
    """What ``audit.json`` holds.

    Attributes:
        budget: The audit's budget.
        card: The model card.
        overall: Which parts came to what, in words.
        verdicts: What became of each part.
        parts: By name, what each part found.
    """

    budget: str
    card: ModelCard
    overall: str
    verdicts: list[PartVerdict]
    parts: Mapping[str, Any]


def summarise(verdicts: Sequence[PartVerdict]) -> str:
    """Which parts came to what, the worst first: ``7 parts; objection: shortcut; undecided: gradcam, …``."""
    counted = []
    for status, words in WORDS.items():
        names = [one.name for one in verdicts if one.status == status]
        if names:
            counted.append(f"{words}: {', '.join(names)}")
    return f"{len(verdicts)} part{'s' if len(verdicts) > 1 else ''}; {'; '.join(counted)}."
