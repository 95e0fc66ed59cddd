"""The denoising net of a class-conditional diffusion model: a small U-Net for images of few pixels.

The parts are those of ADM (Dhariwal & Nichol 2021, arXiv:2105.05233): residual blocks whose second normalisation is scaled and
shifted by an embedding of the noise level and the class, attention at the lowest resolution. The pixels of each 2x2 square
become channels before the first convolution, so that 28 pixels a side are 14x14 inside, and 7x7 where attention looks.
Convolutions that end a residual branch start at zero, and so does the last one.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medassay.core.errors import ConfigError
from medassay.core.types import PositiveInt, Range

GROUP = 8  # maps normalised together: with fewer, channels_last takes several times as long on the CPU
HEAD = 32  # least number of maps per attention head
FREQUENCIES = 16  # of the noise level's embedding, each as cosine and sine
SYMMETRIES = 3  # bits that tell the eight symmetries of a square apart


def _normalise(maps: int) -> nn.GroupNorm:
    return nn.GroupNorm(maps // GROUP if maps % GROUP == 0 else 1, maps)


def _start_at_zero(layer: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


class Embedding(nn.Module):
    """``noise level (B,) or (1,), classes (B, K), symmetry (B, 3) -> (B, size)``; what is not told has a row of zeros."""

    frequencies: Tensor

    def __init__(self, num_classes: int, size: int) -> None:
        super().__init__()
        # cycles per unit of ln(sigma) / 4, which spans 2.7 units from the smallest to the largest noise
        self.register_buffer("frequencies", torch.logspace(-2, 3, FREQUENCIES, base=2.0), persistent=False)
        self.from_noise = nn.Linear(2 * FREQUENCIES, size)
        self.from_class = nn.Linear(num_classes, size, bias=False)
        self.from_symmetry = nn.Linear(SYMMETRIES, size, bias=False)
        # a one-hot row meets one weight per output: of the size of the noise level's part, not of 1 / sqrt(classes) of it
        nn.init.normal_(self.from_class.weight, 0.0, 0.5)
        nn.init.normal_(self.from_symmetry.weight, 0.0, 0.5)
        self.out = nn.Linear(size, size)

    def forward(self, noise: Tensor, classes: Tensor, symmetry: Tensor) -> Tensor:
        angles = 2 * math.pi * noise[:, None] * self.frequencies
        x = self.from_noise(torch.cat([angles.cos(), angles.sin()], dim=1))
        x = x + self.from_class(classes) + self.from_symmetry(symmetry)
        return F.silu(self.out(F.silu(x)))


class Block(nn.Module):
    """``x (B, C, H, W), embedding (B, E) -> (B, C, H, W)``: two convolutions beside the identity, then attention where asked.

    Args:
        maps: Number of feature maps, C.
        embedding: Length of the embedding, E.
        dropout: Probability that a value before the second convolution is dropped.
        attention: Whether every pixel looks at all others at the end.
    """

    def __init__(self, maps: int, embedding: int, dropout: float, attention: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = _normalise(maps), _normalise(maps)
        self.conv1 = nn.Conv2d(maps, maps, 3, padding=1)
        self.conv2 = _start_at_zero(nn.Conv2d(maps, maps, 3, padding=1))
        self.modulate = nn.Linear(embedding, 2 * maps)
        self.dropout = nn.Dropout(dropout)
        self.attention = Attention(maps) if attention else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulate(embedding)[:, :, None, None].chunk(2, dim=1)
        h = F.silu(torch.addcmul(shift, self.norm2(h), 1 + scale))
        x = x + self.conv2(self.dropout(h))
        return self.attention(x)  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Self-attention over the pixels of ``x (B, C, H, W)``, added to it (Vaswani et al. 2017, arXiv:1706.03762)."""

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.heads = max(n for n in range(1, max(1, maps // HEAD) + 1) if maps % n == 0)
        self.norm = _normalise(maps)
        self.to_qkv = nn.Conv2d(maps, 3 * maps, 1)
        self.out = _start_at_zero(nn.Conv2d(maps, maps, 1))

    def forward(self, x: Tensor) -> Tensor:
        batch, maps, height, width = x.shape
        qkv = self.to_qkv(self.norm(x)).permute(0, 2, 3, 1)  # (B, H, W, 3C): what channels_last has in memory
        qkv = qkv.reshape(batch, height * width, 3, self.heads, maps // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, HW, C / heads)
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2)
        mixed = mixed.reshape(batch, height, width, maps).permute(0, 3, 1, 2)
        return x + self.out(mixed)  # type: ignore[no-any-return]


class DenoisingUNet(nn.Module):
    """``x (B, C, S, S), noise level (B,) or (1,), classes (B, K), symmetry (B, 3) -> (B, C, S, S)``.

    ``classes`` are one-hot rows, zeros where the class is not told; ``symmetry`` are the bits of the change that was made to
    the image, zeros for none. At 28 pixels, 3 channels, 8 classes, width 48 and one block: 723,372 parameters.

    Args:
        channels: Number of image channels.
        num_classes: Number of classes that can be asked for.
        image_size: Pixels a side, an even number.
        width: Number of feature maps at half the images' size; twice as many at a quarter.
        blocks: Number of residual blocks at each of the two sizes, on the way down and again on the way up.
        dropout: Dropout in the blocks at a quarter of the size: at half the size drawing the numbers takes as long as a
            convolution, for a tenth of the weights.

    Raises:
        ConfigError: ``image_size`` is odd.
    """

    def __init__(
        self,
        channels: PositiveInt,
        num_classes: Annotated[int, Range(ge=2)],
        image_size: Annotated[int, Range(ge=8)] = 28,
        width: PositiveInt = 48,
        blocks: PositiveInt = 1,
        dropout: Annotated[float, Range(ge=0, lt=1)] = 0.1,
    ) -> None:
        super().__init__()
        if image_size % 2:
            raise ConfigError(
                f"model.net.image_size={image_size}: the denoising U-Net takes images of an even number of pixels a side; "
                f"use {image_size - 1} or {image_size + 1} (data.size)"
            )
        self.image_shape = (channels, image_size, image_size)
        self.num_classes = num_classes
        size, inner = 4 * width, 2 * width
        self.embedding = Embedding(num_classes, size)
        self.stem = nn.Conv2d(4 * channels, width, 3, padding=1)
        self.down = nn.ModuleList(Block(width, size, 0.0, attention=False) for _ in range(blocks))
        self.shrink = nn.Conv2d(width, inner, 3, stride=2, padding=1)
        self.middle = nn.ModuleList(Block(inner, size, dropout, attention=True) for _ in range(2 * blocks))
        self.enlarge = nn.Conv2d(inner, 4 * width, 1)
        self.merge = nn.Conv2d(2 * width, width, 1)
        self.up = nn.ModuleList(Block(width, size, 0.0, attention=False) for _ in range(blocks))
        self.norm = _normalise(width)
        self.to_image = _start_at_zero(nn.Conv2d(width, 4 * channels, 3, padding=1))
        self.to(memory_format=torch.channels_last)  # a fifth faster in float32 on the CPU

    def run_parts(self, images: Tensor, labels: Tensor) -> None:
        """Denoises ``images (B, C, S, S)`` once, for the sizes in a model's summary."""
        classes, symmetry = (images.new_zeros(len(images), n) for n in (self.num_classes, SYMMETRIES))
        self(images, images.new_zeros(len(images)), classes, symmetry)

    def forward(self, x: Tensor, noise: Tensor, classes: Tensor, symmetry: Tensor) -> Tensor:
        embedding = self.embedding(noise, classes, symmetry)
        x = self.stem(F.pixel_unshuffle(x, 2))  # (B, C, S, S) -> (B, 4C, S/2, S/2) -> (B, width, S/2, S/2)
        for block in self.down:
            x = block(x, embedding)
        across = x
        x = self.shrink(x)  # -> (B, 2 width, S/4, S/4), rounded up
        for block in self.middle:
            x = block(x, embedding)
        x = F.pixel_shuffle(self.enlarge(x), 2)[..., : across.shape[-2], : across.shape[-1]]
        x = self.merge(torch.cat([x, across], dim=1))
        for block in self.up:
            x = block(x, embedding)
        x = self.to_image(F.silu(self.norm(x)))
        return F.pixel_shuffle(x, 2)
