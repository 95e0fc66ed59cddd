"""How near reconstructed images come to the originals."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# dB: the error of rounding to 8 bits. Beyond it nothing more can be known of images that were stored in 8 bits
LARGEST_PSNR = 10 * math.log10(12 * 255**2)


def measure_psnr(images: Tensor, originals: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, at most 58.9: ``10 log10(1 / mean squared error)``.

    Args:
        images, originals: ``(N, C, H, W) float in [0, 1]``.

    Returns:
        ``(N,) float64``.
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio  # slow to import

    ratio: Tensor = peak_signal_noise_ratio(
        images.double(), originals.double(), data_range=1.0, reduction="none", dim=(1, 2, 3)
    )
    return ratio.clamp(max=LARGEST_PSNR)


def measure_ssim(images: Tensor, originals: Tensor) -> Tensor:
    """Structural similarity, at most 1 (Wang et al. 2004; Gaussian window, sigma 1.5); arguments as of :func:`measure_psnr`."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    similarity = structural_similarity_index_measure(
        images.double(), originals.double(), data_range=1.0, reduction="none"
    )
    assert isinstance(similarity, Tensor)
    return similarity.reshape(len(images))


def match_images(images: Tensor, originals: Tensor) -> Tensor:
    """Which image belongs to which original: ``images[match]`` has the smallest mean squared error of all orders.

    A gradient is a sum over a batch and says nothing of the order in it. Source: the Hungarian method, by SciPy.

    Args:
        images, originals: ``(B, C, H, W) float``.

    Returns:
        ``(B,) int64``.
    """
    from scipy.optimize import linear_sum_assignment

    errors = torch.cdist(originals.flatten(1).double(), images.flatten(1).double()) ** 2
    return torch.from_numpy(linear_sum_assignment(errors.numpy())[1])


def rank_original(image: Tensor, original: Tensor, others: Tensor) -> int:
    """The place of the original, from 1, by Euclidean distance to the reconstructed image among itself and the others.

    Args:
        image, original: ``(C, H, W) float``.
        others: ``(M, C, H, W) float``; of equally near images the original comes last.
    """
    distances = (others.double() - image.double()).flatten(1).square().sum(1)
    return 1 + int((distances <= (original.double() - image.double()).square().sum()).sum())


def find_nearest_others(originals: Tensor, images: Tensor) -> Tensor:
    """For each original the nearest of the images that is not the same pixel by pixel, ``(N,) int64``; Euclidean distance.

    Args:
        originals: ``(N, C, H, W) float``.
        images: ``(M, C, H, W) float``, one at least unlike each original.
    """
    distances = torch.cdist(
        originals.flatten(1).double(), images.flatten(1).double(), compute_mode="donot_use_mm_for_euclid_dist"
    )
    return distances.masked_fill(distances == 0, torch.inf).argmin(1)
