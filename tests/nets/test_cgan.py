"""The conditional GAN's two networks against the table they were specified by."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medassay.nets.cgan import CGAN, Discriminator, Generator


def trainable(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


def images(n: int = 4, channels: int = 3, size: int = 32) -> Tensor:
    return torch.rand((n, channels, size, size), generator=torch.Generator().manual_seed(0))


def noise(n: int = 4, latent: int = 100) -> Tensor:
    return torch.randn((n, latent), generator=torch.Generator().manual_seed(1))


def labels(n: int = 4) -> Tensor:
    return torch.arange(n) % 8


@pytest.fixture(scope="module")
def specified() -> CGAN:
    torch.manual_seed(0)
    return CGAN(3, 8)


def shapes_at(
    net: nn.Module, run: Callable[[], object], *, kinds: tuple[type[nn.Module], ...]
) -> list[tuple[int, ...]]:
    """The output shape, without the batch, of every layer of the given kinds in the order they run."""
    shapes: list[tuple[int, ...]] = []
    hooks = [
        m.register_forward_hook(lambda _m, _i, out: shapes.append(tuple(out.shape[1:])))
        for m in net.modules()
        if isinstance(m, kinds)
    ]
    run()
    for hook in hooks:
        hook.remove()
    return shapes


def layers(net: nn.Module, *kinds: type[nn.Module]) -> Iterator[nn.Module]:
    return (m for m in net.modules() if isinstance(m, kinds))


# --- sizes -----------------------------------------------------------------------------------------------------------


def test_the_specified_networks_have_exactly_the_specified_parameters(specified: CGAN) -> None:
    assert trainable(specified.generator) == 3_072_643
    assert trainable(specified.discriminator) == 2_643_329


def generator_parameters(channels: int, classes: int, width: int, latent: int) -> int:
    """Counted by hand: 4x4 convolutions with bias, two numbers per batch-normalised map."""
    convolutions = [
        (latent, 4 * width), (classes, 4 * width), (8 * width, 4 * width), (4 * width, 2 * width), (2 * width, channels),
    ]  # fmt: skip
    return sum(16 * a * b + b for a, b in convolutions) + 2 * (4 * width * 3 + 2 * width)


def discriminator_parameters(channels: int, classes: int, width: int) -> int:
    convolutions = [
        (channels, width), (classes, width), (2 * width, 4 * width), (4 * width, 8 * width), (8 * width, 1),
    ]  # fmt: skip
    return sum(16 * a * b + b for a, b in convolutions) + 2 * (4 * width + 8 * width)


@pytest.mark.parametrize(("width", "channels", "classes", "latent"), [(16, 3, 8, 100), (2, 1, 2, 4)])
def test_width_scales_all_channels_as_counted_by_hand(width: int, channels: int, classes: int, latent: int) -> None:
    net = CGAN(channels, classes, width=width, latent=latent)
    assert trainable(net.generator) == generator_parameters(channels, classes, width, latent)
    assert trainable(net.discriminator) == discriminator_parameters(channels, classes, width)


def test_the_hand_count_agrees_with_the_specification() -> None:
    assert generator_parameters(3, 8, 64, 100) == 3_072_643
    assert discriminator_parameters(3, 8, 64) == 2_643_329


# --- the table of shapes ---------------------------------------------------------------------------------------------


def test_the_generator_grows_maps_as_in_the_table(specified: CGAN) -> None:
    net = specified.generator
    found = shapes_at(net, lambda: net(noise(), labels()), kinds=(nn.ConvTranspose2d,))
    assert found == [(256, 4, 4), (256, 4, 4), (256, 8, 8), (128, 16, 16), (3, 32, 32)]
    inputs: list[tuple[int, ...]] = []
    hook = net.up1.register_forward_hook(lambda _m, given, _o: inputs.append(tuple(given[0].shape)))
    assert net(noise(), labels()).shape == (4, 3, 32, 32)
    hook.remove()
    assert inputs == [(4, 512, 4, 4)]


def test_the_discriminator_shrinks_maps_as_in_the_table(specified: CGAN) -> None:
    net = specified.discriminator
    found = shapes_at(net, lambda: net(images(), labels()), kinds=(nn.Conv2d,))
    assert found == [(64, 16, 16), (64, 16, 16), (256, 8, 8), (512, 4, 4), (1, 1, 1)]
    inputs: list[tuple[int, ...]] = []
    hook = net.down1.register_forward_hook(lambda _m, given, _o: inputs.append(tuple(given[0].shape)))
    assert net(images(), labels()).shape == (4,)
    hook.remove()
    assert inputs == [(4, 128, 16, 16)]


def test_the_order_of_layers_is_that_of_the_table(specified: CGAN) -> None:
    def kinds(net: nn.Module) -> list[str]:
        return [type(m).__name__ for m in net.modules() if not list(m.children())]

    up, down = ["ConvTranspose2d", "BatchNorm2d", "ReLU"], ["Conv2d", "BatchNorm2d", "LeakyReLU"]
    assert kinds(specified.generator) == [*up * 4, "ConvTranspose2d"]
    assert kinds(specified.discriminator) == ["Normalise", *["Conv2d", "LeakyReLU"] * 2, *down * 2, "Conv2d"]


def test_convolutions_have_kernel_4_stride_2_padding_1_but_for_the_three_exceptions(specified: CGAN) -> None:
    generator, discriminator = specified.generator, specified.discriminator
    exceptions = {generator.from_noise[0], generator.from_label[0], discriminator.to_logit}
    found = list(layers(specified, nn.Conv2d, nn.ConvTranspose2d))
    assert len(found) == 10
    for conv in found:
        stride, padding = ((1, 1), (0, 0)) if conv in exceptions else ((2, 2), (1, 1))
        assert (conv.kernel_size, conv.stride, conv.padding) == ((4, 4), stride, padding)


def test_all_convolutions_have_a_bias(specified: CGAN) -> None:
    assert all(conv.bias is not None for conv in layers(specified, nn.Conv2d, nn.ConvTranspose2d))


def test_the_discriminators_slope_is_a_fifth(specified: CGAN) -> None:
    slopes = [m.negative_slope for m in layers(specified.discriminator, nn.LeakyReLU)]
    assert slopes == [0.2] * 4


# --- initialisation --------------------------------------------------------------------------------------------------


def test_weights_start_normal_with_deviation_a_fiftieth_and_biases_at_zero(specified: CGAN) -> None:
    for conv in layers(specified, nn.Conv2d, nn.ConvTranspose2d):
        weight = conv.weight.detach()
        bound = 5 / weight.numel() ** 0.5  # five standard errors
        assert abs(weight.mean()) < 0.02 * bound
        assert abs(weight.std() / 0.02 - 1) < bound
        assert not conv.bias.any()
    pooled = torch.cat([c.weight.detach().flatten() for c in layers(specified, nn.Conv2d, nn.ConvTranspose2d)])
    excess = ((pooled / 0.02) ** 4).mean() - 3  # 0 for a normal distribution, -1.2 for a uniform one
    assert abs(excess) < 0.05


def test_batch_norm_scales_start_around_one_and_shifts_at_zero(specified: CGAN) -> None:
    norms = list(layers(specified, nn.BatchNorm2d))
    assert len(norms) == 6
    scales = torch.cat([m.weight.detach() for m in norms])
    assert abs(scales.mean() - 1) < 5 * 0.02 / len(scales) ** 0.5
    assert abs(scales.std() / 0.02 - 1) < 0.15
    assert not any(m.bias.any() for m in norms)


# --- what they compute -----------------------------------------------------------------------------------------------


def test_generated_values_lie_between_zero_and_one_even_for_extreme_noise(specified: CGAN) -> None:
    drawn = specified.generator(100 * noise(), labels())
    assert drawn.dtype == torch.float32
    assert drawn.min() >= 0
    assert drawn.max() <= 1


def test_the_generators_output_is_the_sigmoid_of_its_last_convolution(specified: CGAN) -> None:
    before: list[Tensor] = []
    hook = specified.generator.to_image.register_forward_hook(lambda _m, _i, out: before.append(out.detach().clone()))
    drawn = specified.generator(noise(), labels()).detach()
    hook.remove()
    np.testing.assert_allclose(drawn.numpy(), 1 / (1 + np.exp(-before[0].numpy())), rtol=1e-5)


def test_the_discriminator_answers_with_logits_not_probabilities() -> None:
    torch.manual_seed(0)
    net = Discriminator(3, 8, width=2)
    net.to_logit.bias.data.fill_(-5.0)
    assert (net(images(), labels()) < 0).all()


def test_the_label_changes_what_both_networks_answer() -> None:
    torch.manual_seed(0)
    net = CGAN(3, 8, width=4, latent=8).eval()
    same_noise, same_image = noise(1, 8).expand(8, -1), images(1).expand(8, -1, -1, -1)
    drawn = net.generator(same_noise, torch.arange(8)).flatten(1)
    assert len(drawn.unique(dim=0)) == 8
    assert len(net.discriminator(same_image, torch.arange(8)).unique()) == 8


def test_the_discriminator_sees_the_label_as_constant_one_hot_planes() -> None:
    net = Discriminator(3, 8, width=2)
    seen: list[Tensor] = []
    net.from_label.register_forward_hook(lambda _m, given, _o: seen.append(given[0]))
    net(images(3), torch.tensor([5, 0, 7]))
    expected = np.zeros((3, 8, 32, 32), dtype=np.float32)
    for row, label in enumerate((5, 0, 7)):
        expected[row, label] = 1
    assert np.array_equal(seen[0].numpy(), expected)


def test_in_evaluation_an_item_is_treated_alike_alone_and_in_a_batch() -> None:
    torch.manual_seed(0)
    net = CGAN(3, 8, width=4, latent=8)
    net.discriminator(images(16), labels(16))
    net.generator(noise(16, 8), labels(16))  # moves the running statistics off their start
    net.eval()
    z, x, y = noise(5, 8), images(5), labels(5)
    drawn = torch.cat([net.generator(z[i : i + 1], y[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(net.generator(z, y), drawn)
    judged = torch.cat([net.discriminator(x[i : i + 1], y[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(net.discriminator(x, y), judged)


def test_gradients_reach_every_parameter_of_both_networks() -> None:
    torch.manual_seed(0)
    net = CGAN(1, 2, width=2, latent=4)
    net.discriminator(net.generator(noise(4, 4), labels(4) % 2), labels(4) % 2).sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("latent", [1, 7])
def test_the_latent_size_is_a_choice(latent: int) -> None:
    assert Generator(1, 2, width=2, latent=latent)(noise(3, latent), labels(3) % 2).shape == (3, 1, 32, 32)


# --- margins ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [28, 29, 30, 31, 32])
def test_cropping_undoes_padding(size: int) -> None:
    net = CGAN(3, 2, image_size=size, width=1, latent=1)
    batch = images(2, size=size)
    padded = net.pad(batch)
    assert padded.shape == (2, 3, 32, 32)
    assert torch.equal(net.crop(padded), batch)


def test_padding_is_the_images_own_reflection_on_all_four_sides() -> None:
    net = CGAN(3, 2, image_size=28, width=1, latent=1)
    batch = images(2, size=28)
    expected = np.pad(batch.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)), mode="reflect")
    assert np.array_equal(net.pad(batch).numpy(), expected)


def test_the_crop_is_the_centre() -> None:
    net = CGAN(3, 2, image_size=28, width=1, latent=1)
    batch = images(2)
    assert torch.equal(net.crop(batch), batch[:, :, 2:30, 2:30])
    assert net.image_shape == (3, 28, 28)
