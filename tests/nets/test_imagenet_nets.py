"""Networks built for ImageNet: published sizes, shapes on small images, what they refuse, where Grad-CAM looks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medassay.core.errors import ConfigError
from medassay.explain.activation_maps import find_layer
from medassay.nets.alexnet import AlexNet
from medassay.nets.block_cnn import BlockCNN
from medassay.nets.efficientnet import EfficientNet
from medassay.nets.googlenet import GoogLeNet
from medassay.nets.layers import SqueezeExcite
from medassay.nets.lenet import LeNet
from medassay.nets.mobilenet import MobileNetV2
from medassay.nets.resnet import ResNet
from medassay.nets.vgg import VGG
from medassay.tasks.classification import Classification

Make = Callable[..., Any]


def make(net: Make, channels: int, classes: int, size: int, **options: Any) -> Any:
    """A net without memory: on torch's ``meta`` device."""
    with torch.device("meta"):
        return net(channels, classes, size, **options)


def count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def run(net: nn.Module, channels: int, size: int) -> Tensor:
    result: Tensor = net.eval()(torch.empty(2, channels, size, size, device="meta"))
    return result


# --- published sizes -------------------------------------------------------------------------------------------------

FULL: dict[str, tuple[Make, dict[str, Any], int]] = {
    "AlexNet": (AlexNet, {"small_images": False}, 61_100_840),
    "VGG-11": (VGG, {"depth": 11}, 132_863_336),
    "VGG-16": (VGG, {"depth": 16}, 138_357_544),
    "VGG-19": (VGG, {"depth": 19}, 143_667_240),
    "ResNet-18": (ResNet, {"depth": 18, "small_images": False}, 11_689_512),
    "ResNet-34": (ResNet, {"depth": 34, "small_images": False}, 21_797_672),
    "ResNet-50": (ResNet, {"depth": 50, "small_images": False}, 25_557_032),
    "ResNet-101": (ResNet, {"depth": 101, "small_images": False}, 44_549_160),
    "ResNet-152": (ResNet, {"depth": 152, "small_images": False}, 60_192_808),
    "MobileNetV2": (MobileNetV2, {"small_images": False}, 3_504_872),
    "EfficientNet-B0": (EfficientNet, {"small_images": False}, 5_288_548),
    "EfficientNet-B7": (EfficientNet, {"scale": 7, "small_images": False}, 66_347_960),
}


@pytest.mark.parametrize("name", FULL)
def test_a_net_for_imagenet_has_its_published_number_of_parameters(name: str) -> None:
    net, options, expected = FULL[name]
    built = make(net, 3, 1000, 224, **options)
    assert count(built) == expected
    assert run(built, 3, 224).shape == (2, 1000)


def test_lenet_for_ten_digits_has_61706_parameters() -> None:
    assert count(LeNet(1, 10)) == 61_706


def test_the_first_inception_block_has_the_papers_159_k_weights() -> None:
    block = make(GoogLeNet, 3, 1000, 224, small_images=False).body.inception3a
    weights = sum(module.weight.numel() for module in block.modules() if isinstance(module, nn.Conv2d))
    assert weights == 163_328  # 159.5 * 1024
    sides = [module.kernel_size[0] for module in block.modules() if isinstance(module, nn.Conv2d)]
    assert sorted(sides) == [1, 1, 1, 1, 3, 5]


@pytest.mark.parametrize(("width", "millions"), [(16, 0.7), (32, 2.8)])
def test_a_narrow_resnet_is_as_small_as_said(width: int, millions: float) -> None:
    assert count(make(ResNet, 3, 8, 28, width=width)) / 1e6 == pytest.approx(millions, abs=0.05)


# --- small images ----------------------------------------------------------------------------------------------------

SMALL: dict[str, tuple[Make, dict[str, Any], int]] = {
    "LeNet": (LeNet, {}, 28),
    "AlexNet": (AlexNet, {}, 7),
    "VGG-11": (VGG, {"depth": 11}, 32),
    "GoogLeNet": (GoogLeNet, {}, 1),
    "ResNet-18": (ResNet, {"width": 16}, 1),
    "ResNet-50": (ResNet, {"depth": 50, "width": 16}, 1),
    "MobileNetV2": (MobileNetV2, {}, 1),
    "EfficientNet-B0": (EfficientNet, {}, 1),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [28, 64])
@pytest.mark.parametrize("name", SMALL)
def test_images_of_every_size_and_kind_become_logits(name: str, size: int, channels: int) -> None:
    net, options, least = SMALL[name]
    if size < least:
        options = {**options, "upscale": least}
    built = make(net, channels, 5, size, **options)
    assert run(built, channels, size).shape == (2, 5)
    features = built.features(torch.empty(2, channels, size, size, device="meta"))
    assert features.shape == (2, built.head.in_features)


@pytest.mark.parametrize("name", [name for name, (_, _, least) in SMALL.items() if least > 1])
def test_a_net_says_the_least_size_and_that_is_the_least_that_works(name: str) -> None:
    net, options, least = SMALL[name]
    assert run(make(net, 3, 5, least, **options), 3, least).shape == (2, 5)
    with pytest.raises(ConfigError, match=f"images of {least - 1} pixels are too small.*needs {least}") as refused:
        make(net, 3, 5, least - 1, **options)
    assert "\n" not in str(refused.value)
    if "upscale" in str(refused.value):
        assert run(make(net, 3, 5, least - 1, **options, upscale=least), 3, least - 1).shape == (2, 5)
    built = make(net, 3, 5, least, **options)
    if name != "LeNet":  # which pads smaller images
        with pytest.raises(RuntimeError):
            run(built, 3, least - 1)


def test_the_full_alexnet_names_both_ways_out() -> None:
    with pytest.raises(ConfigError, match=r"needs 63: .*model\.net\.upscale=63, or give model\.net\.small_images=true"):
        make(AlexNet, 1, 2, 28, small_images=False)
    with pytest.raises(RuntimeError):
        run(make(AlexNet, 1, 2, 63, small_images=False), 1, 62)


def test_enlarging_to_less_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.net\.upscale=16: the images have 28 pixels already"):
        make(ResNet, 1, 2, 28, upscale=16)


def test_a_stem_for_small_images_loses_no_pixel() -> None:
    for net in (ResNet, MobileNetV2, EfficientNet, GoogLeNet, AlexNet):
        small, full = make(net, 1, 2, 64, small_images=True), make(net, 1, 2, 64, small_images=False)
        stems = [next(m for m in built.modules() if isinstance(m, nn.Conv2d)) for built in (small, full)]
        assert stems[0].stride == (1, 1)
        assert stems[1].stride[0] > 1
        assert stems[0].out_channels == stems[1].out_channels


# --- what Grad-CAM looks at ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("AlexNet", (256, 13, 13)),
        ("VGG-11", (512, 2, 2)),
        ("GoogLeNet", (1024, 3, 3)),
        ("ResNet-18", (128, 4, 4)),
        ("ResNet-50", (512, 4, 4)),
        ("MobileNetV2", (1280, 2, 2)),
        ("EfficientNet-B0", (1280, 2, 2)),
        ("LeNet", (16, 10, 10)),
    ],
)
def test_the_default_layer_gives_the_last_feature_maps_before_pooling(name: str, shape: tuple[int, ...]) -> None:
    net, options, least = SMALL[name]
    options = {**options, "upscale": least} if least > 28 else options
    built = make(net, 1, 2, 28, **options)
    seen: list[tuple[int, ...]] = []
    built.get_submodule(find_layer(built)).register_forward_hook(lambda _m, _i, out: seen.append(tuple(out.shape[1:])))
    run(built, 1, 28)
    assert seen == [shape]


# --- training --------------------------------------------------------------------------------------------------------


def test_auxiliary_classifiers_share_in_the_training_loss_alone() -> None:
    torch.manual_seed(0)
    task = Classification(GoogLeNet(1, 2, 28, dropout=0.0), 2).train()
    for module in task.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    images, labels = torch.rand(4, 1, 28, 28), torch.tensor([0, 1, 0, 1])
    logits, auxiliary = task.net.classify_with_auxiliaries(images)
    assert [tuple(own.shape) for own in auxiliary] == [(4, 2), (4, 2)]
    expected = task.loss(logits, labels) + 0.3 * sum(task.loss(own, labels) for own in auxiliary)
    assert float(task._compute_training_loss(images, labels).detach()) == pytest.approx(
        float(expected.detach()), rel=1e-5
    )
    task._compute_training_loss(images, labels).backward()
    assert all(parameter.grad is not None for parameter in task.net.auxiliaries.parameters())
    task.eval()
    assert task(images).shape == (4, 2)


def test_without_their_weight_there_are_no_auxiliary_classifiers() -> None:
    net = make(GoogLeNet, 1, 2, 28, auxiliary_weight=0.0)
    assert len(net.auxiliaries) == 0
    full = make(GoogLeNet, 1, 2, 28)
    assert count(full) - count(net) == count(full.auxiliaries)


# --- squeeze and excitation ------------------------------------------------------------------------------------------


def test_squeeze_and_excitation_is_that_of_the_paper() -> None:
    torch.manual_seed(0)
    layer, x = SqueezeExcite(8, 4), torch.rand(3, 8, 5, 5)
    means = x.mean((2, 3))
    hidden = (means @ layer.reduce.weight.T + layer.reduce.bias).clamp(min=0)
    factors = 1 / (1 + (-(hidden @ layer.restore.weight.T + layer.restore.bias)).exp())
    torch.testing.assert_close(layer(x), x * factors[:, :, None, None])


def test_block_nets_gain_two_small_layers_for_each_block() -> None:
    plain, excited = BlockCNN(1, 2), BlockCNN(1, 2, squeeze_excite=4)
    added = sum(c * (c // 4) + c // 4 + (c // 4) * c + c for c in (8, 16, 32))
    assert count(excited) - count(plain) == added
    assert excited(torch.rand(2, 1, 28, 28)).shape == (2, 2)
    assert find_layer(excited) == find_layer(plain)


def test_maps_lie_channels_last_where_the_cpu_s_library_keeps_to_its_memory() -> None:
    """oneDNN with AVX2 alone writes past the end for 1x1 convolutions of stride 2 with fewer than eight input maps."""
    narrow, wide = ResNet(1, 2, 28, width=4), ResNet(1, 2, 28, width=8)
    weights = [net.get_parameter("body.layer2.0.conv1.weight") for net in (narrow, wide)]
    assert [one.is_contiguous(memory_format=torch.channels_last) for one in weights] == [False, True]
