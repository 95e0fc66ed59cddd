"""The floor and the controls: sets of images whose quality is known, in the same table as the generator.

The floor is real validation images, the best that a generator can be at this number of samples. The controls are copies of
training images, the same with noise, the floor without its largest class, and the floor with shuffled labels.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medassay.core.errors import CheckpointError
from medassay.core.files import read_cached, read_checked_json, write_checked_json
from medassay.core.results import from_json, to_json
from medassay.core.types import LabelledImages
from medassay.data.order import make_stratified_order
from medassay.evaluation import arms
from medassay.protocols.assay import measures
from medassay.protocols.assay.measures import Yardstick
from medassay.protocols.assay.performance import Trainer
from medassay.protocols.assay.results import SCORES, Kind, Row, Scores
from medassay.protocols.assay.subjects import Real, choose_in_proportion

NOISE = 0.05  # standard deviation of the noise on copies, in units of the full range
TRAIN_SHARE = 0.8  # of the validation images, for TSTR on the floor and on shuffled labels; the rest chooses the epoch


@dataclass(frozen=True)
class Control:
    """A set of images of known quality, with the labels it claims; ``key``, ``name`` and ``kind`` are its row's."""

    key: str
    name: str
    images: LabelledImages
    members: Tensor | None = None  # of copies, indices of the copied training images (among the unique ones)
    validation: Tensor | None = None  # of validation images, their indices
    tstr: bool = False  # whether a classifier is trained on it too
    kind: Kind = "control"


def make_floor(real: Real, m: int) -> Control:
    """The floor: ``m`` real validation images."""
    chosen = choose_in_proportion(real.val.labels, m)
    return Control("floor", "real validation images (floor)", real.val[chosen], None, chosen, True, "floor")


def make_controls(real: Real, m: int) -> list[Control]:
    """All controls but the floor, for a table of ``m`` images a row."""
    chosen = make_stratified_order(real.unique.labels, 2)[:m].sort().values
    copied, base = real.unique[chosen], make_floor(real, m)
    rng = torch.Generator().manual_seed(0)
    noise = NOISE * torch.randn(copied.images.shape, generator=rng)
    noisy = (copied.images / 255 + noise).clamp(0, 1).mul(255).round().to(torch.uint8)
    labels, indices = base.images.labels, choose_in_proportion(real.val.labels, m)
    largest = int(base.images.counts(len(real.classes)).argmax())
    remaining = indices[labels != largest]
    fewer = indices[choose_in_proportion(labels, len(remaining))]
    shuffled = LabelledImages(base.images.images, labels[torch.randperm(len(labels), generator=rng)])
    return [
        Control("copies", "copies of training images", copied, members=chosen),
        Control("noisy_copies", "training images + noise", LabelledImages(noisy, copied.labels), members=chosen),
        Control("without_class", f"floor without {real.classes[largest]}", real.val[remaining], validation=remaining),
        Control("floor_same_m", f"floor, {len(fewer)} images", real.val[fewer], validation=fewer),
        Control("shuffled_labels", "floor with shuffled labels", shuffled, validation=indices, tstr=True),
    ]


def measure_controls(chosen: Sequence[Control], yardstick: Yardstick, trainer: Trainer, steps: int) -> list[Row]:
    """The table's rows of the controls; kept per data set, so that they are computed once, and anew where one is damaged."""
    encoders = [f"{encoder.name}: {encoder.description}" for encoder in yardstick.encoders]
    shared = [measures.VERSION, arms.RECIPE, yardstick.real.digest, encoders]
    rows: list[Row] = []
    for control in chosen:
        parts = [*shared, len(control.images), control.key, steps]
        key = hashlib.sha256(json.dumps([*parts, str(torch.__version__)]).encode()).hexdigest()[:16]
        path = trainer.context.cache / "controls" / f"{control.key}_{key}.json"
        named = {"key": control.key, "name": control.name, "kind": control.kind, "faults": []}  # its present name
        row = read_cached(path, functools.partial(_read_row, named=named))
        if row is None:
            measured = yardstick.measure(
                control.key, control.name, control.kind, [control.images], control.members, control.validation
            )
            tstr = _train_on(control, yardstick.real, trainer, steps) if control.tstr else None
            write_checked_json(path, to_json(replace(measured, tstr=tstr)))
            row = _read_row(path, named)
        rows.append(row)
    return rows


def _read_row(path: Path, named: Mapping[str, Any]) -> Row:
    """The row kept in ``path``, with the names that it has now.

    Raises:
        CheckpointError: it is damaged.
    """
    try:
        row: Row = from_json(Row, {**read_checked_json(path), **named})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} holds no row ({error}): delete it") from error
    return row


def _train_on(control: Control, real: Real, trainer: Trainer, steps: int) -> Scores:
    """TSTR on a set as small as the validation images: comparable between controls, not with a generator's."""
    order = make_stratified_order(control.images.labels, 3)
    n = round(TRAIN_SHARE * len(order))
    train, held_out = control.images[order[:n]], control.images[order[n:]]
    task = trainer.train([arms.Arm(f"TSTR: {control.name}", train, held_out, len(real.classes), 0, steps)])[0]
    metrics = trainer.test(task, real.test)
    return Scores(*(metrics[name] for name in SCORES))
