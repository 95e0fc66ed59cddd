"""The stamps that a shortcut audit tries, the test images that carry them, and what a net answers to each."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medassay.core.errors import ConfigError, DataError
from medassay.core.types import LabelledImages
from medassay.data.stamps import POSITIONS, Stamp, check_stamp
from medassay.protocols.shortcut import measures
from medassay.protocols.shortcut.measures import Numbers
from medassay.tasks.predictions import predict_logits

_STREAM = 2  # of the stamp's seed: 0 and 1 chose training and validation images


def list_stamps(asked: Stamp | None, own: Stamp | None, classes: list[str], size: int) -> list[Stamp]:
    """The stamps to try, each with a class index for its label.

    Args:
        asked: Stamp of the settings.
        own: Stamp that the run was trained with.
        classes, size: Names by label, and pixels a side.

    Raises:
        ConfigError: a stamp that does not fit the data.
    """
    if asked is not None:
        asked.refuse_unused("protocol.stamp")
    stamp = (asked if asked is not None and asked.active else None) or own or choose_usual_stamp(size)
    labels = range(len(classes)) if stamp.label is None else [stamp.class_index(classes, "protocol.stamp")]
    stamps = [stamp.with_class(label) for label in labels]
    for each in stamps:
        check_stamp(each, classes, size, "protocol.stamp")
    return stamps


def choose_usual_stamp(size: int) -> Stamp:
    """What is tried where nothing is asked for: a date, or a square where ``size`` pixels a side are too few for a date."""
    date = Stamp(kind="date")
    try:
        date.ink(size)
    except ConfigError:
        return Stamp(kind="square")
    return date


def has_both_sides(stamp: Stamp, split: LabelledImages) -> bool:
    """Whether there are images of the stamp's class, and of others."""
    own = split.labels == torch.tensor(stamp.label)
    return bool(own.any()) and not bool(own.all())


def stamp_as_trained(own: Stamp | None, split: LabelledImages, classes: list[str]) -> Tensor:
    """The test images as the training images were: with the run's ``own`` stamp, the same share of its class; else plain."""
    if own is None:
        return split.images
    stamp = own.with_class(own.class_index(classes))
    return stamp(split.images, stamp.choose_carriers(split.labels, classes, _STREAM))[0]


def stamp_images(stamp: Stamp, split: LabelledImages, classes: list[str]) -> dict[str, Tensor]:
    """The test images in every way they are looked at: ``{name: (N, C, H, W) uint8}``.

    ``as_trained`` carries the stamp as the training images did, the same share of the class; so do the ``moved_…`` ones, in
    another corner. In ``other_classes`` every image of the other classes carries it, and none of the class.
    """
    assert isinstance(stamp.label, int)
    carriers = stamp.choose_carriers(split.labels, classes, _STREAM)
    return {
        "clean": split.images,
        "as_trained": stamp(split.images, carriers)[0],
        **{
            f"moved_{corner}": stamp.move_to(corner)(split.images, carriers)[0]
            for corner in POSITIONS
            if corner != stamp.position
        },
        "other_classes": stamp(split.images, split.labels != stamp.label)[0],
    }


def evaluate_stamp(
    task: nn.Module, stamp: Stamp, split: LabelledImages, classes: list[str], device: torch.device
) -> Numbers:
    """All numbers of one stamp on one class, but for heat maps.

    Raises:
        DataError: the test images hold none of the class, or of the others.
    """
    label = stamp.label
    assert isinstance(label, int)
    own = split.labels == label
    if not has_both_sides(stamp, split):
        raise DataError(
            f"protocol=shortcut: of {len(own)} test images {int(own.sum())} are {classes[label]}, and others are needed, too; "
            f"give more images, or another class with protocol.stamp.kind={stamp.kind} protocol.stamp.label=<class>"
        )
    stamped_images = stamp_images(stamp, split, classes)
    scores = {name: predict_logits(task, images, device) for name, images in stamped_images.items()}
    predicted = {name: logits.argmax(1) for name, logits in scores.items()}
    clean, other = (measures.log_odds(scores[name], label) for name in ("clean", "other_classes"))
    moved = (predicted["other_classes"] == label).double() - (predicted["clean"] == label).double()
    return Numbers(
        stamp=stamp.provenance(),
        described=str(stamp),
        label=label,
        class_name=classes[label],
        n={"class": int(own.sum()), "others": int((~own).sum())},
        conditions={name: measures.estimate_rates(guess, split.labels, label) for name, guess in predicted.items()},
        drawn_over=measures.estimate_shares({"difference": (moved, ~own)})["difference"],
        outranks=measures.measure_outranking(other[~own], clean[own]),
        outranks_clean=measures.measure_outranking(clean[~own], clean[own]),
        odds={"class": clean[own].tolist(), "others": clean[~own].tolist(), "others_stamped": other[~own].tolist()},
    )
