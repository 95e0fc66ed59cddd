"""The conditional VAE's encoder and decoder against the table they were specified by."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medassay.nets.cvae import CVAE, list_sides, make_label_planes

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
LATENT = 128


def trainable(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


def images(n: int = 4, channels: int = 3, size: int = 28) -> Tensor:
    return torch.rand((n, channels, size, size), generator=torch.Generator().manual_seed(0))


def noise(n: int = 4, latent: int = LATENT) -> Tensor:
    return torch.randn((n, latent), generator=torch.Generator().manual_seed(1))


def labels(n: int = 4) -> Tensor:
    return 3 * torch.arange(n) % 8


@pytest.fixture(scope="module")
def specified() -> CVAE:
    torch.manual_seed(0)
    return CVAE(3, 8)


def shapes_at(net: nn.Module, run: Callable[[], object]) -> list[tuple[int, ...]]:
    """The output shape, without the batch, of every convolution in the order they run."""
    shapes: list[tuple[int, ...]] = []
    hooks = [
        m.register_forward_hook(lambda _m, _i, out: shapes.append(tuple(out.shape[1:])))
        for m in net.modules()
        if isinstance(m, CONVOLUTIONS)
    ]
    run()
    for hook in hooks:
        hook.remove()
    return shapes


def convolutions(net: nn.Module) -> list[nn.Conv2d | nn.ConvTranspose2d]:
    return [m for m in net.modules() if isinstance(m, CONVOLUTIONS)]


def input_of(layer: nn.Module, run: Callable[[], object]) -> Tensor:
    """What ``layer`` is given while ``run`` runs."""
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _m, given: seen.append(given[0].detach().clone()))
    run()
    hook.remove()
    (found,) = seen
    return found


# --- sizes -----------------------------------------------------------------------------------------------------------


def test_the_specified_net_has_exactly_the_specified_parameters(specified: CVAE) -> None:
    assert trainable(specified) == 3_348_811


def encoder_parameters(channels: int, classes: int, width: int, latent: int) -> int:
    """Counted by hand, for images of 17 to 32 pixels: 3x3 convolutions with bias, then two heads."""
    maps = [channels + classes, *(width * 2**i for i in range(6))]
    return sum(9 * a * b + b for a, b in pairwise(maps)) + 2 * (maps[-1] * latent + latent)


def decoder_parameters(channels: int, classes: int, width: int, latent: int) -> int:
    maps = [*(width * 2**i for i in reversed(range(6))), channels + classes]
    return (latent + classes) * maps[0] + maps[0] + sum(9 * a * b + b for a, b in pairwise(maps))


def test_the_hand_count_agrees_with_the_specification() -> None:
    assert encoder_parameters(3, 8, 16, 128) + decoder_parameters(3, 8, 16, 128) == 3_348_811


@pytest.mark.parametrize(
    ("width", "channels", "classes", "latent"), [(16, 3, 8, 128), (16, 1, 2, 64), (3, 3, 5, 7), (1, 1, 2, 1)]
)
def test_width_scales_all_maps_as_counted_by_hand(width: int, channels: int, classes: int, latent: int) -> None:
    net = CVAE(channels, classes, width=width, latent=latent)
    assert trainable(net.encoder) == encoder_parameters(channels, classes, width, latent)
    assert trainable(net.decoder) == decoder_parameters(channels, classes, width, latent)


def test_each_part_has_the_parameters_counted_by_hand(specified: CVAE) -> None:
    encoder, decoder = specified.encoder, specified.decoder
    by_hand = {
        encoder.body: 1_573_920,  # 1,600 + 4,640 + 18,496 + 73,856 + 295,168 + 1,180,160
        encoder.mean: 512 * 128 + 128,
        encoder.log_variance: 512 * 128 + 128,
        decoder.from_latent: 136 * 512 + 512,
        decoder.body: 1_573_419,  # 1,179,904 + 295,040 + 73,792 + 18,464 + 4,624 + 1,595
    }
    assert {part: trainable(part) for part in by_hand} == by_hand
    assert sum(by_hand.values()) == trainable(specified)


# --- the table of shapes ---------------------------------------------------------------------------------------------


def test_the_encoder_shrinks_maps_as_in_the_table(specified: CVAE) -> None:
    encoder = specified.encoder
    found = shapes_at(encoder, lambda: encoder(images(), labels()))
    assert found == [(16, 14, 14), (32, 7, 7), (64, 4, 4), (128, 2, 2), (256, 1, 1), (512, 1, 1)]


def test_the_decoder_grows_maps_as_in_the_table(specified: CVAE) -> None:
    decoder = specified.decoder
    found = shapes_at(decoder, lambda: decoder(noise(), labels()))
    assert found == [(256, 1, 1), (128, 2, 2), (64, 4, 4), (32, 7, 7), (16, 14, 14), (11, 28, 28)]


def test_the_encoder_gives_a_mean_and_a_log_variance_of_the_latents_length(specified: CVAE) -> None:
    mean, log_variance = specified.encoder(images(), labels())
    assert mean.shape == log_variance.shape == (4, 128)
    assert not torch.equal(mean, log_variance)


def test_the_sides_of_28_pixels_are_those_of_the_specification() -> None:
    assert list_sides(28) == [28, 14, 7, 4, 2, 1]


@pytest.mark.parametrize("size", [8, 17, 31, 32, 33, 64, 224])
def test_sides_are_those_of_a_convolution_of_stride_2(size: int) -> None:
    x, found = torch.zeros(1, 1, size, size), []
    for _ in range(6):
        found.append(x.shape[-1])
        x = F.conv2d(x, torch.zeros(1, 1, 3, 3), stride=2, padding=1)
    assert list_sides(size) == found


def test_all_convolutions_have_kernel_3_padding_1_and_a_bias(specified: CVAE) -> None:
    found = convolutions(specified)
    assert len(found) == 12
    for conv in found:
        assert (conv.kernel_size, conv.padding, conv.dilation, conv.groups) == ((3, 3), (1, 1), (1, 1), 1)
        assert conv.bias is not None


def test_the_encoders_strides_are_2_but_for_the_last(specified: CVAE) -> None:
    assert [conv.stride for conv in convolutions(specified.encoder)] == [(2, 2)] * 5 + [(1, 1)]


def test_the_decoders_strides_are_2_but_for_the_first(specified: CVAE) -> None:
    assert [conv.stride for conv in convolutions(specified.decoder)] == [(1, 1)] + [(2, 2)] * 5


def test_the_decoders_output_paddings_are_those_of_the_specification(specified: CVAE) -> None:
    found = [conv.output_padding for conv in convolutions(specified.decoder)]
    assert found == [(p, p) for p in (0, 1, 1, 0, 1, 1)]


def test_only_convolutions_but_the_decoders_last_are_followed_by_an_activation(specified: CVAE) -> None:
    def kinds(net: nn.Module) -> list[str]:
        return [type(m).__name__ for m in net.modules() if not list(m.children())]

    assert kinds(specified.encoder) == [*["Conv2d", "LeakyReLU"] * 6, "Flatten", "Linear", "Linear"]
    up = ["ConvTranspose2d", "LeakyReLU"]
    assert kinds(specified.decoder) == ["Linear", "Unflatten", *up * 5, "ConvTranspose2d"]


def test_the_decoder_transposes_its_convolutions_and_the_encoder_does_not(specified: CVAE) -> None:
    assert {type(conv) for conv in convolutions(specified.encoder)} == {nn.Conv2d}
    assert {type(conv) for conv in convolutions(specified.decoder)} == {nn.ConvTranspose2d}


# --- what they compute -----------------------------------------------------------------------------------------------


def numpy_planes(found: Tensor, num_classes: int, size: int) -> np.ndarray:
    planes = np.zeros((len(found), num_classes, size, size), dtype=np.float32)
    for row, label in enumerate(found.tolist()):
        planes[row, label] = 1
    return planes


def test_label_planes_are_one_everywhere_in_the_classs_plane_and_zero_in_the_others() -> None:
    asked = torch.tensor([5, 0, 7])
    planes = make_label_planes(asked, 8, images(3, size=6))
    assert planes.dtype == torch.float32
    assert np.array_equal(planes.numpy(), numpy_planes(asked, 8, 6))


def test_label_planes_take_size_and_dtype_of_the_images() -> None:
    like = torch.zeros(2, 1, 3, 5, dtype=torch.float64)
    planes = make_label_planes(torch.tensor([0, 1]), 2, like)
    assert (planes.shape, planes.dtype) == ((2, 2, 3, 5), torch.float64)


def test_the_encoder_sees_the_image_as_it_is_and_after_it_the_label_planes(specified: CVAE) -> None:
    x, y = images(3), torch.tensor([5, 0, 7])
    seen = input_of(specified.encoder.body[0], lambda: specified.encoder(x, y))
    assert seen.shape == (3, 11, 28, 28)
    assert np.array_equal(seen.numpy(), np.concatenate([x.numpy(), numpy_planes(y, 8, 28)], axis=1))


def test_the_decoder_sees_the_latent_and_after_it_the_one_hot_label(specified: CVAE) -> None:
    z, y = noise(3), torch.tensor([5, 0, 7])
    seen = input_of(specified.decoder.from_latent, lambda: specified.decoder(z, y))
    assert seen.shape == (3, 136)
    assert np.array_equal(seen.numpy(), np.concatenate([z.numpy(), np.eye(8, dtype=np.float32)[y.numpy()]], axis=1))


def leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.01 * x)


def weights_of(net: nn.Module, kind: type[nn.Module] | tuple[type[nn.Module], ...]) -> list[tuple[Tensor, Tensor]]:
    return [(m.weight, m.bias) for m in net.modules() if isinstance(m, kind)]


@pytest.fixture(scope="module")
def double() -> CVAE:
    """In double precision, so that nothing but the specified arithmetic agrees to ten digits."""
    torch.manual_seed(3)
    return CVAE(3, 8).double()


def test_the_encoder_computes_what_is_specified_written_out(double: CVAE) -> None:
    x, y = images(3).double(), torch.tensor([5, 0, 7])
    flow = torch.cat([x, torch.from_numpy(numpy_planes(y, 8, 28)).double()], dim=1)
    for (weight, bias), stride in zip(weights_of(double.encoder, nn.Conv2d), (2, 2, 2, 2, 2, 1), strict=True):
        flow = leaky(F.conv2d(flow, weight, bias, stride=stride, padding=1))
    heads = [flow.reshape(3, 512) @ weight.T + bias for weight, bias in weights_of(double.encoder, nn.Linear)]
    for found, expected in zip(double.encoder(x, y), heads, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


def test_the_decoder_computes_what_is_specified_written_out(double: CVAE) -> None:
    z, y = noise(3).double(), torch.tensor([5, 0, 7])
    ((weight, bias),) = weights_of(double.decoder, nn.Linear)
    flow = torch.cat([z, torch.eye(8, dtype=torch.float64)[y]], dim=1) @ weight.T + bias  # no activation after it
    flow = flow.reshape(3, 512, 1, 1)
    layers = weights_of(double.decoder, nn.ConvTranspose2d)
    for place, (weight, bias) in enumerate(layers):
        stride, extra = (1, 2, 2, 2, 2, 2)[place], (0, 1, 1, 0, 1, 1)[place]
        flow = F.conv_transpose2d(flow, weight, bias, stride=stride, padding=1, output_padding=extra)
        if place < 5:
            flow = leaky(flow)
    torch.testing.assert_close(double.decoder(z, y), flow, rtol=1e-10, atol=1e-14)


def test_the_decoder_answers_with_logits_of_three_image_channels_and_eight_label_planes(specified: CVAE) -> None:
    logits = specified.decoder(noise(), labels())
    assert logits.shape == (4, 11, 28, 28)
    assert logits.min() < 0


def test_the_log_variance_may_be_negative(specified: CVAE) -> None:
    _, log_variance = specified.encoder(images(), labels())
    assert log_variance.min() < 0 < log_variance.max()


def test_the_label_changes_what_both_parts_answer() -> None:
    torch.manual_seed(0)
    net = CVAE(3, 8, width=4, latent=8)
    mean, log_variance = net.encoder(images(1).expand(8, -1, -1, -1), torch.arange(8))
    assert len(mean.unique(dim=0)) == len(log_variance.unique(dim=0)) == 8
    logits = net.decoder(noise(1, 8).expand(8, -1), torch.arange(8))
    assert len(logits[:, :3].flatten(1).unique(dim=0)) == 8


def test_an_item_is_treated_alike_alone_and_in_a_batch() -> None:
    torch.manual_seed(0)
    net = CVAE(3, 8, width=4, latent=8)
    z, x, y = noise(5, 8), images(5), labels(5)
    means = torch.cat([net.encoder(x[i : i + 1], y[i : i + 1])[0] for i in range(5)])
    torch.testing.assert_close(net.encoder(x, y)[0], means)
    decoded = torch.cat([net.decoder(z[i : i + 1], y[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(net.decoder(z, y), decoded)


def test_neither_part_changes_what_it_is_given() -> None:
    net = CVAE(1, 2, width=1, latent=2)
    x, z, y = images(2, 1), noise(2, 2), labels(2) % 2
    before = x.clone(), z.clone()
    net.encoder(x, y)
    net.decoder(z, y)
    assert torch.equal(x, before[0])
    assert torch.equal(z, before[1])


def test_gradients_reach_every_parameter_of_both_parts() -> None:
    torch.manual_seed(0)
    net = CVAE(1, 2, width=2, latent=4)
    mean, log_variance = net.encoder(images(4, 1), labels() % 2)
    net.decoder(mean + (0.5 * log_variance).exp(), labels() % 2).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_on_maps_of_one_pixel_only_the_middle_of_a_kernel_learns() -> None:
    torch.manual_seed(0)
    net = CVAE(3, 8, width=2, latent=4)
    mean, _ = net.encoder(images(), labels())
    net.decoder(mean, labels()).sum().backward()
    for conv in (convolutions(net.encoder)[-1], convolutions(net.decoder)[0]):
        learns = conv.weight.grad.abs().sum((0, 1)) > 0
        assert learns.tolist() == [[False] * 3, [False, True, False], [False] * 3]


# --- normalisation ---------------------------------------------------------------------------------------------------


def test_normalisation_comes_before_each_activation_and_leaves_the_convolutions_as_they_are(specified: CVAE) -> None:
    net = CVAE(3, 8, normalisation="batch")
    for part, plain in ((net.encoder, specified.encoder), (net.decoder, specified.decoder)):
        layers, before = list(part.body), list(plain.body)
        places = [i for i, layer in enumerate(layers) if isinstance(layer, nn.BatchNorm2d)]
        assert all(isinstance(layers[i + 1], nn.LeakyReLU) for i in places)
        assert len(places) == sum(isinstance(layer, nn.LeakyReLU) for layer in before)
        rest = [layer for i, layer in enumerate(layers) if i not in places]
        assert [repr(layer) for layer in rest] == [repr(layer) for layer in before]


def test_normalisation_lets_the_latent_reach_the_image_from_the_start() -> None:
    """Without, a latent of deviation 1 moves the untrained net's logits by less than a thousandth."""
    reach = {}
    for name in ("none", "batch"):
        torch.manual_seed(0)
        decoder = CVAE(3, 8, normalisation=name).decoder  # type: ignore[arg-type]
        reach[name] = decoder(noise(64), torch.zeros(64, dtype=torch.int64)).std(0).mean().item()
    assert reach["none"] < 1e-3
    assert reach["batch"] > 0.05


# --- other images ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 17, 28, 31, 32, 33, 64])
def test_images_of_any_size_come_back_in_their_size(size: int, channels: int) -> None:
    net = CVAE(channels, 2, image_size=size, width=1, latent=3)
    mean, log_variance = net.encoder(images(2, channels, size), labels(2) % 2)
    assert mean.shape == log_variance.shape == (2, 3)
    assert net.decoder(mean, labels(2) % 2).shape == (2, channels + 2, size, size)
    assert net.image_shape == (channels, size, size)


@pytest.mark.parametrize("size", [17, 28, 64, 100])
def test_the_decoders_sizes_mirror_the_encoders(size: int) -> None:
    net = CVAE(1, 2, image_size=size, width=1, latent=2)
    down = shapes_at(net.encoder, lambda: net.encoder(images(1, 1, size), labels(1) % 2))
    up = shapes_at(net.decoder, lambda: net.decoder(noise(1, 2), labels(1) % 2))
    assert [shape[1] for shape in up] == [*[shape[1] for shape in reversed(down)][1:], size]


@pytest.mark.parametrize("latent", [1, 7])
def test_the_latent_size_is_a_choice(latent: int) -> None:
    net = CVAE(1, 2, width=1, latent=latent)
    assert net.latent == latent
    assert net.encoder(images(3, 1), labels(3) % 2)[0].shape == (3, latent)
    assert net.decoder(noise(3, latent), labels(3) % 2).shape == (3, 3, 28, 28)
