"""Heat maps of chosen images for every class, one of them step by step, and how far each method can be trusted."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from matplotlib import colormaps
from torch import Tensor

from medassay.core.errors import ConfigError, nearest
from medassay.core.types import LabelledImages, NonNegativeInt, PositiveInt, Range
from medassay.data.order import stratified_order
from medassay.explain.activation_maps import METHODS, ActivationMaps, Method, Steps, grad_cam_steps, layer_name
from medassay.protocols.classification import Predictions, images_of, predict
from medassay.protocols.gradcam.report import overall, write
from medassay.protocols.gradcam.scores import Subject, scores
from medassay.runs.load import Run, device_for
from medassay.tasks.classification import Classification

logger = logging.getLogger(__name__)

Select = Literal["random", "confident", "wrong"]


@dataclass(frozen=True)
class GradcamSettings:
    """Which images to explain, how, and how to show it.

    Attributes:
        name: of the protocol.
        split: the images to choose from.
        select: ``random``; ``confident``: those whose predicted class is most probable; ``wrong``: the misclassified ones, the
            most confident first.
        n: how many.
        seed: of the random choice, and of the choice of images to score.
        indices: images of the split by position, from 0, instead of ``select``.
        methods: whose heat maps are shown.
        layer: dotted name of the module whose output the maps are made of; None for the activation before the last pooling.
        colormap: matplotlib's name of the colours.
        opacity: of the heat map over the image.
        strip: which of the shown images is explained step by step, from 0; None for none.
        scores: whether to score methods.
        score_methods: which.
        score_images: on how many images of the split, classes in proportion, at most.
        randomisations: nets with random weights in the sanity check.
    """

    name: Literal["gradcam"] = "gradcam"
    split: Literal["test", "val"] = "test"
    select: Select = "random"
    n: PositiveInt = 10
    seed: NonNegativeInt = 0
    indices: list[NonNegativeInt] | None = None
    methods: list[Method] = field(default_factory=lambda: ["gradcam"])
    layer: str | None = None
    colormap: str = "jet"
    opacity: Annotated[float, Range(ge=0, le=1)] = 0.45
    strip: NonNegativeInt | None = 0
    scores: bool = True
    score_methods: list[Method] = field(default_factory=lambda: list(METHODS))
    score_images: PositiveInt = 200
    randomisations: PositiveInt = 3

    def __post_init__(self) -> None:
        if self.colormap not in colormaps:
            raise ConfigError(
                f"protocol.colormap={self.colormap}: matplotlib has no such colours.{nearest(self.colormap, colormaps)} "
                "Common ones: jet, viridis, inferno, turbo, hot"
            )
        for key in ("methods", "score_methods"):
            if not getattr(self, key):
                advice = " or protocol.scores=false" if key == "score_methods" else ""
                raise ConfigError(f"protocol.{key}=[]: name at least one of {', '.join(METHODS)}{advice}")


class Shown(NamedTuple):
    """What the heat maps of the chosen images are drawn from.

    Attributes:
        images: ``(n, C, H, W) uint8``.
        maps: of each method, ``(n, K, H, W) float32 in [0, 1]``.
        strip: the place of the image explained step by step and its steps, or None.
    """

    images: Tensor
    maps: dict[Method, Tensor]
    strip: tuple[int, Steps] | None


def gradcam_run(run: Run, settings: GradcamSettings, directory: Path, record: dict[str, Any], outputs: Path) -> None:
    """Heat maps and scores of a classifier's finished run, written by :func:`medassay.protocols.gradcam.report.write`.

    Raises:
        ConfigError: a layer, an image or a mistake that there is not.
        OutputError: a file cannot be written.
    """
    assert isinstance(run.task, Classification)
    net, device = run.task.net, device_for(run.settings)
    layer = layer_name(net, settings.layer)
    split = images_of(run.data, settings.split, run.settings)
    predictions = predict(run.task, split, device)
    chosen = choose(predictions, settings)
    shown = heat_maps(run.task, split[chosen], predictions.probabilities[chosen], settings, device)
    results: dict[str, Any] = {
        **record,
        "name": run.data.name,
        "model": run.config["model"]["name"],
        "classes": run.data.classes,
        "split": settings.split,
        "data": run.data.provenance(),
        "layer": layer_facts(run.task, layer, split),
        "selection": said(settings, len(chosen), len(split)),
        "images": described(chosen, predictions),
        "methods": settings.methods,
        "scores": None,
    }
    if settings.scores:
        grid = results["layer"]["height"], results["layer"]["width"]
        subject = subject_of(run.task, split, predictions, settings, device, grid)
        results["scores"] = scores(
            subject, run.data.classes, settings.score_methods, settings.layer, settings.randomisations
        )
    write(directory, results, shown, settings.colormap, settings.opacity)
    logger.info("%s", overall(results))


# --- which images ----------------------------------------------------------------------------------------------------


def choose(predictions: Predictions, settings: GradcamSettings) -> Tensor:
    """The positions of the images to show, ``(n,) int64``; at most as many as there are.

    Raises:
        ConfigError: a position outside the split, none at all, or mistakes of a classifier that makes none.
    """
    total = len(predictions.labels)
    if settings.indices is not None:
        outside = [index for index in settings.indices if index >= total]
        if outside or not settings.indices:
            raise ConfigError(
                f"protocol.indices={settings.indices}: give positions from 0 to {total - 1} of the {settings.split} split"
            )
        return torch.tensor(settings.indices)
    confidence, predicted = predictions.probabilities.max(1)
    if settings.select == "random":
        rng = torch.Generator().manual_seed(settings.seed)
        return torch.randperm(total, generator=rng)[: settings.n].sort().values
    order = confidence.argsort(stable=True, descending=True)
    if settings.select == "wrong":
        order = order[(predicted != predictions.labels)[order]]
        if not len(order):
            raise ConfigError(
                f"protocol.select=wrong: the classifier makes no mistake on the {settings.split} split; "
                "use random or confident"
            )
    return order[: settings.n]


def said(settings: GradcamSettings, shown: int, total: int) -> str:
    """How the images were chosen, in words."""
    count = f"{shown} of {total:,} {settings.split} images"
    if settings.indices is not None:
        return f"{count}, by position"
    return {
        "random": f"{count}, drawn at random (seed {settings.seed})",
        "confident": f"{count}, those with the most probable predicted class",
        "wrong": f"{count}, misclassified, the most confident first",
    }[settings.select]


def described(chosen: Tensor, predictions: Predictions) -> list[dict[str, Any]]:
    """Position, label, predicted class and probabilities of each chosen image."""
    return [
        {
            "index": index,
            "label": int(predictions.labels[index]),
            "predicted": int(predictions.probabilities[index].argmax()),
            "probabilities": predictions.probabilities[index].tolist(),
        }
        for index in chosen.tolist()
    ]


# --- maps ------------------------------------------------------------------------------------------------------------


def heat_maps(
    task: Classification,
    shown: LabelledImages,
    probabilities: Tensor,
    settings: GradcamSettings,
    device: torch.device,
) -> Shown:
    """Every method's maps of the shown images for every class, and the steps of the predicted class's on one of them."""
    images = shown.images.float() / 255
    maps = {
        method: ActivationMaps(task.net, method, settings.layer, device)(images)
        for method in dict.fromkeys(settings.methods)
    }
    if settings.strip is None:
        return Shown(shown.images, maps, None)
    place = min(settings.strip, len(images) - 1)  # fewer may be shown than were asked for
    steps = grad_cam_steps(task.net, images[place], int(probabilities[place].argmax()), settings.layer)
    return Shown(shown.images, maps, (place, steps))


def layer_facts(task: Classification, layer: str, split: LabelledImages) -> dict[str, Any]:
    """The target layer's name and the shape of its output."""
    maps = grad_cam_steps(task.net, split.images[0].float() / 255, 0, layer).maps
    return {"name": layer, "maps": maps.shape[0], "height": maps.shape[1], "width": maps.shape[2]}


def subject_of(
    task: Classification,
    split: LabelledImages,
    predictions: Predictions,
    settings: GradcamSettings,
    device: torch.device,
    grid: tuple[int, int],
) -> Subject:
    """The images that methods are scored on, classes in proportion; ``grid`` is the target layer's height and width."""
    chosen = stratified_order(split.labels, settings.seed)[: settings.score_images]
    part = split[chosen]
    predicted = predictions.probabilities[chosen].argmax(1)
    return Subject(task.net, device, part.images.float() / 255, part.labels, predicted, part.masks, grid)
