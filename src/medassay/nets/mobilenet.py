"""MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381), layers from torchvision."""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated

import torchvision
from torch import nn

from medassay.core.types import Positive, PositiveInt, Probability, Range
from medassay.nets.imagenet import ImageNetClassifier, make_average_pooling, make_stem


class MobileNetV2(ImageNetClassifier):
    """Inverted residual blocks of depthwise convolutions; see :class:`ImageNetClassifier`.

    Args:
        in_channels: Number of image channels.
        num_classes: Number of classes.
        image_size: Pixels a side of the data set's images.
        width: Factor of all channel counts; 1 in the paper.
        small_images: Whether the first convolution has stride 1 instead of 2.
        upscale: Pixels a side that images are enlarged to first; None for none.
        dropout: Probability of dropping a feature before the last layer.
    """

    def __init__(
        self,
        in_channels: PositiveInt,
        num_classes: Annotated[int, Range(ge=2)],
        image_size: PositiveInt = 28,
        width: Positive = 1.0,
        small_images: bool = True,
        upscale: PositiveInt | None = None,
        dropout: Probability = 0.2,
    ) -> None:
        net = torchvision.models.MobileNetV2(width_mult=width)
        net.features[0][0] = make_stem(net.features[0][0], in_channels, small=small_images)
        super().__init__(
            nn.Sequential(OrderedDict(features=net.features)),
            nn.Sequential(make_average_pooling(), nn.Dropout(dropout)),
            nn.Linear(net.last_channel, num_classes),
            image_size=image_size,
            upscale=upscale,
            published="mobilenet_v2" if width == 1 else None,
        )
