"""A phantom of a retinal OCT B-scan: four classes with their signs and the pixels that show them.

From above: dark vitreous, the layers of the retina, the bright line of the retinal pigment epithelium (RPE), the choroid that
fades with depth. Depths follow the surfaces, which are tilted, curved and dented by the fovea. The classes differ by

* drusen: small bumps of the RPE, filled with grey material;
* CNV (choroidal neovascularisation): a bright irregular lesion on the RPE with dark fluid above it;
* DME (diabetic macular oedema): dark cysts inside a thickened retina;
* normal: none of these.

All classes share what could be mistaken for a sign: shadows of vessels, uneven surfaces, a thickness that varies as much as
that of many swollen retinas, speckle.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from medassay.core.types import LabelledImages
from medassay.data.phantoms.shapes import (
    Ellipse,
    Grid,
    blur,
    coverage,
    draw_wobble,
    ellipse,
    grid,
    render_in_chunks,
    smooth_noise,
    to_uint8,
    uniform,
)

CLASSES = ("CNV", "DME", "drusen", "normal")
CNV, DME, DRUSEN = 0, 1, 2

# Brightness of the layers by depth, 0 at the inner surface of the retina and 1 at the RPE
DEPTHS = (0.0, 0.06, 0.14, 0.2, 0.36, 0.42, 0.5, 0.55, 0.6, 0.66, 0.84, 0.89, 0.94, 1.0)
LAYERS = (0.55, 0.62, 0.6, 0.45, 0.42, 0.26, 0.26, 0.44, 0.42, 0.2, 0.18, 0.5, 0.36, 0.4)


class Surfaces(NamedTuple):
    """Heights of the retina's inner surface, of the RPE and of the RPE without bumps; each ``(N, 1, W)``, down is positive."""

    inner: Tensor
    rpe: Tensor
    base: Tensor


def render(labels: Tensor, *, rng: torch.Generator, size: int = 28) -> LabelledImages:
    """Renders one B-scan for each label.

    Args:
        labels: ``(N,) int64``, 0 CNV, 1 DME, 2 drusen, 3 normal.
        rng: The only source of randomness, a CPU generator. Images are drawn in chunks of a fixed size: the same seed, labels
            and size give the same images bit for bit, but more labels may give other images from the start.
        size: Height and width in pixels; the picture is described in relative units.

    Returns:
        Images ``(N, 1, size, size) uint8`` and masks ``(N, size, size) bool``: pixels at least half inside a bump, a lesion
        with its fluid, or a cyst; all False for normal.

    Raises:
        ValueError: A label is not 0 to 3, or ``size`` is too small.
    """
    points = grid(size)
    return render_in_chunks(labels, len(CLASSES), lambda part: _draw(part, points, rng))


def _draw(labels: Tensor, points: Grid, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images ``(N, 1, H, W) uint8`` and masks ``(N, H, W) bool`` of one chunk."""
    n, size = len(labels), points.x.shape[-1]
    of = [(labels == label)[:, None, None].float() for label in range(len(CLASSES))]
    bumps = _draw_bumps(points, n, rng) * of[DRUSEN]
    surfaces = _draw_surfaces(points, bumps, of[DME], of[CNV], rng)
    lesion, fluid = _draw_lesion(points, surfaces, n, rng)
    lesion, fluid = lesion * of[CNV], fluid * of[CNV]
    cysts = _draw_cysts(points, surfaces, n, rng) * of[DME]
    below_bumps = coverage(surfaces.rpe - points.y, points.pixel) * coverage(points.y - surfaces.base, points.pixel)
    below_bumps = below_bumps * of[DRUSEN]

    image = _draw_tissue(points, surfaces, n, rng)
    image = torch.lerp(image, torch.full_like(image, 0.48), below_bumps)
    image = torch.lerp(image, torch.full_like(image, 0.07), fluid)
    image = torch.lerp(image, uniform(rng, (n,), 0.62, 0.8).expand_as(image), lesion)
    image = torch.lerp(image, uniform(rng, (n,), 0.05, 0.12).expand_as(image), cysts)
    image = image * _draw_shadows(points, surfaces, n, rng)
    masks = torch.stack([below_bumps, lesion, fluid, cysts]).amax(0) >= 0.5
    return to_uint8(_expose(image, n, size, rng))[:, None], masks


def _draw_bumps(points: Grid, n: int, rng: torch.Generator) -> Tensor:
    """How much drusen lift the RPE, ``(N, 1, W)``: two to five bumps, mostly small."""
    x, count = points.x[:, :1], uniform(rng, (n,), 2, 6).floor()
    lift = torch.zeros(n, 1, x.shape[-1])
    for i in range(5):
        height, width = uniform(rng, (n,), 0.09, 0.19), uniform(rng, (n,), 0.06, 0.12)
        bump = height * torch.exp(-(((x - uniform(rng, (n,), -0.85, 0.85)) / width) ** 2))
        lift = lift + bump * (count > i)
    return lift.clamp_max(0.24)


def _draw_surfaces(points: Grid, bumps: Tensor, swollen: Tensor, lifted: Tensor, rng: torch.Generator) -> Surfaces:
    """Tilted and curved surfaces; ``swollen (N, 1, 1)`` retinas are thicker and have a shallower fovea."""
    x, n = points.x[:, :1], len(bumps)
    base = uniform(rng, (n,), 0.2, 0.42) + uniform(rng, (n,), -0.16, 0.16) * x + uniform(rng, (n,), -0.06, 0.16) * x**2
    base = base + 0.012 * smooth_noise(rng, n, x.shape[-1], 6)[:, :1]
    thickness = uniform(rng, (n,), 0.52, 0.74) + swollen * uniform(rng, (n,), 0.04, 0.24)
    pit = uniform(rng, (n,), 0.1, 0.26) * (1 - swollen * uniform(rng, (n,), 0.3, 1.0))
    fovea = ((x - uniform(rng, (n,), -0.4, 0.4)) / uniform(rng, (n,), 0.22, 0.36)) ** 2
    inner = base - thickness + pit * torch.exp(-fovea) + 0.015 * smooth_noise(rng, n, x.shape[-1], 5)[:, :1]
    inner = inner - lifted * uniform(rng, (n,), 0.0, 0.08) - 0.5 * bumps
    return Surfaces(inner, base - bumps, base)


def _draw_tissue(points: Grid, surfaces: Surfaces, n: int, rng: torch.Generator) -> Tensor:
    """Brightness ``(N, H, W)`` of a B-scan without signs."""
    size = points.x.shape[-1]
    depth = (points.y - surfaces.inner) / (surfaces.rpe - surfaces.inner)
    retina = torch.zeros(n, size, size)
    for low, high, start, end in zip(DEPTHS, DEPTHS[1:], LAYERS, LAYERS[1:], strict=False):
        inside = (depth >= low) & (depth < high)
        retina = torch.where(inside, start + (end - start) * (depth - low) / (high - low), retina)
    in_retina = coverage(surfaces.inner - points.y, points.pixel) * coverage(points.y - surfaces.rpe, points.pixel)
    image = 0.05 + in_retina * (retina * uniform(rng, (n,), 0.85, 1.15) - 0.05)
    choroid = uniform(rng, (n,), 0.34, 0.56) * torch.exp(-(points.y - surfaces.base) / uniform(rng, (n,), 0.25, 0.5))
    choroid = choroid * (1 + 0.25 * smooth_noise(rng, n, size, 7))
    image = torch.where(points.y > surfaces.rpe, choroid, image)
    distance = (points.y - surfaces.rpe).abs() - uniform(rng, (n,), 0.028, 0.045)
    return torch.lerp(image, uniform(rng, (n,), 0.75, 0.95).expand_as(image), coverage(distance, points.pixel))


def _draw_lesion(points: Grid, surfaces: Surfaces, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Shares of each pixel inside a neovascular lesion on the RPE and inside the fluid above it, ``(N, H, W)`` each."""
    cx, rx = uniform(rng, (n,), -0.45, 0.45), uniform(rng, (n,), 0.16, 0.36)
    ry = uniform(rng, (n,), 0.08, 0.17)
    nearest = (points.x[:, :1] - cx).abs().argmin(-1, keepdim=True)
    cy = surfaces.rpe.gather(2, nearest)
    lesion = ellipse(points, Ellipse(cy, cx, ry, rx, uniform(rng, (n,), -0.2, 0.2)), draw_wobble(rng, (n,), 0.14))
    dome = Ellipse(
        cy - ry, cx + uniform(rng, (n,), -0.1, 0.1), uniform(rng, (n,), 0.08, 0.16), 1.3 * rx, torch.zeros(n, 1, 1)
    )
    fluid = ellipse(points, dome, draw_wobble(rng, (n,), 0.1)) * (1 - lesion)
    retina = coverage(surfaces.inner + 0.08 - points.y, points.pixel)
    fluid = fluid * coverage(points.y - surfaces.rpe, points.pixel) * retina
    return lesion * coverage(points.y - surfaces.base - 0.06, points.pixel) * retina, fluid


def _draw_cysts(points: Grid, surfaces: Surfaces, n: int, rng: torch.Generator) -> Tensor:
    """Share of each pixel inside one of two to six cysts in the middle of the retina, ``(N, H, W)``."""
    count, inside = uniform(rng, (n,), 2, 7).floor(), torch.zeros(n, *points.x.shape[1:])
    centre = uniform(rng, (n,), -0.35, 0.35)
    for i in range(6):
        cx = centre + uniform(rng, (n,), -0.4, 0.4)
        nearest = (points.x[:, :1] - cx).abs().argmin(-1, keepdim=True)
        inner, rpe = surfaces.inner.gather(2, nearest), surfaces.rpe.gather(2, nearest)
        cy = inner + uniform(rng, (n,), 0.3, 0.7) * (rpe - inner)
        shape = Ellipse(
            cy, cx, uniform(rng, (n,), 0.05, 0.13), uniform(rng, (n,), 0.05, 0.12), uniform(rng, (n,), -0.3, 0.3)
        )
        inside = torch.maximum(inside, ellipse(points, shape, draw_wobble(rng, (n,), 0.1)) * (count > i))
    return inside


def _draw_shadows(points: Grid, surfaces: Surfaces, n: int, rng: torch.Generator) -> Tensor:
    """Factor ``(N, H, W)`` of brightness: up to three vessels near the inner surface darken what lies below them."""
    factor, count = torch.ones(n, *points.x.shape[1:]), uniform(rng, (n,), 0, 4).floor()
    for i in range(3):
        width = uniform(rng, (n,), 0.03, 0.08)
        stripe = coverage((points.x - uniform(rng, (n,), -0.9, 0.9)).abs() - width, points.pixel)
        below = coverage(surfaces.inner + 0.08 - points.y, points.pixel)
        factor = factor * (1 - uniform(rng, (n,), 0.3, 0.7) * stripe * below * (count > i))
    return factor


def _expose(image: Tensor, n: int, size: int, rng: torch.Generator) -> Tensor:
    """Values ``(N, H, W)`` of the B-scan: the beam's width, uneven light, speckle, gain and offset."""
    image = blur(image[:, None], uniform(rng, (n,), 0.015, 0.035))[:, 0]
    image = image * (1 + 0.08 * smooth_noise(rng, n, size, 3))
    speckle = torch.randn((n, size, size), generator=rng)
    image = image * (1 + uniform(rng, (n,), 0.1, 0.26) * speckle)
    noise = torch.randn((n, size, size), generator=rng)
    return uniform(rng, (n,), 0.85, 1.15) * image + uniform(rng, (n,), 0.0, 0.05) + 0.02 * noise
