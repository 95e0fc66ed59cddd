"""The course's convolutional network: blocks of two 3x3 convolutions, global average pooling, one linear layer."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import torch
from torch import Tensor, nn

from medassay.core.errors import ConfigError
from medassay.core.types import PositiveInt, Range
from medassay.nets.layers import (
    Activation,
    Normalisation,
    Normalise,
    SqueezeExcite,
    make_activation,
    make_normalisation,
)
from medassay.nets.stages import group_layers


class ConvBlock(nn.Module):
    """[Conv 3x3, padding 1 -> normalisation -> activation] twice, then max pooling 2x2.

    ``(B, in_channels, H, W) -> (B, out_channels, H // 2, W // 2)``. The first convolution changes the number of feature
    maps, the second keeps it. The convolutions have a bias only where no normalisation follows.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        normalisation: Normalisation = "batch",
        activation: Activation = "leaky_relu",
        squeeze_excite: int | None = None,
    ) -> None:
        super().__init__()
        bias = normalisation == "none"
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=bias),
            make_normalisation(normalisation, out_channels),
            make_activation(activation),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=bias),
            make_normalisation(normalisation, out_channels),
            make_activation(activation),
        )
        self.excite = nn.Identity() if squeeze_excite is None else SqueezeExcite(out_channels, squeeze_excite)
        self.pool = nn.MaxPool2d(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.excite(self.features(x)))  # type: ignore[no-any-return]


class BlockCNN(nn.Module):
    """Classifier of images in [0, 1]: ``(B, in_channels, H, W) float32 -> logits (B, num_classes)``.

    Blocks of ``width, 2 width, 4 width, ...`` feature maps. At the default (1 channel, 2 classes, width 8, 3 blocks) it has
    18,218 trainable parameters; with 3 channels and 8 classes 18,560. The activation before the last pooling,
    ``blocks[-1].features``, is ``(B, 32, 7, 7)`` for 28x28 images: the target layer of Grad-CAM.

    Args:
        in_channels: Number of image channels.
        num_classes: Number of classes, and of outputs.
        image_size: Pixels a side, only to refuse blocks that would halve an image to nothing.
        width: Number of feature maps of the first block; each block doubles it.
        blocks: Number of blocks; each halves the side, so at most 4 for 28x28.
        dropout: Probability of dropping one of the pooled features before the linear layer.
        normalisation: Normalisation after each convolution.
        activation: Activation after each normalisation.
        squeeze_excite: Factor by which squeeze-and-excitation after each block reduces the number of its maps; None for none.
    """

    def __init__(
        self,
        in_channels: PositiveInt,
        num_classes: Annotated[int, Range(ge=2)],
        image_size: PositiveInt = 28,
        width: PositiveInt = 8,
        blocks: Annotated[int, Range(ge=1, le=7)] = 3,
        dropout: Annotated[float, Range(ge=0, lt=1)] = 0.0,
        normalisation: Normalisation = "batch",
        activation: Activation = "leaky_relu",
        squeeze_excite: PositiveInt | None = None,
    ) -> None:
        super().__init__()
        if image_size < 2**blocks:
            raise ConfigError(
                f"model.net.blocks={blocks}: each block halves the side, and {image_size} pixels allow at most "
                f"{image_size.bit_length() - 1}"
            )
        self.normalise = Normalise()
        widths = [in_channels] + [width * 2**i for i in range(blocks)]
        self.blocks = nn.Sequential(
            *(ConvBlock(a, b, normalisation, activation, squeeze_excite) for a, b in pairwise(widths))
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(widths[-1], num_classes)
        # on one CPU core training takes a quarter less time so, prediction two fifths less
        self.to(memory_format=torch.channels_last)

    def features(self, x: Tensor) -> Tensor:
        """The pooled features before the linear layer, ``(B, width * 2 ** (blocks - 1))``."""
        return self.pool(self.blocks(self.normalise(x))).flatten(1)  # type: ignore[no-any-return]

    def list_stages(self) -> list[list[nn.Module]]:
        """The blocks; see :class:`medassay.nets.stages.Staged`."""
        return group_layers(self.blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.features(x)))  # type: ignore[no-any-return]
