"""What a run says of any images: a classifier's probabilities with heat maps, or the masks of a run that segments images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from medassay.core.errors import ConfigError
from medassay.core.types import NonNegativeInt, Segmenter
from medassay.data.classes import describe_counts, list_likeliest
from medassay.data.image_files import describe_left_out
from medassay.data.window import Window, check_window
from medassay.evaluation.protocol import ComputeContext, Page, Protocol, Report
from medassay.explain.activation_maps import NAMES, ActivationMaps, Method, has_feature_maps
from medassay.protocols.predict import given_images
from medassay.protocols.predict.masks import segment_given_images
from medassay.protocols.predict.reading import Unreadable, warn_of_unreadable
from medassay.reporting import html
from medassay.reporting.captions import add_captions
from medassay.reporting.heat_maps import place_beside_heat_map
from medassay.reporting.tables import format_csv
from medassay.runs.run import Run
from medassay.tasks.predictions import Classifier, make_unlabelled, predict

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
        method, layer: Of the heat maps; None where the net has no feature maps to make them of.
    """

    images: str
    size: int
    channels: int
    n: int
    predicted: list[int]
    converted: dict[str, int]
    unreadable: list[Unreadable]
    left_out: dict[str, int]
    method: str | None
    layer: str | None


class Card(NamedTuple):
    """One image of the page: its name, its most probable classes, and the address of its picture."""

    name: str
    chances: list[tuple[str, float]]
    picture: str


@dataclass(frozen=True)
class Predict(Protocol):
    """What a classifier says of any images, or the masks of a run that segments images.

    Attributes:
        name: Name of the protocol.
        images: An image file, a folder of them at any depth, or an ``.npz``.
        show: Number of images shown, of a classifier with a heat map, at most; the CSV has all.
        method: Method of a classifier's heat maps.
        layer: Dotted name of the module that they explain; None for the activation before the last pooling.
        window: Range of the values that are shown of images of more than 8 bits; None takes that of the run's data.
    """

    requires: ClassVar[type | UnionType] = Classifier | Segmenter
    uses_own_data: ClassVar[bool] = False
    name: str = "predict"
    images: str | None = None
    show: NonNegativeInt = 24
    method: Method = "gradcam"
    layer: str | None = None
    window: Window | None = None

    def run(self, run: Run, context: ComputeContext) -> Report:
        """Predicts the classes of the images named, or of their pixels.

        Raises:
            ConfigError: no images named, no such layer, or heat maps asked of a run that segments images.
            DataError: no image that can be read.
        """
        if self.images is None:
            raise ConfigError(f"protocol.images is missing: protocol.images=<path>; give {given_images.ACCEPTED}")
        if isinstance(run.task, Segmenter):
            self._refuse_heat_maps("this run segments images")
            return segment_given_images(self.images, run, context, show=self.show, window=self.window)
        return self._classify(self.images, run, context)

    def _refuse_heat_maps(self, reason: str) -> None:
        """Raises :class:`ConfigError` where a setting of heat maps was changed."""
        for key, value, default in (("method", self.method, Predict.method), ("layer", self.layer, Predict.layer)):
            if value != default:
                raise ConfigError(
                    f"protocol.{key}={value} is for the heat maps of classifiers, and {reason}: leave it out"
                )

    def _classify(self, path: str, run: Run, context: ComputeContext) -> Report:
        assert isinstance(run.task.net, torch.nn.Module)
        if not (has_maps := has_feature_maps(run.task.net)):
            self._refuse_heat_maps(f"the net is a {type(run.task.net).__name__}, which has no feature maps")
        data, classes = run.data, run.data.classes
        window = data.source.shown_values if self.window is None else self.window
        check_window(window, given_images.WINDOW_KEY)
        images = given_images.read(path, size=data.size, channels=data.channels, window=window)
        probabilities = predict(run.task, make_unlabelled(images.images), context.device).probabilities
        decisions = probabilities.argmax(1)
        shown = images.images[: self.show]
        pictures, layer = self._explain(run.task.net, shown, decisions[: len(shown)], context.device)
        results = PredictResults(
            images=path,
            size=data.size,
            channels=data.channels,
            n=len(images.images),
            predicted=torch.bincount(decisions, minlength=data.num_classes).tolist(),
            converted=images.converted,
            unreadable=images.unreadable,
            left_out=images.left_out,
            method=NAMES[self.method] if has_maps else None,
            layer=layer,
        )
        cards = make_cards(images.names, probabilities, pictures, classes)
        table = [
            [name, classes[decision], *map(str, row)]
            for name, decision, row in zip(images.names, decisions.tolist(), probabilities.numpy(), strict=True)
        ]
        files: dict[str, Any] = {"predictions.csv": format_csv(["image", "predicted", *classes], table)}
        if cards:
            captions = [(card.name, "{}  {:.3f}".format(*card.chances[0])) for card in cards]
            files["predictions.png"] = add_captions(pictures, captions, columns=4 if has_maps else 8)
        return Report(
            results,
            verdict=_describe_verdict(results, classes),
            files=files,
            warnings=warn_of_unreadable(images.unreadable),
            page=Page(Path(__file__).with_name("page.html.j2"), {"cards": cards}),
        )

    def _explain(
        self, net: torch.nn.Module, images: Tensor, decisions: Tensor, device: torch.device
    ) -> tuple[Tensor, str | None]:
        """Images ``(N, 3, H, W) uint8`` beside their heat maps, or alone where there are none; and the layer of the maps."""
        if not len(images) or not has_feature_maps(net):
            return images.expand(-1, 3, -1, -1), self.layer
        maps = ActivationMaps(net, self.method, self.layer, device)
        return place_beside_heat_map(images, maps.map_class(images.float() / 255, decisions)), maps.layer


def make_cards(names: Sequence[str], probabilities: Tensor, pictures: Tensor, classes: Sequence[str]) -> list[Card]:
    """The cards of the first images, as many as there are ``pictures``: images, beside their heat maps where there are any."""
    cards = []
    for name, row, picture in zip(names, probabilities, pictures, strict=False):  # the first ones only
        cards.append(Card(name, list_likeliest(row.tolist(), classes, CHANCES), html.embed_picture(picture)))
    return cards


def _describe_verdict(results: PredictResults, classes: Sequence[str]) -> list[str]:
    lines = [f"converted: {what} ({count} of {results.n})" for what, count in results.converted.items()]
    there = [(name, n) for name, n in zip(classes, results.predicted, strict=True) if n]
    counts = describe_counts([name for name, _ in there], [n for _, n in there])
    if results.left_out:
        lines.append(f"left out: {describe_left_out(results.left_out)}")
    return [*lines, f"predicted: {counts} ({results.n} in all)"]
