"""The weight of each pixel in the loss: rare classes and the gaps between cells count more.

Ronneberger, Fischer, Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", 2015, equation 2:
``w(x) = w_c(x) + w_0 exp(-(d_1(x) + d_2(x))^2 / (2 sigma^2))``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medassay.core.types import NonNegative, Positive, SegmentedImages
from medassay.metrics.instances import label_components

REACH = 6
"""Distances are measured up to so many sigma; what is left out is below ``w_0 exp(-18)``, 1.5e-8 of ``w_0``."""


@dataclass(frozen=True, kw_only=True)
class PixelWeights:
    """Weights ``w(x)`` of the pixels of a class map.

    The second term is added on background pixels alone: there are the gaps that a net has to learn.

    Attributes:
        gap: Weight ``w_0`` of a background pixel between two cells that are no distance apart; 0 turns the term off.
        sigma: Distance in pixels at which that weight fades.
        balance: Whether ``w_c`` makes all classes count the same over all training pixels; otherwise it is 1.
    """

    gap: NonNegative = 10.0
    sigma: Positive = 5.0
    balance: bool = True

    def compute(self, images: SegmentedImages, class_weights: Tensor) -> list[Tensor]:
        """The weight maps of all images, each ``(H, W) float32``.

        Args:
            images: The images. Objects are their instances, or else the connected regions that are not of class 0.
            class_weights: ``w_c`` of each class, ``(K,) float32``.
        """
        maps = []
        for index, mask in enumerate(images.masks):
            weights = class_weights[mask.long()]
            if self.gap:
                objects = label_components(mask != 0) if images.instances is None else images.instances[index]
                weights = weights + self._weigh_gaps(mask, objects)
            maps.append(weights)
        return maps

    def weigh_classes(self, counts: Tensor) -> Tensor:
        """``w_c``, ``(K,) float32``, by which the classes of ``counts (K,) int64`` pixels count the same and the mean is 1."""
        if not self.balance:
            return torch.ones(len(counts))
        present = (counts > 0).sum()
        return counts.sum() / (present * counts.clamp_min(1)).float()

    def _weigh_gaps(self, mask: Tensor, objects: Tensor) -> Tensor:
        first, second = measure_two_nearest(torch.where(mask == 0, 0, objects), reach=REACH * self.sigma)
        gaps = self.gap * torch.exp(-((first + second) ** 2) / (2 * self.sigma**2))
        return torch.where(mask == 0, gaps, 0.0)


def measure_two_nearest(objects: Tensor, *, reach: float) -> tuple[Tensor, Tensor]:
    """Distances of every pixel to the nearest and to the second nearest object.

    Each object is measured in its own neighbourhood only, so that the time grows with the objects' areas.

    Args:
        objects: ``(H, W) int32``, 0 for background.
        reach: Distance in pixels up to which objects are looked for.

    Returns:
        Two maps ``(H, W) float32`` in pixels, between pixel centres: 0 on the object itself; infinite where there is no such
        object within reach.
    """
    from scipy.ndimage import distance_transform_edt, find_objects

    numbers, margin = objects.numpy(), int(np.ceil(reach))
    nearest = np.full((2, *numbers.shape), np.inf, dtype=np.float32)
    for number, box in enumerate(find_objects(numbers), start=1):
        if box is None:
            continue
        wide = tuple(slice(max(side.start - margin, 0), side.stop + margin) for side in box)
        distance = distance_transform_edt(numbers[wide] != number).astype(np.float32)
        distance[distance > reach] = np.inf
        first, second = nearest[0][wide], nearest[1][wide]
        np.minimum(second, np.maximum(first, distance), out=second)
        np.minimum(first, distance, out=first)
    return torch.from_numpy(nearest[0]), torch.from_numpy(nearest[1])
