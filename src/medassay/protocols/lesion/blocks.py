"""The residual blocks of a ResNet, and the net without some of them.

A block computes ``relu(shortcut(x) + residual(x))``. Its removal is that of Veit, Wilber & Belongie (2016, arXiv:1605.06431,
section 4.1): the residual branch goes, the skip connection, or the projection in its place, stays as it was trained.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock, Bottleneck

from medassay.core.types import LabelledImages
from medassay.nets.resnet import ResNet
from medassay.tasks.predictions import Predictions, predict

Block: TypeAlias = BasicBlock | Bottleneck


class Bypass(nn.Module):
    """What is left of a removed block: ``relu(shortcut(x))``, as if the residual branch gave zeros.

    The shortcut is the identity, or the block's own projection (a 1x1 convolution and batch normalisation) in a block that
    changes resolution or width. The block's last ReLU stays. After an identity it changes nothing, since ``x`` comes out of
    a ReLU; after a projection it keeps negative values from the next block, which never saw any.

    Args:
        block: The block to remove; its projection is shared, not copied.
    """

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.shortcut: nn.Module = nn.Identity() if block.downsample is None else block.downsample

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x))


def find_blocks(net: ResNet) -> dict[str, Block]:
    """The residual blocks from input to output, by their names below ``body``: ``layer1.0``, ``layer1.1`` and so on."""
    return {name: part for name, part in net.body.named_modules() if isinstance(part, BasicBlock | Bottleneck)}


def remove_blocks(net: ResNet, names: Collection[str]) -> ResNet:
    """A copy of ``net`` in which a :class:`Bypass` stands in the place of each named block; ``net`` stays as it is."""
    rest = copy.deepcopy(net)
    for name, block in find_blocks(rest).items():
        if name in names:
            rest.body.set_submodule(name, Bypass(block))
    return rest


def is_downsampling(block: Block) -> bool:
    """Whether the shortcut is a projection: the block halves the resolution, or, first in a bottleneck net, widens alone."""
    return block.downsample is not None


def describe_shortcut(block: Block) -> str:
    """What is left of the block, in words."""
    if block.downsample is None:
        return "identity"
    projection = block.downsample[0]
    halved = ", stride 2" if projection.stride[0] > 1 else ""
    return f"1×1 conv., {projection.in_channels} → {projection.out_channels} maps{halved}"


def count_removed_parameters(block: Block) -> int:
    """The number of parameters of the residual branch, ``block`` without its shortcut."""
    residual = [part for name, part in block.named_parameters() if not name.startswith("downsample.")]
    return sum(part.numel() for part in residual)


def name_net(blocks: Mapping[str, Block]) -> str:
    """``ResNet-18`` and so on: the blocks' layers with weights, the first convolution and the last layer."""
    return f"ResNet-{2 + sum(3 if isinstance(block, Bottleneck) else 2 for block in blocks.values())}"


@dataclass(frozen=True)
class Answers:
    """What a net says of a split without some of its blocks; each set of blocks is removed once, however often it is asked for.

    Attributes:
        net: The whole net; never changed.
        split: The images.
        device: Device to compute on.
    """

    net: ResNet
    split: LabelledImages
    device: torch.device
    _known: dict[frozenset[str], Predictions] = field(default_factory=dict, init=False, repr=False)

    def without(self, *names: str) -> Predictions:
        """The predictions of the net without the named blocks; without any name, of the whole net."""
        removed = frozenset(names)
        if removed not in self._known:
            self._known[removed] = predict(remove_blocks(self.net, removed), self.split, self.device)
        return self._known[removed]

    def mark_mistakes(self, *names: str) -> Tensor:
        """Whether the net without the named blocks is wrong, ``(N,) bool``."""
        return self.without(*names).decisions != self.split.labels

    def measure_error(self, names: Collection[str]) -> float:
        """The share of images of which the net without the named blocks is wrong."""
        return float(self.mark_mistakes(*names).double().mean())
