"""The residual conditional GAN's two networks: shapes, the start as linear maps, the class by projection, and their size."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medassay.core.errors import ConfigError
from medassay.nets.cgan import CGAN
from medassay.nets.residual_cgan import (
    SLOPE,
    ResidualBlock,
    ResidualCGAN,
    ResidualDiscriminator,
    ResidualGenerator,
    list_sides,
)


def trainable(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


def images(n: int = 4, channels: int = 3, size: int = 28) -> Tensor:
    return torch.rand((n, channels, size, size), generator=torch.Generator().manual_seed(0))


def small(seed: int = 0, **options: object) -> ResidualCGAN:
    """A small net whose blocks do something, as after training."""
    torch.manual_seed(seed)
    net = ResidualCGAN(3, 8, width=2, discriminator_width=2, latent=4, **options)  # type: ignore[arg-type]
    for module in net.modules():
        if isinstance(module, ResidualBlock):
            nn.init.normal_(module.conv2.weight, 0, 0.1)
    return net


# --- sizes -----------------------------------------------------------------------------------------------------------


def block(width: int) -> int:
    return 2 * (9 * width**2 + width)


def test_the_default_networks_have_the_parameters_counted_by_hand() -> None:
    net = ResidualCGAN(3, 8)
    maps = [256, 128, 64, 32]
    narrow = sum(a * b + b for a, b in pairwise(maps))
    generator = 8 * 64 + (128 * 256 * 16 + 256 * 16) + sum(map(block, maps)) + narrow + (9 * 32 * 3 + 3)
    maps = [24, 48, 96, 192]
    widen = sum(a * b + b for a, b in pairwise(maps))
    head = 192 * 16 * 192 + 192 + 192 + 1 + 8 * 192
    discriminator = (9 * 3 * 24 + 24) + sum(map(block, maps)) + widen + head
    assert (trainable(net.generator), trainable(net.discriminator)) == (generator, discriminator)
    assert (generator, discriminator) == (2_140_675, 1_498_945)
    assert generator + discriminator <= 2 * trainable(CGAN(3, 8))


def test_sides_are_halved_three_times() -> None:
    assert list_sides(28) == [4, 7, 14, 28]
    assert list_sides(32) == [4, 8, 16, 32]
    assert list_sides(29) == [4, 8, 15, 29]


@pytest.mark.parametrize("size", [8, 28, 29, 32, 64])
def test_images_of_any_size_are_made_and_judged_without_padding(size: int) -> None:
    net = small(image_size=size)
    drawn = net.generator(torch.randn(3, 4), torch.arange(3))
    assert drawn.shape == (3, 3, size, size)
    assert net.discriminator(drawn, torch.arange(3)).shape == (3,)
    assert net.pad(drawn) is net.crop(drawn) is drawn
    assert net.image_shape == (3, size, size)


# --- the start -------------------------------------------------------------------------------------------------------


def test_a_block_starts_as_the_identity() -> None:
    x = torch.randn(2, 6, 5, 5)
    assert torch.equal(ResidualBlock(6, 4)(x), x)


def test_a_block_adds_two_convolutions_each_after_a_leaky_relu() -> None:
    torch.manual_seed(0)
    made = ResidualBlock(3, 1)
    nn.init.normal_(made.conv2.weight)
    x = torch.randn(2, 3, 5, 5)
    flow = x
    for conv in (made.conv1, made.conv2):
        rectified = torch.where(flow > 0, flow, SLOPE * flow)
        flow = F.conv2d(rectified, conv.weight, conv.bias, padding=1)
    torch.testing.assert_close(made(x), x + flow)


@pytest.mark.parametrize("total", [1, 4])
def test_a_blocks_first_convolution_is_smaller_by_the_root_of_the_number_of_blocks(total: int) -> None:
    torch.manual_seed(0)
    conv = ResidualBlock(64, total).conv1
    expected = math.sqrt(2 / (1 + 0.2**2) / (9 * 64) / total)
    assert conv.weight.std().item() == pytest.approx(expected, rel=0.02)
    assert not conv.bias.any()


def test_the_discriminator_starts_with_logits_of_a_few_units() -> None:
    torch.manual_seed(0)
    logits = ResidualDiscriminator(3, 8, 28, [24, 48, 96, 192], 1)(images(64), torch.arange(64) % 8)
    assert 0.01 < logits.std().item() < 3


def test_the_generator_starts_with_images_that_differ() -> None:
    torch.manual_seed(0)
    drawn = ResidualGenerator(3, 8, 28, [64, 32, 16, 8], 1, 16)(torch.randn(16, 16), torch.arange(16) % 8)
    assert 0.02 < drawn.std(0).mean().item() < 0.4
    assert 0 < drawn.min() < drawn.max() < 1


def test_the_discriminator_has_no_normalisation_unless_asked_for() -> None:
    norms = (nn.BatchNorm2d, nn.GroupNorm, nn.InstanceNorm2d)
    assert not [m for m in small().modules() if isinstance(m, norms)]
    batch = small(normalisation="batch")
    assert len([m for m in batch.discriminator.modules() if isinstance(m, nn.BatchNorm2d)]) == 8
    assert not [m for m in batch.generator.modules() if isinstance(m, norms)]


# --- the class -------------------------------------------------------------------------------------------------------


def test_with_projection_the_class_enters_by_the_embedding_alone() -> None:
    net = small().discriminator
    seen: list[Tensor] = []
    net.to_features.register_forward_hook(lambda _m, _i, out: seen.append(out))
    x = images(1).expand(8, -1, -1, -1)
    logits = net(x, torch.arange(8))
    features = seen[0]
    assert features.unique(dim=0).shape[0] == 1  # what comes before knows nothing of the class
    assert net.embedding is not None
    expected = net.to_logit(features)[:, 0] + (net.embedding.weight * features).sum(1)
    torch.testing.assert_close(logits, expected)
    assert len(logits.unique()) == 8
    nn.init.zeros_(net.embedding.weight)
    assert len(net(x, torch.arange(8)).unique()) == 1


def test_without_projection_the_class_enters_as_planes_beside_the_image() -> None:
    net = small(projection=False).discriminator
    assert net.embedding is None
    seen: list[Tensor] = []
    net.from_image.register_forward_hook(lambda _m, given, _o: seen.append(given[0]))
    x, labels = images(3), torch.tensor([5, 0, 7])
    net(x, labels)
    planes = F.one_hot(labels, 8)[:, :, None, None].expand(-1, -1, 28, 28)
    torch.testing.assert_close(seen[0], torch.cat([2 * x - 1, planes.float()], dim=1))
    assert len(net(images(1).expand(8, -1, -1, -1), torch.arange(8)).unique()) == 8


def test_the_class_changes_what_the_generator_draws() -> None:
    drawn = small().generator(torch.randn(1, 4).expand(8, -1), torch.arange(8))
    assert len(drawn.flatten(1).unique(dim=0)) == 8


def test_an_item_is_treated_alike_alone_and_in_a_batch() -> None:
    net = small()
    z, x, y = torch.randn(5, 4), images(5), torch.arange(5)
    drawn = torch.cat([net.generator(z[i : i + 1], y[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(net.generator(z, y), drawn)
    judged = torch.cat([net.discriminator(x[i : i + 1], y[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(net.discriminator(x, y), judged)


# --- gradients of gradients ------------------------------------------------------------------------------------------


def test_gradients_reach_every_parameter_of_both_networks() -> None:
    net = small()
    labels = torch.arange(8)
    net.discriminator(net.generator(torch.randn(8, 4), labels), labels).sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def compute_slope(net: nn.Module, x: Tensor, labels: Tensor, *, with_graph: bool) -> Tensor:
    """The squared norm of the logits' gradients by their images, summed."""
    given = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net(given, labels).sum(), given, create_graph=with_graph)
    return gradient.square().sum()


@pytest.mark.parametrize("size", [28, 29])
def test_second_derivatives_are_those_of_finite_differences(size: int) -> None:
    net = small(image_size=size).double().discriminator
    x, labels = images(2, size=size).double(), torch.arange(2)
    weight = net.stages[1][0].conv1.weight
    (found,) = torch.autograd.grad(compute_slope(net, x, labels, with_graph=True), weight)
    slopes = []
    for step in (1e-6, -2e-6):
        weight.data[0, 1, 1, 1] += step
        slopes.append(float(compute_slope(net, x, labels, with_graph=False)))
    assert float(found[0, 1, 1, 1]) == pytest.approx((slopes[0] - slopes[1]) / 2e-6, rel=1e-4)


def test_the_memory_format_changes_no_second_derivative() -> None:
    labels = torch.arange(4)
    found = []
    for memory_format in (torch.channels_last, torch.contiguous_format):
        net = small().discriminator.to(memory_format=memory_format)  # type: ignore[call-overload]
        given = images(4).requires_grad_()
        (gradient,) = torch.autograd.grad(net(given, labels).sum(), given, create_graph=True)
        gradient.square().sum().backward()
        found.append(torch.cat([p.grad.contiguous().flatten() for p in net.parameters() if p.grad is not None]))
    assert found[0].any()
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-6)


def test_normalising_each_image_is_refused_where_the_smallest_maps_are_single_pixels() -> None:
    with pytest.raises(ConfigError, match=r"model\.net\.normalisation=instance: .* none, group or batch"):
        ResidualCGAN(1, 2, image_size=8, normalisation="instance")
    net = ResidualCGAN(1, 2, image_size=9, width=2, discriminator_width=2, normalisation="instance")
    assert net.discriminator(torch.rand(3, 1, 9, 9), torch.zeros(3, dtype=torch.int64)).isfinite().all()
