"""A phantom of stained blood cells: the eight BloodMNIST classes, told apart by nucleus, granules, colour and size.

Colours follow the Beer-Lambert law: each stain has an optical density for red, green and blue, densities add where
structures overlap, and the glass behind them is bright. How strongly a slide took each stain, the light's colour, the
cell's place, angle and outline vary from image to image, so that neighbouring classes overlap a little, as under a
microscope.
"""

from __future__ import annotations

from dataclasses import dataclass

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
    render_in_chunks,
    smooth_noise,
    to_uint8,
    uniform,
)

Span = tuple[float, float]

GLASS = (0.98, 0.885, 0.80)
"""Red, green and blue of the empty background."""

STAINS = ((0.95, 1.45, 0.36), (0.16, 0.62, 0.42), (0.56, 0.62, 0.14), (0.20, 0.30, 0.23))
"""Optical density for red, green and blue of chromatin (purple), eosin (red), basophilic plasma (blue), haemoglobin."""

LOBES = 4


@dataclass(frozen=True)
class CellType:
    """Spans from which one kind of cell is drawn, uniformly; lengths within the cell are shares of the cell's radius.

    Attributes:
        radius: Radius of the cell, where the image's half width is 1.
        roughness: Departure of the outline from an ellipse, as a share of the radius.
        lobes: Fewest and most lobes of the nucleus, 0 for a cell without one.
        lobe: Radius of one lobe.
        arc: Radius of the arc on which lobes lie; 0 stacks them into one round nucleus.
        step: Angle between neighbouring lobes, radians.
        offset: Distance of the nucleus from the cell's centre.
        chromatin: Strength of the nucleus' stain.
        eosin, blue: Strength of the cytoplasm's two stains.
        granules: Share of the cell that granules cover.
        dark, red: Strength of the granules in chromatin's stain and in eosin.
    """

    radius: Span
    roughness: float
    lobes: tuple[int, int]
    lobe: Span
    arc: Span
    step: Span
    offset: Span
    chromatin: Span
    eosin: Span
    blue: Span
    granules: Span
    dark: Span
    red: Span


CELLS = {
    "basophil": CellType(
        radius=(0.44, 0.64), roughness=0.05, lobes=(2, 3), lobe=(0.42, 0.56), arc=(0.22, 0.38), step=(1.4, 2.1),
        offset=(0.0, 0.12), chromatin=(0.35, 0.6), eosin=(0.1, 0.4), blue=(0.15, 0.5), granules=(0.35, 0.55),
        dark=(0.55, 0.85), red=(0.0, 0.1),
    ),
    "eosinophil": CellType(
        radius=(0.46, 0.66), roughness=0.03, lobes=(2, 2), lobe=(0.36, 0.46), arc=(0.4, 0.52), step=(1.7, 2.8),
        offset=(0.0, 0.2), chromatin=(0.75, 1.05), eosin=(0.3, 0.7), blue=(0.0, 0.2), granules=(0.4, 0.65),
        dark=(0.0, 0.06), red=(0.3, 0.7),
    ),
    "erythroblast": CellType(
        radius=(0.38, 0.56), roughness=0.07, lobes=(1, 1), lobe=(0.52, 0.7), arc=(0.0, 0.02), step=(0.5, 1.0),
        offset=(0.0, 0.25), chromatin=(0.95, 1.25), eosin=(0.05, 0.3), blue=(0.3, 0.7), granules=(0.0, 0.1),
        dark=(0.0, 0.05), red=(0.0, 0.05),
    ),
    "immature granulocyte": CellType(
        radius=(0.48, 0.7), roughness=0.04, lobes=(2, 3), lobe=(0.46, 0.6), arc=(0.1, 0.3), step=(0.5, 1.3),
        offset=(0.05, 0.25), chromatin=(0.6, 0.9), eosin=(0.25, 0.55), blue=(0.05, 0.4), granules=(0.2, 0.4),
        dark=(0.1, 0.2), red=(0.0, 0.15),
    ),
    "lymphocyte": CellType(
        radius=(0.38, 0.58), roughness=0.05, lobes=(1, 2), lobe=(0.72, 0.86), arc=(0.0, 0.12), step=(0.5, 1.0),
        offset=(0.0, 0.12), chromatin=(0.8, 1.1), eosin=(0.0, 0.25), blue=(0.2, 0.6), granules=(0.0, 0.1),
        dark=(0.0, 0.1), red=(0.0, 0.05),
    ),
    "monocyte": CellType(
        radius=(0.5, 0.72), roughness=0.08, lobes=(3, 3), lobe=(0.36, 0.46), arc=(0.42, 0.54), step=(0.85, 1.1),
        offset=(0.0, 0.12), chromatin=(0.55, 0.85), eosin=(0.0, 0.2), blue=(0.35, 0.75), granules=(0.0, 0.2),
        dark=(0.0, 0.12), red=(0.0, 0.05),
    ),
    "neutrophil": CellType(
        radius=(0.46, 0.66), roughness=0.03, lobes=(3, 4), lobe=(0.22, 0.32), arc=(0.4, 0.52), step=(1.05, 1.5),
        offset=(0.0, 0.15), chromatin=(0.75, 1.05), eosin=(0.15, 0.4), blue=(0.0, 0.2), granules=(0.15, 0.4),
        dark=(0.0, 0.1), red=(0.05, 0.25),
    ),
    "platelet": CellType(
        radius=(0.17, 0.32), roughness=0.08, lobes=(0, 0), lobe=(0.3, 0.4), arc=(0.0, 0.1), step=(0.5, 1.0),
        offset=(0.0, 0.1), chromatin=(0.0, 0.1), eosin=(0.2, 0.5), blue=(0.2, 0.6), granules=(0.3, 0.6),
        dark=(0.3, 0.7), red=(0.0, 0.1),
    ),
}  # fmt: skip
"""What tells the classes apart, in BloodMNIST's order."""

CLASSES = tuple(CELLS)


def render(labels: Tensor, *, rng: torch.Generator, size: int = 28) -> LabelledImages:
    """Renders one blood cell for each label, in the middle of its image, with erythrocytes around it.

    Args:
        labels: ``(N,) int64``, indices into :data:`CLASSES`.
        rng: The only source of randomness, a CPU generator. Images are drawn in chunks of a fixed size: the same seed, labels
            and size give the same images bit for bit, but more labels may give other images from the start.
        size: Height and width in pixels; the picture is described in relative units.

    Returns:
        Images ``(N, 3, size, size) uint8`` (RGB) and masks ``(N, size, size) bool``: pixels at least half inside the
        central cell, or platelet.

    Raises:
        ValueError: A label is not in 0..7, or ``size`` is too small.
    """
    points = grid(size)
    return render_in_chunks(labels, len(CLASSES), lambda part: _draw(part, points, rng))


def _draw(labels: Tensor, points: Grid, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images ``(N, 3, H, W) uint8`` and masks ``(N, H, W) bool`` of one chunk."""
    n, size = len(labels), points.x.shape[-1]

    def drawn(field: str) -> Tensor:
        """A number for each image from its class's span, ``(N, 1, 1)``."""
        low, high = torch.tensor([getattr(cell, field) for cell in CELLS.values()], dtype=torch.float32)[labels].unbind(
            1
        )
        return uniform(rng, (n,), low[:, None, None], high[:, None, None])

    cell = _draw_outline(drawn("radius"), n, rng)
    roughness = torch.tensor([kind.roughness for kind in CELLS.values()])[labels][:, None, None]
    inside = ellipse(points, cell, draw_wobble(rng, (n,), roughness))

    fewest, most = torch.tensor([kind.lobes for kind in CELLS.values()])[labels].unbind(1)
    lobes = fewest + (torch.rand(n, generator=rng) * (most - fewest + 1)).long()
    shape = {field: drawn(field) for field in ("lobe", "arc", "step", "offset")}
    nucleus = _nucleus(points, cell, lobes, shape, rng) * inside

    texture = smooth_noise(rng, n, size, 16)
    threshold = 0.75 * torch.erfinv(
        1 - 2 * drawn("granules").clamp(0.01, 0.99)
    )  # the share of the noise above it is covered
    granules = torch.sigmoid((texture - threshold) * 6) * inside
    plasma = inside - nucleus
    chromatin = nucleus * drawn("chromatin") * (1 + 0.12 * smooth_noise(rng, n, size, 8)) + granules * drawn("dark")
    eosin = plasma * (drawn("eosin") + granules * drawn("red"))
    haemoglobin = _erythrocytes(points, n, rng) * (1 - inside)
    stains = torch.stack([chromatin, eosin, plasma * drawn("blue"), haemoglobin], dim=1)
    return to_uint8(_photograph(stains, rng)), inside > 0.5


def _draw_outline(radius: Tensor, n: int, rng: torch.Generator) -> Ellipse:
    """The central cell: near the middle of the image, slightly oval."""
    oval = uniform(rng, (n,), 0.88, 1.12)
    return Ellipse(
        cy=uniform(rng, (n,), -0.2, 0.2),
        cx=uniform(rng, (n,), -0.2, 0.2),
        ry=radius * oval,
        rx=radius / oval,
        angle=uniform(rng, (n,), 0, 6.2832),
    )


def _nucleus(points: Grid, cell: Ellipse, lobes: Tensor, shape: dict[str, Tensor], rng: torch.Generator) -> Tensor:
    """Share ``(N, H, W)`` of each pixel inside the nucleus: lobes on an arc, joined where they come near.

    Args:
        points: The grid of points.
        cell: The outline of the cell.
        lobes: ``(N,) int64``, how many lobes.
        shape: ``lobe``, ``arc``, ``step`` and ``offset`` of :class:`CellType`, each ``(N, 1, 1)``.
        rng: The generator of the angle and of the lobes' departures from the regular arc.
    """
    n = len(lobes)
    radius = torch.sqrt(cell.ry * cell.rx)[:, None]
    lobe, arc, step = (shape[name][:, None] for name in ("lobe", "arc", "step"))
    order = torch.arange(LOBES)[None, :, None, None]
    count = lobes[:, None, None, None]

    turn = uniform(rng, (n, 1), 0, 6.2832)
    angle = turn + (order - (count - 1) / 2) * step + uniform(rng, (n, LOBES), -0.15, 0.15)
    away, shift = uniform(rng, (n, 1), 0, 6.2832), shape["offset"][:, None]
    reach = arc * uniform(rng, (n, LOBES), 0.85, 1.15)
    lobe_radius = radius * lobe * uniform(rng, (n, LOBES), 0.88, 1.12)
    each = Ellipse(
        cy=cell.cy[:, None] + radius * (reach * angle.sin() + shift * away.sin()),
        cx=cell.cx[:, None] + radius * (reach * angle.cos() + shift * away.cos()),
        ry=lobe_radius,
        rx=lobe_radius * uniform(rng, (n, LOBES), 0.85, 1.15),
        angle=angle,
    )
    spread = Grid(points.y[:, None], points.x[:, None], points.pixel)
    distance = (blob_radius(spread, each) - 1) * lobe_radius
    distance = torch.where(order < count, distance, torch.tensor(9.0))
    sharpness = 20.0  # of the smooth minimum, per relative unit: neighbours nearer than about 1/20 grow a bridge
    return coverage(-torch.logsumexp(-sharpness * distance, dim=1) / sharpness, points.pixel)


def _erythrocytes(points: Grid, n: int, rng: torch.Generator) -> Tensor:
    """Haemoglobin ``(N, H, W)`` of up to seven erythrocytes around the rim, paler in their middle."""
    k = 7
    turn, reach = uniform(rng, (n, k), 0, 6.2832), uniform(rng, (n, k), 0.8, 1.3)
    radius = uniform(rng, (n, k), 0.24, 0.36)
    shape = Ellipse(
        cy=reach * turn.sin(),
        cx=reach * turn.cos(),
        ry=radius,
        rx=radius * uniform(rng, (n, k), 0.85, 1.15),
        angle=turn,
    )
    spread = Grid(points.y[:, None], points.x[:, None], points.pixel)
    r = blob_radius(spread, shape)
    pallor = uniform(rng, (n, k), 0.1, 0.75) * torch.exp(-0.5 * (r / 0.38) ** 2)
    present = torch.rand((n, k, 1, 1), generator=rng) < uniform(rng, (n, 1), 0.35, 1)
    disc = coverage((r - 1) * radius, points.pixel) * (1 - pallor) * present
    return disc.amax(1) * uniform(rng, (n,), 0.6, 1.1)


def _photograph(stains: Tensor, rng: torch.Generator) -> Tensor:
    """RGB images ``(N, 3, H, W)`` from the amounts ``(N, 4, H, W)`` of the stains: uptake, light, focus, noise."""
    n, kinds, size, _ = stains.shape
    slide = uniform(rng, (n,), 0.72, 1.2)[:, None] * uniform(rng, (n, kinds), 0.85, 1.15)
    hue = uniform(rng, (n, kinds, 3), 0.82, 1.18)[..., 0, 0]
    density = torch.tensor(STAINS) * hue  # (N, stain, colour)
    absorbed = torch.einsum("nkhw,nkc->nchw", stains * slide, density)
    light = torch.tensor(GLASS)[:, None, None] * uniform(rng, (n, 3), 0.97, 1.03) * uniform(rng, (n, 1), 0.86, 1.04)
    image = blur(light * torch.exp(-absorbed), uniform(rng, (n,), 0.02, 0.05))
    return image + torch.randn((n, 3, size, size), generator=rng) * uniform(rng, (n, 1), 0.005, 0.02)
