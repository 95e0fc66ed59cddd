"""U-Net (Ronneberger, Fischer & Brox 2015, arXiv:1505.04597): a class for every pixel."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from medassay.core.errors import ConfigError
from medassay.core.types import PositiveInt, Range
from medassay.nets.layers import Normalisation, Normalise, make_normalisation
from medassay.nets.stages import group_layers

Padding = Literal["valid", "same"]


class Expansion(nn.Module):
    """A step of the expanding path: 2x2 up-convolution, the skip connection beside it, two 3x3 convolutions.

    ``x (B, 2 C, h, w), skip (B, C, H, W) -> (B, C, 2 h - 4, 2 w - 4)``, or ``(B, C, 2 h, 2 w)`` with padding. The skip
    connection is cropped to the middle ``2 h x 2 w``.
    """

    def __init__(self, channels: int, normalisation: Normalisation, padding: Padding) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(2 * channels, channels, 2, stride=2)
        self.convolutions = make_convolutions(2 * channels, channels, normalisation, padding)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = self.up(x)
        return self.convolutions(torch.cat([crop_centre(skip, x), x], dim=1))  # type: ignore[no-any-return]


class UNet(nn.Module):
    """Segments images in [0, 1]: ``(B, in_channels, H, W) float32 -> logits (B, num_classes, H - 2 m, W - 2 m)``.

    Two 3x3 convolutions a level; 2x2 max pooling doubles the feature maps on the way down, a 2x2 up-convolution halves them on
    the way up, where the maps of the way down are put beside them. ``m`` is :attr:`margin`. At the default with one channel
    and two classes it has 31,030,658 parameters, and 572 px give 388 px, as in the paper.

    H and W may differ; each must be a side that :meth:`output_size` accepts. Initial weights are Gaussian with a standard
    deviation of sqrt(2 / N), N the number of values that a weight's output sums (He et al. 2015, arXiv:1502.01852), biases 0.

    Args:
        in_channels: Number of image channels.
        num_classes: Number of classes, the background included.
        width: Number of feature maps of the first level; each next one doubles it.
        depth: Number of poolings, and of up-convolutions.
        normalisation: Normalisation after each 3x3 convolution; the paper's net has none. ``group`` and ``instance`` see the
            whole image, so that the same pixel in another tile gets other logits.
        padding: ``valid`` convolutions see no pixel that is not there, and shrink the maps; ``same`` adds zeros around them.
        dropout: Probability of dropping a value of the deepest maps, at the end of the contracting path.

    Attributes:
        alignment: Pixels by which an image can be moved and gives moved logits: 2 ** depth, the factor of all poolings.
    """

    def __init__(
        self,
        in_channels: PositiveInt,
        num_classes: Annotated[int, Range(ge=2)],
        width: PositiveInt = 64,
        depth: Annotated[int, Range(ge=1, le=7)] = 4,
        normalisation: Normalisation = "none",
        padding: Padding = "valid",
        dropout: Annotated[float, Range(ge=0, lt=1)] = 0.0,
    ) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        self.depth, self.padding = depth, padding
        self.alignment: int = 2**depth
        # normalisation of each image by itself leaves nothing of deepest maps of one pixel
        self._least_output = 2 * self.alignment if normalisation == "instance" and padding == "same" else 1
        self.normalise = Normalise()
        self.contracting = nn.ModuleList(
            make_convolutions(a, b, normalisation, padding) for a, b in pairwise([in_channels, *widths])
        )
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout(dropout)
        self.expanding = nn.ModuleList(Expansion(channels, normalisation, padding) for channels in widths[-2::-1])
        self.head = nn.Conv2d(width, num_classes, 1)
        self.apply(initialise_weights)
        # on one CPU core training and prediction take a fifth less time so (28 px, width 16, depth 2)
        self.to(memory_format=torch.channels_last)

    @property
    def margin(self) -> int:
        """Pixels lost on each side: 6 * 2 ** depth - 4 (92 at the default), or 0 with padding ``same``.

        With padding ``same`` a pixel's logits still see as far as 6 * 2 ** depth - 2 pixels, zeros beyond the border included.
        """
        return 6 * self.alignment - 4 if self.padding == "valid" else 0

    def find_input_size(self, output: int) -> int:
        """The least side in pixels of an input whose output is at least ``output`` pixels a side; ``output`` >= 1."""
        # without padding two convolutions take 4 pixels before the first pooling, and what is left must be halved
        taken = 4 if self.padding == "valid" else 0
        output = max(output, self._least_output)
        return math.ceil((output + 2 * self.margin + taken) / self.alignment) * self.alignment - taken

    def output_size(self, size: int) -> int:
        """The side in pixels of the output for an input of ``size`` pixels a side.

        Raises:
            ConfigError: Some level's maps cannot be halved, or nothing would be left; the message names the nearest sizes.
        """
        above = self.find_input_size(max(1, size - 2 * self.margin))
        if size != above:
            below = above - self.alignment
            nearest = f"{below} or {above}" if below >= self.find_input_size(1) else f"{above}, the smallest"
            raise ConfigError(
                f"model.net.depth={self.depth}: with padding={self.padding} the U-Net takes no image of {size} pixels a side; "
                f"the nearest possible: {nearest}"
            )
        return size - 2 * self.margin

    def list_stages(self) -> list[list[nn.Module]]:
        """The levels of the contracting path, then those of the expanding one; see :class:`medassay.nets.stages.Staged`."""
        return group_layers([*self.contracting, *self.expanding])

    def forward(self, x: Tensor) -> Tensor:
        for side in x.shape[2:]:
            self.output_size(side)
        x = self.contracting[0](self.normalise(x))
        skips = []
        for convolutions in self.contracting[1:]:
            skips.append(x)
            x = convolutions(self.pool(x))
        x = self.dropout(x)
        for expansion in self.expanding:
            x = expansion(x, skips.pop())
        return self.head(x)  # type: ignore[no-any-return]


def make_convolutions(in_channels: int, channels: int, normalisation: Normalisation, padding: Padding) -> nn.Sequential:
    """[Conv 3x3 -> normalisation -> ReLU] twice; the convolutions have a bias only where no normalisation follows."""
    layers: list[nn.Module] = []
    for before in (in_channels, channels):
        layers += [
            nn.Conv2d(before, channels, 3, padding=padding, bias=normalisation == "none"),
            make_normalisation(normalisation, channels),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


def crop_centre(x: Tensor, like: Tensor) -> Tensor:
    """The middle of ``x (B, C, H, W)``, as high and wide as ``like (B, D, h, w)``."""
    (height, width), (h, w) = x.shape[2:], like.shape[2:]
    top, left = (height - h) // 2, (width - w) // 2
    return x[:, :, top : top + h, left : left + w]


def initialise_weights(layer: nn.Module) -> None:
    """Draws the weights of a convolution or up-convolution as the paper does; leaves other layers as they are."""
    if isinstance(layer, nn.Conv2d):
        summed = layer.weight[0].numel()
    elif isinstance(layer, nn.ConvTranspose2d):
        summed = layer.in_channels  # a kernel as large as its stride: one value of each map
    else:
        return
    nn.init.normal_(layer.weight, std=math.sqrt(2 / summed))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
