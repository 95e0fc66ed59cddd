"""ResNet (He et al. 2016, arXiv:1512.03385), blocks from torchvision, in any width."""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated, Literal

from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.resnet import ResNet as Original

from medassay.core.types import PositiveInt, Range
from medassay.nets.imagenet import ImageNetClassifier, make_average_pooling, make_stem

BLOCKS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], list[int]]] = {
    18: (BasicBlock, [2, 2, 2, 2]),
    34: (BasicBlock, [3, 4, 6, 3]),
    50: (Bottleneck, [3, 4, 6, 3]),
    101: (Bottleneck, [3, 4, 23, 3]),
    152: (Bottleneck, [3, 8, 36, 3]),
}


class _Layers(Original):  # type: ignore[misc]
    """The layers of torchvision's net with other channel counts."""

    def __init__(self, depth: int, width: int) -> None:
        block, counts = BLOCKS[depth]
        super().__init__(block, [0, 0, 0, 0])
        self.inplanes = width
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        for i, count in enumerate(counts):
            layer = self._make_layer(block, width * 2**i, count, stride=1 if i == 0 else 2)
            setattr(self, f"layer{i + 1}", layer)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class ResNet(ImageNetClassifier):
    """ResNet-18, 34, 50, 101 or 152; see :class:`ImageNetClassifier`.

    For 1000 classes and three channels ResNet-152 has 60,192,808 parameters. ResNet-18 of width 16 for small images has 0.7
    million, of width 32 2.8 million.

    Args:
        in_channels: Number of image channels.
        num_classes: Number of classes.
        image_size: Pixels a side of the data set's images.
        depth: Number of layers with weights.
        width: Number of feature maps of the first stage; 64 in the paper. Each stage doubles them.
        small_images: Whether the first convolution (7x7, stride 2) and its pooling give way to a 3x3 one with stride 1.
        upscale: Pixels a side that images are enlarged to first; None for none.
    """

    def __init__(
        self,
        in_channels: PositiveInt,
        num_classes: Annotated[int, Range(ge=2)],
        image_size: PositiveInt = 28,
        depth: Literal[18, 34, 50, 101, 152] = 18,
        width: PositiveInt = 64,
        small_images: bool = True,
        upscale: PositiveInt | None = None,
    ) -> None:
        net = _Layers(depth, width)
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv1=make_stem(net.conv1, in_channels, small=small_images), bn1=net.bn1, relu=net.relu
        )
        if not small_images:
            layers["maxpool"] = net.maxpool
        layers |= {name: getattr(net, name) for name in ("layer1", "layer2", "layer3", "layer4")}
        super().__init__(
            nn.Sequential(layers),
            make_average_pooling(),
            nn.Linear(8 * width * BLOCKS[depth][0].expansion, num_classes),
            image_size=image_size,
            upscale=upscale,
            target_layer="body.layer4",
            published=f"resnet{depth}" if width == 64 else None,
        )
