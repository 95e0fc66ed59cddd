"""The audit: protocols one after the other on a finished classifier, a model card, a table of verdicts."""

from __future__ import annotations

import copy
import dataclasses
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from medassay.core.errors import UserError
from medassay.evaluation.about import describe_run, flatten
from medassay.evaluation.protocol import ComputeContext, Page, Part, Protocol, Report
from medassay.protocols.audit.card import SPLITS, ModelCard, Statements, make_card
from medassay.protocols.audit.parts import AuditPart, Budget, build_parts
from medassay.protocols.audit.results import WORDS, AuditResults, PartVerdict, Status, summarise
from medassay.runs.directory import describe_failure
from medassay.runs.run import Run, describe_kind
from medassay.tasks.predictions import Classifier

logger = logging.getLogger(__name__)

PAGE_REASONS = 2  # of each part in the table, at most; its own page has all


@dataclass(frozen=True)
class Audit(Protocol):
    """Every protocol that fits a finished classifier, on one page headed by a model card.

    Attributes:
        name: Name of the protocol.
        budget: Budget of all parts that have one and are told no other.
        parts: Names of protocols, ``{name: {key: value}}`` with settings, or nodes with a ``_target_``.
        quick: By protocol, settings where the budget is ``quick``.
        intended_use, excluded_use: What the classifier is for and what not, for the model card.
        author: Who answers for it; None where that is not stated.
        data_source: Origin, licence and citation of the images; None for what is known of a published set.
    """

    requires: ClassVar[type] = Classifier
    name: str = "audit"
    budget: Budget = "full"
    parts: list[Any] = field(default_factory=lambda: ["classification", "shortcut", "gradcam"])
    quick: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    intended_use: str = "Research and teaching."
    excluded_use: str = "Any decision about a patient."
    author: str | None = None
    data_source: str | None = None

    def run(self, run: Run, context: ComputeContext) -> Report:
        """Audits a classifier's finished run; a part that does not fit or fails is listed, and the others go on.

        Raises:
            ConfigError: A part is unknown, or has a wrong setting.
        """
        parts = build_parts(self.parts, self.budget, self.quick)
        reports, verdicts = [], []
        for number, part in enumerate(parts, 1):
            logger.info("%d/%d %s …", number, len(parts), part.name)
            report, verdict = run_part(part, run, context)
            if report is not None:
                reports.append(Part(part.name, report, describe_run(run, report.split), part.node))
            else:
                logger.warning("%s: %s: %s", verdict.name, verdict.status, verdict.verdict)
            verdicts.append(verdict)
        return self.report(run, reports, verdicts)

    def report(self, run: Run, reports: Sequence[Part], verdicts: list[PartVerdict]) -> Report:
        """The report of all parts."""
        overall = summarise(verdicts)
        stated = Statements(self.intended_use, self.excluded_use, self.author, self.data_source)
        card = make_card(run, reports, list_limits(verdicts), stated)
        results = AuditResults(
            self.budget, card, overall, verdicts, {part.name: part.report.results for part in reports}
        )
        return Report(
            results,
            split=find_split(reports),
            verdict=[f"audit: {overall}", *(f"{one.name}: {WORDS[one.status]}: {one.verdict}" for one in verdicts)],
            metrics=merge_metrics(reports) | {"audit": count_statuses(verdicts)},
            page=Page(Path(__file__).with_name("page.html.j2"), make_page_values(card)),
            parts=reports,
        )


def make_page_values(card: ModelCard) -> dict[str, Any]:
    """What the page is given besides the results."""
    groups = "; ".join(f"{name}: {', '.join(names)}" for name, names in (card.groups or {}).items())
    return {
        "words": WORDS,
        "most": PAGE_REASONS,
        "splits": SPLITS,
        "groups": "not known" if card.groups is None else groups,
        "trained_in": dict(flatten(card.environment)),
    }


def run_part(part: AuditPart, run: Run, context: ComputeContext) -> tuple[Report | None, PartVerdict]:
    """What a part reports and its verdict; None, and the reason, where it does not fit the run or fails."""
    status: Status = "not applicable"
    if not isinstance(run.task, part.protocol.requires):
        reason = f"it does not work on a {describe_kind(run.config)}'s run"
    else:
        try:
            own = dataclasses.replace(
                run, task=copy.deepcopy(run.task)
            )  # the next part does not see what this one does
            report = part.protocol.run(own, context)
            return report, describe_verdict(part, report)
        except Exception as error:
            logger.debug("%s", part.name, exc_info=error)
            said = describe_failure(error)
            reason = re.sub(rf"^protocol=(?:{'|'.join(map(re.escape, part.names))}): ", "", said)
            if not isinstance(error, UserError) or reason == said:  # so protocols say that a run is none for them
                status = "failed"
    return None, PartVerdict(part.name, part.question, status, reason, [], None)


def describe_verdict(part: AuditPart, report: Report) -> PartVerdict:
    """The verdict of a part that has reported."""
    names = "|".join(re.escape(name).replace("_", "[ _]") for name in part.names)
    pattern = rf"^(?:{names}): "  # the terminal shows it beside others
    lines = [re.sub(pattern, "", line) for line in report.verdict]
    first, *reasons = lines or ["It says nothing in words."]
    page = None if report.page is None else f"{part.name}/report.html"
    return PartVerdict(part.name, part.question, report.outcome or "unjudged", first, reasons, page)


def list_limits(verdicts: Sequence[PartVerdict]) -> list[str]:
    """What must be said against the classifier, or is not known of it, a sentence each."""
    limits = [
        f"{one.title}{' (undecided)' if one.status == 'undecided' else ''}: {one.verdict}"
        for one in verdicts
        if one.status in ("bad", "undecided")
    ]
    untried = [
        f"{one.title}: not looked at, {one.verdict}" for one in verdicts if one.status in ("not applicable", "failed")
    ]
    return limits + untried


def find_split(reports: Sequence[Part]) -> str:
    """``val`` where parts have judged validation images and none has judged test images, else ``test``."""
    judged = {part.report.split for part in reports}
    return "val" if "val" in judged and "test" not in judged else "test"


def merge_metrics(reports: Sequence[Part]) -> dict[str, Any]:
    """The groups of numbers of all parts; ``split`` is that of :func:`find_split`, ``splits`` has each part's own.

    Of two groups with one name the second is called after its part, too.
    """
    splits = {part.name: part.report.split for part in reports if part.report.split is not None}
    merged: dict[str, Any] = {"split": find_split(reports), "splits": splits}
    for part in reports:
        for group, numbers in part.report.metrics.items():
            if isinstance(numbers, str):  # the split
                continue
            merged[group if group not in merged else f"{part.name}_{group}"] = numbers
    return merged


def count_statuses(verdicts: Sequence[PartVerdict]) -> dict[str, float]:
    """How many parts came to what."""
    return {status.replace(" ", "_"): float(sum(one.status == status for one in verdicts)) for status in WORDS}
