"""Diffusion in the formulation of Karras et al. 2022 ("EDM", arXiv:2206.00364): formulas, no weights.

An image y of a data set with standard deviation sigma_data becomes x = y + sigma n, n ~ N(0, I). A denoiser D(x; sigma) that
gives the mean of y for x defines the flow dx/dsigma = (x - D(x; sigma)) / sigma from noise to images (eq. 1, 3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

LEVELS = 16  # noise levels that validation uses
Denoise = Callable[[Tensor, float], Tensor]  # (x (N, C, H, W), sigma) -> D(x; sigma)


class Preconditioning(NamedTuple):
    """D(x; sigma) = c_skip x + c_out F(c_in x, c_noise), each of the shape of sigma (eq. 7)."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor


def precondition(sigma: Tensor, sigma_data: Tensor) -> Preconditioning:
    """The factors that give F inputs and targets of variance 1, and F's errors the least weight (table 1, appendix B.6)."""
    total = sigma.square() + sigma_data.square()
    root = total.sqrt()
    return Preconditioning(sigma_data.square() / total, sigma * sigma_data / root, 1 / root, sigma.log() / 4)


def loss_weight(sigma: Tensor, sigma_data: Tensor) -> Tensor:
    """lambda(sigma) = (sigma^2 + sigma_data^2) / (sigma sigma_data)^2 = 1 / c_out^2: all noise levels start at a loss of 1."""
    return (sigma.square() + sigma_data.square()) / (sigma * sigma_data).square()


def denoising_loss(denoised: Tensor, images: Tensor, sigma: Tensor, sigma_data: Tensor) -> Tensor:
    """The weighted squared error, a mean over images and pixels, a scalar (eq. 2, 8).

    Args:
        denoised: D(x; sigma), ``(B, C, H, W)``.
        images: y, of that shape.
        sigma: Noise levels, ``(B, 1, 1, 1)``.
        sigma_data: Standard deviation of the data, a scalar.
    """
    return (loss_weight(sigma, sigma_data) * (denoised - images).square()).mean()


def make_levels(p_mean: float, p_std: float) -> Tensor:
    """Sigma at the middle of ``LEVELS`` equal shares of ln(sigma) ~ N(p_mean, p_std^2), ``(LEVELS,) float64``."""
    shares = (torch.arange(LEVELS, dtype=torch.float64) + 0.5) / LEVELS
    quantiles: Tensor = torch.special.ndtri(shares)
    return (p_mean + p_std * quantiles).exp()


def make_sigmas(steps: int, sigma_min: float, sigma_max: float, rho: float) -> list[float]:
    """``steps`` noise levels from ``sigma_max`` to ``sigma_min``, the denser at the end the larger ``rho``, then 0 (eq. 5)."""
    if steps == 1:
        return [sigma_max, 0.0]
    first, last = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return [*((first + i / (steps - 1) * (last - first)) ** rho for i in range(steps)), 0.0]


def solve(denoise: Denoise, x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """``x``, an image with noise ``sigmas[0]``, brought to ``sigmas[-1]`` by Heun's method (algorithm 1).

    The last step to 0 is Euler's: 2 n - 1 calls of ``denoise`` for n steps.
    """
    for sigma, following in pairwise(sigmas):
        slope = (x - denoise(x, sigma)) / sigma
        euler = x + (following - sigma) * slope
        if following > 0:
            slope = (slope + (euler - denoise(euler, following)) / following) / 2
            x = x + (following - sigma) * slope
        else:
            x = euler
    return x


class PixelMoments(NamedTuple):
    """Of a data set's pixels in [-1, 1]: the mean of each channel, ``(C,)``, and the standard deviation about these."""

    mean: Tensor
    deviation: float


def measure_pixels(images: Tensor) -> PixelMoments:
    """The moments of ``images (N, C, H, W) uint8`` in double precision, by counting values: the same on every machine."""
    counts = torch.stack([torch.bincount(images[:, c].flatten(), minlength=256) for c in range(images.shape[1])])
    share = counts.double() / counts[0].sum()
    values = 2 * torch.arange(256, dtype=torch.float64) / 255 - 1
    mean = share @ values
    variance = (share * (values - mean[:, None]).square()).sum(1).mean()
    return PixelMoments(mean, float(variance.sqrt()))
