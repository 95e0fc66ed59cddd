"""The conditional variational autoencoder (Kingma & Welling 2014, arXiv:1312.6114; Sohn et al. 2015).

The label enters as one-hot planes beside the image's channels, and the decoder gives the planes back with the image.
All (transposed) convolutions have kernel 3 and padding 1. On images of 17 to 32 pixels the deepest maps are 1x1, so that
most weights of the last convolutions see padding only: so specified.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medassay.core.types import PositiveInt, Range
from medassay.nets.layers import make_activation, make_normalisation

HALVINGS = 5  # convolutions of stride 2, in each direction
SLOPE = 0.01  # of the leaky ReLU

MapNormalisation = Literal["none", "batch"]  # maps of one pixel have no statistics of their own


def list_sides(image_size: int) -> list[int]:
    """The side of the maps before and after each halving: 28, 14, 7, 4, 2, 1."""
    sides = [image_size]
    for _ in range(HALVINGS):
        sides.append((sides[-1] + 1) // 2)
    return sides


def _make_activation(channels: int, normalisation: MapNormalisation) -> list[nn.Module]:
    """The activation of ``channels`` maps, and before it their normalisation, if any."""
    norms = [] if normalisation == "none" else [make_normalisation(normalisation, channels)]
    return [*norms, make_activation("leaky_relu", SLOPE)]


class Encoder(nn.Module):
    """``images (B, channels, S, S) in [0, 1], labels (B,) int64 -> mean, log-variance (B, latent)`` of q(z | image, label)."""

    def __init__(
        self,
        channels: int,
        num_classes: int,
        image_size: int,
        width: int,
        latent: int,
        normalisation: MapNormalisation = "none",
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        widths = [channels + num_classes, *(width * 2**i for i in range(HALVINGS + 1))]
        layers: list[nn.Module] = []
        for place, (before, after) in enumerate(pairwise(widths)):
            stride = 2 if place < HALVINGS else 1
            layers += [nn.Conv2d(before, after, 3, stride, padding=1), *_make_activation(after, normalisation)]
        self.body = nn.Sequential(*layers, nn.Flatten())
        features = widths[-1] * list_sides(image_size)[-1] ** 2
        self.mean = nn.Linear(features, latent)
        self.log_variance = nn.Linear(features, latent)

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        x = self.body(torch.cat([images, make_label_planes(labels, self.num_classes, images)], dim=1))
        return self.mean(x), self.log_variance(x)


class Decoder(nn.Module):
    """``latent (B, latent), labels (B,) int64 -> logits (B, channels + num_classes, S, S)``: the image, then the planes."""

    def __init__(
        self,
        channels: int,
        num_classes: int,
        image_size: int,
        width: int,
        latent: int,
        normalisation: MapNormalisation = "none",
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        widths = [*(width * 2**i for i in range(HALVINGS, -1, -1)), channels + num_classes]
        maps = list_sides(image_size)[::-1]
        self.from_latent = nn.Linear(latent + num_classes, widths[0] * maps[0] ** 2)
        self.unflatten = nn.Unflatten(1, (widths[0], maps[0], maps[0]))
        layers: list[nn.Module] = [nn.ConvTranspose2d(widths[0], widths[1], 3, 1, padding=1)]
        for (before, after), (small, large) in zip(pairwise(widths[1:]), pairwise(maps), strict=True):
            missing = large - (2 * small - 1)  # what a stride of 2 leaves out where the side was even
            layers += [
                *_make_activation(before, normalisation),
                nn.ConvTranspose2d(before, after, 3, 2, padding=1, output_padding=missing),
            ]
        self.body = nn.Sequential(*layers)

    def forward(self, latent: Tensor, labels: Tensor) -> Tensor:
        one_hot = F.one_hot(labels, self.num_classes).to(latent.dtype)
        x = self.unflatten(self.from_latent(torch.cat([latent, one_hot], dim=1)))
        return self.body(x)  # type: ignore[no-any-return]


def make_label_planes(labels: Tensor, num_classes: int, like: Tensor) -> Tensor:
    """One-hot planes ``(B, num_classes, H, W)`` of ``labels (B,)``, of the size and dtype of ``like (B, C, H, W)``."""
    one_hot = F.one_hot(labels, num_classes).to(like.dtype)
    return one_hot[:, :, None, None].expand(-1, -1, *like.shape[-2:])


class CVAE(nn.Module):
    """Encoder and decoder.

    At 28 pixels, 3 channels, 8 classes, width 16 and latent size 128: 3,348,811 parameters.

    Args:
        channels: Number of image channels.
        num_classes: Number of classes.
        image_size: Pixels a side.
        width: Number of feature maps of the encoder's first convolution; each next one doubles it.
        latent: Length of the latent vector.
        normalisation: Normalisation before each activation. With it, and with annealing, more of a deep VAE's latent stays in
            use (Sonderby et al. 2016, arXiv:1602.02282); ``batch`` takes statistics over batches of two images at least.
    """

    def __init__(
        self,
        channels: Annotated[int, Range(ge=1)],
        num_classes: Annotated[int, Range(ge=2)],
        image_size: Annotated[int, Range(ge=8)] = 28,
        width: PositiveInt = 16,
        latent: PositiveInt = 128,
        normalisation: MapNormalisation = "none",
    ) -> None:
        super().__init__()
        self.image_shape = (channels, image_size, image_size)
        self.num_classes = num_classes
        self.latent = latent
        self.encoder = Encoder(channels, num_classes, image_size, width, latent, normalisation)
        self.decoder = Decoder(channels, num_classes, image_size, width, latent, normalisation)

    def run_parts(self, images: Tensor, labels: Tensor) -> None:
        """Runs encoder and decoder once on ``images (B, C, S, S)``, for the sizes in a model's summary."""
        latent, _ = self.encoder(images, labels)
        self.decoder(latent, labels)
