"""A conditional GAN's two networks of residual blocks without normalisation, in the manner of R3GAN (Huang et al. 2024,
arXiv:2501.05441).

Maps of four sizes, each half the one before: 4, 7, 14, 28 for images of 28 pixels. A block adds to its maps what two 3x3
convolutions make of them, each after a leaky ReLU (He et al. 2016, arXiv:1603.05027). Between sizes a 1x1 convolution
changes the number of maps and bilinear interpolation or averaging their side. Weights start as in Fixup (Zhang et al.
2019, arXiv:1901.09321): a block's last convolution at zero, its first smaller by the root of the number of blocks, so
that both networks start as linear ones of unit gain however deep they are.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medassay.core.errors import ConfigError
from medassay.core.types import PositiveInt, Range
from medassay.nets.layers import Normalisation, Normalise, make_normalisation

HALVINGS = 3  # between the sizes of maps
SLOPE = 0.2  # of the leaky ReLU


def list_sides(image_size: int) -> list[int]:
    """The sides of the maps, smallest first: 4, 7, 14, 28."""
    sides = [image_size]
    for _ in range(HALVINGS):
        sides.append((sides[-1] + 1) // 2)
    return sides[::-1]


def _scale_weights(layer: nn.Conv2d | nn.Linear, gain: float) -> None:
    """Draws weights whose outputs have ``gain`` times the inputs' deviation (He et al. 2015, arXiv:1502.01852)."""
    fan_in = layer.weight[0].numel()
    nn.init.normal_(layer.weight, 0.0, gain / math.sqrt(fan_in))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class ResidualBlock(nn.Module):
    """``(B, C, S, S) -> (B, C, S, S)``, at the start the identity.

    Args:
        channels: Number of feature maps, C.
        total: Number of blocks in the network.
        normalisation: Normalisation before each activation.
    """

    def __init__(self, channels: int, total: int, normalisation: Normalisation = "none") -> None:
        super().__init__()
        self.norm1 = make_normalisation(normalisation, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = make_normalisation(normalisation, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        rectified = math.sqrt(2 / (1 + SLOPE**2))  # what a leaky ReLU takes from the deviation
        _scale_weights(self.conv1, rectified / math.sqrt(total))
        _scale_weights(self.conv2, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        change = self.conv1(F.leaky_relu(self.norm1(x), SLOPE))
        return x + self.conv2(F.leaky_relu(self.norm2(change), SLOPE))  # type: ignore[no-any-return]


def _make_linear_map(in_channels: int, out_channels: int, kernel: int = 1) -> nn.Conv2d:
    layer = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)
    _scale_weights(layer, 1.0)
    return layer


class ResidualGenerator(nn.Module):
    """``noise (B, latent), labels (B,) int64 -> images (B, channels, S, S) float32 in [0, 1]``.

    Args:
        channels: Number of image channels.
        num_classes: Number of classes.
        image_size: Pixels a side, S.
        widths: Numbers of feature maps, from the smallest maps to the largest.
        blocks: Number of residual blocks of each size.
        latent: Length of the noise vector; the class enters beside it by an embedding of the same length.
    """

    def __init__(
        self, channels: int, num_classes: int, image_size: int, widths: list[int], blocks: int, latent: int
    ) -> None:
        super().__init__()
        self.latent = latent
        self.sides = list_sides(image_size)
        self.embedding = nn.Embedding(num_classes, latent)
        self.from_latent = nn.Linear(2 * latent, widths[0] * self.sides[0] ** 2)
        _scale_weights(self.from_latent, 1.0)
        total = blocks * len(widths)
        self.stages = nn.ModuleList(nn.Sequential(*(ResidualBlock(w, total) for _ in range(blocks))) for w in widths)
        self.narrow = nn.ModuleList(_make_linear_map(a, b) for a, b in pairwise(widths))
        self.to_image = _make_linear_map(widths[-1], channels, 3)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        x = self.from_latent(torch.cat([noise, self.embedding(labels)], dim=1))
        x = x.unflatten(1, (-1, self.sides[0], self.sides[0])).contiguous(memory_format=torch.channels_last)
        for place, stage in enumerate(self.stages):
            if place:  # narrowed first: linear maps and interpolation can change places
                x = F.interpolate(self.narrow[place - 1](x), size=self.sides[place], mode="bilinear")
            x = stage(x)
        return torch.sigmoid(self.to_image(F.leaky_relu(x, SLOPE)))


class ResidualDiscriminator(nn.Module):
    """``images (B, channels, S, S) in [0, 1], labels (B,) int64 -> logits (B,)``; the sigmoid is inside the loss.

    With ``projection`` the class enters by an inner product alone (Miyato & Koyama 2018, arXiv:1802.05637):
    ``logit = psi(features) + <embedding(class), features>``; without, as one-hot planes beside the image.

    Args:
        channels: Number of image channels.
        num_classes: Number of classes.
        image_size: Pixels a side, S.
        widths: Numbers of feature maps, from the largest maps to the smallest.
        blocks: Number of residual blocks of each size.
        projection: How the class enters.
        normalisation: Normalisation in the blocks.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        image_size: int,
        widths: list[int],
        blocks: int,
        projection: bool = True,
        normalisation: Normalisation = "none",
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.sides = list_sides(image_size)[::-1]
        self.normalise = Normalise()
        self.from_image = _make_linear_map(channels if projection else channels + num_classes, widths[0], 3)
        total = blocks * len(widths)
        self.stages = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(w, total, normalisation) for _ in range(blocks))) for w in widths
        )
        self.widen = nn.ModuleList(_make_linear_map(a, b) for a, b in pairwise(widths))
        features = widths[-1]
        self.to_features = nn.Linear(widths[-1] * self.sides[-1] ** 2, features)
        self.to_logit = nn.Linear(features, 1)
        self.embedding = nn.Embedding(num_classes, features) if projection else None
        for layer in (self.to_features, self.to_logit):
            _scale_weights(layer, 1.0)
        if self.embedding is not None:
            nn.init.normal_(self.embedding.weight, 0.0, 1 / math.sqrt(features))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        x = self.normalise(images)
        if self.embedding is None:
            planes = F.one_hot(labels, self.num_classes).to(x.dtype)[:, :, None, None]
            x = torch.cat([x, planes.expand(-1, -1, *x.shape[2:])], dim=1)
        x = self.from_image(x)
        for place, stage in enumerate(self.stages):
            if place:  # averaged first: linear maps and averages can change places
                x = self.widen[place - 1](F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False))
            x = stage(x)
        features = self.to_features(F.leaky_relu(x, SLOPE).flatten(1))
        logits: Tensor = self.to_logit(features)[:, 0]
        if self.embedding is not None:
            logits = logits + (self.embedding(labels) * features).sum(1)
        return logits if logits.dtype == torch.float64 else logits.float()  # losses and their sums want all digits


class ResidualCGAN(nn.Module):
    """Generator and discriminator for images of their own size: nothing is padded.

    At 28 pixels, 3 channels, 8 classes and the default widths: 2,140,675 + 1,498,945 parameters.

    Args:
        channels: Number of image channels.
        num_classes: Number of classes that can be asked for.
        image_size: Pixels a side of the data set's images.
        width: Number of the generator's maps of full size; each halving of their side doubles them.
        discriminator_width: The same of the discriminator.
        blocks: Number of residual blocks of each size of maps, in both networks.
        latent: Length of the noise vector.
        projection: Whether the discriminator gets the class by an inner product with its features; otherwise as planes beside
            the image.
        normalisation: Normalisation in the discriminator's blocks; batches of real and of generated images have statistics
            of their own.

    Raises:
        ConfigError: ``normalisation`` is ``instance`` and the smallest maps are single pixels.
    """

    def __init__(
        self,
        channels: PositiveInt,
        num_classes: Annotated[int, Range(ge=2)],
        image_size: Annotated[int, Range(ge=8, le=64)] = 28,
        width: PositiveInt = 32,
        discriminator_width: PositiveInt = 24,
        blocks: PositiveInt = 1,
        latent: PositiveInt = 64,
        projection: bool = True,
        normalisation: Normalisation = "none",
    ) -> None:
        super().__init__()
        self.image_shape = (channels, image_size, image_size)
        self.num_classes = num_classes
        if normalisation == "instance" and list_sides(image_size)[0] == 1:
            raise ConfigError(
                "model.net.normalisation=instance: the discriminator's smallest maps of images of 8 pixels are single pixels, "
                "of which nothing would be left; use none, group or batch, or a larger data.size"
            )
        widths = [width * 2**i for i in range(HALVINGS, -1, -1)]
        self.generator = ResidualGenerator(channels, num_classes, image_size, widths, blocks, latent)
        widths = [discriminator_width * 2**i for i in range(HALVINGS + 1)]
        self.discriminator = ResidualDiscriminator(
            channels, num_classes, image_size, widths, blocks, projection, normalisation
        )
        self.to(memory_format=torch.channels_last)

    def run_parts(self, images: Tensor, labels: Tensor) -> None:
        """Runs each player once on ``images (B, C, image_size, image_size)``, for the sizes in a model's summary."""
        self.generator(images.new_zeros(len(images), self.generator.latent), labels)
        self.discriminator(self.pad(images), labels)

    def pad(self, images: Tensor) -> Tensor:
        """``images`` as they are: both networks work on the data set's own size."""
        return images

    def crop(self, images: Tensor) -> Tensor:
        """``images`` as they are."""
        return images
