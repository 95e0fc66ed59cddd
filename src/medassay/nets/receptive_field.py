"""The receptive field of a net's layers: how many pixels a side one value of a feature map sees.

By the rule for convolutions and poolings in a row (Araujo et al. 2019, doi:10.23915/distill.00021): a kernel of k positions
adds (k - 1) times the product of the strides before it. Of parallel branches the longest counts. Squeeze-and-excitation,
which looks at whole maps to weigh them, is left out.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import nn
from torchvision.models.efficientnet import MBConv
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import SqueezeExcitation

from medassay.nets.block_cnn import ConvBlock
from medassay.nets.googlenet import Inception
from medassay.nets.layers import SqueezeExcite


class Field(NamedTuple):
    """What one value sees: ``size`` pixels a side; its neighbour sees as many, ``jump`` pixels further."""

    size: int = 1
    jump: int = 1


ONE_PIXEL = Field()


class Stage(NamedTuple):
    """A part of a net: its name, the shape ``(C, H, W)`` of its output for one image, and what one value of it sees."""

    name: str
    shape: tuple[int, int, int]
    field: Field


def grow_field(module: nn.Module, field: Field = ONE_PIXEL) -> Field:
    """The field of the output of ``module``, whose input has ``field``."""
    if isinstance(module, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)):
        kernel, stride, dilation = (
            _take_first(getattr(module, name, 1)) for name in ("kernel_size", "stride", "dilation")
        )
        return Field(field.size + (kernel - 1) * dilation * field.jump, field.jump * stride)
    if isinstance(module, (SqueezeExcite, SqueezeExcitation)):
        return field
    if isinstance(module, Inception):
        return max(grow_field(branch, field) for branch in module.children())
    for part in _list_parts(module):
        field = grow_field(part, field)
    return field


def _list_parts(module: nn.Module) -> list[nn.Module]:
    """What follows one another inside ``module``, without short cuts."""
    if isinstance(module, BasicBlock):
        return [module.conv1, module.conv2]
    if isinstance(module, Bottleneck):
        return [module.conv1, module.conv2, module.conv3]
    if isinstance(module, MBConv):
        return [module.block]
    if isinstance(module, InvertedResidual):
        return [module.conv]
    if isinstance(module, ConvBlock):
        return [module.features, module.pool]
    return list(module.children())


def _take_first(value: int | tuple[int, ...]) -> int:
    return value if isinstance(value, int) else value[0]


def list_stages(body: nn.Sequential, channels: int, size: int) -> list[Stage]:
    """The stages of ``body``, its children, for images ``(channels, size, size)``; nothing is computed."""
    field, stages = Field(), []
    body = copy.deepcopy(body).to("meta")
    x = torch.empty(1, channels, size, size, device="meta")
    for name, module in body.eval().named_children():
        x, field = module(x), grow_field(module, field)
        stages.append(Stage(name, (x.shape[1], x.shape[2], x.shape[3]), field))
    return stages


def measure_field(body: nn.Module, channels: int, size: int) -> int:
    """The side in pixels of the square that the middle value of ``body``'s output sees, by its gradient.

    In a copy with positive weights and average instead of maximum pooling no two paths can cancel, so that every pixel seen has
    a gradient. The image must be larger than the field.
    """
    copied = _make_positive(body)
    image = torch.rand(1, channels, size, size, dtype=torch.float64, requires_grad=True)
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
