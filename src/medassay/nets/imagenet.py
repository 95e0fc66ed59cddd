"""What networks built for ImageNet need to classify small medical images: channels, small-image stems, enlarged inputs.

Layers keep torchvision's names, below ``body`` where they make feature maps, so that published weights find their places.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import VGG, AlexNet

from medassay.core.errors import ConfigError
from medassay.nets.layers import Normalise
from medassay.nets.stages import group_layers


def _writes_past_its_memory(module: nn.Module) -> bool:
    """Whether the gradient of a layer's weights damages memory on CPUs with AVX2 alone, where maps lie channels last.

    oneDNN's fault, of 1x1 convolutions with a stride and fewer than eight input maps
    (https://github.com/uxlfoundation/oneDNN/issues/6035).
    """
    if not isinstance(module, nn.Conv2d):
        return False
    return module.kernel_size == (1, 1) and module.stride != (1, 1) and module.in_channels < 8


class ImageNetClassifier(nn.Module):
    """Images ``(B, in_channels, H, W) float32`` in [0, 1] to logits ``(B, num_classes)``.

    Args:
        body: The layers from normalised images to the last feature maps ``(B, M, h, w)``.
        pooling: The layers from these to the features ``(B, d)`` that the last layer sees.
        head: The last layer.
        image_size: Pixels a side of the data set's images.
        upscale: Pixels a side that they are enlarged to first; None leaves them as they are.
        least: The smallest side of an image that leaves every layer a pixel.
        small_stem: Whether a stem for small images would help: false where the net has no such choice, or has it already.
        target_layer: Dotted name of the layer with the last feature maps before pooling: what Grad-CAM looks at.
        published: Name of torchvision's net whose weights for ImageNet fit; None where none fit.

    Raises:
        ConfigError: The images are too small, or larger than what they are to be enlarged to.
    """

    def __init__(
        self,
        body: nn.Module,
        pooling: nn.Module,
        head: nn.Linear,
        *,
        image_size: int,
        upscale: int | None,
        least: int = 1,
        small_stem: bool = False,
        target_layer: str = "body",
        published: str | None = None,
    ) -> None:
        super().__init__()
        if upscale is not None and upscale < image_size:
            raise ConfigError(
                f"model.net.upscale={upscale}: the images have {image_size} pixels already; give more, or null"
            )
        if (size := upscale or image_size) < least:
            raise ConfigError(
                f"images of {size} pixels are too small for this net, which needs {least}: enlarge them with "
                f"model.net.upscale={least}" + (", or give model.net.small_images=true" if small_stem else "")
            )
        self.normalise = Normalise()
        self.body, self.pooling, self.head = body, pooling, head
        self.upscale, self.target_layer, self.published = upscale, target_layer, published
        if not any(_writes_past_its_memory(module) for module in self.modules()):
            self.to(memory_format=torch.channels_last)

    def prepare(self, x: Tensor) -> Tensor:
        """Images in [0, 1] as the body takes them: normalised, and enlarged where that is asked for."""
        x = self.normalise(x)
        if self.upscale is None:
            return x
        return F.interpolate(x, size=(self.upscale, self.upscale), mode="bilinear", align_corners=False)

    def features(self, x: Tensor) -> Tensor:
        """The features before the last layer, ``(B, d)``, of images in [0, 1]."""
        return self.pooling(self.body(self.prepare(x)))  # type: ignore[no-any-return]

    def list_stages(self) -> list[list[nn.Module]]:
        """The layers of the body, one by one, then the hidden layers before the last, if any; see :class:`Staged`."""
        layers = list(self.body.children())
        if len(layers) == 1:  # torchvision's ``features``
            layers = list(layers[0].children())
        return group_layers([*layers, *self.pooling.children()])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))  # type: ignore[no-any-return]


def make_stem(conv: nn.Module, in_channels: int, *, small: bool) -> nn.Conv2d:
    """A first convolution like ``conv`` for so many channels; ``small`` makes it 3x3 with stride 1, which loses no pixel."""
    assert isinstance(conv, nn.Conv2d)
    size: dict[str, Any] = {"kernel_size": conv.kernel_size, "stride": conv.stride, "padding": conv.padding}
    if small:
        size = {"kernel_size": 3, "stride": 1, "padding": 1}
    stem = nn.Conv2d(in_channels, conv.out_channels, bias=conv.bias is not None, **size)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    if stem.bias is not None:
        nn.init.zeros_(stem.bias)
    return stem


def take_hidden_layers(net: AlexNet | VGG) -> nn.Sequential:
    """The layers of ``net`` between its feature maps and its last layer, ``(B, M, h, w) -> (B, 4096)``."""
    layers = OrderedDict(avgpool=net.avgpool, flatten=nn.Flatten(), classifier=net.classifier[:-1])
    return nn.Sequential(layers)


def make_average_pooling() -> nn.Sequential:
    """The mean of each feature map, ``(B, M, h, w) -> (B, M)``."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
