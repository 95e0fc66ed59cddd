"""The denoising U-Net: how large it is, what it sees, which sizes it takes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from medassay import config as configuration
from medassay.core.errors import ConfigError
from medassay.nets.diffusion import Attention, Block, DenoisingUNet, Embedding
from medassay.runs.check import check_training
from medassay.runs.load import build_task

LIMIT = 80_000_000  # multiply-adds of one call: 15 calls an image, 25 images a second on one core


def unet_of(width: int = 4, *, channels: int = 1, classes: int = 2, size: int = 8, **options: Any) -> DenoisingUNet:
    """A tiny net whose zero weights are not zero any more, so that all of it takes part."""
    torch.manual_seed(0)
    net = DenoisingUNet(channels, classes, size, width=width, **options)
    for parameter in net.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.2)
    return net.eval()


def inputs(n: int = 3, *, channels: int = 1, classes: int = 2, size: int = 8, seed: int = 0) -> tuple[Tensor, ...]:
    rng = torch.Generator().manual_seed(seed)
    one_hot = torch.eye(classes)[torch.arange(n) % classes]
    bits = torch.randint(0, 2, (n, 3), generator=rng).float()
    return torch.randn(n, channels, size, size, generator=rng), torch.randn(n, generator=rng), one_hot, bits


def count_by_hand(channels: int, classes: int, width: int, blocks: int) -> int:
    """Convolutions and linear layers with bias, two norms a block (two numbers a map), one more with each attention."""

    def block(maps: int) -> int:
        return 2 * 2 * maps + 2 * (9 * maps * maps + maps) + 2 * maps * (4 * width + 1)

    inner = 2 * width
    attention = 2 * inner + (3 * inner * inner + 3 * inner) + (inner * inner + inner)
    embedding = 32 * 4 * width + 4 * width + (classes + 3) * 4 * width + 4 * width * (4 * width + 1)
    ends = 9 * 4 * channels * width + width + 2 * width + 9 * width * 4 * channels + 4 * channels
    between = (9 * width * inner + inner) + (inner * 4 * width + 4 * width) + (2 * width * width + width)
    return embedding + ends + between + 2 * blocks * (block(width) + block(inner) + attention)


@pytest.mark.parametrize(("channels", "classes", "width", "blocks"), [(3, 8, 48, 1), (1, 2, 16, 2), (1, 2, 3, 1)])
def test_the_parameters_are_those_counted_by_hand(channels: int, classes: int, width: int, blocks: int) -> None:
    net = DenoisingUNet(channels, classes, width=width, blocks=blocks)
    assert sum(p.numel() for p in net.parameters()) == count_by_hand(channels, classes, width, blocks)


def configured_by(choice: str) -> DenoisingUNet:
    """The net of a configuration, in evaluation mode, without memory."""
    config = check_training(configuration.compose("train", [choice]))
    with torch.device("meta"):
        net = configuration.build(config["model"]["net"])
    assert isinstance(net, DenoisingUNet)
    return net.eval()


NETS = pytest.mark.parametrize(
    ("choice", "parameters"), [("model=diffusion", 723_372), ("experiment=bloodmnist_diffusion", 1_275_788)]
)


@NETS
def test_the_configured_net_has_so_many_parameters(choice: str, parameters: int) -> None:
    assert sum(p.numel() for p in configured_by(choice).parameters()) == parameters


def test_the_task_of_the_configuration_trains_that_net_and_no_other_weights() -> None:
    task = build_task(check_training(configuration.compose("train", ["model=diffusion", "model.net.width=4"])))
    assert sum(p.numel() for p in task.parameters() if p.requires_grad) == count_by_hand(3, 8, 4, 1)


@pytest.mark.parametrize("choice", ["model=diffusion", "experiment=bloodmnist_diffusion"])
def test_one_call_of_the_configured_net_keeps_within_the_limit(choice: str) -> None:
    given = [torch.empty(shape, device="meta") for shape in ((1, 3, 28, 28), (1,), (1, 8), (1, 3))]
    with FlopCounterMode(display=False) as counter:
        configured_by(choice)(*given)
    assert 0.03 * 1e9 < counter.get_total_flops() / 2 < LIMIT


def test_a_new_net_answers_zero_so_that_the_preconditioned_denoiser_starts_at_its_skip() -> None:
    torch.manual_seed(0)
    assert not DenoisingUNet(3, 8, width=4)(*inputs(channels=3, classes=8, size=28)).any()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 10, 28, 30, 32])
def test_answers_have_the_shape_of_the_images(channels: int, size: int) -> None:
    net = unet_of(2, channels=channels, size=size)
    assert net(*inputs(channels=channels, size=size)).shape == (3, channels, size, size)
    assert net.image_shape == (channels, size, size)


@pytest.mark.parametrize("size", [27, 9])
def test_an_odd_size_is_refused_in_one_line_that_names_the_nearest(size: int) -> None:
    with pytest.raises(ConfigError, match=rf"image_size={size}: .*use {size - 1} or {size + 1}") as caught:
        DenoisingUNet(1, 2, size)
    assert "\n" not in str(caught.value)


def test_a_size_below_eight_is_refused_by_the_configurations_check() -> None:
    with pytest.raises(ConfigError, match=r"model\.net\.image_size=6: expected an integer >= 8"):
        check_training(configuration.compose("train", ["model=diffusion", "data=blood_phantom", "data.size=6"]))


def test_attention_looks_at_a_quarter_of_the_size_only() -> None:
    net, seen = unet_of(size=28), []
    for module in net.modules():
        if isinstance(module, Attention):
            module.register_forward_pre_hook(lambda _m, given: seen.append(tuple(given[0].shape[1:])))
    net(*inputs(size=28))
    assert seen == [(8, 7, 7)] * 2


@pytest.mark.parametrize(("maps", "heads"), [(4, 1), (64, 2), (96, 3), (100, 2)])
def test_attention_computes_the_formula_written_out(maps: int, heads: int) -> None:
    torch.manual_seed(0)
    attention = Attention(maps).double()
    nn.init.normal_(attention.out.weight)
    x = torch.randn(2, maps, 3, 2, dtype=torch.float64)
    assert attention.heads == heads
    with torch.no_grad():
        rows = attention.to_qkv(attention.norm(x)).flatten(2).transpose(1, 2).numpy()  # (B, pixels, 3 maps)
        mixed = np.zeros((2, 6, maps))
        for head in range(heads):
            own = [
                slice(part * maps + head * maps // heads, part * maps + (head + 1) * maps // heads) for part in range(3)
            ]
            query, key, value = (rows[..., columns] for columns in own)
            weights = np.exp(query @ key.transpose(0, 2, 1) / math.sqrt(maps // heads))
            mixed[..., own[0]] = weights / weights.sum(-1, keepdims=True) @ value
        added = attention.out(torch.from_numpy(mixed).transpose(1, 2).reshape(2, maps, 3, 2))
        torch.testing.assert_close(attention(x), x + added)


def test_a_block_scales_and_shifts_its_second_normalisation_by_the_embedding() -> None:
    torch.manual_seed(0)
    block = Block(4, 5, 0.0, attention=False).double()
    nn.init.normal_(block.conv2.weight)
    x, embedding = torch.randn(2, 4, 6, 6, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    scale, shift = block.modulate(embedding).split(4, dim=1)
    h = block.conv1(nn.functional.silu(nn.functional.group_norm(x, 1)))
    h = nn.functional.group_norm(h, 1) * (1 + scale)[:, :, None, None] + shift[:, :, None, None]
    torch.testing.assert_close(block(x, embedding), x + block.conv2(nn.functional.silu(h)))


def test_dropout_is_on_in_training_alone_and_where_maps_are_small_alone() -> None:
    net = unet_of(dropout=0.5)
    given = inputs()
    assert torch.equal(net(*given), net(*given))
    assert not torch.equal(net.train()(*given), net(*given))
    rates = [module.p for module in net.modules() if isinstance(module, nn.Dropout)]
    assert rates == [0.0, 0.5, 0.5, 0.0]


@pytest.mark.parametrize("changed", [1, 2, 3])
def test_the_answer_depends_on_the_noise_level_the_class_and_the_symmetry(changed: int) -> None:
    net, given = unet_of(), list(inputs())
    before = net(*given)
    given[changed] = given[changed] + 0.5 if changed == 1 else 1 - given[changed]
    assert not torch.isclose(net(*given), before).flatten(1).all(1).any()


def test_one_noise_level_for_all_is_the_same_as_one_for_each() -> None:
    net, (x, _, classes, symmetry) = unet_of(), inputs()
    one = net(x, torch.tensor([0.3]), classes, symmetry)
    torch.testing.assert_close(one, net(x, torch.full((3,), 0.3), classes, symmetry))


def test_nothing_told_adds_nothing_to_the_embedding() -> None:
    torch.manual_seed(0)
    embedding = Embedding(2, 6)
    nn.init.zeros_(embedding.from_noise.weight)
    nn.init.zeros_(embedding.from_noise.bias)
    told = embedding(torch.zeros(1), torch.zeros(1, 2), torch.zeros(1, 3))
    silent = nn.functional.silu(embedding.out.bias)
    torch.testing.assert_close(told[0], silent)


def test_an_image_is_treated_alike_alone_and_in_a_batch() -> None:
    net, given = unet_of(), inputs(5)
    alone = torch.cat([net(*(part[i : i + 1] for part in given)) for i in range(5)])
    torch.testing.assert_close(net(*given), alone)


def test_gradients_reach_every_parameter() -> None:
    net = unet_of()
    net(*inputs()).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
