"""A phantom of a frontal chest radiograph: class pneumonia has soft opacities in the lungs whose pixels are known.

The picture is a sum of attenuations (air 0, lung about 0.25, soft tissue about 0.6, bone and heart more) that an
exposure turns into grey values. As on a radiograph, the patient faces the viewer: the heart's apex points to the
image's right.

The two classes differ by one thing only: how opacity is spread. Every image draws the same anatomy, the same
distractors and the same one to three opacities; pneumonia keeps them as patches, normal spreads the same total evenly
over both lungs, as a shallower breath would. So neither mean brightness nor the brightness of the lungs gives the class
away, and the same seed with other labels shows the same chests.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from medassay.core.types import LabelledImages
from medassay.data.phantoms.shapes import (
    Ellipse,
    Grid,
    blob_radius,
    blur,
    coverage,
    draw_wobble,
    ellipse,
    grid,
    move_grid,
    render_in_chunks,
    smooth_noise,
    to_uint8,
    uniform,
)

CLASSES = ("normal", "pneumonia")
OPACITY_THRESHOLD = 0.08
"""Attenuation that an opacity must add to a pixel for the pixel to be in its mask; lung to soft tissue is about 0.4."""


class Lung(NamedTuple):
    """One lung of each image; all ``(N, 1, 1)``.

    Attributes:
        side: -1 for the patient's right lung, which is on the image's left; 1 for the other.
        cy, cx: The centre.
        ry, rx: Half the height and half the width.
        lean: Slope of the axis against the vertical, apex towards the midline (horizontal per vertical unit).
        dome: Height of the diaphragm's dome.
    """

    side: Tensor
    cy: Tensor
    cx: Tensor
    ry: Tensor
    rx: Tensor
    lean: Tensor
    dome: Tensor


def render(labels: Tensor, *, rng: torch.Generator, size: int = 28) -> LabelledImages:
    """Renders one chest radiograph for each label.

    Args:
        labels: ``(N,) int64``, 0 normal or 1 pneumonia.
        rng: The only source of randomness, a CPU generator. Images are drawn in chunks of a fixed size: the same seed, labels
            and size give the same images bit for bit, but more labels may give other images from the start.
        size: Height and width in pixels; the picture is described in relative units.

    Returns:
        Images ``(N, 1, size, size) uint8`` and masks ``(N, size, size) bool``: pixels to which opacities add more than
        :data:`OPACITY_THRESHOLD` before blur and exposure; all False for normal.

    Raises:
        ValueError: A label is not 0 or 1, or ``size`` is too small.
    """
    points = grid(size)
    return render_in_chunks(labels, len(CLASSES), lambda part: _draw(part, points, rng))


def _draw(labels: Tensor, frame: Grid, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images ``(N, 1, H, W) uint8`` and masks ``(N, H, W) bool`` of one chunk."""
    n, size = len(labels), frame.x.shape[-1]
    points = move_grid(
        frame,
        dy=uniform(rng, (n,), -0.1, 0.1),
        dx=uniform(rng, (n,), -0.12, 0.12),
        angle=uniform(rng, (n,), -0.1, 0.1),
        zoom=uniform(rng, (n,), 1.0, 1.24),
    )
    lungs = _draw_lungs(n, rng)
    heart = _heart(points, n, rng)
    air = (_lung_field(points, lungs[0]) + _lung_field(points, lungs[1])).clamp_max(1) * (1 - heart)

    patches = air * _opacities(points, lungs, n, rng)
    evenly = air * (patches.sum((1, 2), keepdim=True) / air.sum((1, 2), keepdim=True).clamp_min(1e-6))
    ill = labels[:, None, None] == 1

    attenuation = _anatomy(points, air, heart, n, rng) + _distractors(points, air, n, rng)
    attenuation = attenuation + torch.where(ill, patches, evenly)
    masks = ill & (patches > OPACITY_THRESHOLD)
    return to_uint8(_expose(attenuation, n, size, rng))[:, None], masks


def _draw_lungs(n: int, rng: torch.Generator) -> tuple[Lung, Lung]:
    """The two lungs: position, size, how far their apices lean to the midline, and the height of the diaphragm."""
    breath = uniform(rng, (n,), -0.1, 0.08)  # both lungs breathe together
    height = uniform(rng, (n,), 0.62, 0.76)

    def one(side: float) -> Lung:
        return Lung(
            side=torch.full((n, 1, 1), side),
            cy=uniform(rng, (n,), -0.1, 0.0),
            cx=side * uniform(rng, (n,), 0.42, 0.5),
            ry=height + uniform(rng, (n,), -0.04, 0.04),
            rx=uniform(rng, (n,), 0.25, 0.34),
            lean=uniform(rng, (n,), 0.08, 0.22),
            # the liver lifts the dome of the right lung, which is on the image's left
            dome=0.46 + 0.03 * side + breath + uniform(rng, (n,), -0.05, 0.05),
        )

    return one(-1.0), one(1.0)


def _lung_field(points: Grid, lung: Lung) -> Tensor:
    """Share of each pixel inside a lung: a leaning oval, narrower at the apex, cut off by the dome of the diaphragm."""
    y = points.y - lung.cy
    v = y / lung.ry
    u = (points.x - lung.cx - lung.side * lung.lean * y) / (lung.rx * (1 + 0.22 * v.clamp(-1, 1)))
    inside = coverage((torch.sqrt(u * u + v * v + 1e-8) - 1) * lung.rx, points.pixel)
    dome = lung.dome + 1.3 * (points.x - lung.cx + lung.side * 0.06) ** 2
    return inside * coverage(points.y - dome, points.pixel)


def _heart(points: Grid, n: int, rng: torch.Generator) -> Tensor:
    """Share of each pixel inside the heart's shadow, whose apex points down and to the image's right."""
    shape = Ellipse(
        cy=uniform(rng, (n,), 0.2, 0.34),
        cx=uniform(rng, (n,), 0.06, 0.16),
        ry=uniform(rng, (n,), 0.2, 0.28),
        rx=uniform(rng, (n,), 0.26, 0.42),
        angle=uniform(rng, (n,), 0.3, 0.7),
    )
    return ellipse(points, shape, draw_wobble(rng, (n,), 0.05))


def _anatomy(points: Grid, air: Tensor, heart: Tensor, n: int, rng: torch.Generator) -> Tensor:
    """Attenuation ``(N, H, W)`` of everything that a healthy chest shows."""
    y, x = points.y, points.x
    torso = coverage(((x / 1.0) ** 4 + ((y - 0.45) / uniform(rng, (n,), 1.2, 1.4)) ** 4 - 1) * 0.3, 0.2)
    neck = coverage(x.abs() - 0.3 + 0.1 * y, 0.25)
    body = torch.maximum(torso, neck)

    spine = torch.exp(-0.5 * (x / 0.1) ** 2) * uniform(rng, (n,), 0.02, 0.12)
    mediastinum = torch.exp(-0.5 * (x / 0.2) ** 2) * uniform(rng, (n,), 0.04, 0.1)
    abdomen = torch.sigmoid((y - 0.55) * 12) * uniform(rng, (n,), 0.02, 0.14)
    # ribs run outwards and down from the spine
    phase = uniform(rng, (n,), 0, 6.28) + uniform(rng, (n,), 17, 23) * (y - uniform(rng, (n,), 0.2, 0.5) * x.abs())
    ribs = phase.cos() * uniform(rng, (n,), 0.01, 0.045) * torch.sigmoid((x.abs() - 0.15) * 20)
    ribs = ribs * torch.sigmoid((0.5 - y) * 12)
    rise = uniform(rng, (n,), 0.1, 0.35)
    line = y + uniform(rng, (n,), 0.48, 0.66) + rise * (x.abs() - 0.1)
    clavicles = torch.exp(-0.5 * (line / 0.045) ** 2) * torch.sigmoid((x.abs() - 0.1) * 25)
    clavicles = clavicles * torch.sigmoid((0.75 - x.abs()) * 12) * uniform(rng, (n,), 0.03, 0.12)
    # the hila: vessels that spread from the heart into the lungs, in every chest
    hilum = torch.exp(-0.5 * (((x.abs() - 0.22) / 0.1) ** 2 + ((y - 0.02) / 0.17) ** 2)) * uniform(
        rng, (n,), 0.03, 0.14
    )

    tissue = 0.6 + spine + mediastinum + abdomen + clavicles + heart * uniform(rng, (n,), 0.0, 0.12) + ribs
    lung_contrast = uniform(rng, (n,), 0.3, 0.44)
    return body * (tissue - air * (lung_contrast - hilum))


def _opacities(points: Grid, lungs: tuple[Lung, Lung], n: int, rng: torch.Generator) -> Tensor:
    """Attenuation ``(N, H, W)`` of one to three soft, patchy opacities whose centres lie inside the lungs."""
    right, left = lungs
    in_left = torch.rand((n, 3, 1, 1), generator=rng) < 0.5

    def of_lung(field: str) -> Tensor:
        return torch.where(in_left, getattr(left, field)[:, None], getattr(right, field)[:, None])

    side, lean, cy = of_lung("side"), of_lung("lean"), of_lung("cy")
    up = uniform(rng, (n, 3), -0.65, 0.45) * of_lung("ry")
    out = uniform(rng, (n, 3), -0.35, 0.6) * of_lung("rx")  # from the lung's axis towards the ribs
    shape = Ellipse(
        cy=cy + up,
        cx=of_lung("cx") + side * (lean * up + out),
        ry=uniform(rng, (n, 3), 0.13, 0.27),
        rx=uniform(rng, (n, 3), 0.12, 0.22),
        angle=uniform(rng, (n, 3), -0.8, 0.8),
    )
    count = torch.randint(1, 4, (n, 1, 1, 1), generator=rng)
    present = torch.arange(3)[None, :, None, None] < count
    strength = uniform(rng, (n, 3), 0.15, 0.29) * present
    spread = Grid(points.y[:, None], points.x[:, None], points.pixel)
    radius = blob_radius(spread, shape, draw_wobble(rng, (n, 3), 0.16))
    patchy = (1 + 0.25 * smooth_noise(rng, n, points.x.shape[-1], 9)).clamp(0.7, 1.4)
    return (torch.sigmoid((1 - radius) * 5) * strength).sum(1).clamp_max(0.42) * patchy


def _distractors(points: Grid, air: Tensor, n: int, rng: torch.Generator) -> Tensor:
    """Attenuation ``(N, H, W)`` of what is no opacity: blobs outside the lungs, breast shadows, nipples."""
    spread = Grid(points.y[:, None], points.x[:, None], points.pixel)
    shape = Ellipse(
        cy=uniform(rng, (n, 3), -1, 1),
        cx=uniform(rng, (n, 3), -1, 1),
        ry=uniform(rng, (n, 3), 0.14, 0.3),
        rx=uniform(rng, (n, 3), 0.14, 0.3),
        angle=uniform(rng, (n, 3), -0.8, 0.8),
    )
    strength = uniform(rng, (n, 3), -0.12, 0.2)
    outside = (torch.sigmoid((1 - blob_radius(spread, shape)) * 5) * strength).sum(1) * (1 - air)

    x, y = points.x, points.y
    edge, tissue = uniform(rng, (n,), 0.0, 0.4), uniform(rng, (n,), -0.08, 0.1).clamp_min(0)
    breasts = tissue * torch.sigmoid((y - edge + 0.5 * (x.abs() - 0.45) ** 2) * 14)
    nipple_y, nipple_x = uniform(rng, (n,), 0.15, 0.35), uniform(rng, (n,), 0.4, 0.6)
    distance = (x.abs() - nipple_x) ** 2 + (y - nipple_y) ** 2
    nipples = torch.exp(-0.5 * distance / 0.045**2) * uniform(rng, (n,), -0.15, 0.15).clamp_min(0)
    return outside + breasts * (0.4 + 0.6 * air) + nipples


def _expose(attenuation: Tensor, n: int, size: int, rng: torch.Generator) -> Tensor:
    """Grey values ``(N, H, W)`` of a film: blur, exposure, contrast, uneven field and noise."""
    sharp = attenuation * uniform(rng, (n,), 0.78, 1.12) + uniform(rng, (n,), -0.04, 0.13)
    sharp = sharp + 0.04 * smooth_noise(rng, n, size, 5)  # uneven field and scatter
    blurred = blur(sharp[:, None], uniform(rng, (n,), 0.02, 0.07))[:, 0]
    noise = torch.randn((n, size, size), generator=rng) * uniform(rng, (n,), 0.005, 0.035)
    return blurred.clamp_min(0.02) ** uniform(rng, (n,), 0.85, 1.2) + noise
