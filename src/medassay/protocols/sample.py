"""Images of requested classes from a generator."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from medassay.core.errors import ConfigError, nearest
from medassay.core.files import write_json
from medassay.core.types import NonNegativeInt, PositiveInt, Sampler
from medassay.reporting import figures
from medassay.runs.load import Run
from medassay.runs.samples import draw, write_npz

GRID = 64  # images per picture, at most


@dataclass(frozen=True)
class SampleSettings:
    """What to draw.

    Attributes:
        name: of the protocol.
        n: images of each class asked for.
        labels: class names or indices; None for every class.
        seed: of the noise.
    """

    name: Literal["sample"] = "sample"
    n: PositiveInt = 64
    labels: list[str | int] | None = None
    seed: NonNegativeInt = 0


def class_indices(labels: list[str | int] | None, classes: list[str]) -> list[int]:
    """The indices of the classes asked for by name or index.

    Raises:
        ConfigError: a class that there is not.
    """
    if labels is None:
        return list(range(len(classes)))
    if not labels:
        raise ConfigError("protocol.labels=[]: nothing to draw; give class names or numbers, or null for every class")
    lowered = [name.lower() for name in classes]
    chosen = []
    for label in labels:
        if isinstance(label, int) and 0 <= label < len(classes):
            chosen.append(label)
        elif str(label).lower() in lowered:
            chosen.append(lowered.index(str(label).lower()))
        else:
            raise ConfigError(
                f"protocol.labels: no class {label!r}.{nearest(str(label).lower(), lowered)} "
                f"Accepted: 0..{len(classes) - 1} or {', '.join(classes)}"
            )
    return sorted(set(chosen))


def sample(
    sampler: Sampler, classes: list[str], settings: SampleSettings, directory: Path, provenance: str
) -> list[Path]:
    """Writes ``samples.npz`` (``train_*`` keys), one overview and a grid per class into ``directory``; gives the paths."""
    chosen = class_indices(settings.labels, classes)
    labels = torch.tensor(chosen).repeat_interleave(settings.n)
    images = draw(sampler, labels, settings.seed, progress="sampling")
    npz = directory / "samples.npz"
    write_npz(npz, {"train": (images, labels)}, {"run": provenance, "seed": settings.seed})
    paths = [npz]
    columns = min(settings.n, 8)
    overview = torch.cat([images[labels == label][:columns] for label in chosen])
    figure = figures.image_grid(overview, columns=columns, row_labels=[classes[label] for label in chosen])
    figures.save(figure, directory / "overview.png")
    paths.append(directory / "overview.png")
    for label in chosen:
        own = images[labels == label][:GRID]
        name = classes[label]
        path = directory / f"class_{label}_{name.replace(' ', '_').replace('/', '_')}.png"
        figures.save(figures.image_grid(own, columns=min(8, len(own)), title=name), path)
        paths.append(path)
    return paths


def sample_run(run: Run, settings: SampleSettings, directory: Path, record: dict[str, Any], outputs: Path) -> None:
    """:func:`sample` from a generator's finished run."""
    assert isinstance(run.task, Sampler)
    paths = sample(run.task, run.data.classes, settings, directory, str(run.directory.path))
    write_json(directory / "sample.json", {**record, "files": [p.name for p in paths]})
