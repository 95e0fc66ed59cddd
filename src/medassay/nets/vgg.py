"""VGG (Simonyan & Zisserman 2015, arXiv:1409.1556), layers from torchvision."""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated, Literal

import torchvision
from torch import nn

from medassay.core.types import PositiveInt, Probability, Range
from medassay.nets.imagenet import ImageNetClassifier, make_stem, take_hidden_layers


class VGG(ImageNetClassifier):
    """VGG-11, 16 or 19: 3x3 convolutions and five poolings, two hidden layers of 4096 units; see :class:`ImageNetClassifier`.

    For 1000 classes and three channels VGG-16 has 138,357,544 parameters, VGG-19 143,667,240.

    Args:
        in_channels: Number of image channels.
        num_classes: Number of classes.
        image_size: Pixels a side of the data set's images.
        depth: Number of layers with weights.
        batch_norm: Whether batch normalisation follows each convolution; the paper's nets have none and learn slowly.
        upscale: Pixels a side that images are enlarged to first; None for none.
        dropout: Probability of dropping a unit of the hidden layers.
    """

    def __init__(
        self,
        in_channels: PositiveInt,
        num_classes: Annotated[int, Range(ge=2)],
        image_size: PositiveInt = 28,
        depth: Literal[11, 16, 19] = 16,
        batch_norm: bool = False,
        upscale: PositiveInt | None = None,
        dropout: Probability = 0.5,
    ) -> None:
        name = f"vgg{depth}" + "_bn" * batch_norm
        net: torchvision.models.VGG = getattr(torchvision.models, name)(dropout=dropout)
        net.features[0] = make_stem(net.features[0], in_channels, small=False)
        super().__init__(
            nn.Sequential(OrderedDict(features=net.features)),
            take_hidden_layers(net),
            nn.Linear(4096, num_classes),
            image_size=image_size,
            upscale=upscale,
            least=32,
            target_layer=f"body.features.{len(net.features) - 2}",
            published=name,
        )
