"""Receptive fields by the rule, by hand and by gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.ops import SqueezeExcitation

from medassay.nets.alexnet import AlexNet
from medassay.nets.block_cnn import BlockCNN
from medassay.nets.efficientnet import EfficientNet
from medassay.nets.googlenet import GoogLeNet
from medassay.nets.layers import SqueezeExcite
from medassay.nets.lenet import LeNet
from medassay.nets.mobilenet import MobileNetV2
from medassay.nets.receptive_field import Field, grow_field, list_stages
from medassay.nets.resnet import ResNet
from medassay.nets.vgg import VGG


def test_lenets_three_convolutions_without_pooling_see_5_9_and_13_pixels() -> None:
    convolutions = [m for m in LeNet(1, 10, 32).modules() if isinstance(m, nn.Conv2d)]
    fields = [grow_field(nn.Sequential(*convolutions[: i + 1])).size for i in range(3)]
    assert fields == [5, 9, 13]


@pytest.mark.parametrize(("options", "side"), [({}, 5), ({"padding": 1}, 7), ({"stride": 2}, 3)])
def test_the_output_of_a_3x3_kernel_on_7x7_is_the_lectures(options: dict[str, int], side: int) -> None:
    ((_, shape, _),) = list_stages(nn.Sequential(nn.Conv2d(1, 1, 3, **options)), 1, 7)
    assert shape == (1, side, side)


def measure_field(body: nn.Module, channels: int, size: int) -> int:
    """The side in pixels of the square that the middle value of ``body``'s output sees, by its gradient in a strip.

    In a copy with positive weights and average instead of maximum pooling no two paths can cancel, so that every pixel seen has
    a gradient. The strip must be longer than the field.
    """
    copied = _make_positive(body)
    image = torch.rand(1, channels, size, min(size, 64), dtype=torch.float64, requires_grad=True)
    out = copied(image)
    out[0, :, out.shape[2] // 2, out.shape[3] // 2].sum().backward()
    assert image.grad is not None
    seen = image.grad[0].abs().sum(0) > 0
    rows = seen.any(1).nonzero()[:, 0]
    return int(rows.max() - rows.min()) + 1


def _make_positive(body: nn.Module) -> nn.Module:
    copied = copy.deepcopy(body).double().eval()
    for module in list(copied.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.MaxPool2d):
                pool = nn.AvgPool2d(child.kernel_size, child.stride, child.padding, child.ceil_mode)
                setattr(module, name, pool)
            elif isinstance(
                child, (nn.BatchNorm2d, nn.ReLU, nn.ReLU6, nn.SiLU, nn.Tanh, SqueezeExcite, SqueezeExcitation)
            ):
                setattr(module, name, nn.Identity())
            elif isinstance(child, nn.Conv2d):
                nn.init.constant_(child.weight, 1 / child.weight[0].numel())
    return copied


NETS: dict[str, tuple[Callable[[], Any], int, int]] = {  # the body, the field, a strip longer than that
    "course": (lambda: BlockCNN(1, 2).blocks, 36, 64),
    "LeNet": (lambda: LeNet(1, 10, 32).convolutions, 32, 64),
    "AlexNet": (lambda: AlexNet(1, 2, 224, small_images=False).body.features, 195, 259),
    "VGG-11": (lambda: VGG(1, 2, 224, depth=11).body.features, 150, 184),
    "GoogLeNet": (lambda: GoogLeNet(1, 2).body, 179, 208),
    "ResNet-18": (lambda: ResNet(1, 2, width=2).body, 109, 160),
    "MobileNetV2": (lambda: MobileNetV2(1, 2, width=0.1).body.features, 247, 320),
}


@pytest.mark.parametrize("name", NETS)
def test_the_rule_agrees_with_the_gradient(name: str) -> None:
    make, expected, size = NETS[name]
    torch.manual_seed(0)
    body = make()
    assert grow_field(body).size == measure_field(body, 1, size) == expected


def test_stages_have_the_shapes_and_fields_of_the_net() -> None:
    stages = list_stages(ResNet(3, 2, width=16, small_images=False).body, 3, 224)
    assert [stage.name for stage in stages][-4:] == ["layer1", "layer2", "layer3", "layer4"]
    assert [stage.shape for stage in stages][-4:] == [(16, 56, 56), (32, 28, 28), (64, 14, 14), (128, 7, 7)]
    assert stages[-1].field == Field(435, 32)  # the 435 pixels known of ResNet-18
    assert grow_field(EfficientNet(3, 2, small_images=False).body).size == 851
