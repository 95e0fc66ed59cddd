"""Every sum and activation of a fully connected net for a few inputs, as tables, a drawn net and a page with sliders."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from medassay.core.errors import ConfigError
from medassay.core.types import PositiveInt
from medassay.evaluation.protocol import ComputeContext, Page, Protocol, Report
from medassay.nets.mlp import MLP
from medassay.protocols.trace import sliders, tables
from medassay.protocols.trace.figures import draw_net
from medassay.protocols.trace.steps import count_parameters, describe_weights
from medassay.protocols.trace.subjects import (
    KEY,
    InputTrace,
    describe_scaling,
    find_net,
    format_number,
    trace_images,
    trace_numbers,
)
from medassay.reporting import html
from medassay.reporting.charts import Chart
from medassay.reporting.curves import CurveView, draw_curve, make_grid
from medassay.runs.curve_scores import predict_values
from medassay.runs.run import Run
from medassay.tasks.classification import Classification
from medassay.tasks.regression import Regression

DRAWN = 6  # inputs whose net is drawn


@dataclass(frozen=True)
class TraceResults:
    """What was computed.

    Attributes:
        inputs: Each input's way through the net.
        parameters: Number of weights and biases.
        weights: Weights and biases of each layer; None where there are more than fit a page with sliders.
        scaling: What is done to x before the net and to its answer after it; None for nothing, and for images.
        curve: The answers at equal distances, ``{"x": …, "y": …}``; None for images.
        classes: Names of the classes; empty for a curve.
    """

    inputs: list[InputTrace]
    parameters: int
    weights: list[dict[str, Any]] | None = field(metadata={"name": "layers"})
    scaling: dict[str, Any] | None
    curve: dict[str, list[float]] | None
    classes: list[str]


@dataclass(frozen=True)
class Trace(Protocol):
    """What does each unit of a net compute?

    Attributes:
        name: Name of the protocol.
        inputs: Numbers; of a classifier indices of images. None for the first, the middle and the last x of the beats, and for
            the first image.
        split: Split that images are taken from.
        shown: Number of units shown of a large layer, the most active ones.
        interval: Ends of the drawn curve; None for those of the beats.
        points: Number of places where that curve is computed.
    """

    requires: ClassVar[Any] = Regression | Classification
    name: str = "trace"
    inputs: list[float] | None = None
    split: Literal["test", "val"] = "test"
    shown: PositiveInt = 8
    interval: tuple[float, float] | None = None
    points: PositiveInt = 50

    def __post_init__(self) -> None:
        if self.inputs is not None and not self.inputs:
            raise ConfigError(f"{KEY}=[]: give at least one number, or null")
        for name, numbers in (("inputs", self.inputs), ("interval", self.interval)):
            if not all(map(math.isfinite, numbers or ())):
                raise ConfigError(f"protocol.{name}={list(numbers or ())}: expected finite numbers")
        if self.interval is not None and not self.interval[0] < self.interval[1]:
            raise ConfigError(f"protocol.interval={list(self.interval)}: expected its lower end first")

    def run(self, run: Run, context: ComputeContext) -> Report:
        """Follows some inputs through a finished run's net.

        Raises:
            ConfigError: The net is no fully connected one, or there is no image of an index.
        """
        assert isinstance(run.task, Regression | Classification)
        net = find_net(run.task)
        if isinstance(run.task, Regression):
            return self._trace_curve(run, run.task, net, context.device)
        traces = trace_images(run, net, self.inputs, self.split)
        results = TraceResults(traces, count_parameters(net), None, None, None, run.data.classes)
        return self._report(results, {}, {}, self.split)

    def _trace_curve(self, run: Run, task: Regression, net: MLP, device: torch.device) -> Report:
        data = run.curve_data
        traces = trace_numbers(run, net, self.inputs)
        train, parameters = data.splits.train, count_parameters(net)
        low, high = self.interval or (float(train.x.min()), float(train.x.max()))
        grid = make_grid(low, high, self.points)
        answers = predict_values(task, grid, device)
        marked = torch.tensor([[one.given, one.answer] for one in traces])
        inside = (marked[:, 0] >= low) & (marked[:, 0] <= high)
        labels = (data.x_axis.label, data.y_axis.label)
        view = CurveView(train, grid, answers, *labels, data.compute_truth(grid), "", marked[inside])
        small = parameters <= sliders.MOST_PARAMETERS
        results = TraceResults(
            traces,
            parameters,
            describe_weights(net) if small else None,
            describe_scaling(task),
            {"x": grid[:, 0].tolist(), "y": answers[:, 0].tolist()},
            [],
        )
        page = {"sliders.html": sliders.render(task, net, view, [one.given for one in traces])} if small else {}
        return self._report(results, {"curve": draw_curve(view)}, page, None)

    def _report(
        self, results: TraceResults, charts: dict[str, Chart], files: dict[str, str], split: str | None
    ) -> Report:
        drawn = {
            f"net_{place}": draw_net(trace, self.shown, results.classes)
            for place, trace in enumerate(results.inputs[:DRAWN], 1)
        }
        return Report(
            results,
            split=split,
            verdict=[describe_trace(results)],
            figures={**charts, **drawn},
            files={"steps.csv": tables.write_steps(results.inputs), **files},
            page=Page(
                Path(__file__).with_name("page.html.j2"),
                {
                    "cards": [self._make_card(trace, results.classes) for trace in results.inputs],
                    "drawn": len(drawn),
                    "has_sliders": bool(files),
                    "most": sliders.MOST_PARAMETERS,
                    "images": "validation" if self.split == "val" else "test",
                },
            ),
        )

    def _make_card(self, trace: InputTrace, classes: Sequence[str]) -> dict[str, Any]:
        """What the page shows of one input."""
        layers = trace.layers
        views = [tables.make_table(one, self.shown, classes if one is layers[-1] else ()) for one in layers]
        if trace.probabilities is None:
            answer = format_number(trace.answer or 0.0)
            return {"name": trace.name, "trace": trace, "tables": views, "picture": None, "ranks": [], "answer": answer}
        ranks = sorted(zip(classes, trace.probabilities, strict=True), key=lambda pair: -pair[1])
        assert trace.image is not None
        picture = html.draw_strip(trace.image[None])
        return {"name": trace.name, "trace": trace, "tables": views, "picture": picture, "ranks": ranks, "answer": None}


def describe_trace(results: TraceResults) -> str:
    """The answers in a sentence."""
    if not results.classes:
        answers = (f"{format_number(one.answer or 0.0)} at {one.name}" for one in results.inputs)
        return f"trace: {', '.join(answers)}"
    texts = []
    for one in results.inputs:
        assert one.probabilities is not None
        assert one.label is not None
        best = max(range(len(one.probabilities)), key=one.probabilities.__getitem__)
        texts.append(
            f"{one.name} is {results.classes[best]} with {one.probabilities[best]:.3f} (truly {results.classes[one.label]})"
        )
    return f"trace: {'; '.join(texts)}"
