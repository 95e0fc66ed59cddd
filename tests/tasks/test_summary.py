"""A model's table: exact counts, the sizes of what comes out of its parts, and a model that is as it was before."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medassay.nets.block_cnn import BlockCNN
from medassay.nets.mlp import MLP
from medassay.nets.unet import UNet
from medassay.runs.check import check_training
from medassay.runs.compose import compose_training
from medassay.runs.load import build_any_data, build_task
from medassay.tasks.classification import Classification
from medassay.tasks.segmentation import Segmentation
from medassay.tasks.summary import count_parameters, summarise_model, trace_sizes
from tests.helpers import list_differences


def test_the_table_has_a_line_for_each_part_with_its_size_and_count() -> None:
    task = Classification(MLP([1, 28, 28], 10), 10)
    assert summarise_model(task, input_shape=(1, 28, 28)).splitlines() == [
        "part          type            output of one input  trainable parameters",
        "-----------------------------------------------------------------------",
        "net           MLP             10                                623,290",
        "net.layers    Sequential      784                               615,440",
        "net.layers.0  Linear          784                               615,440",
        "net.head      Linear          10                                  7,850",
        "-----------------------------------------------------------------------",
        "total         Classification                                    623,290",
    ]


def test_weights_that_stay_as_they_are_given_have_a_column_of_their_own() -> None:
    task = Classification(MLP([1, 2, 2], 2, hidden=[3]), 2)
    task.net.layers.requires_grad_(False)
    assert [line.split() for line in summarise_model(task).splitlines() if "-" not in line] == [
        ["part", "type", "trainable", "parameters", "frozen", "parameters"],
        ["net", "MLP", "8", "15"],
        ["net.layers", "Sequential", "0", "15"],
        ["net.layers.0", "Linear", "0", "15"],
        ["net.head", "Linear", "8", "0"],
        ["total", "Classification", "8", "15"],
    ]


def test_the_average_of_a_net_s_weights_is_not_counted_as_frozen() -> None:
    task = Classification(MLP([1, 2, 2], 2, hidden=[3]), 2, ema_decay=0.9)
    assert "frozen" not in summarise_model(task)


def test_a_task_without_parameters_has_its_total() -> None:
    assert summarise_model(nn.ReLU()).splitlines()[-1].split() == ["total", "ReLU", "0"]


def test_without_an_image_s_shape_there_are_no_sizes() -> None:
    lines = summarise_model(nn.Linear(3, 2)).splitlines()
    assert lines[0].split() == ["part", "type", "trainable", "parameters"]
    assert lines[-1].split() == ["total", "Linear", "8"]


def test_each_block_of_the_course_s_net_halves_the_image_and_doubles_the_maps() -> None:
    sizes = trace_sizes(BlockCNN(1, 2), (1, 28, 28))
    assert [sizes[f"blocks.{place}"] for place in range(3)] == ["8 x 14 x 14", "16 x 7 x 7", "32 x 3 x 3"]
    assert sizes[""] == "2"


def test_the_published_u_net_is_measured_without_a_value_of_its_weights_or_images() -> None:
    net = Segmentation(UNet(1, 2), 2).net
    devices: list[str] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        devices.extend(one.device.type for one in (*inputs, *module.parameters(), *module.buffers()))

    net.register_forward_pre_hook(note)  # the copy that is measured has it too
    assert trace_sizes(net, (1, 572, 572))[""] == "2 x 388 x 388"
    assert len(devices) > 1
    assert {*devices} == {"meta"}  # with values it takes seconds on many cores


def test_nothing_of_the_task_or_of_torch_s_random_state_is_changed() -> None:
    task = Classification(BlockCNN(1, 2, dropout=0.5), 2)
    task.train()
    before, state = copy.deepcopy(task.state_dict()), torch.get_rng_state()
    summarise_model(task, input_shape=(1, 28, 28))
    assert not list_differences(before, task.state_dict())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in task.modules())
    assert not any(module._forward_hooks for module in task.modules())


class Odd(nn.Module):
    """A layer that runs twice, one that gives a pair, and one that never runs."""

    def __init__(self, asks_for_values: bool) -> None:
        super().__init__()
        self.twice, self.both, self.never = nn.Conv2d(1, 1, 3), nn.LSTM(4, 5), nn.Linear(1, 1)
        self.asks_for_values = asks_for_values

    def forward(self, images: Tensor) -> Any:
        x = self.twice(self.twice(images))
        if self.asks_for_values and x.sum().item() > 0:
            return x
        return self.both(x.flatten(1, 2))


def test_a_part_that_runs_twice_gives_several_outputs_or_never_runs_does_no_harm() -> None:
    sizes = trace_sizes(Odd(asks_for_values=False), (1, 8, 8))
    assert sizes == {"twice": "1 x 6 x 6", "both": "4 x 5, 4 x 5, 4 x 5", "": "4 x 5, 4 x 5, 4 x 5"}


def test_a_net_that_asks_for_values_keeps_its_counts() -> None:
    task = nn.Module()
    task.net = Odd(asks_for_values=True)
    table = summarise_model(task, input_shape=(1, 8, 8))
    assert "output of one input" not in table
    assert table.endswith(f"{count_parameters(task):,}")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["model=cgan"], {"generator": "3 x 32 x 32", "discriminator": "1", "generator.up1": "256 x 8 x 8"}),
        (["model=cgan_strong"], {"generator": "3 x 28 x 28", "discriminator": "1"}),
        (["model=cvae"], {"encoder": "128, 128", "decoder": "11 x 28 x 28"}),
        (["model=diffusion"], {"": "3 x 28 x 28", "embedding": "192"}),
        (["model=tstr"], {"": "8"}),
        (["model=unet", "model.net.width=4", "data.patch=388", "data.margin=92"], {"": "2 x 388 x 388"}),
        (["model=digit_mlp", "data=digits"], {"": "10"}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_every_task_s_parts_have_sizes(overrides: list[str], expected: dict[str, str]) -> None:
    config = check_training(compose_training(overrides))
    task, data = build_task(config), build_any_data(config)
    sizes = trace_sizes(task.net, data.input_shape)
    assert expected.items() <= sizes.items()
    assert "output of one input" in summarise_model(task, input_shape=data.input_shape)
