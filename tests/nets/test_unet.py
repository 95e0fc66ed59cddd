"""U-Net: the paper's size to the parameter, sides of images, skip connections, initial weights, options."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from medassay.core.errors import ConfigError
from medassay.nets.stages import Staged
from medassay.nets.unet import UNet, crop_centre


def images(n: int, channels: int, height: int, width: int | None = None) -> Tensor:
    return torch.rand(n, channels, height, width or height, generator=torch.Generator().manual_seed(0))


def count_by_hand(channels: int, classes: int, width: int, depth: int) -> int:
    """Convolutions with biases: two 3x3 a level down, a 2x2 and two 3x3 a level up, one 1x1."""
    widths = [width * 2**i for i in range(depth + 1)]
    total = 9 * channels * width + width + 9 * width * width + width
    for small, large in pairwise(widths):
        total += 9 * small * large + large + 9 * large * large + large
        total += 4 * large * small + small + 9 * large * small + small + 9 * small * small + small
    return total + width * classes + classes


def trace_valid(size: int, depth: int) -> int | None:
    """The output's side, level by level; None where an odd side would be halved or nothing is left."""
    for _ in range(depth):
        size -= 4
        if size <= 0 or size % 2:
            return None
        size //= 2
    size -= 4
    for _ in range(depth):
        size = 2 * size - 4
        if size <= 0:
            return None
    return size


# --- the paper's net -------------------------------------------------------------------------------------------------


def test_the_papers_net_has_31030658_parameters_and_makes_388_pixels_of_572() -> None:
    with torch.device("meta"):
        net = UNet(1, 2)
        logits = net(torch.empty(1, 1, 572, 572))
    assert sum(p.numel() for p in net.parameters()) == 31_030_658
    assert logits.shape == (1, 2, 388, 388)
    assert net.margin == 92


def test_the_levels_of_the_paper_are_568_280_136_64_and_28_pixels() -> None:
    with torch.device("meta"):
        net = UNet(1, 2)
        shapes: list[tuple[int, ...]] = []
        for block in [*net.contracting, *net.expanding]:
            block.register_forward_hook(lambda _m, _i, out: shapes.append(tuple(out.shape[1:])))
        net(torch.empty(1, 1, 572, 572))
    down = [(64, 568, 568), (128, 280, 280), (256, 136, 136), (512, 64, 64), (1024, 28, 28)]
    assert shapes == [*down, (512, 52, 52), (256, 100, 100), (128, 196, 196), (64, 388, 388)]


@pytest.mark.parametrize(("channels", "classes", "width", "depth"), [(3, 2, 8, 4), (1, 5, 3, 2), (2, 3, 4, 1)])
def test_width_and_depth_scale_the_parameters_as_counted_by_hand(
    channels: int, classes: int, width: int, depth: int
) -> None:
    net = UNet(channels, classes, width=width, depth=depth)
    assert sum(p.numel() for p in net.parameters()) == count_by_hand(channels, classes, width, depth)


def test_initial_weights_have_the_papers_deviation_and_biases_are_zero() -> None:
    torch.manual_seed(0)
    net = UNet(16, 16, width=16, depth=2)
    layers = [m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    assert len(layers) == 13
    for layer in layers:
        field = 9 if layer.kernel_size == (3, 3) else 1  # of a 2x2 up-convolution one value a map reaches a pixel
        expected = math.sqrt(2 / (field * layer.in_channels))
        assert layer.weight.std().item() == pytest.approx(expected, rel=0.16), layer
        assert layer.bias is not None
        assert not layer.bias.any()


def test_up_convolutions_keep_the_variance_that_initial_weights_are_made_for() -> None:
    torch.manual_seed(0)
    up = UNet(1, 2, width=32, depth=1).expanding[0].up
    signals = torch.randn(4, 64, 16, 16).relu()
    assert up(signals).var().item() == pytest.approx(1.0, rel=0.2)


# --- sides of images -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_sides_without_padding_are_those_of_a_walk_through_the_levels(depth: int) -> None:
    net = UNet(1, 2, width=1, depth=depth)
    sides = {size: trace_valid(size, depth) for size in range(1, 300)}
    legal = [size for size, output in sides.items() if output]
    for size, output in sides.items():
        if output:
            assert net.output_size(size) == output == size - 2 * net.margin
        else:
            with pytest.raises(ConfigError):
                net.output_size(size)
    for wanted in range(1, 100):
        assert net.find_input_size(wanted) == min(size for size in legal if (sides[size] or 0) >= wanted)


def test_with_padding_sides_stay_and_must_be_halved_to_the_end() -> None:
    net = UNet(1, 2, width=1, depth=2, padding="same")
    assert (net.margin, net.alignment) == (0, 4)
    assert [net.output_size(size) for size in (4, 28, 32)] == [4, 28, 32]
    assert [net.find_input_size(size) for size in (1, 4, 28, 29)] == [4, 4, 28, 32]
    assert net(images(2, 1, 28, 12)).shape == (2, 2, 28, 12)


@pytest.mark.parametrize(
    ("options", "size", "nearest"),
    [
        ({}, 570, "556 or 572"),
        ({}, 100, "188, the smallest"),
        ({"padding": "same"}, 28, "16 or 32"),
        ({"padding": "same"}, 7, "16, the smallest"),
        ({"padding": "same", "normalisation": "instance"}, 16, "32, the smallest"),
    ],
)
def test_an_impossible_side_is_refused_in_one_line_with_the_nearest(
    options: dict[str, str], size: int, nearest: str
) -> None:
    with torch.device("meta"):
        net = UNet(1, 2, **options)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=rf"{size} pixels.*: {nearest}$") as caught:
            net(torch.empty(1, 1, net.find_input_size(1), size))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_each_image_can_be_normalised_by_itself_at_the_smallest_side(padding: Literal["valid", "same"]) -> None:
    net = UNet(1, 2, width=2, depth=2, normalisation="instance", padding=padding)
    side = net.find_input_size(1)
    assert net.train()(images(2, 1, side, side)).isfinite().all()


def test_height_and_width_may_differ_without_padding() -> None:
    net = UNet(3, 4, width=2, depth=1)
    assert net(images(1, 3, 18, 30)).shape == (1, 4, 2, 14)


# --- its parts -------------------------------------------------------------------------------------------------------


def test_skip_connections_are_cropped_to_their_centre() -> None:
    skip = torch.arange(64).view(1, 1, 8, 8)
    assert torch.equal(crop_centre(skip, torch.empty(1, 3, 4, 2)), skip[:, :, 2:6, 3:5])


def test_a_net_and_an_image_turned_by_180_degrees_give_the_turned_logits() -> None:
    torch.manual_seed(0)
    net, turned = (UNet(1, 2, width=2, depth=1) for _ in range(2))
    turned.load_state_dict(
        {name: value.flip((2, 3)) if value.ndim == 4 else value for name, value in net.state_dict().items()}
    )
    image = images(1, 1, 24)
    torch.testing.assert_close(turned(image.flip((2, 3))).flip((2, 3)), net(image))


def test_with_padding_a_pixel_sees_6_times_2_to_the_depth_less_2_pixels_far() -> None:
    torch.manual_seed(0)
    net = UNet(1, 2, width=4, depth=2, padding="same").double()
    for layer in net.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.constant_(layer.weight, 1 / layer.weight[0].numel())
    net.pool = nn.AvgPool2d(2)  # type: ignore[assignment]  # no path may lose to another
    image = torch.ones(1, 1, 64, 64, dtype=torch.float64, requires_grad=True)
    net(image)[0, 0, 32, 32:36].sum().backward()
    assert image.grad is not None
    columns = image.grad[0, 0].abs().sum(0).nonzero()[:, 0]
    assert (32 - int(columns.min()), int(columns.max()) - 35) == (22, 22)


def test_the_first_layer_maps_zero_to_one_onto_minus_one_to_one() -> None:
    net = UNet(1, 2, width=2, depth=1)
    seen: list[Tensor] = []
    net.contracting[0].register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0]))
    batch = images(2, 1, 18)
    net(batch)
    assert torch.equal(seen[0], 2 * batch - 1)


OPTIONS = [
    *({"normalisation": name, "padding": padding} for name in ("batch", "group", "instance", "none")
      for padding in ("valid", "same")),
    {"dropout": 0.5},
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(map(str, o.values())))
def test_every_option_runs_forward_and_backward_into_every_parameter(options: dict[str, object]) -> None:
    torch.manual_seed(0)
    net = UNet(3, 4, width=4, depth=2, **options)  # type: ignore[arg-type]
    logits = net(images(2, 3, 44))
    targets = torch.arange(2 * logits.shape[-1] ** 2).view(2, *logits.shape[2:]) % 4
    nn.functional.cross_entropy(logits, targets).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("normalisation", ["batch", "group", "instance", "none"])
def test_3x3_convolutions_have_a_bias_only_where_no_normalisation_follows(normalisation: str) -> None:
    net = UNet(1, 2, width=4, depth=1, normalisation=normalisation)  # type: ignore[arg-type]
    for layer in net.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            assert (layer.bias is not None) is (layer.kernel_size != (3, 3) or normalisation == "none")


def test_dropout_acts_on_the_deepest_maps_in_training_only() -> None:
    torch.manual_seed(0)
    net = UNet(1, 2, width=4, depth=1, dropout=0.5)
    deepest: list[Tensor] = []
    net.contracting[-1].register_forward_hook(lambda _m, _i, out: deepest.append(out.detach()))
    net.dropout.register_forward_hook(lambda _m, _i, out: deepest.append(out.detach()))
    net(images(8, 1, 40))
    kept = deepest[0] > 0
    assert 0.4 < (deepest[1][kept] == 0).float().mean() < 0.6
    net.eval()(images(8, 1, 40))
    assert torch.equal(deepest[2], deepest[3])


def test_its_stages_are_the_levels_down_and_up() -> None:
    net = UNet(1, 2, width=1, depth=2)
    assert isinstance(net, Staged)
    staged = [p for stage in net.list_stages() for layer in stage for p in layer.parameters()]
    assert len(net.list_stages()) == 5
    assert {id(p) for p in staged} | {id(p) for p in net.head.parameters()} == {id(p) for p in net.parameters()}
