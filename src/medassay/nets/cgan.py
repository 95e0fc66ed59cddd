"""The conditional GAN's two networks for 32x32 images, in the manner of DCGAN (Radford et al. 2016, arXiv:1511.06434).

The label enters both networks by a branch of its own (Mirza & Osindero 2014, arXiv:1411.1784). All (transposed)
convolutions have kernel 4 and a bias; stride 2 and padding 1, except the generator's two input layers and the
discriminator's last convolution (stride 1, no padding). Weights start at N(0, 0.02), batch-norm scales at N(1, 0.02).
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medassay.core.types import PositiveInt, Range
from medassay.nets.layers import Normalise

SIDE = 32  # pixels: what both networks work on
SLOPE = 0.2  # of the discriminator's leaky ReLU


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


def _make_up_block(in_channels: int, out_channels: int, stride: int = 2) -> nn.Sequential:
    padding = 1 if stride == 2 else 0
    return nn.Sequential(
        nn.ConvTranspose2d(in_channels, out_channels, 4, stride, padding),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class Generator(nn.Module):
    """``noise (B, latent), labels (B,) int64 -> images (B, channels, 32, 32) float32 in [0, 1]``.

    At width 64, latent size 100, 3 channels and 8 classes: 3,072,643 parameters.
    """

    def __init__(self, channels: int, num_classes: int, width: int = 64, latent: int = 100) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.latent = latent
        self.from_noise = _make_up_block(latent, 4 * width, stride=1)
        self.from_label = _make_up_block(num_classes, 4 * width, stride=1)
        self.up1 = _make_up_block(8 * width, 4 * width)
        self.up2 = _make_up_block(4 * width, 2 * width)
        self.to_image = nn.ConvTranspose2d(2 * width, channels, 4, 2, 1)
        self.apply(_init_weights)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        one_hot = F.one_hot(labels, self.num_classes).to(noise.dtype)
        x = torch.cat([self.from_noise(noise[:, :, None, None]), self.from_label(one_hot[:, :, None, None])], dim=1)
        x = self.up1(x)  # (B, 8w, 4, 4) -> (B, 4w, 8, 8)
        x = self.up2(x)  # -> (B, 2w, 16, 16)
        return torch.sigmoid(self.to_image(x))  # -> (B, channels, 32, 32)


class Discriminator(nn.Module):
    """``images (B, channels, 32, 32) in [0, 1], labels (B,) int64 -> logits (B,)``; the sigmoid is inside the loss.

    At width 64, 3 channels and 8 classes: 2,643,329 parameters.
    """

    def __init__(self, channels: int, num_classes: int, width: int = 64) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.normalise = Normalise()
        self.from_image = nn.Sequential(nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(SLOPE, inplace=True))
        self.from_label = nn.Sequential(nn.Conv2d(num_classes, width, 4, 2, 1), nn.LeakyReLU(SLOPE, inplace=True))
        self.down1 = self._make_down_block(2 * width, 4 * width)
        self.down2 = self._make_down_block(4 * width, 8 * width)
        self.to_logit = nn.Conv2d(8 * width, 1, 4, 1, 0)
        self.apply(_init_weights)

    @staticmethod
    def _make_down_block(in_channels: int, out_channels: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 4, 2, 1),
            nn.BatchNorm2d(out_channels),
            nn.LeakyReLU(SLOPE, inplace=True),
        )

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        planes = F.one_hot(labels, self.num_classes).to(images.dtype)[:, :, None, None].expand(-1, -1, SIDE, SIDE)
        x = torch.cat([self.from_image(self.normalise(images)), self.from_label(planes)], dim=1)
        x = self.down1(x)  # (B, 2w, 16, 16) -> (B, 4w, 8, 8)
        x = self.down2(x)  # -> (B, 8w, 4, 4)
        logits: Tensor = self.to_logit(x).flatten()  # -> (B, 1, 1, 1) -> (B,)
        return logits if logits.dtype == torch.float64 else logits.float()  # losses and their sums want all digits


class CGAN(nn.Module):
    """Generator and discriminator of one width, for images of 28 or 32 pixels a side.

    Real images of 28 pixels are padded to 32 by reflection and samples are cropped back to 28, so that no resampling
    blurs either side.

    Args:
        channels: Number of image channels.
        num_classes: Number of classes that can be asked for.
        image_size: Pixels a side of the data set's images, 28 or 32.
        width: Number of feature maps of the discriminator's first layers; scales all channel counts.
        latent: Length of the noise vector.
    """

    def __init__(
        self,
        channels: PositiveInt,
        num_classes: Annotated[int, Range(ge=2)],
        image_size: Annotated[int, Range(ge=28, le=32)] = 28,
        width: PositiveInt = 64,
        latent: PositiveInt = 100,
    ) -> None:
        super().__init__()
        self.image_shape = (channels, image_size, image_size)
        self.num_classes = num_classes
        self.generator = Generator(channels, num_classes, width, latent)
        self.discriminator = Discriminator(channels, num_classes, width)
        self.to(memory_format=torch.channels_last)  # same numbers, a quarter faster in float32 on the CPU
        before = (SIDE - image_size) // 2
        self.margins = (before, SIDE - image_size - before)

    def run_parts(self, images: Tensor, labels: Tensor) -> None:
        """Runs each player once on ``images (B, C, image_size, image_size)``, for the sizes in a model's summary."""
        self.generator(images.new_zeros(len(images), self.generator.latent), labels)
        self.discriminator(self.pad(images), labels)

    def pad(self, images: Tensor) -> Tensor:
        """``(B, C, image_size, image_size) -> (B, C, 32, 32)`` by reflection."""
        before, after = self.margins
        return F.pad(images, (before, after, before, after), mode="reflect") if before or after else images

    def crop(self, images: Tensor) -> Tensor:
        """The centre ``(B, C, image_size, image_size)`` of ``(B, C, 32, 32)``."""
        before = self.margins[0]
        size = self.image_shape[-1]
        return images[..., before : before + size, before : before + size]
