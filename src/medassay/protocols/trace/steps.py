"""What a fully connected net computes for one input: the sums and activations of each layer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from medassay.core.results import UNWRITTEN
from medassay.nets.mlp import MLP, UNITS

NAMES = {kind: name for name, kind in UNITS.items()}


@dataclass(frozen=True)
class LayerTrace:
    """One layer at work.

    Attributes:
        name: ``hidden 1`` and so on, the last one ``output``.
        activation: Name of its activation; ``linear`` leaves the sums as they are.
        sums: Of each unit, the sum of its inputs times its weights, and its bias.
        activations: What the activation makes of the sums.
        seen: What the layer sees, ``(I,) float64``.
        weights, biases: Its weights ``(U, I)`` and biases ``(U,)``, ``float64``.
    """

    name: str
    activation: str
    sums: list[float]
    activations: list[float]
    seen: Tensor = field(metadata=UNWRITTEN)
    weights: Tensor = field(metadata=UNWRITTEN)
    biases: Tensor = field(metadata=UNWRITTEN)

    @property
    def count_above_zero(self) -> int:
        return sum(one > 0 for one in self.activations)

    def choose_units(self, most: int) -> list[int]:
        """The units to show: all where there are few (12), else the ``most`` active ones, in their order."""
        return choose_largest(torch.tensor(self.activations), most)


FEW = 12  # units of a layer, or inputs, that are shown one by one


def choose_largest(values: Tensor, most: int) -> list[int]:
    """Indices of all ``values (N,)`` where these are few (12), else of the ``most`` largest ones by size, in their order."""
    if len(values) <= FEW:
        return list(range(len(values)))
    chosen: list[int] = values.abs().topk(min(most, len(values))).indices.sort().values.tolist()
    return chosen


@torch.no_grad()
def trace_net(net: MLP, x: Tensor) -> list[LayerTrace]:
    """What ``net`` computes for one input ``x (1, *inputs)``, layer by layer, the arithmetic being that of the net."""
    seen = net.normalise(x).flatten(1)
    pairs = [(net.layers[place], net.layers[place + 1]) for place in range(0, len(net.layers), 2)]
    layers = []
    for place, (linear, activation) in enumerate([*pairs, (net.head, nn.Identity())]):
        assert isinstance(linear, nn.Linear)
        sums = linear(seen)
        activations = activation(sums)
        layers.append(
            LayerTrace(
                "output" if place == len(pairs) else f"hidden {place + 1}",
                NAMES[type(activation)],
                sums[0].tolist(),
                activations[0].tolist(),
                *(values.double().cpu() for values in (seen[0], linear.weight, linear.bias)),
            )
        )
        seen = activations
    return layers


def describe_weights(net: MLP) -> list[dict[str, Any]]:
    """Weights and biases of each layer as plain values, first to last."""
    return [{"weights": linear.weight.tolist(), "biases": linear.bias.tolist()} for linear in net.list_linear()]


def count_parameters(net: MLP) -> int:
    """Weights and biases, whether they learn or not."""
    return sum(parameter.numel() for parameter in net.parameters())
