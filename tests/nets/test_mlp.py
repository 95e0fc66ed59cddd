"""Fully connected nets: the hand net's answers, shapes, given weights that do not fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from medassay.core.errors import ConfigError
from medassay.nets.mlp import MLP

HAND: dict[str, Any] = {
    "inputs": [1],
    "outputs": 1,
    "hidden": [1, 2],
    "weights": [[[3]], [[2], [1]], [[1, -5]]],
    "biases": [[0], [0, -5], [0]],
}


def test_the_hand_net_answers_as_worked_out() -> None:
    # x = 2: 3 * 2 = 6; 2 * 6 = 12 and 6 - 5 = 1; 12 - 5 * 1 = 7. x = 1: 3; 6 and -2, cut to 0; 6. x = -1: -3, cut to 0
    assert MLP(**HAND)(torch.tensor([[-1.0], [1.0], [2.0]])).flatten().tolist() == [0, 6, 7]


def test_linear_units_make_one_linear_map() -> None:
    net = MLP(**{**HAND, "activation": "linear"})
    x = torch.linspace(-5, 5, 11)[:, None]
    # 1 * (2 * 3x) - 5 * (3x - 5) = -9x + 25
    assert torch.allclose(net(x), -9 * x + 25)


def test_step_units_are_zero_or_one_and_pass_no_gradient() -> None:
    net = MLP(**{**HAND, "activation": "step"})
    x = torch.tensor([[-1.0], [0.0], [0.5]])
    assert net(x).flatten().tolist() == [0, 0, 1]  # above 0: 1; 2 > 0 -> 1 and 1 - 5 < 0 -> 0
    net(x).sum().backward()
    assert net.layers[0].weight.grad is None  # nothing reaches it
    assert net.head.weight.grad is not None


def test_each_layer_has_the_activation_named_for_it() -> None:
    net = MLP([4], 2, [3, 3], ["tanh", "sigmoid"])
    assert [type(layer).__name__ for layer in net.layers] == ["Linear", "Tanh", "Linear", "Sigmoid"]


def test_images_are_normalised_and_flattened() -> None:
    net = MLP([1, 28, 28], 10, mean=0.5, std=0.5)
    assert sum(p.numel() for p in net.parameters()) == 784 * 784 + 784 + 784 * 10 + 10
    images = torch.rand(3, 1, 28, 28)
    expected = net.head(torch.relu(net.layers[0](images.flatten(1) * 2 - 1)))
    assert torch.allclose(net(images), expected, atol=1e-6)
    assert net.features(images).shape == (3, 784)


def test_no_hidden_layer_is_a_linear_model() -> None:
    net = MLP([2], 1, [], weights=[[[1.0, 2.0]]])
    assert net(torch.tensor([[3.0, 4.0]])).item() == 11  # a bias beside given weights is 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"activation": ["relu"]}, "1 activations do not fit 2 hidden layers"),
        ({"weights": [[[3]]]}, "weights of 1 layers are given, and the net has 3"),
        ({"weights": [[[3, 1]], [[2], [1]], [[1, -5]]]}, r"weights of layer 1 are of shape \(1, 2\)"),
        ({"weights": [[[3]], [[2], [1, 1]], [[1, -5]]]}, "weights of layer 2 are not a full table"),
        ({"biases": [[0], [0], [0]]}, r"biases of layer 2 are of shape \(1,\)"),
        ({"std": 0.0}, "must not be 0"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MLP(**{**HAND, **changed})
