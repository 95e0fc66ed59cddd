"""Fully connected nets: sums and activations, layer by layer, with weights that may be given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from medassay.core.errors import ConfigError
from medassay.core.types import PositiveInt
from medassay.nets.layers import Normalise
from medassay.nets.stages import group_layers

Unit = Literal["relu", "leaky_relu", "tanh", "sigmoid", "linear", "step"]


class Step(nn.Module):
    """1 where the sum is above 0, else 0 (the perceptron's, Rosenblatt 1958). Its slope is 0: layers before it cannot learn."""

    def forward(self, x: Tensor) -> Tensor:
        return (x > 0).to(x.dtype)


UNITS: dict[Unit, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "linear": nn.Identity,
    "step": Step,
}


class MLP(nn.Module):
    """Inputs ``(B, *inputs) float32`` to outputs ``(B, outputs)``, the last layer without an activation.

    784 ReLU units between images of 28x28 pixels and ten classes are 623,290 parameters.

    Args:
        inputs: Shape of one input, which is flattened: ``[1]`` is one number, ``[1, 28, 28]`` a grey image.
        outputs: Number of outputs.
        hidden: Number of units of each hidden layer, first to last; an empty list is a linear model.
        activation: Activation of all hidden layers, or a list with one for each of them. ``linear`` leaves the sums as they
            are, so that all layers together are one linear map; ``step`` has no slope, so that only the layers after it learn.
        mean: Number that is subtracted from each input.
        std: Number by which each input is then divided.
        weights: First weights of each layer, the last included: a matrix ``(units, inputs of the layer)`` each; None: random.
        biases: First biases of each layer; None: random, or 0 beside given weights.

    Attributes:
        layers: Linear layers and activations in turn, without the last linear layer.
        head: The last linear layer.

    Raises:
        ConfigError: Activations, weights or biases do not fit the layers.
    """

    def __init__(
        self,
        inputs: Sequence[PositiveInt],
        outputs: PositiveInt,
        hidden: Sequence[PositiveInt] = (784,),
        activation: Unit | Sequence[Unit] = "relu",
        mean: float = 0.0,
        std: float = 1.0,
        weights: Sequence[Sequence[Sequence[float]]] | None = None,
        biases: Sequence[Sequence[float]] | None = None,
    ) -> None:
        super().__init__()
        if std == 0:
            raise ConfigError("the inputs of a fully connected net are divided by std, which must not be 0")
        units: list[Unit] = [activation] * len(hidden) if isinstance(activation, str) else list(activation)
        if len(units) != len(hidden):
            raise ConfigError(
                f"{len(units)} activations do not fit {len(hidden)} hidden layers: name one, or one for each"
            )
        self.normalise = Normalise(mean, std)
        sizes = [math.prod(inputs), *hidden]
        self.layers = nn.Sequential()
        for before, after, unit in zip(sizes, hidden, units, strict=False):
            self.layers.append(nn.Linear(before, after))
            self.layers.append(UNITS[unit]())
        self.head = nn.Linear(sizes[-1], outputs)
        self._set_given("weights", weights)
        self._set_given("biases", biases, missing=weights is not None)

    def list_linear(self) -> list[nn.Linear]:
        """The linear layers, first to last."""
        return [layer for layer in [*self.layers, self.head] if isinstance(layer, nn.Linear)]

    def _set_given(
        self, name: Literal["weights", "biases"], given: Sequence[object] | None, missing: bool = False
    ) -> None:
        """Replaces the random ``name`` of all layers by the given ones, or by 0 where they are ``missing``."""
        layers = self.list_linear()
        targets = [layer.weight if name == "weights" else layer.bias for layer in layers]
        if given is None:
            if missing:
                for target in targets:
                    nn.init.zeros_(target)
            return
        if len(given) != len(layers):
            raise ConfigError(
                f"{name} of {len(given)} layers are given, and the net has {len(layers)}, the last included"
            )
        for number, (target, values) in enumerate(zip(targets, given, strict=True), start=1):
            try:
                tensor = torch.tensor([list(row) for row in values] if name == "weights" else list(values))  # type: ignore[attr-defined, call-overload]
            except (TypeError, ValueError):
                raise ConfigError(f"{name} of layer {number} are not a full table of numbers: {values}") from None
            if tensor.shape != target.shape:
                raise ConfigError(
                    f"{name} of layer {number} are of shape {tuple(tensor.shape)}, and the layer's of {tuple(target.shape)}"
                )
            with torch.no_grad():
                target.copy_(tensor)

    def features(self, x: Tensor) -> Tensor:
        """What the last layer sees, ``(B, units of the last hidden layer)``."""
        return self.layers(self.normalise(x).flatten(1))  # type: ignore[no-any-return]

    def list_stages(self) -> list[list[nn.Module]]:
        """The hidden layers, each a stage; see :class:`medassay.nets.stages.Staged`."""
        return group_layers(self.layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))  # type: ignore[no-any-return]
