"""Corruptions of images in five severities: noise, blur, exposure, resolution, compression, uneven sensitivity.

They follow the idea of ImageNet-C (Hendrycks & Dietterich, *Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations*, ICLR 2019, arXiv:1903.12261): the images of a known set, changed as scanners and archives change them, from
hardly visible to hard to read. The parameters are ours, for images of 28 pixels a side, grey or RGB; those of ImageNet-C are
for 224 pixels and leave little of 28. Lengths are in pixels, so that a larger image suffers less from the same blur.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from medassay.core.seeds import derive_seed

Corruption = Literal[
    "gaussian_noise",
    "shot_noise",
    "speckle_noise",
    "blur",
    "contrast",
    "darker",
    "brighter",
    "resolution",
    "jpeg",
    "bias_field",
]
SEVERITIES = (1, 2, 3, 4, 5)


class Kind(NamedTuple):
    """A corruption in words, its parameter and that parameter's value at each severity from 1 to 5."""

    name: str
    parameter: str
    values: tuple[float, float, float, float, float]


TABLE: dict[Corruption, Kind] = {
    "gaussian_noise": Kind("Gaussian noise", "standard deviation, white is 1", (0.04, 0.08, 0.12, 0.18, 0.26)),
    "shot_noise": Kind("shot noise", "photons of a white pixel", (250, 100, 45, 20, 9)),
    "speckle_noise": Kind("speckle noise", "standard deviation, relative to the pixel", (0.08, 0.15, 0.25, 0.38, 0.55)),
    "blur": Kind("blur", "standard deviation of the Gaussian in pixels", (0.4, 0.6, 0.9, 1.3, 1.8)),
    "contrast": Kind("lower contrast", "factor of the distance to the image’s mean", (0.75, 0.55, 0.4, 0.25, 0.15)),
    "darker": Kind("darker (gamma)", "exponent", (1.25, 1.6, 2.0, 2.6, 3.4)),
    "brighter": Kind("brighter (gamma)", "exponent", (0.8, 0.63, 0.5, 0.38, 0.29)),
    "resolution": Kind("lower resolution", "share of the side that is left", (0.75, 0.6, 0.5, 0.36, 0.25)),
    "jpeg": Kind("JPEG", "quality", (60, 35, 20, 10, 5)),
    "bias_field": Kind("bias field", "largest logarithm of the factor", (0.15, 0.3, 0.5, 0.75, 1.05)),
}
_CHUNK = 512  # images at a time; each chunk draws with a seed of its own


def corrupt(images: Tensor, corruption: Corruption, severity: int, *, seed: int = 0) -> Tensor:
    """The images as they would look after a corruption.

    Severities of one corruption draw the same random numbers where they draw as many: a noisier image has the same noise, only
    stronger. JPEG is Pillow's, whose last grey value may differ between versions of its library.

    Args:
        images: Images, ``(N, C, H, W)`` float in [0, 1], C 1 or 3; not modified.
        corruption: Name of the corruption.
        severity: From 1 to 5.
        seed: Seed of everything that is drawn.

    Returns:
        ``(N, C, H, W) float32`` in [0, 1], on the CPU: the same bits whatever the device of the images.

    Raises:
        ValueError: The images, the corruption or the severity is none of these.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not images.is_floating_point():
        raise ValueError(f"images must be (N, 1 or 3, H, W) float in [0, 1], not {tuple(images.shape)} {images.dtype}")
    if corruption not in TABLE or severity not in SEVERITIES:
        raise ValueError(f"there is no {corruption} of severity {severity}: {', '.join(TABLE)}, each from 1 to 5")
    clean = images.detach().cpu().float()
    value, place = TABLE[corruption].values[severity - 1], list(TABLE).index(corruption)
    parts = []
    for chunk, some in enumerate(torch.split(clean, _CHUNK)):
        rng = torch.Generator().manual_seed(derive_seed(seed, place, chunk))
        parts.append(_CHANGES[corruption](some, value, rng).clamp(0, 1))
    return torch.cat(parts) if parts else clean.clone()


def corrupt_stored(images: Tensor, corruption: Corruption, severity: int, *, seed: int = 0) -> Tensor:
    """:func:`corrupt` of images ``(N, C, H, W) uint8``, rounded to 8 bits again, as an archive would store them."""
    changed = corrupt(images.float() / 255, corruption, severity, seed=seed)
    return (changed * 255).round().to(torch.uint8)


def describe(corruption: Corruption, severity: int) -> str:
    """A corruption's parameter at a severity, in words."""
    kind = TABLE[corruption]
    return f"{kind.parameter} {kind.values[severity - 1]:g}"


def _add_gaussian_noise(images: Tensor, sd: float, rng: torch.Generator) -> Tensor:
    return images + sd * torch.randn(images.shape, generator=rng)


def _add_shot_noise(images: Tensor, photons: float, rng: torch.Generator) -> Tensor:
    return torch.poisson(images.clamp(0, 1) * photons, generator=rng) / photons


def _add_speckle_noise(images: Tensor, sd: float, rng: torch.Generator) -> Tensor:
    return images * (1 + sd * torch.randn(images.shape, generator=rng))


def _blur(images: Tensor, sd: float, rng: torch.Generator) -> Tensor:
    """A Gaussian of ``sd`` pixels, cut off at three of them, reflected at the edge."""
    reach = min(math.ceil(3 * sd), min(images.shape[2:]) - 1)
    offsets = torch.arange(-reach, reach + 1)
    weights = torch.exp(-(offsets**2) / (2 * sd**2))
    kernel = (weights / weights.sum()).expand(images.shape[1], 1, 1, -1)
    padded = F.pad(images, (reach, reach, reach, reach), mode="reflect")
    rows = F.conv2d(padded, kernel, groups=images.shape[1])
    return F.conv2d(rows, kernel.transpose(2, 3), groups=images.shape[1])


def _lower_contrast(images: Tensor, factor: float, rng: torch.Generator) -> Tensor:
    mean = images.mean((2, 3), keepdim=True)
    return mean + factor * (images - mean)


def _change_gamma(images: Tensor, exponent: float, rng: torch.Generator) -> Tensor:
    return images.clamp(0, 1) ** exponent


def _lower_resolution(images: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Made smaller with antialiasing and then as large as before, both times by linear interpolation."""
    size = [max(1, round(share * side)) for side in images.shape[2:]]
    small = F.interpolate(images, size, mode="bilinear", antialias=True)
    return F.interpolate(small, images.shape[2:], mode="bilinear")


def _compress(images: Tensor, quality: float, rng: torch.Generator) -> Tensor:
    """Saved as JPEG and read again, image by image; colour is stored at half the resolution, as is usual."""
    stored = (images * 255).round().to(torch.uint8)
    read = torch.empty_like(stored)
    for place, pixels in enumerate(stored):
        picture = Image.fromarray((pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0).contiguous()).numpy())
        file = io.BytesIO()
        picture.save(file, format="JPEG", quality=int(quality))
        with Image.open(file) as again:
            values = torch.from_numpy(np.array(again))
        read[place] = values[None] if values.ndim == 2 else values.permute(2, 0, 1)
    return read.float() / 255


def _add_bias_field(images: Tensor, strength: float, rng: torch.Generator) -> Tensor:
    """Multiplied by exp(strength · p), p a random polynomial of degree 2 over each image, of mean 0 and at most 1 in size."""
    height, width = images.shape[2:]
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    terms = torch.stack([x, y, x * x, x * y, y * y])
    terms = terms - terms.mean((1, 2), keepdim=True)
    coefficients = 2 * torch.rand(len(images), len(terms), generator=rng) - 1
    field = torch.einsum("nk,khw->nhw", coefficients, terms)
    field = field / field.abs().amax((1, 2), keepdim=True).clamp(min=1e-6)
    return images * torch.exp(strength * field)[:, None]


_CHANGES: dict[Corruption, Callable[[Tensor, float, torch.Generator], Tensor]] = {
    "gaussian_noise": _add_gaussian_noise,
    "shot_noise": _add_shot_noise,
    "speckle_noise": _add_speckle_noise,
    "blur": _blur,
    "contrast": _lower_contrast,
    "darker": _change_gamma,
    "brighter": _change_gamma,
    "resolution": _lower_resolution,
    "jpeg": _compress,
    "bias_field": _add_bias_field,
}
