"""The shortcut audit: stamps put on, taken off and moved, on test images; and the verdict."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from medassay.core.errors import ConfigError, DataError
from medassay.core.types import LabelledImages, NonNegativeInt, PositiveInt, Range
from medassay.data.modules import stratified_order
from medassay.data.stamps import POSITIONS, Stamp, fitting
from medassay.explain.activation_maps import ActivationMaps, Method
from medassay.protocols.shortcut import measures, verdict
from medassay.protocols.shortcut.report import Shown, write
from medassay.runs.load import Run, device_for

logger = logging.getLogger(__name__)

_STREAM = 2  # of the stamp's seed: 0 and 1 chose training and validation images


@dataclass(frozen=True)
class ShortcutSettings:
    """What to try.

    Attributes:
        name: of the protocol.
        stamp: what to put on; None, or of kind ``none``, for the run's own stamp, or a date on each class in turn where it
            has none. A stamp without a label is tried on each class.
        method: whose heat maps.
        heat_maps: images of each group that heat maps are made of, at most.
        shown: images of each group in the report.
        colormaps: matplotlib's names, for views of plain images.
        seed: of the choice of these images.
    """

    name: Literal["shortcut"] = "shortcut"
    stamp: Stamp | None = None
    method: Method = "gradcam"
    heat_maps: PositiveInt = 200
    shown: Annotated[int, Range(ge=1, le=12)] = 6
    colormaps: list[str] = dataclasses.field(default_factory=lambda: ["gray", "jet", "summer", "flag", "rainbow"])
    seed: NonNegativeInt = 0

    def __post_init__(self) -> None:
        from matplotlib import colormaps

        for name in self.colormaps:
            if name not in colormaps:
                raise ConfigError(
                    f"protocol.colormaps: matplotlib has no {name!r}; e.g. gray, jet, summer, flag, rainbow"
                )


def trials(settings: ShortcutSettings, own: Stamp | None, classes: list[str], size: int) -> list[Stamp]:
    """The stamps to try, each with a class index for its label.

    Args:
        settings: of the audit.
        own: what the run was trained with.
        classes: by index.
        size: pixels a side.

    Raises:
        ConfigError: a stamp that does not fit the data.
    """
    given = settings.stamp if settings.stamp is not None and settings.stamp.active else None
    stamp = given or own or Stamp(kind="date")
    labels = range(len(classes)) if stamp.label is None else [stamp.class_index(classes, "protocol.stamp")]
    found = [stamp.of_class(label) for label in labels]
    for each in found:
        fitting(each, classes, size, "protocol.stamp")
    return found


def conditions(stamp: Stamp, split: LabelledImages, classes: list[str]) -> dict[str, Tensor]:
    """The test images in every way they are looked at: ``{name: (N, C, H, W) uint8}``.

    ``as_trained`` carries the stamp as the training images did, the same share of the class; so do the ``moved_…`` ones, in
    another corner. In ``other_classes`` every image of the other classes carries it, and none of the class.
    """
    assert isinstance(stamp.label, int)
    carriers = stamp.carriers(split.labels, classes, _STREAM)
    moved = {
        f"moved_{corner}": stamp.at(corner)(split.images, carriers)[0]
        for corner in POSITIONS
        if corner != stamp.position
    }
    return {
        "clean": split.images,
        "as_trained": stamp(split.images, carriers)[0],
        **moved,
        "other_classes": stamp(split.images, split.labels != stamp.label)[0],
    }


def tried(task: nn.Module, stamp: Stamp, split: LabelledImages, classes: list[str], device: torch.device) -> Any:
    """All numbers of one stamp on one class, but for heat maps.

    Raises:
        DataError: the test images hold none of the class, or of the others.
    """
    label = stamp.label
    assert isinstance(label, int)
    own = split.labels == label
    if own.all() or not own.any():
        raise DataError(
            f"protocol=shortcut: of {len(own)} test images {int(own.sum())} are {classes[label]}, and both sides are needed; "
            "give more images, or another class with protocol.stamp.label"
        )
    found = {name: measures.logits(task, images, device) for name, images in conditions(stamp, split, classes).items()}
    predicted = {name: scores.argmax(1) for name, scores in found.items()}
    odds = {name: measures.log_odds(found[name], label) for name in ("clean", "other_classes")}
    moved = (predicted["other_classes"] == label).double() - (predicted["clean"] == label).double()
    return {
        "stamp": stamp.provenance(),
        "described": str(stamp),
        "label": label,
        "class": classes[label],
        "n": {"class": int(own.sum()), "others": int((~own).sum())},
        "conditions": {name: measures.rates(guess, split.labels, label) for name, guess in predicted.items()},
        "drawn_over": measures.shares({"difference": (moved, ~own)})["difference"],
        "outranks": measures.outranking(odds["other_classes"][~own], odds["clean"][own]),
        "outranks_clean": measures.outranking(odds["clean"][~own], odds["clean"][own]),
        "odds": {
            "class": odds["clean"][own].tolist(),
            "others": odds["clean"][~own].tolist(),
            "others_stamped": odds["other_classes"][~own].tolist(),
        },
    }


def heat(
    maps: ActivationMaps, stamp: Stamp, split: LabelledImages, settings: ShortcutSettings
) -> tuple[dict[str, Any], dict[str, Shown]]:
    """Where the class's heat maps lie, with the stamp and without, for the class's images and the others'; and pictures."""
    label = stamp.label
    assert isinstance(label, int)
    box = stamp.box(split.images.shape[-1])
    area = float(box.double().mean())
    numbers: dict[str, Any] = {"method": maps.method, "layer": maps.layer, "area": area}
    pictures = {}
    for group, members in (("class", split.labels == label), ("others", split.labels != label)):
        some = split[members]
        some = some[stratified_order(some.labels, settings.seed)[: settings.heat_maps]]
        stamped, _ = stamp(some.images)
        without, with_stamp = (maps(images.float() / 255, [label])[:, 0] for images in (some.images, stamped))
        all_of_them = torch.ones(len(some), dtype=torch.bool)
        energy = measures.shares(
            {
                "energy": (measures.inside(with_stamp, box), all_of_them),
                "energy_clean": (measures.inside(without, box), all_of_them),
            }
        )
        relative = {name: value / area for name, value in energy["energy"].items()}
        numbers[group] = {"n": len(some), **energy, "relative": relative}
        first = slice(0, settings.shown)
        pictures[group] = Shown(some.images[first], without[first], stamped[first], with_stamp[first])
    return numbers, pictures


def shortcut_run(run: Run, settings: ShortcutSettings, directory: Path, record: dict[str, Any], outputs: Path) -> None:
    """Audits a classifier's finished run and leaves numbers, pictures and a report in ``directory``.

    Raises:
        ConfigError: a stamp that does not fit the data.
        DataError: classes without test images.
    """
    data, device = run.data, device_for(run.settings)
    split = data.split("test")
    if run.settings.limit_batches is not None:
        split = split[: run.settings.limit_batches * data.batch_size]
    task, net = run.task, run.task.net
    assert isinstance(net, nn.Module)
    maps = ActivationMaps(net, settings.method, device=device)
    own = data.stamp
    found, pictures = [], []
    for stamp in trials(settings, own, data.classes, data.size):
        numbers = tried(task, stamp, split, data.classes, device)
        numbers["own"] = own is not None and stamp == own.of_class(own.class_index(data.classes))
        numbers["heat"], shown = heat(maps, stamp, split, settings)
        numbers |= verdict.judged(numbers)
        found.append(numbers)
        pictures.append(shown)
    results = {
        **record,
        "model": run.config["model"]["name"],
        "data": run.directory.record().get("data") or {"name": data.name},
        "classes": data.classes,
        "n": len(split),
        "split": "test",
        "trained_with": None
        if own is None
        else f"{own}, on {own.share:.0%} of {data.classes[own.class_index(data.classes)]}",
        "rule": verdict.RULE,
        **verdict.overall(found),
        "trials": found,
    }
    write(directory, results, pictures, settings.colormaps)
    logger.info("shortcut: %s", results["verdict"])
