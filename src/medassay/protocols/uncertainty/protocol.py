"""A classifier's certainty: its most ambiguous images, the accuracy of the surest, and images of none of its classes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from matplotlib.figure import Figure
from torch import Tensor

from medassay.core.errors import ConfigError
from medassay.core.types import LabelledImages, NonNegativeInt, PositiveInt, Range
from medassay.data.classes import list_likeliest
from medassay.data.corruptions import SEVERITIES, TABLE, corrupt_stored
from medassay.data.digits import is_digits
from medassay.data.letters import render_letters
from medassay.evaluation.protocol import ComputeContext, Page, Protocol, Report
from medassay.metrics.selective import compute_log_odds, estimate_area
from medassay.protocols.uncertainty import figures, measures
from medassay.protocols.uncertainty.measures import Answers
from medassay.protocols.uncertainty.results import KINDS, UncertaintyResults, describe_chances
from medassay.reporting.captions import add_captions
from medassay.reporting.charts import Chart
from medassay.runs.load import select_evaluated_images
from medassay.runs.run import Run
from medassay.tasks.predictions import Classifier, predict_logits

FLATTERING = "Validation images also chose the epoch, so the accuracy on them is too high."
MOST_SHUFFLED = 1000  # images with shuffled pixels, at most
MOST_FOREIGN = 12  # images of each kind that are shown, at most

Share = Annotated[float, Range(gt=0, le=1)]


@dataclass(frozen=True)
class Uncertainty(Protocol):
    """Of which images is the classifier not sure, and is it sure of images of none of its classes?

    Attributes:
        name: Name of the protocol.
        split: Split to judge by.
        by: What the most ambiguous images are chosen by.
        shown: Number of them that is shown, at most.
        sure: Largest probability from which on the classifier counts as sure.
        shares: Shares of the surest images that are kept.
        foreign: Kinds of images of none of its classes.
        blurred: Whether it is also judged on its own images, blurred.
        seed: Seed of the shuffling of pixels, and of the choice of the images for it.
    """

    requires: ClassVar[type] = Classifier
    name: str = "uncertainty"
    split: Literal["test", "val"] = "test"
    by: Literal["entropy", "margin"] = "entropy"
    shown: PositiveInt = 24
    sure: Annotated[float, Range(gt=0, lt=1)] = 0.9
    shares: list[Share] = field(default_factory=lambda: [1.0, 0.99, 0.98, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5])
    foreign: list[Literal["letters", "shuffled"]] = field(default_factory=lambda: ["letters", "shuffled"])
    blurred: bool = True
    seed: NonNegativeInt = 0

    def __post_init__(self) -> None:
        if not self.shares:
            raise ConfigError("protocol.shares=[]: give shares of the images that are kept, e.g. [1.0,0.9,0.5]")

    def run(self, run: Run, context: ComputeContext) -> Report:
        """Judges a classifier's finished run."""
        classes, split = run.data.classes, select_evaluated_images(run.data, self.split, run.settings)
        own = Answers(predict_logits(run.task, split.images, context.device), split.labels)
        foreign = self.make_foreign(split)
        logits = {kind: predict_logits(run.task, images, context.device) for kind, (images, _) in foreign.items()}
        judged = [
            measures.judge_foreign(kind, logits[kind], own, classes, self.sure, letters)
            for kind, (_, letters) in foreign.items()
        ]
        results = UncertaintyResults(
            split=self.split,
            n=len(split),
            sure_at=self.sure,
            by=self.by,
            ambiguous=measures.find_ambiguous(own, classes, self.by, self.shown),
            unsure=int((own.confidence < self.sure).sum()),
            pairs=measures.count_pairs(own, classes, self.sure),
            kept=measures.keep_surest(own, [1.0, *self.shares]),
            area=estimate_area(compute_log_odds(own.logits), own.correct),
            sure=measures.measure_sure(own, self.sure),
            foreign=judged,
            blurred=self._judge_blurred(run, context, split, own),
        )
        images = split.images[[one.index for one in results.ambiguous]]
        drawn: dict[str, Figure | Chart] = {"kept": figures.draw_kept(results)}
        if logits:
            confidence = {kind: one.softmax(1).amax(1) for kind, one in logits.items()}
            drawn["confidence"] = figures.draw_confidence(own.confidence, confidence, self.sure)
        drawn["ambiguous"] = draw_ambiguous(images, results)
        values: dict[str, Any] = {"images": images, "kinds": KINDS, "surest": pick_surest(foreign, logits, classes)}
        values |= {"most_bits": math.log2(len(classes)), "digits": is_digits(classes)}
        return Report(
            results,
            split=self.split,
            verdict=[f"uncertainty: {text}" for text in results.list_sentences()],
            metrics={"split": self.split, "uncertainty": results.flatten()},
            figures=drawn,
            warnings=[FLATTERING] if self.split == "val" else [],
            page=Page(Path(__file__).with_name("page.html.j2"), values),
        )

    def make_foreign(self, split: LabelledImages) -> dict[str, tuple[Tensor, list[str]]]:
        """By kind, images ``(N, C, H, W) uint8`` of none of the classes, and the letters that they show, if any."""
        _, channels, size, _ = split.images.shape
        made: dict[str, tuple[Tensor, list[str]]] = {}
        if "letters" in self.foreign:
            made["letters"] = render_letters(size, channels)
        if "shuffled" in self.foreign:
            made["shuffled"] = shuffle_pixels(split.images, self.seed), []
        return made

    def _judge_blurred(
        self, run: Run, context: ComputeContext, split: LabelledImages, own: Answers
    ) -> list[measures.Blurred]:
        """The net on blurred images, severity by severity, the unchanged ones first."""
        if not self.blurred:
            return []
        rows = [measures.judge_blurred(0, 0.0, own, self.sure)]
        for severity in SEVERITIES:
            changed = corrupt_stored(split.images, "blur", severity, seed=self.seed)
            answers = Answers(predict_logits(run.task, changed, context.device), split.labels)
            pixels = TABLE["blur"].values[severity - 1]
            rows.append(measures.judge_blurred(severity, pixels, answers, self.sure))
        return rows


def shuffle_pixels(images: Tensor, seed: int) -> Tensor:
    """Some of ``images (N, C, H, W)``, the pixels of each in a random order of its own: the same values, no shape."""
    rng = torch.Generator().manual_seed(seed)
    chosen = images[torch.randperm(len(images), generator=rng)[:MOST_SHUFFLED]]
    order = torch.rand(len(chosen), 1, chosen.shape[2] * chosen.shape[3], generator=rng).argsort(2)
    return chosen.flatten(2).gather(2, order.expand(-1, chosen.shape[1], -1)).view_as(chosen)


def draw_ambiguous(images: Tensor, results: UncertaintyResults) -> Figure:
    """The most ambiguous images, with the classes between which they lie."""
    captions = [(describe_chances(one.chances), f"true: {one.true}   (image {one.index})") for one in results.ambiguous]
    return add_captions(images, captions, columns=6)


def pick_surest(
    foreign: Mapping[str, tuple[Tensor, list[str]]], logits: Mapping[str, Tensor], classes: list[str]
) -> dict[str, list[dict[str, Any]]]:
    """By kind, the foreign images that the net is surest of: of letters one each."""
    picked: dict[str, list[dict[str, Any]]] = {}
    for kind, (images, letters) in foreign.items():
        probabilities = logits[kind].softmax(1)
        order = compute_log_odds(logits[kind]).argsort(descending=True, stable=True).tolist()
        names = letters or [str(place) for place in range(len(images))]
        first: dict[str, int] = {}  # of each name the surest image, the surest name first
        for place in order:
            first.setdefault(names[place], place)
        picked[kind] = [
            {
                "name": name if letters else "",
                "image": images[place : place + 1],
                "chances": list_likeliest(probabilities[place].tolist(), classes, 2),
            }
            for name, place in list(first.items())[:MOST_FOREIGN]
        ]
    return picked
