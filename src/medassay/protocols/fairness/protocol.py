"""The fairness audit: scores on each group, gaps beside their nulls, a verdict by a rule that was fixed beforehand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from medassay.core.errors import ConfigError, suggest_nearest
from medassay.core.groups import CROSS, Groups
from medassay.core.types import Range
from medassay.data.classes import find_class
from medassay.data.modules import GIVE_GROUPS
from medassay.evaluation.protocol import ComputeContext, Page, Protocol, Report
from medassay.protocols.fairness import figures, verdict
from medassay.protocols.fairness.measures import measure_fairness
from medassay.protocols.fairness.results import Budget, FairnessResults
from medassay.reporting.charts import Chart
from medassay.runs.load import select_evaluated_images
from medassay.runs.run import Run
from medassay.tasks.predictions import Classifier, predict

FLATTERING = "Validation images also chose the epoch, so the scores of all groups are too good."


@dataclass(frozen=True)
class Fairness(Protocol):
    """Does a classifier treat groups of images differently?

    Attributes:
        name: Name of the protocol.
        split: Split to judge by.
        budget: How many permutations and resamples.
        positive: Class whose detection is compared, by name or index; None for class 1 of two, and of more for each class.
        attributes: Attributes to compare by; None for all that the images have.
        intersections: Number of attributes that are crossed, at most; 1 for none.
    """

    requires: ClassVar[type] = Classifier
    name: str = "fairness"
    split: Literal["test", "val"] = "test"
    budget: Budget = "full"
    positive: str | int | None = None
    attributes: list[str] | None = None
    intersections: Annotated[int, Range(ge=1, le=3)] = 2

    def run(self, run: Run, context: ComputeContext) -> Report:
        """Audits a classifier's finished run.

        Raises:
            ConfigError: The images have no groups, or no such attribute or class exists.
        """
        classes = run.data.classes
        positive = None if self.positive is None else find_class(self.positive, classes, "protocol.positive")
        images = select_evaluated_images(run.data, self.split, run.settings)
        if images.groups is None:
            of = f"the {self.split} images of {run.data.data_of(self.split).name}"
            raise ConfigError(f"protocol=fairness: {of} have no groups; {GIVE_GROUPS}")
        attributes = choose_attributes(self.attributes, images.groups)
        results = measure_fairness(
            predict(run.task, images, context.device),
            images.groups,
            classes,
            positive=positive,
            attributes=attributes,
            depth=self.intersections,
            budget=self.budget,
            split=self.split,
        )
        return Report(
            results,
            split=self.split,
            verdict=[f"fairness: {results.verdict}", *results.reasons],
            metrics={"split": self.split, "fairness": flatten_metrics(results)},
            figures=dict(_draw_figures(results)),
            hyperparameters={"attributes": ", ".join(attributes)},
            warnings=[FLATTERING] if self.split == "val" else [],
            page=Page(
                Path(__file__).with_name("page.html.j2"),
                {"names": verdict.NAMES, "deciding": verdict.DECIDING, "least": verdict.LEAST},
            ),
            outcome=verdict.OUTCOMES[results.level],
        )


def choose_attributes(asked: list[str] | None, groups: Groups) -> list[str]:
    """The attributes to compare by.

    Raises:
        ConfigError: The images have no such attribute, or none is asked for.
    """
    known = list(groups.levels)
    for name in asked or []:
        if name not in known:
            raise ConfigError(
                f"protocol.attributes: the images have no attribute '{name}'.{suggest_nearest(name, known)} Accepted: "
                f"{', '.join(known)}"
            )
    if asked == []:
        raise ConfigError(
            f"protocol.attributes=[]: nothing to compare by; accepted: {', '.join(known)}, or null for all"
        )
    return list(dict.fromkeys(asked or known))


def flatten_metrics(results: FairnessResults) -> dict[str, float]:
    """Single numbers by name: ``found`` and ``undecided`` as 0 or 1; of each comparison gaps, p-values, the worst group."""
    flat = {"found": float(results.level == "found"), "undecided": float(results.level == "undecided")}
    for one in results.comparisons:
        name = name_file(one.name)
        flat[f"found/{name}"] = float(one.level == "found")
        for gap, found in one.gaps.items():
            flat |= {f"{gap}/{name}": found.value.value, f"{gap}_p/{name}": found.p_corrected}
        if one.judged:
            flat[f"worst_accuracy/{name}"] = min(group.metrics["accuracy"].value for group in one.judged)
    return flat


def name_file(comparison: str) -> str:
    """The name of an attribute or intersection in files and metrics."""
    return comparison.replace(CROSS, "_x_").replace(" ", "_")


def _draw_figures(results: FairnessResults) -> Iterator[tuple[str, Chart]]:
    for number, one in enumerate(results.comparisons):
        for kind, draw in (("scores", figures.draw_scores), ("roc", figures.draw_curves), ("gaps", figures.draw_gaps)):
            if (chart := draw(one)) is not None:
                yield f"{kind}_{number}", chart
