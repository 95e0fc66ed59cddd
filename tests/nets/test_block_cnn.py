"""The course's CNN: its size to the parameter, its shapes, its options."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from medassay.core.errors import ConfigError
from medassay.nets.block_cnn import BlockCNN, ConvBlock


def trainable(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


def images(n: int = 4, channels: int = 1, size: int = 28) -> Tensor:
    return torch.rand((n, channels, size, size), generator=torch.Generator().manual_seed(0))


def convolutions(net: nn.Module) -> list[nn.Conv2d]:
    return [m for m in net.modules() if isinstance(m, nn.Conv2d)]


def expected_parameters(channels: int, classes: int, width: int, blocks: int) -> int:
    """Counted by hand: 3x3 convolutions without bias, two numbers per batch-normalised map, one linear layer."""
    total, before = 0, channels
    for after in (width * 2**i for i in range(blocks)):
        total += 9 * before * after + 2 * after + 9 * after * after + 2 * after
        before = after
    return total + before * classes + classes


@pytest.mark.parametrize(("channels", "classes", "count"), [(1, 2, 18_218), (3, 8, 18_560)])
def test_the_specified_net_has_exactly_the_specified_parameters(channels: int, classes: int, count: int) -> None:
    assert trainable(BlockCNN(channels, classes)) == count


@pytest.mark.parametrize("width", [2, 16])
@pytest.mark.parametrize("blocks", [1, 3, 4])
def test_width_and_blocks_scale_the_parameters_as_counted_by_hand(width: int, blocks: int) -> None:
    assert trainable(BlockCNN(1, 2, width=width, blocks=blocks)) == expected_parameters(1, 2, width, blocks)


def test_every_block_halves_the_side_and_doubles_the_maps() -> None:
    net = BlockCNN(1, 2)
    shapes: list[tuple[int, ...]] = []
    for block in net.blocks:
        block.features.register_forward_hook(lambda _m, _i, out: shapes.append(tuple(out.shape[1:])))
        block.register_forward_hook(lambda _m, _i, out: shapes.append(tuple(out.shape[1:])))
    logits = net(images(4))
    assert shapes == [(8, 28, 28), (8, 14, 14), (16, 14, 14), (16, 7, 7), (32, 7, 7), (32, 3, 3)]
    assert logits.shape == (4, 2)


def test_the_classifier_sees_a_vector_of_32_pooled_features() -> None:
    net = BlockCNN(1, 2)
    assert net.features(images(4)).shape == (4, 32)
    assert (net.head.in_features, net.head.out_features) == (32, 2)


def test_pooled_features_are_the_mean_of_each_map() -> None:
    net = BlockCNN(1, 2, width=2).eval()
    maps: list[Tensor] = []
    net.blocks.register_forward_hook(lambda _m, _i, out: maps.append(out.detach().clone()))
    pooled = net.features(images(3))
    torch.testing.assert_close(pooled, torch.from_numpy(maps[0].numpy().mean(axis=(2, 3))))


def test_each_block_is_two_convolutions_with_normalisation_and_leaky_relu_then_pooling() -> None:
    block = ConvBlock(1, 8)
    kinds = [type(layer).__name__ for layer in block.features]
    assert kinds == ["Conv2d", "BatchNorm2d", "LeakyReLU"] * 2
    assert [(c.in_channels, c.out_channels) for c in convolutions(block)] == [(1, 8), (8, 8)]
    assert (block.pool.kernel_size, block.pool.stride) == (2, 2)


def test_all_convolutions_are_3x3_with_padding_1_and_stride_1() -> None:
    for conv in convolutions(BlockCNN(1, 2)):
        assert (conv.kernel_size, conv.padding, conv.stride) == ((3, 3), (1, 1), (1, 1))


@pytest.mark.parametrize(
    ("normalisation", "has_bias"), [("batch", False), ("group", False), ("instance", False), ("none", True)]
)
def test_convolutions_have_a_bias_only_where_no_normalisation_follows(normalisation: str, has_bias: bool) -> None:
    net = BlockCNN(1, 2, width=4, normalisation=normalisation)
    assert all((conv.bias is not None) is has_bias for conv in convolutions(net))


OPTIONS = [
    *({"blocks": blocks} for blocks in (1, 2, 3, 4)),
    *({"dropout": dropout} for dropout in (0.0, 0.5)),
    *({"normalisation": name} for name in ("batch", "group", "instance", "none")),
    *({"activation": name} for name in ("leaky_relu", "relu", "elu", "gelu", "silu")),
    {"width": 3, "normalisation": "group"},  # not divisible by 4: groups of one map
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(f"{k}={v}" for k, v in o.items()))
def test_every_option_runs_forward_and_backward_into_every_parameter(options: dict[str, object]) -> None:
    torch.manual_seed(0)
    net = BlockCNN(3, 4, **{"width": 4, **options})
    logits = net(images(6, channels=3))
    assert logits.shape == (6, 4)
    nn.functional.cross_entropy(logits, torch.arange(6) % 4).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_normalisations_and_activations_are_the_layers_they_are_called() -> None:
    layers = {
        "batch": nn.BatchNorm2d, "group": nn.GroupNorm, "instance": nn.InstanceNorm2d, "none": nn.Identity,
    }  # fmt: skip
    for name, layer in layers.items():
        assert isinstance(ConvBlock(1, 4, normalisation=name).features[1], layer)
    activations = {"leaky_relu": nn.LeakyReLU, "relu": nn.ReLU, "elu": nn.ELU, "gelu": nn.GELU, "silu": nn.SiLU}
    for name, layer in activations.items():
        assert isinstance(ConvBlock(1, 4, activation=name).features[2], layer)


@pytest.mark.parametrize(("size", "most"), [(28, 4), (32, 5), (64, 6)])
def test_more_blocks_than_an_image_can_be_halved_are_refused_in_one_line(size: int, most: int) -> None:
    assert BlockCNN(1, 2, image_size=size, width=1, blocks=most).eval()(images(2, size=size)).shape == (2, 2)
    with pytest.raises(ConfigError, match=rf"model\.net\.blocks={most + 1}.*at most {most}$") as caught:
        BlockCNN(1, 2, image_size=size, width=1, blocks=most + 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("normalisation", ["batch", "group", "instance", "none"])
def test_in_evaluation_an_image_is_classified_alike_alone_and_in_a_batch(normalisation: str) -> None:
    torch.manual_seed(0)
    net = BlockCNN(1, 2, width=4, normalisation=normalisation, dropout=0.5)
    net(images(16))  # moves the running statistics off their start
    net.eval()
    batch = images(5)
    alone = torch.cat([net(image[None]) for image in batch])
    torch.testing.assert_close(net(batch), alone)


def test_dropout_acts_on_pooled_features_in_training_only() -> None:
    torch.manual_seed(0)
    net = BlockCNN(1, 2, width=4, dropout=0.5, normalisation="none")
    dropped, kept = [], []
    net.dropout.register_forward_hook(lambda _m, _i, out: dropped.append(out.detach()))
    net.pool.register_forward_hook(lambda _m, _i, out: kept.append(out.detach().flatten(1)))
    net(images(64))
    share = (dropped[0] == 0).float().mean() - (kept[0] == 0).float().mean()
    assert 0.4 < share < 0.6
    net.eval()(images(64))
    assert torch.equal(dropped[1], kept[1])


def test_the_first_layer_maps_zero_to_one_onto_minus_one_to_one() -> None:
    net = BlockCNN(1, 2)
    assert torch.equal(net.normalise(torch.tensor([0.0, 0.5, 1.0])), torch.tensor([-1.0, 0.0, 1.0]))
    seen: list[Tensor] = []
    net.blocks[0].features[0].register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0]))
    batch = images(2)
    net(batch)
    assert torch.equal(seen[0], (batch - 0.5) / 0.5)
