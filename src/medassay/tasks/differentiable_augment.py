"""Random changes of the images a discriminator sees, real and generated alike, through which gradients flow.

A discriminator that only ever sees changed images cannot learn the few real ones by heart, and a generator that must pass
the same changes is judged by what they leave (Zhao et al. 2020, arXiv:2006.10738; Karras et al. 2020, arXiv:2006.06676).
Nothing here changes the data set; :mod:`medassay.data.augment` does that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from medassay.core.types import Probability, Range

GREY = 0.5  # what a cut-out square shows: the middle of [0, 1]


@dataclass(frozen=True, kw_only=True)
class DifferentiableAugment:
    """Changes of images, each made of an image with ``probability``, in the order of the attributes.

    All randomness comes from torch's global generator of the images' device, as the rest of a task's noise does.

    Attributes:
        probability: Probability of each change of each image; 0 changes nothing. Below about 0.8 no change gets into
            the samples: unchanged images are still the most frequent ones (Karras et al. 2020, section 2.2).
        flip: Whether images are mirrored left to right, with probability a half.
        quarter_turn: Whether images are turned by 0, 90, 180 or 270 degrees.
        translation: Largest shift along each axis, as a fraction of the side; whole pixels, the image reflected at its edge.
        cutout: Side of a grey square around any pixel, as a fraction of the image's side; what lies outside of the image is cut
            off.
    """

    probability: Probability = 0.5
    flip: bool = True
    quarter_turn: bool = True
    translation: Annotated[float, Range(ge=0, le=0.5)] = 0.125
    cutout: Probability = 0.5

    def __call__(self, images: Tensor) -> Tensor:
        """Changed ``images (B, C, S, S)`` in [0, 1], all channels of one alike; ``images`` themselves if nothing is on."""
        if not self.probability:
            return images
        if self.flip:
            images = torch.where(self._choose(images, 0.5), images.flip(3), images)
        if self.quarter_turn:
            turned = self._choose(images)
            images = torch.where(turned & _toss(images, 0.5), images.flip((2, 3)), images)
            images = torch.where(turned & _toss(images, 0.5), images.rot90(1, (2, 3)), images)
        if self.translation:
            images = _shift(images, self.translation, self._choose(images))
        if self.cutout:
            images = images.masked_fill(_draw_squares(images, self.cutout) & self._choose(images), GREY)
        return images

    def _choose(self, images: Tensor, share: float = 1.0) -> Tensor:
        """Which images are changed, ``(B, 1, 1, 1) bool``: ``share`` of those that ``probability`` gives."""
        return _toss(images, self.probability * share)


def _toss(images: Tensor, probability: float) -> Tensor:
    return torch.rand((len(images), 1, 1, 1), device=images.device) < probability


def _shift(images: Tensor, share: float, chosen: Tensor) -> Tensor:
    """``images`` moved along both axes by up to ``share`` of their side, where ``chosen (B, 1, 1, 1)``."""
    side = images.shape[-1]
    largest = int(share * side)
    shifts = torch.randint(-largest, largest + 1, (2, len(images)), device=images.device) * chosen.flatten()
    place = (
        torch.arange(side, device=images.device) - shifts[..., None]
    ).abs()  # (2, B, S), reflected at the first pixel
    rows, columns = torch.where(place < side, place, 2 * (side - 1) - place)  # … and at the last
    images = images.gather(2, rows[:, None, :, None].expand_as(images))
    return images.gather(3, columns[:, None, None, :].expand_as(images))


def _draw_squares(images: Tensor, share: float) -> Tensor:
    """A square of ``share`` of the side around a pixel of each image, ``(B, 1, S, S) bool``."""
    side = images.shape[-1]
    length = int(share * side + 0.5)
    start = torch.randint(0, side, (2, len(images), 1), device=images.device) - length // 2
    place = torch.arange(side, device=images.device)
    rows, columns = (place >= start) & (place < start + length)  # (B, S) each
    inside: Tensor = rows[:, :, None] & columns[:, None, :]
    return inside[:, None]
