"""Images of requested classes from a generator."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from medassay.core.errors import ConfigError
from medassay.core.types import NonNegativeInt, PositiveInt, Sampler
from medassay.data.classes import find_class
from medassay.evaluation.protocol import ComputeContext, Protocol, Report
from medassay.reporting import figures
from medassay.runs.run import Run
from medassay.runs.samples import draw, write_samples

GRID = 64  # images per picture, at most


@dataclass(frozen=True)
class SampleResults:
    """Names of the files written."""

    files: list[str]


@dataclass(frozen=True)
class Sample(Protocol):
    """Images of requested classes: PNG grids and an ``.npz`` in MedMNIST's layout.

    Attributes:
        name: Name of the protocol.
        n: Number of images of each class asked for.
        labels: Class names or indices; None for every class.
        seed: Seed of the noise.
    """

    requires: ClassVar[type] = Sampler
    uses_own_data: ClassVar[bool] = False
    name: str = "sample"
    n: PositiveInt = 64
    labels: list[str | int] | None = None
    seed: NonNegativeInt = 0

    def run(self, run: Run, context: ComputeContext) -> Report:
        """Draws the images."""
        assert isinstance(run.task, Sampler)
        files = self.draw(run.task, run.data.classes, str(run.directory.path))
        return Report(SampleResults(list(files)), files=files)

    def draw(self, sampler: Sampler, classes: list[str], provenance: str) -> dict[str, Any]:
        """``samples.npz`` (``train_*`` keys, made by ``provenance``), an overview and a grid per class: a report's files."""
        chosen = find_class_indices(self.labels, classes)
        labels = torch.tensor(chosen).repeat_interleave(self.n)
        images = draw(sampler, labels, self.seed, progress="sampling")
        parts, origin = {"train": (images, labels)}, {"run": provenance, "seed": self.seed}
        columns, names = min(self.n, 8), [classes[label] for label in chosen]
        overview = torch.cat([images[labels == label][:columns] for label in chosen])
        files: dict[str, Any] = {
            "samples.npz": functools.partial(write_samples, splits=parts, provenance=origin),
            "overview.png": figures.draw_image_grid(overview, columns=columns, row_labels=names),
        }
        for label in chosen:
            own, name = images[labels == label][:GRID], classes[label]
            file = f"class_{label}_{name.replace(' ', '_').replace('/', '_')}.png"
            files[file] = figures.draw_image_grid(own, columns=min(8, len(own)), title=name)
        return files


def find_class_indices(labels: list[str | int] | None, classes: list[str]) -> list[int]:
    """The indices of the classes asked for by name or index.

    Raises:
        ConfigError: a class that there is not.
    """
    if labels is None:
        return list(range(len(classes)))
    if not labels:
        raise ConfigError("protocol.labels=[]: nothing to draw; give class names or numbers, or null for every class")
    return sorted({find_class(label, classes, "protocol.labels") for label in labels})
