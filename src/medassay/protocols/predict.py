"""What a classifier says of any images: probabilities as CSV, and pictures with the heat map of the predicted class."""

from __future__ import annotations

import csv
import io
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from medassay.core.errors import ConfigError
from medassay.core.files import whole, write_json
from medassay.core.types import LabelledImages, NonNegativeInt
from medassay.explain.activation_maps import NAMES, ActivationMaps, Method
from medassay.protocols import given_images, pages
from medassay.protocols.classification import predict
from medassay.protocols.given_images import GivenImages
from medassay.reporting import figures, html
from medassay.reporting.classification_figures import address, beside_heat_map, captioned
from medassay.runs.directory import environment
from medassay.runs.load import Run, device_for

logger = logging.getLogger(__name__)

LISTED = 20  # unreadable files named on the terminal; the page and predict.json name all
CHANCES = 3  # classes whose probability stands below an image


@dataclass(frozen=True)
class PredictSettings:
    """What to predict, and what to show of it.

    Attributes:
        name: of the protocol.
        images: an image file, a folder of them at any depth, or an ``.npz``.
        show: images shown with a heat map, at most; the CSV has all.
        method: of the heat maps.
        layer: dotted name of the module that they explain; None for the activation before the last pooling.
    """

    name: Literal["predict"] = "predict"
    images: str | None = None
    show: NonNegativeInt = 24
    method: Method = "gradcam"
    layer: str | None = None


def predict_run(run: Run, settings: PredictSettings, directory: Path, record: dict[str, Any], outputs: Path) -> None:
    """Leaves ``predictions.csv``, ``predict.json``, ``predictions.png`` and ``report.html`` in ``directory``.

    Raises:
        ConfigError: no images named, or no such layer.
        DataError: no image that can be read.
        OutputError: a file cannot be written.
    """
    if settings.images is None:
        raise ConfigError(f"protocol.images is missing: protocol.images=<path>; give {given_images.ACCEPTED}")
    data, device = run.data, device_for(run.settings)
    given = given_images.read(settings.images, size=data.size, channels=data.channels)
    images = given.images
    unlabelled = LabelledImages(images, torch.zeros(len(images), dtype=torch.int64))
    probabilities = predict(run.task, unlabelled, device).probabilities
    decisions = probabilities.argmax(1)
    shown = images[: settings.show]
    overlays, layer = torch.zeros(0, 3, data.size, data.size, dtype=torch.uint8), settings.layer
    if len(shown):
        maps = ActivationMaps(cast(nn.Module, run.task.net), settings.method, settings.layer, device)
        overlays, layer = beside_heat_map(shown, maps.of(shown.float() / 255, decisions[: len(shown)])), maps.layer
    found = {
        **record,
        "name": run.directory.path.resolve().name,
        "model": run.config["model"]["name"],
        "seed": run.config["seed"],
        "data": run.directory.record().get("data") or {"name": data.name},
        "classes": data.classes,
        "images": settings.images,
        "size": data.size,
        "channels": data.channels,
        "n": len(images),
        "predicted": torch.bincount(decisions, minlength=data.num_classes).tolist(),
        "converted": given.converted(),
        "unreadable": [{"name": name, "reason": reason} for name, reason in given.unreadable],
        "left_out": dict(given.left_out),
        "method": NAMES[settings.method],
        "layer": layer,
        "environment": environment(),
    }
    write_json(directory / "predict.json", found)
    with whole(directory / "predictions.csv") as partial:
        partial.write_text(table(given.names, probabilities, data.classes), encoding="utf-8", newline="")
    _leave_pictures(directory, found, given, probabilities, overlays)
    _say(found, directory)


def table(names: list[str], probabilities: Tensor, classes: list[str]) -> str:
    """CSV: the image, the predicted class, and one probability per class, named by it.

    Args:
        names: N, of the images.
        probabilities: ``(N, K) float32``.
        classes: K names.
    """
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(["image", "predicted", *classes])
    decisions = probabilities.argmax(1).tolist()
    for name, decision, row in zip(names, decisions, probabilities.numpy(), strict=True):
        writer.writerow([name, classes[decision], *map(str, row)])
    return written.getvalue()


def _leave_pictures(
    directory: Path, found: dict[str, Any], given: GivenImages, probabilities: Tensor, overlays: Tensor
) -> None:
    """The picture sheet and the page; ``overlays (S, 3, H, W) uint8`` are the first images beside their heat maps."""
    classes = found["classes"]
    cards: list[dict[str, Any]] = []
    for name, row, picture in zip(given.names, probabilities, overlays, strict=False):  # the first ones only
        order = row.argsort(descending=True, stable=True)[:CHANCES].tolist()
        chances = [(classes[index], float(row[index])) for index in order]
        cards.append({"name": name, "chances": chances, "picture": address(picture)})
    if cards:
        captions = [(card["name"], f"{card['chances'][0][0]}  {card['chances'][0][1]:.3f}") for card in cards]
        figures.save(captioned(overlays, captions, columns=4), directory / "predictions.png")
    with whole(directory / "report.html") as partial:
        partial.write_text(_page(found, cards), encoding="utf-8", newline="\n")


def _page(found: dict[str, Any], cards: list[dict[str, Any]]) -> str:
    learnt = None
    if found["data"].get("real", found["data"]).get("phantom"):
        learnt = "The model learnt from rendered phantoms, not real images: what it says of real images means nothing."
    missing = None
    if count := len(found["unreadable"]):
        missing = f"{count} {'image' if count == 1 else 'images'} could not be read; see below which."
    return html.page(
        "predict.html.j2",
        found=found,
        cards=cards,
        warnings=pages.said(learnt, missing, pages.unfinished(found)),
        command=pages.command(found),
        environment=dict(pages.flat(found["environment"])),
        data=dict(pages.flat(found["data"])),
    )


def _say(found: dict[str, Any], directory: Path) -> None:
    for entry in found["unreadable"][:LISTED]:
        logger.warning("not read: %s (%s)", entry["name"], entry["reason"])
    if (more := len(found["unreadable"]) - LISTED) > 0:
        logger.warning("not read: %d more, see %s", more, directory / "predict.json")
    for what, count in found["converted"].items():
        logger.info("converted: %s (%d of %d)", what, count, found["n"])
    counts = ", ".join(f"{name} {n}" for name, n in zip(found["classes"], found["predicted"], strict=True) if n)
    logger.info("predicted: %s (%d in all); %s", counts, found["n"], directory / "predictions.csv")
