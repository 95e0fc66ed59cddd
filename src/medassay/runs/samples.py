"""A generator's images: as a file in MedMNIST's layout, and as a data set to learn from."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from medassay.core.errors import DataError
from medassay.core.files import atomic_write, describe_zip_damage, read_cached, sha256
from medassay.core.progress import Progress
from medassay.core.types import LabelledImages, NonNegativeInt, PositiveInt, Sampler
from medassay.data.modules import Channels, LabelledData, LoadingOptions
from medassay.data.sources import GeneratedSamples
from medassay.runs.load import list_sampling_keys, open_run
from medassay.runs.run import Run, refuse_classifier
from medassay.training.settings import Accelerator, Gpus

CHUNK = 1024  # images at a time


def make_proportional_labels(counts: Tensor, n: int) -> Tensor:
    """``n`` labels in the proportions of ``counts (K,)``, sorted; ``counts.sum()`` of them repeat the counts exactly."""
    share = counts.double() * n / counts.sum()
    whole_part = share.floor().long()
    missing = n - int(whole_part.sum())
    largest = (share - whole_part).argsort(descending=True, stable=True)[:missing]
    whole_part[largest] += 1
    return torch.arange(len(counts)).repeat_interleave(whole_part)


def draw(sampler: Sampler, labels: Tensor, seed: int, progress: str | None = None) -> Tensor:
    """Images ``(N, C, H, W) uint8`` of the classes ``labels (N,)``.

    The noise is the same on every machine for the same seed; pixels agree up to the rounding of its arithmetic.

    Args:
        sampler: The generator that draws.
        labels: Class index of each image to be drawn, ``(N,) int64``.
        seed: Seed of the noise, which is drawn on the CPU.
        progress: What the drawing is called where its progress is shown; None shows nothing.
    """
    rng = torch.Generator().manual_seed(seed)
    images = []
    with Progress(len(labels), progress, "images") as counter:
        for part in torch.split(labels, CHUNK):
            images.append(sampler.sample(part, rng=rng).mul(255).round().to(torch.uint8).cpu())
            counter.advance(len(part))
    return torch.cat(images) if images else torch.empty(0, *sampler.image_shape, dtype=torch.uint8)


def draw_splits(
    sampler: Sampler, counts: Tensor, sizes: Mapping[str, int], seed: int, progress: str | None = None
) -> dict[str, LabelledImages]:
    """Images of splits of these ``sizes`` (``{split: images}``), labels in the proportions of ``counts (K,)`` and shuffled.

    Args:
        sampler: The generator that draws.
        counts: Images of each class in the training set.
        sizes: Number of images of each split.
        seed: Seed of noise and order.
        progress: As in :func:`draw`.
    """
    rng = torch.Generator().manual_seed(seed)  # a cut-short pass over the images shall meet every class
    ordered = [make_proportional_labels(counts, n) for n in sizes.values()]
    labels = torch.cat([part[torch.randperm(len(part), generator=rng)] for part in ordered])
    images = draw(sampler, labels, seed, progress)
    parts = zip(sizes, torch.split(images, [*sizes.values()]), torch.split(labels, [*sizes.values()]), strict=True)
    return {name: LabelledImages(some, theirs) for name, some, theirs in parts}


def write_samples(path: Path, splits: dict[str, tuple[Tensor, Tensor]], provenance: dict[str, Any]) -> None:
    """Writes ``{split: (images (N, C, H, W) uint8, labels (N,))}`` in MedMNIST's layout, with ``provenance`` as JSON text."""
    arrays: dict[str, Any] = {"provenance": np.array(json.dumps(provenance))}
    for name, (images, labels) in splits.items():
        array = images.permute(0, 2, 3, 1).numpy()
        arrays[f"{name}_images"] = array[..., 0] if array.shape[-1] == 1 else array
        arrays[f"{name}_labels"] = labels.numpy()[:, None].astype(np.uint8)
    with path.open("wb") as stream:
        np.savez_compressed(stream, **arrays)


def write_run_samples(run: Run, cache: Path, sizes: Mapping[str, int], seed: int) -> Path:
    """A file with ``sizes`` (``{split: images}``) of a generator's images, labels in its training set's proportions.

    The file is made once per checkpoint, settings of sampling, sizes, proportions and seed, and anew where it is damaged.
    """
    assert isinstance(run.task, Sampler)
    counts = run.data.class_counts()
    provenance = {
        "checkpoint_sha256": sha256(run.weights or run.directory.best),
        **sizes,
        "class_counts": counts.tolist(),
        "seed": seed,
        "layout": 2,  # of the labels: shuffled
        **find_changed_sampling(run),
    }
    key = hashlib.sha256(json.dumps(provenance, sort_keys=True).encode()).hexdigest()[:16]
    path = cache / "samples" / f"{key}.npz"
    if read_cached(path, _refuse_damaged) is None:
        drawn = draw_splits(run.task, counts, sizes, seed, progress="sampling")
        splits = {name: (split.images, split.labels) for name, split in drawn.items()}
        with atomic_write(path) as partial:
            write_samples(partial, splits, {**provenance, "run": str(run.directory.path), "config": run.config})
    return path


def find_changed_sampling(run: Run) -> dict[str, Any]:
    """How images are drawn, by dotted key, where that is not as the run was trained."""
    now, trained = run.config["model"], run.directory.config()["model"]
    keys = [key.partition(".")[2] for key in list_sampling_keys(run.config)]
    return {f"model.{key}": now[key] for key in keys if now.get(key) != trained.get(key)}


def _refuse_damaged(path: Path) -> Path:
    """``path``; raises :class:`DataError` where that ``.npz`` is damaged."""
    if (damage := describe_zip_damage(path)) is not None:
        raise DataError(f"{path} is damaged ({damage})")
    return path


def generated_data(
    name: str,
    generator: str,
    real: LabelledData,
    classes: list[str],
    channels: Channels,
    size: PositiveInt,
    outputs: str = "outputs",
    generator_seed: NonNegativeInt = 0,
    root: str | None = None,
    file: str | None = None,
    path: str | None = None,
    gpus: Gpus = None,
    accelerator: Accelerator = None,
    devices: PositiveInt | None = None,
    **options: Unpack[LoadingOptions],
) -> LabelledData:
    """A generator's images to train and validate on, the real test images of its own data set to test on.

    There are as many as the generator's data set has, labels in the training set's proportions. They are drawn, or found in
    the cache, once they are needed.

    Args:
        name: Name of the data set in records.
        generator: The generator's run directory.
        real: The generator's own data set.
        classes: Class names, by label.
        channels: 1 (grey) or 3 (RGB).
        size: Side of the images in pixels.
        outputs: The samples are kept in ``<outputs>/.cache``.
        generator_seed: Seed of the samples.
        root: Folder of the real data's file, where it is not the recorded one; likewise ``file`` and ``path``.
        file: See ``root``.
        path: See ``root``.
        gpus: GPUs to draw the samples on; ``accelerator`` and ``devices`` instead, as in the trainer's settings.
        accelerator: See ``gpus``.
        devices: See ``gpus``.
        **options: See :class:`LabelledData`.

    Raises:
        ConfigError: The real data have no such place. Once images are read: the generator is a classifier's run.
    """
    places = {"root": root, "file": file, "path": path}
    here: dict[str, Any] = {f"data.{key}": value for key, value in places.items() if value is not None}
    here |= {"trainer.gpus": gpus, "trainer.accelerator": accelerator, "trainer.devices": devices}
    file_of_samples = functools.partial(
        write_training_samples, generator, Path(outputs) / ".cache", generator_seed, here
    )
    source = GeneratedSamples(file_of_samples, real.relocate(**places))
    return LabelledData(name, classes, channels, source, size=size, **options)


def write_training_samples(generator: str, cache: Path, seed: int, overrides: Mapping[str, Any]) -> Path:
    """A file with as many training and validation images as the data set of the run ``generator`` has.

    Raises:
        ConfigError: The run is no generator's.
    """
    run = open_run(generator, overrides)
    refuse_classifier(generator, run.config)
    sizes = {"train": int(run.data.class_counts().sum()), "val": len(run.data.splits.val)}
    return write_run_samples(run, cache, sizes, seed)
