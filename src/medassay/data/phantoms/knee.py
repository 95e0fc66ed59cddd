"""A phantom of a sagittal knee MRI: femur, tibia, patella, cartilage, and menisci that are intact or torn where a mask says.

Brightness is as in proton-density weighting: fat and marrow bright, cartilage and muscle grey, cortical bone, tendon and
menisci dark, fluid brightest. The front is on the image's left. A meniscus is the dark wedge between the bones, one in front
and one behind. The two classes differ by one thing only: a thin bright line, fluid, runs through one meniscus of a torn one.
Every image draws the same anatomy and the same distractors: vessels, fluid in the joint, and soft spots of degeneration inside
the menisci. So neither the brightness of the image nor that of any place gives the class away, and the same seed with other
labels shows the same knees.
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
    ellipse,
    grid,
    move_grid,
    render_in_chunks,
    smooth_noise,
    to_uint8,
    uniform,
)

CLASSES = ("intact", "torn")
TORN = 1
MARGIN = (
    0.03  # of the mask around a tear, in half widths of the object: a line is thinner than a pixel of a small image
)
CARTILAGE = 0.05  # thickness of the layer on either bone


class Joint(NamedTuple):
    """The joint of each image; all ``(N, 1, 1)``.

    Attributes:
        condyle: The rounded end of the femur.
        shaft: Half the width of the femur above it.
        plateau, slope: Height of the tibia's upper surface in its middle, and its slope.
        width: Half the width of the tibia.
        tip, edge: Where a meniscus begins and ends, as distances from the middle of the joint: behind, and in front (negative).
    """

    condyle: Ellipse
    shaft: Tensor
    plateau: Tensor
    slope: Tensor
    width: Tensor
    tip: tuple[Tensor, Tensor]
    edge: tuple[Tensor, Tensor]

    def find_gap(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Heights of the femur's lower and the tibia's upper surface at ``x``."""
        across = ((x - self.condyle.cx) / self.condyle.rx).clamp(-0.98, 0.98)
        return self.condyle.cy + self.condyle.ry * (1 - across**2).sqrt(), self.plateau + self.slope * x


class Bones(NamedTuple):
    """Signed distances ``(N, H, W)`` to the outlines of femur and tibia, negative inside."""

    femur: Tensor
    tibia: Tensor


def render(labels: Tensor, *, rng: torch.Generator, size: int = 64) -> LabelledImages:
    """Renders one sagittal slice for each label.

    Args:
        labels: ``(N,) int64``, 0 intact or 1 torn.
        rng: The only source of randomness, a CPU generator. Images are drawn in chunks of a fixed size: the same seed, labels
            and size give the same images bit for bit, but more labels may give other images from the start.
        size: Height and width in pixels; the picture is described in relative units. Below 48 pixels tears are hard to see.

    Returns:
        Images ``(N, 1, size, size) uint8`` and masks ``(N, size, size) bool``: pixels of a meniscus within :data:`MARGIN` of
        its tear; all False for intact.

    Raises:
        ValueError: A label is not 0 or 1, or ``size`` is too small.
    """
    points = grid(size)
    return render_in_chunks(labels, len(CLASSES), lambda part: _draw(part, points, rng))


def _draw(labels: Tensor, frame: Grid, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images ``(N, 1, H, W) uint8`` and masks ``(N, H, W) bool`` of one chunk."""
    n, torn = len(labels), (labels == TORN)[:, None, None]
    points = move_grid(
        frame,
        dy=uniform(rng, (n,), -0.14, 0.1),
        dx=uniform(rng, (n,), -0.16, 0.1),
        angle=uniform(rng, (n,), -0.16, 0.16),
        zoom=uniform(rng, (n,), 1.2, 1.6),
    )
    joint = _draw_joint(n, rng)
    bones = _find_bones(points, joint)
    menisci = _find_menisci(points, joint, bones)
    inside = coverage(menisci, points.pixel)
    tear = _find_tear(points, joint, n, rng)

    image = _draw_soft_tissue(points, n, rng)
    image = _draw_joint_space(image, points, bones, n, rng)
    image = _draw_bones(image, points, bones, n, rng)
    image = torch.lerp(image, uniform(rng, (n,), 0.05, 0.14).expand_as(image), inside)
    image = image + inside * _draw_degeneration(points, joint, n, rng)
    fluid = uniform(rng, (n,), 0.6, 0.95).expand_as(image)
    image = torch.lerp(image, fluid, torn * inside * coverage(tear, points.pixel))
    masks = torn & (menisci < 0) & (tear < MARGIN)
    return to_uint8(_receive(image, frame, n, rng))[:, None], masks


def _draw_joint(n: int, rng: torch.Generator) -> Joint:
    """Sizes and places of the bones' ends and of the menisci between them."""
    condyle = Ellipse(
        cy=uniform(rng, (n,), -0.46, -0.4),
        cx=uniform(rng, (n,), -0.04, 0.04),
        ry=uniform(rng, (n,), 0.38, 0.43),
        rx=uniform(rng, (n,), 0.46, 0.54),
        angle=torch.zeros(n, 1, 1),
    )
    return Joint(
        condyle,
        shaft=uniform(rng, (n,), 0.28, 0.36),
        plateau=condyle.cy + condyle.ry + uniform(rng, (n,), 0.12, 0.17),
        slope=uniform(rng, (n,), -0.08, 0.12),
        width=uniform(rng, (n,), 0.48, 0.56),
        tip=(uniform(rng, (n,), 0.1, 0.18), uniform(rng, (n,), -0.22, -0.14)),
        edge=(uniform(rng, (n,), 0.42, 0.5), uniform(rng, (n,), -0.5, -0.42)),
    )


def _find_bones(points: Grid, joint: Joint) -> Bones:
    """Signed distances: a condyle with a shaft above it, and a plateau with a shaft below it."""
    y, x = points.y, points.x
    scale = (joint.condyle.rx * joint.condyle.ry).sqrt()
    condyle = (blob_radius(points, joint.condyle) - 1) * scale
    shaft = torch.maximum((x - joint.condyle.cx).abs() - joint.shaft, y - joint.condyle.cy)
    narrowing = joint.width - 0.26 * torch.sigmoid((y - joint.plateau - 0.34) * 9)
    tibia = torch.maximum(joint.plateau + joint.slope * x - y, x.abs() - narrowing)
    return Bones(torch.minimum(condyle, shaft), tibia)


def _find_menisci(points: Grid, joint: Joint, bones: Bones) -> Tensor:
    """Signed distance ``(N, H, W)`` to the menisci, wedges between the layers of cartilage, behind and in front."""
    between = torch.maximum(CARTILAGE - bones.femur, CARTILAGE - bones.tibia)
    behind = torch.maximum(joint.tip[0] - points.x, points.x - joint.edge[0])
    before = torch.maximum(points.x - joint.tip[1], joint.edge[1] - points.x)
    # the femur curves away, so that only what lies below its middle is between the bones
    above = joint.condyle.cy + 0.1 - points.y
    return torch.maximum(torch.maximum(between, above), torch.minimum(behind, before))


def _find_tear(points: Grid, joint: Joint, n: int, rng: torch.Generator) -> Tensor:
    """Signed distance ``(N, H, W)`` to a thin line across the meniscus behind, in three of ten images the one in front."""
    behind = uniform(rng, (n,), 0, 1) < 0.7
    tip, edge = (torch.where(behind, *pair) for pair in (joint.tip, joint.edge))
    x = tip + uniform(rng, (n,), 0.35, 0.75) * (edge - tip)
    upper, lower = joint.find_gap(x)
    y = upper + uniform(rng, (n,), 0.4, 0.6) * (lower - upper)
    upright = uniform(rng, (n,), 0, 1) < 0.5
    angle = uniform(rng, (n,), -0.6, 0.6) + 1.5708 * upright
    u = (points.x - x) * angle.cos() + (points.y - y) * angle.sin()
    v = (points.y - y) * angle.cos() - (points.x - x) * angle.sin()
    half_length, half_width = uniform(rng, (n,), 0.1, 0.18), uniform(rng, (n,), 0.016, 0.03)
    return torch.maximum(u.abs() - half_length, v.abs() - half_width)


def _draw_degeneration(points: Grid, joint: Joint, n: int, rng: torch.Generator) -> Tensor:
    """Brightness ``(N, H, W)`` of a soft spot inside each meniscus, which reaches no surface and is no tear."""
    added = torch.zeros(n, *points.x.shape[1:])
    for tip, edge in zip(joint.tip, joint.edge, strict=True):
        x = tip + uniform(rng, (n,), 0.5, 0.8) * (edge - tip)
        upper, lower = joint.find_gap(x)
        y = upper + uniform(rng, (n,), 0.4, 0.6) * (lower - upper)
        radius = torch.sqrt(((points.x - x) / 0.07) ** 2 + ((points.y - y) / 0.05) ** 2)
        added = added + uniform(rng, (n,), -0.2, 0.35).clamp_min(0) * torch.exp(-0.5 * radius**2)
    return added


def _draw_soft_tissue(points: Grid, n: int, rng: torch.Generator) -> Tensor:
    """Brightness ``(N, H, W)`` around the bones: muscle behind, fat in front and below the skin, vessels, patella, tendon."""
    y, x, size = points.y, points.x, points.x.shape[-1]
    muscle = uniform(rng, (n,), 0.24, 0.38) * (1 + 0.25 * smooth_noise(rng, n, size, 10))
    fat = uniform(rng, (n,), 0.62, 0.8) * (1 + 0.08 * smooth_noise(rng, n, size, 12))
    streaks = smooth_noise(rng, n, size, 7) + 1.5 * torch.sigmoid((-x - 0.3) * 8) - 0.6
    image = torch.lerp(muscle, fat, torch.sigmoid(6 * streaks))
    for _ in range(2):  # vessels behind the joint, some images without
        course = uniform(rng, (n,), 0.6, 0.85) + uniform(rng, (n,), -0.15, 0.15) * y
        vessel = coverage((x - course).abs() - uniform(rng, (n,), 0.012, 0.03), points.pixel)
        strength = uniform(rng, (n,), -0.5, 0.9)
        image = torch.where(strength > 0, torch.lerp(image, strength.expand_as(image), vessel), image)

    front = uniform(rng, (n,), -0.84, -0.74) + uniform(rng, (n,), 0.0, 0.1) * y**2
    patella = Ellipse(
        cy=uniform(rng, (n,), -0.5, -0.3),
        cx=front + 0.16,
        ry=uniform(rng, (n,), 0.16, 0.22),
        rx=uniform(rng, (n,), 0.07, 0.1),
        angle=uniform(rng, (n,), -0.1, 0.15),
    )
    tendon = coverage((x - front - 0.11).abs() - uniform(rng, (n,), 0.018, 0.03), points.pixel)
    tendon = tendon * coverage(patella.cy - y, 0.1)
    image = torch.lerp(image, torch.full_like(image, 0.1), tendon)
    image = torch.lerp(image, torch.full_like(image, 0.1), ellipse(points, patella))
    marrow = patella._replace(ry=patella.ry - 0.03, rx=patella.rx - 0.03)
    image = torch.lerp(image, fat, ellipse(points, marrow))
    return torch.lerp(image, torch.full_like(image, 0.02), coverage(x - front, points.pixel))  # air before the skin


def _draw_joint_space(image: Tensor, points: Grid, bones: Bones, n: int, rng: torch.Generator) -> Tensor:
    """The capsule between the bones, with some fluid in the middle and around the menisci's outer edges."""
    between = coverage(bones.femur - 0.22, 0.1) * coverage(bones.tibia - 0.22, 0.1)
    between = between * coverage(points.x.abs() - 0.56, 0.06)
    image = torch.lerp(image, uniform(rng, (n,), 0.34, 0.5).expand_as(image), between)
    side = torch.where(uniform(rng, (n,), 0, 1) < 0.5, 1.0, -1.0)
    pool = Ellipse(
        cy=uniform(rng, (n,), -0.12, 0.1),
        cx=side * uniform(rng, (n,), 0.54, 0.6),
        ry=uniform(rng, (n,), 0.06, 0.16),
        rx=uniform(rng, (n,), 0.015, 0.04),
        angle=uniform(rng, (n,), -0.5, 0.5),
    )
    return torch.lerp(image, uniform(rng, (n,), 0.55, 0.95).expand_as(image), ellipse(points, pool))


def _draw_bones(image: Tensor, points: Grid, bones: Bones, n: int, rng: torch.Generator) -> Tensor:
    """Marrow within a dark rim, and cartilage where the bones face each other."""
    size = points.x.shape[-1]
    marrow = uniform(rng, (n,), 0.55, 0.75) * (1 + 0.07 * smooth_noise(rng, n, size, 14))
    cartilage = uniform(rng, (n,), 0.42, 0.6)
    for own, other in (bones, bones[::-1]):
        layer = coverage(own - CARTILAGE, points.pixel) * coverage(other - 0.42, 0.1)
        image = torch.lerp(image, cartilage.expand_as(image), layer)
    for own in bones:
        image = torch.lerp(image, torch.full_like(image, 0.1), coverage(own, points.pixel))
        image = torch.lerp(image, marrow, coverage(own + uniform(rng, (n,), 0.025, 0.04), points.pixel))
    return image


def _receive(image: Tensor, frame: Grid, n: int, rng: torch.Generator) -> Tensor:
    """Grey values ``(N, H, W)`` of the scanner: a point spread, a coil that hears near tissue best, Rician noise."""
    size = frame.x.shape[-1]
    image = blur(image[:, None], uniform(rng, (n,), 0.01, 0.024))[:, 0]
    cy, cx = uniform(rng, (n,), -0.7, 0.7), uniform(rng, (n,), -1, 1)
    distance = torch.sqrt((frame.y - cy) ** 2 + (frame.x - cx) ** 2)
    image = image * torch.exp(-uniform(rng, (n,), 0.05, 0.4) * distance) * uniform(rng, (n,), 0.95, 1.3)
    real, imaginary = torch.randn((2, n, size, size), generator=rng) * uniform(rng, (n,), 0.015, 0.045)
    return torch.sqrt((image + real) ** 2 + imaginary**2)
