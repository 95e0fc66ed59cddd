"""Heat maps of chosen images for every class, one of them step by step, and how far each method can be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor

from medassay.core.errors import ConfigError, suggest_nearest
from medassay.core.types import NonNegativeInt, PositiveInt, Range
from medassay.data.order import make_stratified_order
from medassay.evaluation.protocol import ComputeContext, Page, Protocol, Report
from medassay.explain.activation_maps import (
    METHODS,
    NAMES,
    ActivationMaps,
    Method,
    Steps,
    compute_grad_cam_steps,
    find_layer,
    has_feature_maps,
)
from medassay.metrics.chance import ENOUGH
from medassay.protocols.gradcam import figures, measures, verdict
from medassay.protocols.gradcam.results import Comparison, ExplainedImage, GradCAMResults, Layer, MethodScores
from medassay.reporting.charts import Chart
from medassay.reporting.heat_maps import draw_colour_bar
from medassay.runs.load import select_evaluated_images
from medassay.runs.run import Run
from medassay.tasks.classification import Classification
from medassay.tasks.predictions import Predictions, predict

_CLASS_FREE: Method = "eigencam"


@dataclass(frozen=True)
class GradCAM(Protocol):
    """Where does a classifier look, and which method's heat maps can be trusted?

    Attributes:
        name: Name of the protocol.
        split: Split that images are chosen from.
        select: How images are chosen: ``random``; ``confident``: the most probable predicted class first; ``wrong``: mistakes,
            the most confident first.
        n: Number of images shown.
        seed: Seed of the random choice, and of the choice of images to score.
        indices: Positions in the split, from 0, of the images to show; None for a choice by ``select``.
        methods: Methods whose heat maps are shown.
        layer: Dotted name of the module whose output the maps are made of; None for the activation before the last pooling.
        colormap: Name of the colours in matplotlib.
        opacity: Opacity of the heat map over the image.
        strip: Place among the shown images, from 0, of the one that is explained step by step; None for none.
        scores: Whether to score methods.
        score_methods: Methods to score.
        score_images: Number of images of the split to score on, classes in proportion, at most.
        randomisations: Number of nets with random weights in the sanity check.
    """

    requires: ClassVar[type] = Classification
    name: str = "gradcam"
    split: Literal["test", "val"] = "test"
    select: Literal["random", "confident", "wrong"] = "random"
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
                f"protocol.colormap={self.colormap}: matplotlib has no such colours."
                f"{suggest_nearest(self.colormap, colormaps)} "
                "Common ones: jet, viridis, inferno, turbo, hot"
            )
        for key in ("methods", "score_methods"):
            if not getattr(self, key):
                advice = " or protocol.scores=false" if key == "score_methods" else ""
                raise ConfigError(f"protocol.{key}=[]: name at least one of {', '.join(METHODS)}{advice}")

    def run(self, run: Run, context: ComputeContext) -> Report:
        """Explains a classifier's finished run.

        Raises:
            ConfigError: a layer, an image or a mistake that there is not, or a net without feature maps.
        """
        assert isinstance(run.task, Classification)
        net, classes, device = run.task.net, run.data.classes, context.device
        if not has_feature_maps(net):
            raise ConfigError(
                f"protocol=gradcam: this run's net is a {type(net).__name__}, which has no convolution and so no feature maps "
                "to make heat maps of; train another with model/net=block_cnn, or see what fits this run with protocol=audit"
            )
        layer = find_layer(net, self.layer)  # a wrong one is refused before anything is computed
        split = select_evaluated_images(run.data, self.split, run.settings)
        predictions = predict(run.task, split, device)
        chosen, labels, decisions = self.choose_images(predictions), split.labels, predictions.decisions
        explained = [
            ExplainedImage(i, int(labels[i]), int(decisions[i]), predictions.probabilities[i].tolist())
            for i in chosen.tolist()
        ]
        images = split.images[chosen]
        pixels, strip = images.float() / 255, None
        maps = {method: ActivationMaps(net, method, layer, device)(pixels) for method in dict.fromkeys(self.methods)}
        if self.strip is not None:
            place = min(self.strip, len(chosen) - 1)  # fewer may be shown than were asked for
            strip = place, compute_grad_cam_steps(net, pixels[place], explained[place].predicted, layer)
        measured = Layer(layer, *compute_grad_cam_steps(net, split.images[0].float() / 255, 0, layer).maps.shape)
        scores = None
        if self.scores:
            part = make_stratified_order(labels, self.seed)[: self.score_images]
            some, grid = split[part], (measured.height, measured.width)
            scored = some.images.float() / 255
            subject = measures.Subject(net, device, scored, some.labels, decisions[part], some.masks, grid)
            scores = measures.compare_methods(subject, classes, self.score_methods, self.layer, self.randomisations)
        selection = self.describe_selection(len(chosen), len(split))
        results = GradCAMResults(self.split, measured, selection, explained, self.methods, scores)
        return self.report(results, classes, images, maps, strip)

    # --- what is shown -----------------------------------------------------------------------------------------------

    def choose_images(self, predictions: Predictions) -> Tensor:
        """The positions of the images to show, ``(n,) int64``; at most as many as there are.

        Raises:
            ConfigError: a position outside the split, none at all, or mistakes of a classifier that makes none.
        """
        total = len(predictions.labels)
        if self.indices is not None:
            if not self.indices or max(self.indices) >= total:
                raise ConfigError(
                    f"protocol.indices={self.indices}: give positions from 0 to {total - 1} of the {self.split} split"
                )
            return torch.tensor(self.indices)
        if self.select == "random":
            rng = torch.Generator().manual_seed(self.seed)
            return torch.randperm(total, generator=rng)[: self.n].sort().values
        order = predictions.probabilities.amax(1).argsort(stable=True, descending=True)
        if self.select == "wrong":
            order = order[(predictions.decisions != predictions.labels)[order]]
            if not len(order):
                raise ConfigError(
                    f"protocol.select=wrong: the classifier makes no mistake on the {self.split} split; "
                    "use random or confident"
                )
        return order[: self.n]

    def describe_selection(self, shown: int, total: int) -> str:
        """How the images were chosen, in words."""
        count = f"{shown} of {total:,} {self.split} images"
        if self.indices is not None:
            return f"{count}, by position"
        return {
            "random": f"{count}, drawn at random (seed {self.seed})",
            "confident": f"{count}, those with the most probable predicted class",
            "wrong": f"{count}, misclassified, the most confident first",
        }[self.select]

    # --- what is reported --------------------------------------------------------------------------------------------

    def report(
        self,
        results: GradCAMResults,
        classes: Sequence[str],
        images: Tensor,
        maps: Mapping[Method, Tensor],
        strip: tuple[int, Steps] | None,
    ) -> Report:
        """The report of what was found.

        Args:
            results: What the JSON file holds.
            classes: Names, by label.
            images: The chosen images, ``(n, C, H, W) uint8``.
            maps: Each method's maps of them, ``(n, K, H, W) float32 in [0, 1]``.
            strip: Place of the image explained step by step, and its steps; None for none.
        """
        overall = verdict.summarise_scores(results.scores)
        measured = results.scores.rows[0].scores if results.scores else {}
        drawn: dict[str, Figure | Chart] = {}
        for method, method_maps in maps.items():
            title = f"{NAMES[method]}, {results.layer.name}\n{results.selection}"
            sheet = figures.draw_sheet(images, method_maps, results.images, classes, title, self.colormap, self.opacity)
            drawn[f"heatmaps_{method.replace('+', 'p')}"] = sheet
        explained = None
        if strip is not None:
            place, steps = strip
            explained = results.images[place]
            picture = figures.draw_steps(
                images[place], steps, classes[explained.predicted], self.colormap, self.opacity
            )
            drawn["steps"] = Chart(picture, "One heat map step by step")
        values = {
            "overall": overall,
            "names": NAMES,
            "class_free": _CLASS_FREE,
            "scores": {key: title for key, (title, _) in figures.SCORES.items() if key in measured},
            "limit": verdict.SIMILAR,
            "enough": ENOUGH,
            "images": images,
            "maps": maps,
            "empty": sum(int((~of_method.flatten(2).any(2)).sum()) for of_method in maps.values()),
            "overlays": {
                method: figures.lay_over(images, method_maps, self.colormap, self.opacity)
                for method, method_maps in maps.items()
            },
            "bar": draw_colour_bar(self.colormap),
            "explained": explained,
        }
        return Report(
            results,
            split=self.split,
            verdict=[overall],
            metrics={"split": self.split, "gradcam": flatten_scores(results.scores)},
            figures=drawn | (figures.draw_charts(results.scores) if results.scores else {}),
            page=Page(Path(__file__).with_name("page.html.j2"), values),
            outcome=verdict.judge_methods(results.scores),
        )


def flatten_scores(comparison: Comparison | None) -> dict[str, float]:
    """Single numbers, ``<score>/<method or baseline>``; ``trusted/<method>`` is 1 or 0 where the rule says."""
    flat: dict[str, float] = {}
    for row in [*comparison.rows, *comparison.baselines] if comparison else []:
        flat |= {f"{name}/{row.key}": row.scores[name].value for name in figures.SCORES if name in row.scores}
        if isinstance(row, MethodScores) and row.trusted is not None:
            flat[f"trusted/{row.key}"] = float(row.trusted)
    return flat
