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
    """The stages of ``body``, its children or those of an only one, for images ``(channels, size, size)``; computes nothing."""
    field, stages = ONE_PIXEL, []
    while len(body) == 1 and isinstance(body[0], nn.Sequential):
        body = body[0]
    body = copy.deepcopy(body).to("meta")
    x = torch.empty(1, channels, size, size, device="meta")
    for name, module in body.eval().named_children():
        x, field = module(x), grow_field(module, field)
        stages.append(Stage(name, (x.shape[1], x.shape[2], x.shape[3]), field))
    return stages
