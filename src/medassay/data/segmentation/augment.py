"""Augmentation of images together with their class maps and pixel weights, on the device that holds them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from medassay.core.types import NonNegative, Probability, Range
from medassay.data.augment import BatchAugment, Share

GridSide = Annotated[int, Range(ge=2)]
REACH = 3
"""A deformation fetches pixels from up to so many standard deviations away; the rare ones from beyond are mirrored."""


@dataclass(frozen=True, kw_only=True)
class SegmentationAugment:
    """Random changes, each off (0) unless asked for, with numbers of its own for every image of a batch.

    Flips, turns and the deformation move images, class maps and weights alike; what follows changes the images alone.

    Attributes:
        horizontal_flip: Probability of a left-right flip.
        vertical_flip: Probability of a top-bottom flip.
        quarter_turn: Probability of a turn by 90 degrees; with both flips at a half, the eight symmetries of a square.
        elastic: Standard deviation in pixels of the random displacements along each axis, drawn on a coarse grid and
            interpolated in between (bicubic). The U-Net paper takes 10 at patches of 572 pixels; small patches need less.
        elastic_grid: Points along each side of that grid; 3 as in the paper (Ronneberger et al. 2015, section 3.1).
        gamma: Largest relative change of the exponent of all values, drawn from ``[1 / (1 + gamma), 1 + gamma]``, evenly in its
            logarithm.
        contrast: Largest relative change of the distance to the image's mean.
        brightness: Largest shift of all values, in [0, 1] units.
        noise: Standard deviation of Gaussian noise added to every value, in [0, 1] units.
    """

    horizontal_flip: Probability = 0.0
    vertical_flip: Probability = 0.0
    quarter_turn: Probability = 0.0
    elastic: NonNegative = 0.0
    elastic_grid: GridSide = 3
    gamma: NonNegative = 0.0
    contrast: Share = 0.0
    brightness: NonNegative = 0.0
    noise: NonNegative = 0.0

    @property
    def active(self) -> bool:
        """Whether anything is on."""
        return any(value > 0 for name, value in vars(self).items() if name != "elastic_grid")

    @property
    def reach(self) -> int:
        """Pixels around a patch that its deformation needs to see."""
        return math.ceil(REACH * self.elastic)

    def __call__(
        self, images: Tensor, masks: Tensor, weights: Tensor, *, rng: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Change a batch.

        Args:
            images: ``(B, C, H, W) float32`` in [0, 1]; none of the three is modified.
            masks: Class indices, ``(B, H, W) int64``.
            weights: ``(B, H, W) float32``.
            rng: A generator on the device of ``images``; all randomness comes from it.

        Returns:
            The three, shapes and dtypes as before; the masks hold no new values.

        Raises:
            ValueError: The shapes do not fit, or the images are not square and turned by 90 degrees.
        """
        expected = (len(images), *images.shape[2:])
        if images.ndim != 4 or masks.shape != expected or weights.shape != expected:
            shapes = [tuple(tensor.shape) for tensor in (images, masks, weights)]
            raise ValueError(f"expected images (B, C, H, W), masks and weights (B, H, W), not {shapes}")
        if self.quarter_turn and images.shape[2] != images.shape[3]:
            raise ValueError(f"quarter_turn needs square images, not {images.shape[2]}x{images.shape[3]}")
        if not self.active:
            return images, masks, weights
        layers = torch.cat((images, weights[:, None], masks[:, None].to(images.dtype)), dim=1)
        layers = self._flip(layers, rng)
        if self.elastic:
            layers = deform(layers, self._draw_displacements(layers, rng))
        return self._recolour(layers[:, :-2], rng), layers[:, -1].to(masks.dtype), layers[:, -2]

    def _flip(self, layers: Tensor, rng: torch.Generator) -> Tensor:
        """Flips and quarter turns, which copy values exactly."""

        def chosen(probability: float) -> Tensor:
            return torch.rand((len(layers), 1, 1, 1), generator=rng, device=layers.device) < probability

        if self.horizontal_flip:
            layers = torch.where(chosen(self.horizontal_flip), layers.flip(3), layers)
        if self.vertical_flip:
            layers = torch.where(chosen(self.vertical_flip), layers.flip(2), layers)
        if self.quarter_turn:
            layers = torch.where(chosen(self.quarter_turn), layers.rot90(1, (2, 3)), layers)
        return layers

    def _draw_displacements(self, layers: Tensor, rng: torch.Generator) -> Tensor:
        """Where each pixel is fetched from, as a displacement in pixels: ``(B, 2, H, W)``, x and y."""
        shape = (len(layers), 2, self.elastic_grid, self.elastic_grid)
        coarse = self.elastic * torch.randn(shape, generator=rng, device=layers.device, dtype=layers.dtype)
        height, width = layers.shape[2:]
        return F.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)

    def _recolour(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """Gamma, contrast, brightness, noise."""
        if self.gamma:
            draw = 2 * torch.rand((len(images), 1, 1, 1), generator=rng, device=images.device, dtype=images.dtype) - 1
            images = images.clamp(0, 1) ** ((1 + self.gamma) ** draw)
        values = BatchAugment(contrast=self.contrast, brightness=self.brightness, gaussian_noise=self.noise)
        return values(images, rng=rng)


def deform(layers: Tensor, displacements: Tensor) -> Tensor:
    """Moves images and class maps alike: each pixel takes the value that lies at its own place plus its displacement.

    Args:
        layers: ``(B, C + 1, H, W) float32``; all layers but the last are interpolated (bilinear), the last one, a class map,
            takes the nearest value.
        displacements: In pixels, ``(B, 2, H, W)``, x and y. What lies outside is mirrored.

    Returns:
        ``(B, C + 1, H, W) float32``.
    """
    height, width = layers.shape[2:]
    x = torch.arange(width, device=layers.device, dtype=layers.dtype)
    y = torch.arange(height, device=layers.device, dtype=layers.dtype)[:, None]
    grid = torch.stack(
        (
            (displacements[:, 0] + x + 0.5) * (2 / width) - 1,
            (displacements[:, 1] + y + 0.5) * (2 / height) - 1,
        ),
        dim=3,
    )
    values = F.grid_sample(layers[:, :-1], grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    classes = F.grid_sample(layers[:, -1:], grid, mode="nearest", padding_mode="reflection", align_corners=False)
    return torch.cat((values, classes), dim=1)
