"""The floor and the controls: sets of images whose quality is known, in the same table as the generator.

The floor is real validation images, the best that a generator can be at this number of samples. The controls are copies of
training images, the same with noise, the same turned and mirrored, the floor without its largest class, and the floor with
shuffled labels.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medassay.core.errors import CheckpointError, DataError
from medassay.core.files import read_cached, read_checked_json, write_checked_json
from medassay.core.results import from_json, to_json
from medassay.core.types import LabelledImages
from medassay.data.order import make_stratified_order
from medassay.data.symmetries import apply_symmetries, list_turns
from medassay.evaluation import arms
from medassay.metrics.neighbours import MANIFOLD_K
from medassay.protocols.assay import measures
from medassay.protocols.assay.measures import Yardstick
from medassay.protocols.assay.performance import Trainer
from medassay.protocols.assay.results import SCORES, Row, Scores
from medassay.protocols.assay.subjects import Real, Subject, choose_in_proportion
from medassay.tasks.classification import Classification

logger = logging.getLogger(__name__)

NOISE = 0.05  # standard deviation of the noise on copies, in units of the full range
TRAIN_SHARE = 0.8  # of the validation images, for TSTR on the floor and on shuffled labels; the rest chooses the epoch


@dataclass(frozen=True)
class Control(Subject):
    """A set of images of known quality, with the labels it claims; ``tstr``: whether a classifier is trained on it too."""

    tstr: bool = False


def make_floor(real: Real, m: int, scarce: str | None = None) -> Control:
    """The floor: ``m`` real validation images; ``scarce`` is the class that there are too few samples of for more, if any is.

    Raises:
        DataError: Neighbours of so few would mean nothing.
    """
    chosen = choose_in_proportion(real.val.labels, m)
    if not _are_enough(real, chosen):
        more = "more samples" if scarce is None else f"more samples of {scarce}"
        raise DataError(f"an assay that compares {m} images finds too few neighbours among them: give {more}")
    return Control("floor", "real validation images (floor)", "floor", real.val, [chosen], tstr=True)


def make_controls(real: Real, m: int) -> list[Control]:
    """All controls but the floor, for a table of ``m`` images a row; those that would be too small are left out aloud."""
    chosen = make_stratified_order(real.unique.labels, 2)[:m].sort().values
    copied, indices = real.unique[chosen], choose_in_proportion(real.val.labels, m)
    rng = torch.Generator().manual_seed(0)
    noise = NOISE * torch.randn(copied.images.shape, generator=rng)
    noisy = (copied.images / 255 + noise).clamp(0, 1).mul(255).round().to(torch.uint8)
    turns = list_turns()
    turned = apply_symmetries(copied.images, turns[torch.arange(len(copied)) % len(turns)])
    labels = real.val.labels[indices]
    largest = int(torch.bincount(labels, minlength=len(real.classes)).argmax())
    remaining = indices[labels != largest]
    fewer = indices[choose_in_proportion(labels, len(remaining))]
    shuffled = real.val.labels.clone()
    shuffled[indices] = labels[torch.randperm(len(labels), generator=rng)]
    without, mislabelled = f"floor without {real.classes[largest]}", LabelledImages(real.val.images, shuffled)
    smaller = [
        Control("without_class", without, "control", real.val, [remaining]),
        Control("floor_same_m", f"floor, {len(fewer)} images", "control", real.val, [fewer]),
    ]
    if not all(_are_enough(real, one.sets[0]) for one in smaller):
        logger.warning(
            "the control “%s” is left out: its %d images are too few for neighbours", without, len(remaining)
        )
        smaller = []
    return [
        Control("copies", "copies of training images", "control", real.unique, [chosen], chosen),
        *(
            Control(key, name, "control", LabelledImages(images, copied.labels), [torch.arange(len(images))], chosen)
            for key, name, images in (
                ("noisy_copies", "training images + noise", noisy),
                ("turned_copies", "training images, turned", turned),
            )
        ),
        *smaller,
        Control("shuffled_labels", "floor with shuffled labels", "control", mislabelled, [indices], tstr=True),
    ]


def _are_enough(real: Real, chosen: Tensor) -> bool:
    """Whether the part of validation images that plays a generator where copying is looked for has neighbours of its own."""
    return int(torch.isin(chosen, real.halves[0]).sum()) > MANIFOLD_K


class KeptControls:
    """The rows of controls in a folder, kept per data set, so that they are measured once, and anew where one is damaged.

    Args:
        chosen: The controls of a table, in its order.
        yardstick: What they are measured with.
        trainer: What trains classifiers on them; its cache is where rows are kept.
        steps: Number of steps of each classifier.
    """

    def __init__(self, chosen: Sequence[Control], yardstick: Yardstick, trainer: Trainer, steps: int) -> None:
        self.chosen, self.real, self.trainer, self.steps = chosen, yardstick.real, trainer, steps
        encoders = [f"{encoder.name}: {encoder.description}" for encoder in yardstick.encoders]
        weights = digest_weights(yardstick.task)  # trained anew on another machine, it is another encoder
        self._shared = [measures.VERSION, arms.RECIPE, yardstick.real.digest, encoders, weights]
        self._rows = {control.key: read_cached(self._place(control), _reader(control)) for control in chosen}

    @property
    def missing(self) -> list[Control]:
        """The controls that have to be measured."""
        return [control for control in self.chosen if self._rows[control.key] is None]

    def complete(self, measured: Sequence[Row]) -> list[Row]:
        """Keeps the rows ``measured`` of the missing controls, after training on some of them; gives the rows of all."""
        scores = _train_on([control for control in self.missing if control.tstr], self.real, self.trainer, self.steps)
        for control, row in zip(self.missing, measured, strict=True):
            path = self._place(control)
            write_checked_json(path, to_json(replace(row, tstr=scores.get(control.key))))
            self._rows[control.key] = _reader(control)(path)
        return [row for row in self._rows.values() if row is not None]

    def _place(self, control: Control) -> Path:
        images = hashlib.sha256(control.sets[0].numpy().tobytes()).hexdigest()
        parts = [*self._shared, images, control.key, self.steps]
        key = hashlib.sha256(json.dumps([*parts, str(torch.__version__)]).encode()).hexdigest()[:16]
        return self.trainer.context.cache / "controls" / f"{control.key}_{key}.json"


def _reader(control: Control) -> Callable[[Path], Row]:
    """Reads a control's row with the names that it has now."""
    named = {"key": control.key, "name": control.name, "kind": control.kind, "faults": []}
    return functools.partial(_read_row, named=named)


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


def _train_on(chosen: Sequence[Control], real: Real, trainer: Trainer, steps: int) -> dict[str, Scores]:
    """TSTR on sets as small as the validation images, by control: comparable with each other, not with a generator's."""
    trained: dict[str, arms.Arm] = {}
    for control in chosen:
        images = control.images
        parts = split_for_training(images.labels)
        if parts is None:
            logger.warning(
                "no classifier is trained on “%s”: too few of its images are of a second class", control.name
            )
            continue
        train, held_out = (images[part] for part in parts)
        trained[control.key] = arms.Arm(f"TSTR: {control.name}", train, held_out, len(real.classes), 0, steps)
    tested = [trainer.test(task, real.test) for task in trainer.train([*trained.values()])] if trained else []
    return {key: Scores(*(metrics[name] for name in SCORES)) for key, metrics in zip(trained, tested, strict=True)}


def digest_weights(task: Classification) -> str:
    """16 hexadecimal digits of all weights of a classifier, wherever it was trained."""
    total = hashlib.sha256()
    for value in task.state_dict().values():
        total.update(value.cpu().contiguous().numpy().tobytes())
    return total.hexdigest()[:16]


def split_for_training(labels: Tensor) -> tuple[Tensor, Tensor] | None:
    """Indices of the images to learn from, and of those that choose the epoch, which must be of two classes at least.

    Where these would be of one, an image of each other class is taken from the rest; None where there are too few.
    """
    order = make_stratified_order(labels, 3)
    n = round(TRAIN_SHARE * len(order))
    train, held_out = order[:n], order[n:]
    if len(set(labels[held_out].tolist())) < 2:
        known = sorted(set(labels.tolist()))
        spare = [members[-1:] for label in known if len(members := train[labels[train] == label]) > 1]
        moved = torch.cat([held_out[:0], *spare])
        train, held_out = train[~torch.isin(train, moved)], torch.cat([held_out, moved])
    return (train, held_out) if len(set(labels[held_out].tolist())) > 1 else None
