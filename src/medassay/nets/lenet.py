"""LeNet-5 (LeCun et al. 1998, "Gradient-based learning applied to document recognition")."""

from __future__ import annotations

from typing import Annotated, Literal

from torch import Tensor, nn

from medassay.core.errors import ConfigError
from medassay.core.types import PositiveInt, Range
from medassay.nets.layers import Normalise
from medassay.nets.stages import group_layers

LEAST = 28  # pixels; up to 31 are padded by 2 on each side, as 28x28 digits were to 32x32


class LeNet(nn.Module):
    """Images ``(B, in_channels, H, W) float32`` in [0, 1] to logits ``(B, num_classes)``; 61,706 parameters for ten digits.

    Three 5x5 convolutions of 6, 16 and 120 maps with 2x2 pooling between them, then 84 units. On images above 32 pixels the
    third gives more than one position; these are averaged.

    Args:
        in_channels: Number of image channels.
        num_classes: Number of classes.
        image_size: Pixels a side of the images, at least 28.
        activation: ``tanh``, as in the paper, or ``relu``.
        pooling: ``average``, as in the paper (without its trainable scale), or ``max``.

    Raises:
        ConfigError: The images are too small.
    """

    def __init__(
        self,
        in_channels: PositiveInt,
        num_classes: Annotated[int, Range(ge=2)],
        image_size: PositiveInt = 28,
        activation: Literal["tanh", "relu"] = "tanh",
        pooling: Literal["average", "max"] = "average",
    ) -> None:
        super().__init__()
        if image_size < LEAST:
            raise ConfigError(f"images of {image_size} pixels are too small for LeNet, which needs {LEAST}")
        activate = nn.Tanh if activation == "tanh" else nn.ReLU
        pool = nn.AvgPool2d if pooling == "average" else nn.MaxPool2d
        self.normalise = Normalise()
        self.convolutions = nn.Sequential(
            nn.Conv2d(in_channels, 6, 5, padding=2 if image_size < 32 else 0),
            activate(),
            pool(2),
            nn.Conv2d(6, 16, 5),
            activate(),
            pool(2),
            nn.Conv2d(16, 120, 5),
            activate(),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.hidden = nn.Sequential(nn.Linear(120, 84), activate())
        self.head = nn.Linear(84, num_classes)
        self.target_layer = "convolutions.4"  # the 16 maps before the last pooling: what Grad-CAM looks at

    def features(self, x: Tensor) -> Tensor:
        """The 84 units before the last layer, ``(B, 84)``."""
        return self.hidden(self.pool(self.convolutions(self.normalise(x))).flatten(1))  # type: ignore[no-any-return]

    def list_stages(self) -> list[list[nn.Module]]:
        """The three convolutions and the hidden layer; see :class:`medassay.nets.stages.Staged`."""
        return group_layers([*self.convolutions, self.hidden])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))  # type: ignore[no-any-return]
