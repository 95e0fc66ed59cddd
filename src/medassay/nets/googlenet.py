"""GoogLeNet (Szegedy et al. 2015, arXiv:1409.4842), with 5x5 kernels where torchvision's has 3x3 ones.

Batch normalisation (Ioffe & Szegedy 2015) takes the place of the paper's local response normalisation, so that the net learns
from scratch.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated, NamedTuple

import torch
from torch import Tensor, nn

from medassay.core.types import NonNegative, PositiveInt, Probability, Range
from medassay.nets.imagenet import ImageNetClassifier, make_average_pooling


class Widths(NamedTuple):
    """Channels of an inception block's branches: 1x1; 1x1 before 3x3, 3x3; 1x1 before 5x5, 5x5; 1x1 after pooling."""

    one: int
    before_three: int
    three: int
    before_five: int
    five: int
    pooled: int

    @property
    def total(self) -> int:
        return self.one + self.three + self.five + self.pooled


# Table 1 of the paper
INCEPTIONS = {
    "3a": Widths(64, 96, 128, 16, 32, 32),
    "3b": Widths(128, 128, 192, 32, 96, 64),
    "4a": Widths(192, 96, 208, 16, 48, 64),
    "4b": Widths(160, 112, 224, 24, 64, 64),
    "4c": Widths(128, 128, 256, 24, 64, 64),
    "4d": Widths(112, 144, 288, 32, 64, 64),
    "4e": Widths(256, 160, 320, 32, 128, 128),
    "5a": Widths(256, 160, 320, 32, 128, 128),
    "5b": Widths(384, 192, 384, 48, 128, 128),
}


def make_convolution(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A convolution that keeps the side (stride 1), batch normalisation, ReLU."""
    convolution = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


class Inception(nn.Module):
    """Four branches side by side, ``(B, in_channels, H, W) -> (B, widths.total, H, W)``."""

    def __init__(self, in_channels: int, widths: Widths) -> None:
        super().__init__()
        self.one = make_convolution(in_channels, widths.one, 1)
        self.three = nn.Sequential(
            make_convolution(in_channels, widths.before_three, 1),
            make_convolution(widths.before_three, widths.three, 3),
        )
        self.five = nn.Sequential(
            make_convolution(in_channels, widths.before_five, 1), make_convolution(widths.before_five, widths.five, 5)
        )
        self.pooled = nn.Sequential(nn.MaxPool2d(3, 1, padding=1), make_convolution(in_channels, widths.pooled, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pooled(x)], dim=1)


class Auxiliary(nn.Sequential):
    """A classifier on maps in the middle of the net, which brings it a gradient of its own while it trains."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__(
            nn.AdaptiveAvgPool2d(4),  # on 224x224 images the paper's 5x5 pooling with stride 3
            make_convolution(in_channels, 128, 1),
            nn.Flatten(),
            nn.Linear(128 * 16, 1024),
            nn.ReLU(inplace=True),
            nn.Dropout(0.7),
            nn.Linear(1024, num_classes),
        )


class GoogLeNet(ImageNetClassifier):
    """Nine inception blocks, two auxiliary classifiers while training; see :class:`ImageNetClassifier`.

    Args:
        in_channels: Number of image channels.
        num_classes: Number of classes.
        image_size: Pixels a side of the data set's images.
        small_images: Whether the first convolution (7x7, stride 2) and its pooling give way to a 3x3 one with stride 1.
        upscale: Pixels a side that images are enlarged to first; None for none.
        dropout: Probability of dropping a feature before the last layer.
        auxiliary_weight: Weight of each auxiliary classifier's loss beside the last layer's; 0 trains without them.
    """

    def __init__(
        self,
        in_channels: PositiveInt,
        num_classes: Annotated[int, Range(ge=2)],
        image_size: PositiveInt = 28,
        small_images: bool = True,
        upscale: PositiveInt | None = None,
        dropout: Probability = 0.4,
        auxiliary_weight: NonNegative = 0.3,
    ) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["conv1"] = (
            make_convolution(in_channels, 64, 3) if small_images else make_convolution(in_channels, 64, 7, 2)
        )
        if not small_images:
            layers["maxpool1"] = nn.MaxPool2d(3, 2, ceil_mode=True)
        layers["conv2"] = make_convolution(64, 64, 1)
        layers["conv3"] = make_convolution(64, 192, 3)
        channels = 192
        for name, widths in INCEPTIONS.items():
            if name in ("3a", "4a", "5a"):
                layers[f"maxpool{name[0]}"] = nn.MaxPool2d(3, 2, ceil_mode=True)
            layers[f"inception{name}"] = Inception(channels, widths)
            channels = widths.total
        super().__init__(
            nn.Sequential(layers),
            nn.Sequential(make_average_pooling(), nn.Dropout(dropout)),
            nn.Linear(channels, num_classes),
            image_size=image_size,
            upscale=upscale,
        )
        self.auxiliary_weight = auxiliary_weight
        tapped = {name: INCEPTIONS[name].total for name in ("4a", "4d")} if auxiliary_weight else {}
        self.auxiliaries = nn.ModuleDict({f"inception{name}": Auxiliary(n, num_classes) for name, n in tapped.items()})

    def classify_with_auxiliaries(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The logits of images in [0, 1], and those of each auxiliary classifier; ``(B, num_classes)`` each."""
        x, found = self.prepare(x), []
        for name, layer in self.body.named_children():
            x = layer(x)
            if name in self.auxiliaries:
                found.append(self.auxiliaries[name](x))
        return self.head(self.pooling(x)), found
