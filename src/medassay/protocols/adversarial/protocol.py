"""Adversarial images: FGSM and PGD against a classifier, checks that they work, and a verdict."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
from matplotlib.figure import Figure

from medassay.attacks.norms import NAMES, Norm
from medassay.core.errors import CheckpointError, ConfigError
from medassay.core.types import LabelledImages, NonNegativeInt, PositiveInt, Range
from medassay.data.classes import list_likeliest
from medassay.data.order import make_stratified_order
from medassay.evaluation.protocol import ComputeContext, Page, Protocol, Report
from medassay.protocols.adversarial import figures, verdict
from medassay.protocols.adversarial.measures import measure
from medassay.protocols.adversarial.results import ATTACKS, AdversarialResults
from medassay.protocols.adversarial.subject import Settings, Subject
from medassay.reporting.charts import Chart
from medassay.runs.load import open_run, select_evaluated_images
from medassay.runs.run import Run
from medassay.tasks.classification import Classification

FLATTERING = "Validation images also chose the epoch, so the accuracy before the attack is too high on them."


class Budget(NamedTuple):
    """What an evaluation may cost: images, steps and starts of PGD, and norms."""

    images: int
    steps: int
    restarts: int
    norms: tuple[Norm, ...]


BUDGETS = {"full": Budget(1000, 40, 5, ("linf", "l2")), "quick": Budget(100, 10, 1, ("linf",))}


@dataclass(frozen=True)
class Adversarial(Protocol):
    """How little has to change in an image until a classifier errs?

    FGSM, PGD and random noise of the same size; signs that the attack works; the smallest change that flips each image.

    Attributes:
        name: Name of the protocol.
        budget: ``full``: at most 1000 images, PGD of 40 steps from 5 starts, L-infinity and L2; ``quick``: 100 images, 10 steps
            from one start, L-infinity.
        split: Split that images are from.
        epsilons: Largest changes in grey levels of 255; the judged one, 2, is always tried.
        steps, restarts: Steps and starts of PGD; None for those of the budget.
        images: Largest number of images, classes in proportion; None for that of the budget.
        surrogate: Directory of another run on the same data, whose net is attacked in this one's place to see whether such
            images are weaker; None leaves that out.
        shown: Number of images shown, at most.
        seed: Seed of random starts, noise, and the choice of images.
    """

    requires: ClassVar[type] = Classification
    name: str = "adversarial"
    budget: Literal["full", "quick"] = "full"
    split: Literal["test", "val"] = "test"
    epsilons: list[Annotated[float, Range(gt=0, le=255)]] = field(default_factory=lambda: [1, 2, 4, 8])
    steps: PositiveInt | None = None
    restarts: PositiveInt | None = None
    images: PositiveInt | None = None
    surrogate: str | None = None
    shown: Annotated[int, Range(ge=1, le=50)] = 8
    seed: NonNegativeInt = 0

    def run(self, run: Run, context: ComputeContext) -> Report:
        """Attacks a classifier's finished run.

        Raises:
            CheckpointError: the other net's run cannot be read.
            ConfigError: it is this run, or takes other images or classes.
        """
        assert isinstance(run.task, Classification)
        surrogate = None if self.surrogate is None else (self.surrogate, load_surrogate(self.surrogate, run, context))
        data = select_evaluated_images(run.data, self.split, run.settings)
        results = measure(self.prepare(run, data, context.device), surrogate)
        return self.report(results, run.data.classes)

    def prepare(self, run: Run, data: LabelledImages, device: torch.device) -> Subject:
        """The net on ``device`` with the images to attack, in the order of the split."""
        budget = BUDGETS[self.budget]
        chosen = make_stratified_order(data.labels, self.seed)[: self.images or budget.images].sort().values
        settings = Settings(
            split=self.split,
            epsilons=self.epsilons,
            norms=budget.norms,
            steps=self.steps or budget.steps,
            restarts=self.restarts or budget.restarts,
            shown=self.shown,
            seed=self.seed,
        )
        return Subject(run.task.to(device).eval(), data[chosen], chosen, settings, device)

    def report(self, results: AdversarialResults, classes: list[str]) -> Report:
        """The report of what was found."""
        failed = [f"adversarial: failed: {one.name} {one.text}" for one in results.checks if one.passed is False]
        drawn: dict[str, Figure | Chart] = {
            f"accuracy_{norm}": figures.draw_accuracy(results, norm) for norm in results.norms
        }
        drawn["smallest"] = figures.draw_smallest(results)
        if results.examples:
            drawn["pictures"] = figures.draw_pictures(results, classes)
        values = {
            "headline": verdict.HEADLINES[results.verdict],
            "names": NAMES,
            "attacks": ATTACKS,
            "limits": (verdict.FRAGILE, verdict.ROBUST),
            "enlarged": figures.ENLARGED,
            "before": figures.to_bytes(results.pictures.before),
            "changes": figures.picture_changes(results.pictures),
            "after": figures.to_bytes(results.pictures.after),
            "chances": [
                [list_likeliest(chances, classes, figures.SHOWN) for chances in (one.before, one.after)]
                for one in results.examples
            ],
        }
        return Report(
            results,
            split=self.split,
            verdict=[f"adversarial: {verdict.HEADLINES[results.verdict]}. {results.reason}", *failed],
            metrics={"split": self.split, "adversarial": flatten_metrics(results)},
            figures=drawn,
            hyperparameters={"budget": self.budget},
            warnings=[FLATTERING] if self.split == "val" else [],
            page=Page(Path(__file__).with_name("page.html.j2"), values),
            outcome=verdict.OUTCOMES[results.verdict],
        )


def load_surrogate(path: str, run: Run, context: ComputeContext) -> Classification:
    """The task of the other run, in evaluation mode on the context's device.

    Raises:
        CheckpointError: the path is no run directory, or its weights cannot be read.
        ConfigError: it is ``run`` itself, no classifier's, or takes other images or classes.
    """
    key = f"protocol.surrogate={path}"
    try:
        other = open_run(path, {"trainer.gpus": context.gpus})
    except CheckpointError as error:
        raise CheckpointError(f"{key}: {error}") from error
    if other.directory.path.resolve() == run.directory.path.resolve():
        raise ConfigError(f"{key} is the run itself: give another one on the same data, e.g. of another seed")
    if not isinstance(other.task, Classification):
        raise ConfigError(f"{key} is a run of model={other.config['recipe']['name']}: give a classifier's")
    own, theirs = ((d.channels, d.size, d.classes) for d in (run.data, other.data))
    if own != theirs:
        raise ConfigError(
            f"{key} takes {_describe(theirs)}, this run {_describe(own)}: give a run on the same data, e.g. of another seed"
        )
    return other.task.to(context.device).eval()


def _describe(kind: tuple[int, int, list[str]]) -> str:
    channels, size, classes = kind
    return f"{size}×{size} images of {channels} channel{'s' if channels > 1 else ''} ({', '.join(classes)})"


def flatten_metrics(results: AdversarialResults) -> dict[str, float]:
    """Single numbers by name.

    ``clean/…`` and ``attacked/…`` are those before and after the judged attack, ``<attack>_<norm>/<grey levels>`` the balanced
    accuracy under any, ``smallest_<norm>`` the median of the smallest changes where there is one; a verdict is 0 or 1.
    """
    flat: dict[str, Any] = {
        "clean/accuracy": results.accuracy.value,
        "clean/balanced_accuracy": results.balanced_accuracy.value,
    }
    for one in results.attacked:
        if (one.norm, one.attack, one.epsilon) == ("linf", "pgd", results.judged_at):
            flat["attacked/accuracy"] = one.accuracy.value
            flat["attacked/balanced_accuracy"] = one.balanced_accuracy.value
            flat["kept"] = one.kept.value
    flat |= {f"{level.replace(' ', '_')}": float(results.verdict == level) for level in verdict.HEADLINES}
    flat["failed_checks"] = float(sum(check.passed is False for check in results.checks))
    flat |= {f"{one.attack}_{one.norm}/{one.epsilon:g}": one.balanced_accuracy.value for one in results.attacked}
    for distribution in results.smallest:
        if distribution.label is None and distribution.quartiles[1] is not None:
            flat[f"smallest_{distribution.norm}"] = distribution.quartiles[1]
    return flat
