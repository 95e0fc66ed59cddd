"""A page with a slider for each weight of a small net that fits a curve; it computes the net by itself and needs no network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

from markupsafe import Markup

from medassay.metrics.curves import measure_between_beats
from medassay.nets.mlp import MLP
from medassay.protocols.trace.steps import NAMES, describe_weights
from medassay.reporting import html
from medassay.reporting.curves import CurveView, find_range
from medassay.tasks.regression import Regression

MOST_PARAMETERS = 64  # that a page has sliders for
LEAST_REACH = 5.0  # of a slider, to either side


def render(task: Regression, net: MLP, view: CurveView, inputs: Sequence[float]) -> str:
    """The page.

    Args:
        task: The task, for what is done to x before the net and to its answer after it.
        net: The net, of at most 64 weights and biases.
        view: The beats, and the range to draw.
        inputs: Numbers whose answers are shown.
    """
    values = describe_page(task, net, view, inputs)
    return html.render_page(
        Path(__file__).with_name("sliders.html.j2").absolute(),
        data=Markup(json.dumps(values, allow_nan=False)),
        layers=values["layers"],
        reach=values["reach"],
        labels=(view.x_label, view.y_label),
        beats=len(values["beats"]),
        standardised=task.standardise,
    )


def describe_page(task: Regression, net: MLP, view: CurveView, inputs: Sequence[float]) -> dict[str, Any]:
    """What the page's script is given."""
    layers = describe_weights(net)
    activations = [*(NAMES[type(layer)] for layer in list(net.layers)[1::2]), "linear"]
    for layer, activation in zip(layers, activations, strict=True):
        layer["activation"] = activation
    size = {
        "weights": max(abs(w) for layer in layers for row in layer["weights"] for w in row),
        "biases": max(abs(b) for layer in layers for b in layer["biases"]),
    }
    sd, mean = float(task.x_sd), float(task.x_mean)
    return {
        "layers": layers,
        # the net's own first layer and the task's scaling, as one
        "x": {"mean": mean + sd * net.normalise.mean, "sd": sd * net.normalise.std},
        "y": {"mean": float(task.y_mean), "sd": float(task.y_sd)},
        "reach": {name: max(LEAST_REACH, float(ceil(1.5 * value))) for name, value in size.items()},
        "beats": _list_beats(view),
        "between": measure_between_beats(view.curve, view.curve),
        "inputs": list(inputs),
        "range": {"x": [float(view.x.min()), float(view.x.max())], "y": list(find_range(view))},
        "points": 400,
    }


def _list_beats(view: CurveView) -> list[list[list[float]]]:
    """The points of each beat, ``[x, y]`` each."""
    curve = view.curve
    both = [curve[curve.beats == beat] for beat in curve.list_beats()]
    return [[[float(x), float(y)] for x, y in zip(one.x, one.y, strict=True)] for one in both]
