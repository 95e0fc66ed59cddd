"""Domain shift: a classifier on corrupted images and on another set, what falls, who notices, what helps."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

from torch import nn

from medassay.core.errors import CheckpointError, ConfigError
from medassay.core.types import LabelledImages, NonNegativeInt
from medassay.data.corruptions import SEVERITIES, TABLE, Corruption
from medassay.data.order import make_stratified_order
from medassay.evaluation.protocol import ComputeContext, Page, Protocol, Report
from medassay.metrics.chance import check_against_chance
from medassay.protocols.domain_shift import figures, monitors, verdict
from medassay.protocols.domain_shift.audit import Audit
from medassay.protocols.domain_shift.external import ExternalImages, read_external
from medassay.protocols.domain_shift.results import METRICS, SCORES, Condition, DomainShiftResults, External
from medassay.runs.load import open_run, select_evaluated_images
from medassay.runs.run import Run, describe_kind
from medassay.tasks.classification import Classification

logger = logging.getLogger(__name__)

IMAGES = {"test": "test images", "val": "validation images"}
FLATTERING = "Validation images also chose the epoch, so the numbers of the unchanged ones are too good."


class Budget(NamedTuple):
    """How much is computed.

    Attributes:
        images: Images of a set, at most, classes in proportion; None for all.
        severities: The severities of each corruption.
        reference: Training images that neighbours are looked for among, at most, classes in proportion.
        trials: Draws of a batch test.
    """

    images: int | None
    severities: tuple[int, ...]
    reference: int
    trials: int


BUDGETS: dict[str, Budget] = {
    "quick": Budget(400, (1, 3, 5), 1000, 25),  # 400: the fewest that batches of 200 can be compared among
    "full": Budget(None, SEVERITIES, 10_000, 100),
}


class Compared(NamedTuple):
    """What else a user named: another set, and a baseline's net with its path and its model and data in words."""

    external: ExternalImages | None
    baseline: nn.Module | None
    named: tuple[str, str] | None


@dataclass(frozen=True)
class DomainShift(Protocol):
    """How far does a classifier fall on images unlike those it learnt from, and would anybody notice?

    Attributes:
        name: Name of the protocol.
        split: Split to judge by.
        budget: How much is computed; see ``BUDGETS``.
        corruptions: Corruptions to try.
        external: Another set's images and labels; None for none.
        external_classes: Its class names by index; None for those in the file or folder.
        baseline: A classifier's run that the mean corruption error is relative to; None for the net's own error on unchanged
            images.
        seed: Seed of the corruptions, of the choice of images and of the batches.
    """

    requires: ClassVar[type] = Classification
    name: str = "domain_shift"
    split: Literal["test", "val"] = "test"
    budget: Literal["quick", "full"] = "full"
    corruptions: list[Corruption] = field(default_factory=lambda: list(TABLE))
    external: str | None = None
    external_classes: list[str] | None = None
    baseline: str | None = None
    seed: NonNegativeInt = 0

    def __post_init__(self) -> None:
        if not self.corruptions and self.external is None:
            raise ConfigError(
                f"protocol.corruptions=[]: nothing to try; name some of {', '.join(TABLE)}, or give "
                "protocol.external=<npz or folder>"
            )
        if self.external_classes is not None and self.external is None:
            raise ConfigError("protocol.external_classes names the classes of protocol.external: give that, too")

    def run(self, run: Run, context: ComputeContext) -> Report:
        """Audits a classifier's finished run.

        Raises:
            ConfigError: A baseline or names that do not fit.
            CheckpointError: The baseline is no run.
            DataError: The other set cannot be read, or does not fit.
        """
        compared = self.read_compared(run)  # what a user named wrongly is said before anything is computed
        audit, of = self.prepare(run, context)
        return self.report(self.measure(run, audit, of, compared), audit)

    def read_compared(self, run: Run) -> Compared:
        """The other set and the baseline, where they are named.

        Raises:
            ConfigError: A baseline or names that do not fit.
            CheckpointError: The baseline is no run.
            DataError: The other set cannot be read, or does not fit.
        """
        external = None
        if self.external is not None:
            whole = read_external(self.external, run.data, self.external_classes)
            external = replace(whole, images=self.choose(whole.images, BUDGETS[self.budget].images))
        return Compared(external, *self._open_baseline(run))

    def prepare(self, run: Run, context: ComputeContext) -> tuple[Audit, int]:
        """The net and the images that it is judged on, and of how many these are."""
        assert isinstance(run.task, Classification)
        budget = BUDGETS[self.budget]
        whole = select_evaluated_images(run.data, self.split, run.settings)
        reference = select_evaluated_images(run.data, "train", run.settings)
        audit = Audit(
            net=run.task.answering_net,
            split=self.choose(whole, budget.images),
            reference=self.choose(reference, budget.reference),
            device=context.device,
            trials=budget.trials,
            seed=self.seed,
        )
        return audit, len(whole)

    def choose(self, split: LabelledImages, most: int | None) -> LabelledImages:
        """At most so many images in the order of the split, classes in proportion."""
        if most is None or len(split) <= most:
            return split
        return split[make_stratified_order(split.labels, self.seed)[:most].sort().values]

    def measure(self, run: Run, audit: Audit, of: int, compared: Compared) -> DomainShiftResults:
        """All numbers, and what the rules say of them; ``of`` is the number of images that there were."""
        budget, data = BUDGETS[self.budget], run.data
        chance = check_against_chance(audit.observed.probabilities, audit.split.labels)
        clean, error = audit.clean, None
        corrupted: list[Condition] = []
        chosen = list(dict.fromkeys(self.corruptions))
        if chosen:
            logger.info(
                "%d corruptions, %d severities each, %s images …", len(chosen), len(budget.severities), f"{clean.n:,}"
            )
            corrupted, error = audit.measure_corruptions(
                chosen, budget.severities, judged=chance.passed, baseline=compared.baseline, named=compared.named
            )
        external = None
        if compared.external is not None and self.external is not None:
            external = audit.measure_external(compared.external, self.external, judged=chance.passed)
        alarms = []
        if self.split == "test":
            alarms = audit.test_against(self.choose(select_evaluated_images(data, "val", run.settings), budget.images))
        conditions = [*corrupted, *([external.condition] if external else [])]
        level, words, reason, findings = None, verdict.refuse_judgement(chance), "", []
        if chance.passed:
            level, words, reason = verdict.summarise(conditions)
            findings = verdict.list_findings(clean, conditions, external, alarms, IMAGES[self.split])
        return DomainShiftResults(
            split=self.split,
            budget=self.budget,
            n=clean.n,
            of=of,
            classes=data.classes,
            n_by_class=audit.split.counts(data.num_classes).tolist(),
            severities=list(budget.severities) if chosen else [],
            seed=self.seed,
            chance=chance,
            clean=clean,
            corrupted=corrupted,
            external=external,
            validation_alarms=alarms,
            error=error,
            reference=0 if audit.missing_features else len(audit.reference),
            skipped=[
                *self._list_skipped(audit, conditions, external),
                *list_empty_classes(data.classes, audit, external),
            ],
            level=level,
            rule=verdict.RULE,
            verdict=words,
            reason=reason,
            findings=findings,
        )

    def _open_baseline(self, run: Run) -> tuple[nn.Module | None, tuple[str, str] | None]:
        """The baseline's net, its path, and its model and data in words.

        Raises:
            ConfigError: It is no classifier, or takes images or gives classes of another kind.
            CheckpointError: It is no run.
        """
        if self.baseline is None:
            return None, None
        key = f"protocol.baseline={self.baseline}"
        try:
            other = open_run(self.baseline, {"trainer.gpus": run.settings.gpus})
        except CheckpointError as error:
            raise CheckpointError(f"{key}: {error}") from error
        if not isinstance(other.task, Classification):
            raise ConfigError(
                f"{key} is a {describe_kind(other.config)}'s run: give a classifier's, e.g. of model=pneumonia_cnn"
            )
        wanted, found = ((len(one.data.classes), one.data.channels, one.data.size) for one in (run, other))
        if wanted != found:
            words = "{} classes, {} channels, {} pixels a side"
            raise ConfigError(
                f"{key} knows {words.format(*found)}, and the run {words.format(*wanted)}: give a run on "
                "the same kind of images"
            )
        return other.task.answering_net, (self.baseline, f"{other.config['recipe']['name']} on {other.data.name}")

    def _list_skipped(self, audit: Audit, conditions: list[Condition], external: External | None) -> list[str]:
        """What was left out and why, a sentence each."""
        skipped = []
        if audit.missing_features is not None:
            skipped.append(f"No k-NN distance and no batch test: {audit.missing_features}.")
        else:
            tested = {test.m for one in conditions for test in one.batch_tests}
            missing = [m for m in monitors.SIZES if m not in tested and len(audit.split) < 2 * m]
            skipped += [
                f"No batches of {m}: they need {2 * m} images, half of them usual ones, and there are {len(audit.split):,}."
                for m in missing
            ]
            others = math.inf if external is None else external.condition.n
            if too_large := [str(m) for m in monitors.SIZES if m not in missing and others < m]:
                count = "1 image" if others == 1 else f"{others} images"
                skipped.append(f"The other set has {count}, too few for batches of {' and '.join(too_large)}.")
        if not audit.has_batch_norm:
            skipped.append("No remedy: the net has no batch normalisation whose statistics could be estimated anew.")
        return skipped

    def report(self, results: DomainShiftResults, audit: Audit) -> Report:
        """The report of an audit."""
        pictures = figures.make_pictures(audit.split, list(dict.fromkeys(self.corruptions)), results.classes, self.seed)
        tests = [results.clean.batch_tests, results.validation_alarms, *(one.batch_tests for one in results.conditions)]
        values = {
            "pictures": pictures,
            "sizes": sorted({test.m for some in tests for test in some}),
            "words": verdict.WORDS,
            "metrics": METRICS,
            "score_names": SCORES,
            "names": {key: kind.name for key, kind in TABLE.items()},
            "table": TABLE,
            "limits": {"fall": verdict.FALL, "silent": verdict.SILENT, "noticed": verdict.NOTICED},
            "nominal": monitors.NOMINAL,
            "neighbour": monitors.NEIGHBOUR,
            "images": IMAGES[self.split],
        }
        drawn = {
            f"curve_{key}": figures.draw_curve(results, key)
            for key in dict.fromkeys(one.key for one in results.corrupted)
        }
        if results.corrupted:
            drawn["falls"] = figures.draw_falls(results)
        sheets = {
            f"pictures_{label}": figures.draw_pictures(rows, name)
            for label, (name, rows) in enumerate(pictures.items())
        }
        return Report(
            results,
            split=self.split,
            verdict=[f"domain shift: {results.verdict}", *filter(None, [results.reason])],
            metrics={"split": self.split, "domain_shift": results.flatten()},
            figures={**drawn, **sheets},
            hyperparameters={"budget": self.budget},
            warnings=[FLATTERING] if self.split == "val" else [],
            page=Page(Path(__file__).with_name("page.html.j2"), values),
            outcome="undecided" if results.level is None else verdict.OUTCOMES[results.level],
        )


def list_empty_classes(classes: Sequence[str], audit: Audit, external: External | None) -> list[str]:
    """Which sets lack images of some classes, a sentence each."""
    sets = {"The unchanged images": audit.split.counts(len(classes)).tolist()}
    if external is not None:
        sets["The other set"] = external.n_by_class
    empty = {where: [name for name, n in zip(classes, counts, strict=True) if not n] for where, counts in sets.items()}
    return [
        f"{where} are without {', '.join(names)}: means over the classes leave these out.".replace("set are", "set is")
        for where, names in empty.items()
        if names
    ]
