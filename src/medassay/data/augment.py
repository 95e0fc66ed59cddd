"""Augmentation of whole batches, on the device that holds them.

Every image of a batch gets parameters of its own, all of them drawn at once from one generator: no loop over images, no
worker process, no wait for the device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from medassay.core.types import NonNegative, Probability, Range

Share = Annotated[float, Range(ge=0, le=1)]
Zoom = Annotated[float, Range(ge=0, lt=1)]
PositiveShare = Annotated[float, Range(gt=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class BatchAugment:
    """Random changes of images, each off (0) unless asked for, applied in the order of the arguments.

    Attributes:
        horizontal_flip: Probability of a left-right flip. Lungs, hearts and livers have a side: leave it off for these.
        vertical_flip: Probability of a top-bottom flip.
        quarter_turn: Probability of a turn by 90 degrees; with both flips at a half, the eight symmetries of a square.
        rotation: Largest angle in degrees; drawn from ``[-rotation, rotation]``.
        translation: Largest shift along each axis, as a fraction of the side.
        scale: Largest relative zoom; the factor is drawn from ``[1 - scale, 1 + scale]``, above 1 enlarges.
        contrast: Largest relative change of the distance to the image's mean.
        brightness: Largest shift of all values, in [0, 1] units.
        colour: Largest relative change of each channel's gain (stain, white balance); grey images are left alone.
        blur: Probability of a 3×3 Gaussian blur (binomial kernel 1-2-1).
        sharpen: Probability of an unsharp mask: the image plus its difference to that blur.
        gaussian_noise: Standard deviation of noise added to every value, in [0, 1] units.
        poisson_noise: Standard deviation, at white, of shot noise: its variance is in proportion to the value, as where photons
            are counted.
        speckle_noise: Standard deviation of noise that multiplies every value by 1 plus itself, as in ultrasound and OCT.
        salt_pepper: Share of the pixels set to black or to white, half each.
        erasing: Probability that a rectangle is filled with the image's mean colour (Zhong et al., "Random Erasing Data
            Augmentation", 2020).
        erasing_size: Largest height and width of that rectangle, as a fraction of the side.

    What rotation, translation and scale bring in from outside is the image's own reflection at its edge. The ranges in
    the annotations are checked where configurations are.
    """

    horizontal_flip: Probability = 0.0
    vertical_flip: Probability = 0.0
    quarter_turn: Probability = 0.0
    rotation: NonNegative = 0.0
    translation: NonNegative = 0.0
    scale: Zoom = 0.0
    contrast: Share = 0.0
    brightness: NonNegative = 0.0
    colour: Share = 0.0
    blur: Probability = 0.0
    sharpen: Probability = 0.0
    gaussian_noise: NonNegative = 0.0
    poisson_noise: NonNegative = 0.0
    speckle_noise: NonNegative = 0.0
    salt_pepper: Share = 0.0
    erasing: Probability = 0.0
    erasing_size: PositiveShare = 0.3

    @property
    def active(self) -> bool:
        """Whether anything is on."""
        return any(value > 0 for name, value in vars(self).items() if name != "erasing_size")

    def __call__(self, images: Tensor, *, rng: torch.Generator) -> Tensor:
        """Change a batch.

        Args:
            images: Images, ``(B, C, H, W) float32`` in [0, 1]; not modified.
            rng: A generator on the device of ``images``; all randomness comes from it.

        Returns:
            ``(B, C, H, W) float32`` in [0, 1]; ``images`` itself if nothing is on.

        Raises:
            ValueError: ``images`` is not a batch of floating-point images, or they are not square and turned by 90 degrees.
        """
        if images.ndim != 4 or not images.is_floating_point():
            raise ValueError(f"images must be (B, C, H, W) float32 in [0, 1], not {tuple(images.shape)} {images.dtype}")
        if self.quarter_turn and images.shape[2] != images.shape[3]:
            raise ValueError(f"quarter_turn needs square images, not {images.shape[2]}x{images.shape[3]}")
        if not self.active:
            return images
        return self._occlude(self._filter(self._recolour(self._move(images, rng), rng), rng), rng).clamp(0, 1)

    def _move(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """Flips and quarter turns, which copy values exactly, and one interpolation for rotation, translation and scale."""
        if self.horizontal_flip:
            images = torch.where(_choose_images(images, self.horizontal_flip, rng), images.flip(3), images)
        if self.vertical_flip:
            images = torch.where(_choose_images(images, self.vertical_flip, rng), images.flip(2), images)
        if self.quarter_turn:
            images = torch.where(_choose_images(images, self.quarter_turn, rng), images.rot90(1, (2, 3)), images)
        if self.rotation or self.translation or self.scale:
            angle = math.radians(self.rotation) * _draw_symmetric(images, 1, rng)
            zoom = 1 + self.scale * _draw_symmetric(images, 1, rng)
            shift = self.translation * _draw_symmetric(images, 2, rng)
            images = _resample(images, angle, zoom, shift)
        return images

    def _recolour(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """Contrast, brightness, colour."""
        if self.contrast:
            mean = images.mean(dim=(1, 2, 3), keepdim=True)
            images = mean + (images - mean) * (1 + self.contrast * _draw_symmetric(images, 1, rng))
        if self.brightness:
            images = images + self.brightness * _draw_symmetric(images, 1, rng)
        if self.colour and images.shape[1] > 1:
            images = images * (1 + self.colour * _draw_symmetric(images, images.shape[1], rng))
        return images

    def _filter(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """Blur, sharpening."""
        if self.blur:
            images = torch.where(_choose_images(images, self.blur, rng), _blur(images), images)
        if self.sharpen:
            images = torch.where(_choose_images(images, self.sharpen, rng), 2 * images - _blur(images), images)
        return images

    def _occlude(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """Noise and erased rectangles."""
        batch, _, height, width = images.shape
        if self.gaussian_noise:
            noise = torch.randn(images.shape, generator=rng, device=images.device, dtype=images.dtype)
            images = images + self.gaussian_noise * noise
        if self.poisson_noise:
            photons = self.poisson_noise**-2  # of a white pixel
            images = torch.poisson(images.clamp(min=0) * photons, generator=rng) / photons
        if self.speckle_noise:
            noise = torch.randn(images.shape, generator=rng, device=images.device, dtype=images.dtype)
            images = images * (1 + self.speckle_noise * noise)
        if self.salt_pepper:
            draw = torch.rand((batch, 1, height, width), generator=rng, device=images.device)
            images = images.masked_fill(draw < self.salt_pepper, 0.0)
            images = images.masked_fill(draw < self.salt_pepper / 2, 1.0)
        if self.erasing:
            rows = _draw_interval(images, height, self.erasing_size, rng)[:, :, :, None]
            columns = _draw_interval(images, width, self.erasing_size, rng)[:, :, None, :]
            inside = rows & columns & _choose_images(images, self.erasing, rng)
            images = torch.where(inside, images.mean(dim=(2, 3), keepdim=True), images)
        return images


def _choose_images(images: Tensor, probability: float, rng: torch.Generator) -> Tensor:
    """Which images are changed, ``(B, 1, 1, 1) bool``."""
    return torch.rand((len(images), 1, 1, 1), generator=rng, device=images.device) < probability


def _draw_symmetric(images: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """``count`` uniform numbers in [-1, 1) per image, ``(B, count, 1, 1)``."""
    shape = (len(images), count, 1, 1)
    return 2 * torch.rand(shape, generator=rng, device=images.device, dtype=images.dtype) - 1


def _draw_interval(images: Tensor, side: int, largest: float, rng: torch.Generator) -> Tensor:
    """A random interval of 1 to ``largest * side`` pixels along one axis per image, ``(B, 1, side) bool``."""
    draw = torch.rand((2, len(images), 1, 1), generator=rng, device=images.device)
    length = (draw[0] * max(int(largest * side), 1)).floor() + 1
    start = (draw[1] * (side - length + 1)).floor()
    position = torch.arange(side, device=images.device)
    return (position >= start) & (position < start + length)


def _resample(images: Tensor, angle: Tensor, zoom: Tensor, shift: Tensor) -> Tensor:
    """Rotate by ``angle`` (radians) about the centre, enlarge by ``zoom``, move by ``shift`` (x, y; in sides).

    The sampling grid is written out instead of taken from ``affine_grid``: that one multiplies matrices, which autocast
    rounds to the 8 bits of bfloat16, a visible part of a pixel at 224×224. It is in pixels until the last step, so that
    images that are not square are rotated and not sheared.
    """
    height, width = images.shape[2:]
    device, dtype = images.device, images.dtype
    x = (torch.arange(width, device=device, dtype=dtype) - (width - 1) / 2)[None, None, :] - shift[:, 0] * width
    y = (torch.arange(height, device=device, dtype=dtype) - (height - 1) / 2)[None, :, None] - shift[:, 1] * height
    cos, sin = (angle.cos() / zoom)[:, 0], (angle.sin() / zoom)[:, 0]
    source_x = (cos * x + sin * y) * (2 / width)
    source_y = (cos * y - sin * x) * (2 / height)
    grid = torch.stack((source_x, source_y), dim=3)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _blur(images: Tensor) -> Tensor:
    """Each image convolved with the binomial kernel (1, 2, 1)/4 along both axes, reflected at the edge."""
    padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
    rows = (padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]) / 4
    return (rows[:, :, :, :-2] + 2 * rows[:, :, :, 1:-1] + rows[:, :, :, 2:]) / 4
