"""What a trace is made of: a number for a net that fits a curve, an image for one that classifies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from medassay.core.errors import ConfigError
from medassay.core.results import UNWRITTEN
from medassay.nets.mlp import MLP
from medassay.protocols.trace.steps import LayerTrace, trace_net
from medassay.runs.run import Run
from medassay.tasks.classification import Classification
from medassay.tasks.regression import Regression

KEY = "protocol.inputs"


@dataclass(frozen=True)
class InputTrace:
    """One input's way through the net.

    Attributes:
        name: What it is called: ``x = −1``, or ``image 3``.
        given: The number, or the image's index.
        entered: What the net was given; None of an image.
        layers: The layers, first to last.
        answer: The net's answer in the units of the data; of a classifier None.
        probabilities: Softmax of the last sums, by class; None for a curve.
        label: The image's true class; None for a curve.
        image: The image, ``(C, H, W) uint8``.
    """

    name: str
    given: float
    entered: float | None
    layers: list[LayerTrace]
    answer: float | None = None
    probabilities: list[float] | None = None
    label: int | None = None
    image: Tensor | None = field(default=None, metadata=UNWRITTEN)


def find_net(task: Regression | Classification) -> MLP:
    """The net that answers in evaluation mode: that of the averaged weights, if any.

    Raises:
        ConfigError: It is no fully connected net.
    """
    ema = getattr(task, "ema", None)
    net = task.net if ema is None else ema.net
    if not isinstance(net, MLP):
        raise ConfigError(
            f"protocol=trace: this run's net is a {type(net).__name__}, and only the sums of a fully connected one can be "
            "followed; train one with model/net=mlp, then evaluate that run"
        )
    return net


def trace_numbers(run: Run, net: MLP, inputs: Sequence[float] | None) -> list[InputTrace]:
    """The ways of some numbers through a net that fits a curve; None for the first, the middle and the last x of the beats."""
    task = run.task
    assert isinstance(task, Regression)
    if inputs is None:
        places = sorted(set(run.curve_data.splits.train.x[:, 0].tolist()))
        inputs = [places[0], places[len(places) // 2], places[-1]]
    traces = []
    for given in inputs:
        x = torch.tensor([[given]], dtype=torch.float32, device=task.device)
        entered = (x - task.x_mean) / task.x_sd
        layers, answer = trace_net(net, entered), float(task.regress(x))
        traces.append(InputTrace(f"x = {format_number(given)}", given, float(entered), layers, answer))
    return traces


def trace_images(run: Run, net: MLP, inputs: Sequence[float] | None, split: Literal["test", "val"]) -> list[InputTrace]:
    """The ways of some images of a split, by index, through a net that classifies; None for the first one.

    Raises:
        ConfigError: There is no image of that index.
    """
    images = run.data.split(split)
    traces = []
    for given in inputs if inputs is not None else [0]:
        if given != int(given) or not 0 <= given < len(images):
            raise ConfigError(
                f"{KEY}={format_number(given)}: this run classifies images, and inputs are indices of {split} images: whole "
                f"numbers from 0 to {len(images) - 1}"
            )
        index = int(given)
        pixels = images.images[index : index + 1]
        layers = trace_net(net, pixels.to(next(net.parameters()).device).float() / 255)
        probabilities: list[float] = torch.tensor(layers[-1].sums).softmax(0).tolist()
        label = int(images.labels[index])
        traces.append(
            InputTrace(f"image {index}", index, None, layers, probabilities=probabilities, label=label, image=pixels[0])
        )
    return traces


def format_number(value: float) -> str:
    """A number with at most four significant digits, and a true minus sign."""
    return f"{value + 0.0:.4g}".replace("-", "−")  # adding 0 makes -0 a plain one


def describe_scaling(task: Regression) -> dict[str, Any] | None:
    """What is done to x before the net and to its answer after it; None where that is nothing."""
    scales = {name: float(getattr(task, name)) for name in ("x_mean", "x_sd", "y_mean", "y_sd")}
    return None if scales == {"x_mean": 0.0, "x_sd": 1.0, "y_mean": 0.0, "y_sd": 1.0} else scales
