"""EfficientNet (Tan & Le 2019, arXiv:1905.11946), layers from torchvision."""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated

import torchvision
from torch import nn

from medassay.core.types import PositiveInt, Range
from medassay.nets.imagenet import ImageNetClassifier, make_average_pooling, make_stem


class EfficientNet(ImageNetClassifier):
    """EfficientNet-B0 to B7: one net, scaled in depth and width; see :class:`ImageNetClassifier`.

    B0 has 5,288,548 parameters for 1000 classes and three channels. The paper's resolutions (224 to 600 pixels) belong to
    ImageNet; here the images keep theirs unless they are enlarged.

    Args:
        in_channels: Number of image channels.
        num_classes: Number of classes.
        image_size: Pixels a side of the data set's images.
        scale: Number of the net, 0 to 7.
        small_images: Whether the first convolution has stride 1 instead of 2.
        upscale: Pixels a side that images are enlarged to first; None for none.
    """

    def __init__(
        self,
        in_channels: PositiveInt,
        num_classes: Annotated[int, Range(ge=2)],
        image_size: PositiveInt = 28,
        scale: Annotated[int, Range(ge=0, le=7)] = 0,
        small_images: bool = True,
        upscale: PositiveInt | None = None,
    ) -> None:
        net: torchvision.models.EfficientNet = getattr(torchvision.models, f"efficientnet_b{scale}")()
        dropout, last = net.classifier
        net.features[0][0] = make_stem(net.features[0][0], in_channels, small=small_images)
        super().__init__(
            nn.Sequential(OrderedDict(features=net.features)),
            nn.Sequential(make_average_pooling(), dropout),
            nn.Linear(last.in_features, num_classes),
            image_size=image_size,
            upscale=upscale,
            published=f"efficientnet_b{scale}",
        )
