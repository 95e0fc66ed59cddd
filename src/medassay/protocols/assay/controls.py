"""The floor and the controls: sets of images whose quality is known, in the same table as the generator.

(a) real validation images, the best that a generator can be at this number of samples; (b) copies of training images;
(c) the same with noise; (d) the floor without its largest class; (e) the floor with shuffled labels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medassay.core.errors import CheckpointError
from medassay.core.files import write_json
from medassay.core.types import LabelledImages
from medassay.data.modules import stratified_order
from medassay.evaluation import arms
from medassay.protocols.assay import measures, performance
from medassay.protocols.assay.subjects import Real, in_proportion

NOISE = 0.05  # standard deviation of control (c), in units of the full range
TRAIN_SHARE = 0.8  # of the validation images, for TSTR on controls (a) and (e); the rest chooses the epoch


@dataclass(frozen=True)
class Control:
    """A set of images of known quality.

    Attributes:
        key: its name in files.
        name: its name in tables.
        images: the set, with the labels it claims.
        members: for copies: indices of the copied training images (among the unique ones).
        validation: for validation images: their indices.
        tstr: whether a classifier is trained on it too.
    """

    key: str
    name: str
    images: LabelledImages
    members: Tensor | None = None
    validation: Tensor | None = None
    tstr: bool = False


def floor(real: Real, m: int) -> Control:
    """Control (a): ``m`` real validation images."""
    chosen = in_proportion(real.val.labels, m)
    return Control("floor", "real validation images (floor)", real.val[chosen], validation=chosen, tstr=True)


def controls(real: Real, m: int) -> list[Control]:
    """Controls (b) to (e), for a table of ``m`` images a row."""
    chosen = stratified_order(real.unique.labels, 2)[:m].sort().values
    copied = real.unique[chosen]
    rng = torch.Generator().manual_seed(0)
    noise = NOISE * torch.randn(copied.images.shape, generator=rng)
    noisy = (copied.images / 255 + noise).clamp(0, 1).mul(255).round().to(torch.uint8)
    floor_indices = in_proportion(real.val.labels, m)
    base = real.val[floor_indices]
    counts = base.counts(len(real.classes))
    largest = int(counts.argmax())
    kept = floor_indices[base.labels != largest]
    fewer = floor_indices[in_proportion(base.labels, len(kept))]
    shuffled = base.labels[torch.randperm(len(base), generator=rng)]
    return [
        Control("copies", "copies of training images", copied, members=chosen),
        Control("noisy_copies", "training images + noise", LabelledImages(noisy, copied.labels), members=chosen),
        Control("without_class", f"floor without {real.classes[largest]}", real.val[kept], validation=kept),
        Control("floor_same_m", f"floor, {len(fewer)} images", real.val[fewer], validation=fewer),
        Control(
            "shuffled_labels",
            "floor with shuffled labels",
            LabelledImages(base.images, shuffled),
            validation=floor_indices,
            tstr=True,
        ),
    ]


def rows(
    chosen: Sequence[Control],
    real: Real,
    spaces: Callable[[], Sequence[measures.Space]],
    predict: Any,
    cache: Path,
    *,
    encoders: Sequence[str],
    steps: int,
    trainer: performance.Trainer,
) -> list[dict[str, Any]]:
    """The table's rows of the controls; kept per data set, so that they are computed once.

    Args:
        chosen: the controls.
        real: the real images.
        spaces: gives the encoders' spaces; called only where a row is missing.
        predict: as for :func:`measures.measure_sets`.
        cache: folder of what is kept.
        encoders: names and descriptions of the encoders, for the key.
        steps: of the classifiers trained on (a) and (e).
        trainer: trains them.
    """
    found = []
    for control in chosen:
        parts = [measures.VERSION, arms.RECIPE, real.digest, list(encoders), len(control.images), control.key, steps]
        key = hashlib.sha256(json.dumps([*parts, str(torch.__version__)]).encode()).hexdigest()[:16]
        path = cache / "controls" / f"{control.key}_{key}.json"
        row = _kept(path)
        if row is None:
            images = [control.images]
            row = measures.measure_sets(
                spaces(), real, predict, images, members=control.members, validation=control.validation
            )
            if control.tstr:
                row["tstr"] = _tstr(control, real, steps, trainer)
            write_json(path, row)
            row = _kept(path) or row  # as the next assay will read it: an undefined number is None, not NaN
        found.append({"key": control.key, "name": control.name, "kind": "control", **row})
    return found


def _kept(path: Path) -> dict[str, Any] | None:
    try:
        row: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): delete it, it is computed anew") from error
    return row


def _tstr(control: Control, real: Real, steps: int, trainer: performance.Trainer) -> dict[str, Any]:
    """TSTR on a set as small as the validation images: comparable between controls, not with a generator's."""
    order = stratified_order(control.images.labels, 3)
    n = round(TRAIN_SHARE * len(order))
    train, held_out = control.images[order[:n]], control.images[order[n:]]
    task = trainer.train([arms.Arm(f"TSTR: {control.name}", train, held_out, len(real.classes), 0, steps)])[0]
    values = performance.tested(task, real.test, trainer)
    return {name: values[name] for name in ("accuracy", "balanced_accuracy", "auroc")}
