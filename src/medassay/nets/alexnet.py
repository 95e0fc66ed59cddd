"""AlexNet (Krizhevsky et al. 2012) in its one-stream form (Krizhevsky 2014, arXiv:1404.5997), layers from torchvision."""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated

import torchvision
from torch import nn

from medassay.core.types import PositiveInt, Probability, Range
from medassay.nets.imagenet import ImageNetClassifier, make_stem, take_hidden_layers


class AlexNet(ImageNetClassifier):
    """61,100,840 parameters for 1000 classes and three channels; see :class:`ImageNetClassifier`.

    Args:
        in_channels: Number of image channels.
        num_classes: Number of classes.
        image_size: Pixels a side of the data set's images.
        small_images: Whether the first convolution (11x11, stride 4) and its pooling give way to a 3x3 one with stride 1.
        upscale: Pixels a side that images are enlarged to first; None for none.
        dropout: Probability of dropping a unit of the two hidden layers.
    """

    def __init__(
        self,
        in_channels: PositiveInt,
        num_classes: Annotated[int, Range(ge=2)],
        image_size: PositiveInt = 28,
        small_images: bool = True,
        upscale: PositiveInt | None = None,
        dropout: Probability = 0.5,
    ) -> None:
        net = torchvision.models.AlexNet(dropout=dropout)
        net.features[0] = make_stem(net.features[0], in_channels, small=small_images)
        if small_images:
            net.features[2] = nn.Identity()
        super().__init__(
            nn.Sequential(OrderedDict(features=net.features)),
            take_hidden_layers(net),
            nn.Linear(4096, num_classes),
            image_size=image_size,
            upscale=upscale,
            least=7 if small_images else 63,
            small_stem=not small_images,
            target_layer="body.features.11",
            published="alexnet",
        )
