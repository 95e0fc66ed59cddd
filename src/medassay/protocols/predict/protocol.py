"""What a classifier says of any images: probabilities as CSV, and pictures with the heat map of the predicted class."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from medassay.core.errors import ConfigError
from medassay.core.types import NonNegativeInt
from medassay.data.image_files import describe_left_out
from medassay.data.window import Window, check_window
from medassay.evaluation.protocol import ComputeContext, Page, Protocol, Report
from medassay.explain.activation_maps import NAMES, ActivationMaps, Method
from medassay.protocols.predict import given_images
from medassay.protocols.predict.given_images import Unreadable
from medassay.reporting import html
from medassay.reporting.captions import add_captions
from medassay.reporting.heat_maps import place_beside_heat_map
from medassay.reporting.tables import format_csv
from medassay.runs.run import Run
from medassay.tasks.predictions import Classifier, make_unlabelled, predict

logger = logging.getLogger(__name__)

LISTED = 20  # unreadable files named on the terminal; the page and predict.json name all
CHANCES = 3  # classes whose probability stands below an image


@dataclass(frozen=True)
class PredictResults:
    """What was predicted.

    Attributes:
        images: Path of the images.
        size, channels: Shape that the model takes.
        predicted: Number of images given to each class.
        converted: By conversion, the number of images that it was done to.
        left_out: Number of files that are not read, by kind.
    """

    images: str
    size: int
    channels: int
    n: int
    predicted: list[int]
    converted: dict[str, int]
    unreadable: list[Unreadable]
    left_out: dict[str, int]
    method: str
    layer: str | None


class Card(NamedTuple):
    """One image of the page: its name, its most probable classes, and the address of its picture."""

    name: str
    chances: list[tuple[str, float]]
    picture: str


@dataclass(frozen=True)
class Predict(Protocol):
    """What a classifier says of any images.

    Attributes:
        name: Name of the protocol.
        images: An image file, a folder of them at any depth, or an ``.npz``.
        show: Number of images shown with a heat map, at most; the CSV has all.
        method: Method of the heat maps.
        layer: Dotted name of the module that they explain; None for the activation before the last pooling.
        window: Range of the values that are shown of images of more than 8 bits; None takes that of the run's data.
    """

    requires: ClassVar[type] = Classifier
    uses_own_data: ClassVar[bool] = False
    name: str = "predict"
    images: str | None = None
    show: NonNegativeInt = 24
    method: Method = "gradcam"
    layer: str | None = None
    window: Window | None = None

    def run(self, run: Run, context: ComputeContext) -> Report:
        """Predicts the classes of the images named.

        Raises:
            ConfigError: no images named, or no such layer.
            DataError: no image that can be read.
        """
        if self.images is None:
            raise ConfigError(f"protocol.images is missing: protocol.images=<path>; give {given_images.ACCEPTED}")
        assert isinstance(run.task.net, torch.nn.Module)
        data, classes = run.data, run.data.classes
        window = data.source.shown_values if self.window is None else self.window
        check_window(window, given_images.WINDOW_KEY)
        images = given_images.read(self.images, size=data.size, channels=data.channels, window=window)
        probabilities = predict(run.task, make_unlabelled(images.images), context.device).probabilities
        decisions = probabilities.argmax(1)
        shown = images.images[: self.show]
        overlays, layer = torch.zeros(0, 3, data.size, data.size, dtype=torch.uint8), self.layer
        if len(shown):
            maps = ActivationMaps(run.task.net, self.method, self.layer, context.device)
            overlays, layer = (
                place_beside_heat_map(shown, maps.map_class(shown.float() / 255, decisions[: len(shown)])),
                maps.layer,
            )
        results = PredictResults(
            images=self.images,
            size=data.size,
            channels=data.channels,
            n=len(images.images),
            predicted=torch.bincount(decisions, minlength=data.num_classes).tolist(),
            converted=images.converted,
            unreadable=images.unreadable,
            left_out=images.left_out,
            method=NAMES[self.method],
            layer=layer,
        )
        cards = make_cards(images.names, probabilities, overlays, classes)
        table = [
            [name, classes[decision], *map(str, row)]
            for name, decision, row in zip(images.names, decisions.tolist(), probabilities.numpy(), strict=True)
        ]
        files: dict[str, Any] = {"predictions.csv": format_csv(["image", "predicted", *classes], table)}
        if cards:
            captions = [(card.name, "{}  {:.3f}".format(*card.chances[0])) for card in cards]
            files["predictions.png"] = add_captions(overlays, captions, columns=4)
        return Report(
            results,
            verdict=_describe_verdict(results, classes),
            files=files,
            warnings=_warn_of_unreadable(images.unreadable),
            page=Page(Path(__file__).with_name("page.html.j2"), {"cards": cards}),
        )


def make_cards(names: Sequence[str], probabilities: Tensor, overlays: Tensor, classes: Sequence[str]) -> list[Card]:
    """The cards of the first images, as many as there are ``overlays``, images beside their heat maps."""
    cards = []
    for name, row, picture in zip(names, probabilities, overlays, strict=False):  # the first ones only
        order = row.argsort(descending=True, stable=True)[:CHANCES].tolist()
        cards.append(Card(name, [(classes[k], float(row[k])) for k in order], html.embed_picture(picture)))
    return cards


def _describe_verdict(results: PredictResults, classes: Sequence[str]) -> list[str]:
    lines = [f"converted: {what} ({count} of {results.n})" for what, count in results.converted.items()]
    counts = ", ".join(f"{name} {n}" for name, n in zip(classes, results.predicted, strict=True) if n)
    if results.left_out:
        lines.append(f"left out: {describe_left_out(results.left_out)}")
    return [*lines, f"predicted: {counts} ({results.n} in all)"]


def _warn_of_unreadable(unreadable: Sequence[Unreadable]) -> list[str]:
    """Names the images on the terminal; the page's warning says how many they are."""
    missing = len(unreadable)
    for entry in unreadable[:LISTED]:
        logger.warning("not read: %s (%s)", entry.name, entry.reason)
    if missing > LISTED:
        logger.warning("not read: %d more, see predict.json", missing - LISTED)
    count = f"{missing} {'image' if missing == 1 else 'images'} could not be read; see below which."
    return [count] if missing else []
