"""The assay from beginning to end: what is measured, in which order, and what it leaves."""

from __future__ import annotations

import logging
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache as remembered
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from medassay.core.errors import ConfigError
from medassay.core.types import LabelledImages, NonNegativeInt, PositiveInt, Range
from medassay.evaluation import arms
from medassay.evaluation.encoders import EncoderName, encoders, inception, trained_classifier
from medassay.metrics import authenticity
from medassay.metrics.neighbours import Neighbours
from medassay.protocols.assay import controls, measures, performance, report, verdict
from medassay.protocols.assay.subjects import Candidate, Real, of_run
from medassay.protocols.classification import predict
from medassay.runs.load import Run, device_for

logger = logging.getLogger(__name__)

LARGE = 10_000  # samples of the second table
GALLERY = 24  # most suspicious samples shown
EXAMPLES = 10  # images of each class shown


@dataclass(frozen=True)
class AssaySettings:
    """How much to measure.

    Attributes:
        name: of the protocol.
        budget: ``quick`` is one classifier seed, 300 steps, TSTR and TRTR only; ``full`` all arms and seeds.
        controls: also measure the controls (b) to (e).
        encoders: the first is the headline.
        inception_weights: a local file, for the encoder ``inception``.
        seeds: classifiers per arm of a full assay.
        sets: disjoint sets of samples whose spread is given, at most; as many as there are.
        split: ``val`` lets validation images stand in for test images, for a search over generators.
        seed: of the samples.
        jobs: classifiers trained at a time; None for the number of cores.
    """

    name: Literal["assay"] = "assay"
    budget: Literal["quick", "full"] = "full"
    controls: bool = True
    encoders: list[EncoderName] = field(default_factory=lambda: ["classifier", "random_conv", "pixels"])
    inception_weights: str | None = None
    seeds: Annotated[int, Range(ge=3)] = 3
    sets: PositiveInt = 5
    split: Literal["test", "val"] = "test"
    seed: NonNegativeInt = 0
    jobs: PositiveInt | None = None

    def __post_init__(self) -> None:
        if not self.encoders or len(set(self.encoders)) < len(self.encoders):
            raise ConfigError(f"protocol.encoders={self.encoders}: name at least one, and each once")


@dataclass(frozen=True)
class Workplace:
    """Where to compute and what to keep where.

    Attributes:
        device: of encoders and distances.
        gpus: as in the trainer settings, for the classifiers.
        cache: folder of what is kept.
    """

    device: torch.device
    gpus: int | list[int] | None
    cache: Path


@dataclass(frozen=True)
class Examples:
    """Real and generated images of every class, side by side.

    Attributes:
        real, generated: ``(classes, N, C, H, W) uint8``; the real ones are test images, both in the order they come.
    """

    real: Tensor
    generated: Tensor


@dataclass(frozen=True)
class Gallery:
    """The most suspicious samples, most suspicious first, each with its nearest training image.

    Attributes:
        samples, nearest: ``(N, C, H, W) uint8``.
        sample_labels, nearest_labels: ``(N,) int64``.
        suspicion: ``(N,)``: distance to that image over that image's distance to its nearest other training image.
    """

    samples: Tensor
    nearest: Tensor
    sample_labels: Tensor
    nearest_labels: Tensor
    suspicion: Tensor


def measured(
    real: Real, candidate: Candidate, settings: AssaySettings, place: Workplace
) -> tuple[dict[str, Any], Gallery]:
    """Measures the candidate, the floor and the controls; gives the results as plain values, and pictures."""
    if "inception" in settings.encoders:
        inception(settings.inception_weights, place.device)  # a missing file is said before anything is trained
    clock = Clock()
    full = settings.budget == "full"
    steps = arms.full_steps(len(real.train)) if full else arms.QUICK_STEPS
    trainer = performance.Trainer(place.cache, place.device, settings.jobs, place.gpus)
    with clock.measuring(
        "classifiers"
    ):  # first: TRTR with seed 0 is the encoder too, and several are trained at a time
        seeds = settings.seeds if full else 1
        learned = performance.performance(real, candidate, trainer, seeds=seeds, steps=steps, full=full)
        task = trained_classifier(real.train, real.val, len(real.classes), place.cache, gpus=place.gpus)
    found = encoders(settings.encoders, real.unique, task, place.device, place.cache, settings.inception_weights)
    described = {encoder.name: encoder.description for encoder in found}

    def assigned(images: Tensor) -> Tensor:
        unlabelled = LabelledImages(images, torch.zeros(len(images), dtype=torch.int64))
        return predict(task, unlabelled, place.device).probabilities.argmax(1)

    @remembered
    def spaces() -> list[measures.Space]:
        return [measures.Space(encoder, real, place.device) for encoder in found]

    m = min(len(real.val), len(candidate.images))
    with clock.measuring("metrics"):
        row, large = _of_candidate(candidate, m, settings.sets, real, spaces(), assigned)
    with clock.measuring("controls"):
        chosen = [controls.floor(real, m), *(controls.controls(real, m) if settings.controls else [])]
        key = [f"{name}: {description}" for name, description in described.items()]
        known = controls.rows(chosen, real, spaces, assigned, place.cache, encoders=key, steps=steps, trainer=trainer)
    gallery = suspicious(spaces()[0], real, candidate)
    results = {
        **_about(real, candidate, settings),
        "encoders": described,
        **_judged(row, known, real.classes, learned),
        "m": m,
        "large": large,
        "performance": learned,
        "seconds": clock.seconds,
        "peak_memory_mb": peak_memory_mb(),
        "precision": "float32 (the device has no float64)" if place.device.type == "mps" else "float64",
    }
    return results, gallery


def _of_candidate(
    candidate: Candidate, m: int, most: int, real: Real, spaces: list[measures.Space], assigned: Any
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The candidate's row of ``m`` images, over ``most`` disjoint sets of them, and that of the large table."""
    named = {"key": "generator", "name": candidate.name, "kind": "generator"}
    images = candidate.images
    sets = [images[start : start + m] for start in range(0, len(images) - m + 1, m)]
    row = measures.measure_sets(spaces, real, assigned, sets[:most])
    large = None
    if len(images) >= LARGE:
        large = named | measures.measure_sets(spaces, real, assigned, [images[:LARGE]])
    return named | row, large


def _about(real: Real, candidate: Candidate, settings: AssaySettings) -> dict[str, Any]:
    """What was compared."""
    sizes = {name: len(getattr(real, name)) for name in ("train", "unique", "val", "test")}
    return {
        "generator": candidate.provenance,
        "name": candidate.name,
        "data": real.provenance,
        "classes": real.classes,
        "budget": settings.budget,
        "split": settings.split,
        "real": {"digest": real.digest, **sizes},
    }


def _judged(
    row: dict[str, Any], known: list[dict[str, Any]], classes: list[str], learned: dict[str, Any]
) -> dict[str, Any]:
    """The verdict, and the table's rows with the faults found in each."""
    floor, others = known[0], known[1:]
    findings = verdict.judge(row, floor, classes, learned)
    faults = verdict.faults(findings)
    for control in others:
        control["faults"] = verdict.faults(verdict.judge(control, _floor_of(control, known), classes))
    rows = [{**row, "faults": faults}, {**floor, "kind": "floor", "faults": []}, *others]
    return {"verdict": findings, "faults": faults, "rows": rows}


def assay(
    real: Real, candidate: Candidate, settings: AssaySettings, place: Workplace, directory: Path, record: dict[str, Any]
) -> dict[str, Any]:
    """Judges the candidate and leaves report, tables and pictures in ``directory``; gives the results.

    Args:
        real, candidate: the images.
        settings: how much to measure.
        place: where.
        directory: a new one.
        record: what the command was, for the results' file.
    """
    results, gallery = measured(real, candidate, settings, place)
    results = {**record, **results}
    report.write(directory, results, examples(real, candidate), gallery)
    for finding in results["verdict"]:
        logger.info("%s: %s", finding["level"], finding["text"])
    return results


def assay_run(run: Run, settings: AssaySettings, directory: Path, record: dict[str, Any], outputs: Path) -> None:
    """:func:`assay` of a generator's finished run; caches are under ``outputs``."""
    place = Workplace(device_for(run.settings), run.settings.gpus, outputs / ".cache")
    real = Real.of(run.data, settings.split)
    assay(real, of_run(run, place.cache, settings.seed), settings, place, directory, record)


def _floor_of(control: dict[str, Any], known: list[dict[str, Any]]) -> dict[str, Any]:
    """The floor with the control's own number of images."""
    return next((row for row in known if row["key"].startswith("floor") and row["m"] == control["m"]), known[0])


def examples(real: Real, candidate: Candidate, n: int = EXAMPLES) -> Examples:
    """The first ``n`` images of every class, nothing selected; fewer where a class has fewer."""
    classes = range(len(real.classes))
    sets = (real.test, candidate.images)
    n = min(n, *(int((s.labels == c).sum()) for s in sets for c in classes))
    shown = [torch.stack([s.images[s.labels == c][:n] for c in classes]) for s in sets]
    return Examples(*shown)


def suspicious(space: measures.Space, real: Real, candidate: Candidate) -> Gallery:
    """The samples nearest to a training image, in units of that image's distance to its own nearest neighbour."""
    images = candidate.images[:LARGE]
    around = Neighbours(space.reference, space.encode(images.images))
    ratio = authenticity.suspicion(around).cpu()
    order = ratio.argsort(stable=True)[:GALLERY]
    theirs = around.generated_to_real[1].cpu()[order]
    return Gallery(
        images.images[order],
        real.unique.images[theirs],
        images.labels[order],
        real.unique.labels[theirs],
        ratio[order],
    )


class Clock:
    """Seconds spent in the parts of the work."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def measuring(self, part: str) -> Iterator[None]:
        begun = time.monotonic()
        logger.info("%s …", part)
        yield
        self.seconds[part] = round(time.monotonic() - begun, 1)


def peak_memory_mb() -> float:
    """The largest resident memory of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if sys.platform == "darwin" else 1e3), 1)
