"""The assay from beginning to end: what is measured, in which order, and what the report holds."""

from __future__ import annotations

import logging
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, ClassVar

import torch

from medassay.core.errors import ConfigError
from medassay.core.types import NonNegativeInt, PositiveInt, Range, Sampler
from medassay.data.modules import LabelledData
from medassay.evaluation import arms
from medassay.evaluation.about import flatten
from medassay.evaluation.encoders import EncoderName, make_encoders, make_inception_encoder, train_encoder
from medassay.evaluation.protocol import ComputeContext, Page, Protocol, Report, SamplesProtocol
from medassay.protocols.assay import figures, tables, verdict
from medassay.protocols.assay.controls import KeptControls, make_controls, make_floor
from medassay.protocols.assay.figures import SEARCHED, Examples, Gallery, choose_examples, choose_suspicious
from medassay.protocols.assay.measures import Yardstick
from medassay.protocols.assay.performance import Trainer, measure_performance
from medassay.protocols.assay.results import AssayResults, Budget, RealCounts, Split
from medassay.protocols.assay.subjects import (
    Candidate,
    Real,
    Subject,
    choose_in_proportion,
    fit_in_proportion,
    make_sets,
    take_file_samples,
    take_run_samples,
)
from medassay.runs.run import Run
from medassay.runs.samples import make_proportional_labels

logger = logging.getLogger(__name__)

LARGE = 10_000  # samples of the second table
WARNINGS = {
    "val": "Validation images stand in for test images: use the numbers to compare settings, not as a result.",
    "quick": "Quick budget: one classifier seed and few steps, so there are no intervals.",
}


@dataclass(frozen=True)
class Assay(Protocol, SamplesProtocol):
    """Is this synthetic data any good?

    Attributes:
        name: Name of the protocol.
        budget: Extent of the assay: ``quick`` is one classifier seed, 300 steps, TSTR and TRTR; ``full`` all arms and seeds.
        controls: Whether to measure the controls, too.
        encoders: What distances are measured in; the first is the headline.
        inception_weights: Local file, for the encoder ``inception``.
        seeds: Classifiers per arm of a full assay.
        multiples: Further sizes of the synthetic training set in a full assay, as multiples of the real one's.
        sets: Disjoint sets of samples whose spread is given, at most; as many as there are.
        split: Split of real images to test on; ``val`` stands in for ``test`` in a search over generators.
        seed: Seed of the samples.
        jobs: Classifiers trained at a time; None for the number of cores.
    """

    requires: ClassVar[type] = Sampler
    name: str = "assay"
    budget: Budget = "full"
    controls: bool = True
    encoders: list[EncoderName] = field(default_factory=lambda: ["classifier", "random_conv", "pixels"])
    inception_weights: str | None = None
    seeds: Annotated[int, Range(ge=3)] = 3
    multiples: list[Annotated[int, Range(ge=2)]] = field(default_factory=lambda: [2, 5])
    sets: PositiveInt = 5
    split: Split = "test"
    seed: NonNegativeInt = 0
    jobs: PositiveInt | None = None

    def __post_init__(self) -> None:
        if not self.encoders or len(set(self.encoders)) < len(self.encoders):
            raise ConfigError(f"protocol.encoders={self.encoders}: name at least one, and each once")
        if sorted(set(self.multiples)) != self.multiples:
            raise ConfigError(f"protocol.multiples={self.multiples}: give each once, the smallest first")

    def run(self, run: Run, context: ComputeContext) -> Report:
        """Judges a generator's samples beside the real images; DataError if these are too few."""
        real = Real.from_data(run.data, self.split)
        return self.judge(real, take_run_samples(run, context.cache, self.seed), context)

    def run_on_samples(self, samples: Path, data: LabelledData, context: ComputeContext, *, resize: bool) -> Report:
        """Judges images made by any tool; DataError if they cannot be used, or there are too few."""
        candidate = take_file_samples(samples, data, resize=resize)
        return self.judge(Real.from_data(data, self.split), candidate, context)

    def judge(self, real: Real, candidate: Candidate, context: ComputeContext) -> Report:
        """Judges ``candidate`` beside the real images."""
        results, gallery = self.measure(real, candidate, context)
        return build_report(results, choose_examples(real, candidate), gallery)

    def measure(self, real: Real, candidate: Candidate, context: ComputeContext) -> tuple[AssayResults, Gallery]:
        """Measures the candidate, the floor and the controls; gives the results and the most suspicious samples."""
        if "inception" in self.encoders:  # a missing file is said before anything is trained
            make_inception_encoder(self.inception_weights, context.device)
        m, short = fit_in_proportion(real.val.labels, candidate.images.counts(len(real.classes)))
        scarce = None if short is None else real.classes[short]
        chosen = [make_floor(real, m, scarce), *(make_controls(real, m) if self.controls else [])]
        seconds: dict[str, float] = {}
        trainer, full = Trainer(context, self.jobs), self.budget == "full"
        steps, seeds = (arms.count_full_steps(len(real.train)), self.seeds) if full else (arms.QUICK_STEPS, 1)
        # First the classifiers: TRTR with seed 0 is the encoder too, and several are trained at a time
        with time_part("classifiers", seconds):
            learned = measure_performance(
                real, candidate, trainer, seeds=seeds, steps=steps, full=full, multiples=self.multiples
            )
            task = train_encoder(real.train, real.val, len(real.classes), context.cache, gpus=context.gpus)
        encoders = make_encoders(
            self.encoders, real.unique, task, context.device, context.cache, self.inception_weights
        )
        yardstick = Yardstick(real, encoders, task, context.device)
        with time_part("metrics", seconds):
            controls = KeptControls(chosen, yardstick, trainer, steps)
            subjects = make_subjects(candidate, real, m, self.sets)
            measured = yardstick.measure_rows([*subjects, *controls.missing])
        with time_part("controls", seconds):
            row, *large = (one.row for one in measured[: len(subjects)])
            rows = [row, *controls.complete([one.row for one in measured[len(subjects) :]])]
        gallery = choose_suspicious(measured[0].suspicion, real, candidate)
        floors = {one.m: one for one in reversed(rows) if one.key.startswith("floor")}  # by number of images
        findings = [verdict.judge(one, floors.get(one.m, rows[1]), real.classes, learned.trtr) for one in rows]
        findings[0].append(verdict.judge_usefulness(learned))
        rows = [replace(one, faults=verdict.list_faults(found)) for one, found in zip(rows, findings, strict=True)]
        results = AssayResults(
            generator=candidate.provenance,
            name=candidate.name,
            data=real.provenance,
            classes=real.classes,
            budget=self.budget,
            split=self.split,
            real=RealCounts(real.digest, len(real.train), len(real.unique), len(real.val), len(real.test)),
            encoders={encoder.name: encoder.description for encoder in encoders},
            verdict=findings[0],
            faults=rows[0].faults,
            rows=rows,
            m=m,
            large=large[0] if large else None,
            performance=learned,
            seconds=seconds,
            peak_memory_mb=measure_peak_memory(),
            precision="float32 (the device has no float64)" if context.device.type == "mps" else "float64",
            selection=candidate.selection,
            scarce=scarce,
            version=2,
        )
        return results, gallery


def make_subjects(candidate: Candidate, real: Real, m: int, most: int) -> list[Subject]:
    """What is measured of a generator's images: disjoint sets of ``m``, ``most`` of them at most, and, where there are enough,
    one of 10,000 for the second table.

    Their classes have the floor's proportions: coverage, say, of images in equal shares would be lower than that of real ones
    only because they are many of a rare class and few of a frequent one.
    """
    images, classes, searched = candidate.images, len(real.classes), min(SEARCHED, len(candidate.images))
    of_floor = real.val[choose_in_proportion(real.val.labels, m)].counts(classes)
    sets = make_sets(images.labels, of_floor, most)
    subjects = [Subject("generator", candidate.name, "generator", images, sets, searched=searched)]
    labels = make_proportional_labels(real.val.counts(classes), LARGE)
    large = make_sets(images.labels, torch.bincount(labels, minlength=classes), 1) if m < LARGE else []
    if large:
        subjects.append(Subject("generator", candidate.name, "generator", images, large, turned=False))
    return subjects


def build_report(results: AssayResults, examples: Examples, gallery: Gallery) -> Report:
    """The report of an assay with these results and pictures."""
    rows, headline = results.rows, results.headline
    warnings = [WARNINGS[setting] for setting in (results.split, results.budget) if setting in WARNINGS]
    if results.scarce is not None:
        warnings.append(
            f"Only {results.m:,} images are compared at a time: in the real images’ proportions there are no more samples of "
            f"{results.scarce}."
        )
    return Report(
        results,
        split=results.split,
        verdict=[f"{finding.level}: {finding.text}" for finding in results.verdict],
        metrics={"m": results.m, "assay": tables.flatten(results)},
        figures=figures.draw(results, examples, gallery),
        files={"assay.csv": tables.format_rows_as_csv(results)},
        hyperparameters={"budget": results.budget, "m": results.m},
        warnings=warnings,
        page=Page(
            Path(__file__).with_name("page.html.j2"),
            {
                "overall": verdict.summarise(results.verdict),
                "expected": tables.EXPECTED,
                "labels_judged": not verdict.is_at_chance(results.performance.trtr),
                "comparison": {e: tables.compare(rows, e, general=e == headline) for e in results.encoders},
                "large": results.large and tables.compare([results.large], headline, general=True),
                "origin": dict(flatten(results.generator)),
                "real": vars(results.real),
                "examples": examples,
                "gallery": gallery,
            },
        ),
    )


@contextmanager
def time_part(part: str, seconds: dict[str, float]) -> Iterator[None]:
    """Notes the ``seconds`` spent in a part of the work."""
    begun = time.monotonic()
    logger.info("%s …", part)
    yield
    seconds[part] = round(time.monotonic() - begun, 1)


def measure_peak_memory() -> float:
    """The largest resident memory of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if sys.platform == "darwin" else 1e3), 1)
