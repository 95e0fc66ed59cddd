"""Grids of images as arrays and as figures, and figures as files.

Figures are built with matplotlib's objects, without pyplot, so that none stays open and any process can draw them.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from torch import Tensor
from torch.nn import functional as F
from torchvision.utils import make_grid

from medassay.core.files import atomic_write
from medassay.reporting.charts import DPI, SMALL, STYLE, show_literally
from medassay.reporting.fonts import choose_families, prepared_fonts


def tile_images(images: Tensor, *, columns: int, padding: int = 2) -> Tensor:
    """Images tiled row by row on white, for a viewer that enlarges by itself.

    Image i lies at row ``i // columns``, column ``i % columns``; its upper left pixel is at
    ``padding + row * (H + padding), padding + column * (W + padding)``.

    Args:
        images: Images, ``(N, C, H, W)`` float in [0, 1] (clamped) or uint8, C 1 or 3, N at least 1.
        columns: Number of images in a row, at most.
        padding: Number of white pixels between and around the images.

    Returns:
        ``(3, height, width) uint8``.

    Raises:
        ValueError: if shape, dtype, ``columns`` or ``padding`` is not one of these.
    """
    if images.ndim != 4 or len(images) == 0 or images.shape[1] not in (1, 3) or columns < 1 or padding < 0:
        raise ValueError(
            f"a grid needs (N >= 1, 1 or 3, H, W) images, columns >= 1 and padding >= 0, "
            f"not {tuple(images.shape)}, {columns} and {padding}"
        )
    tiles = _to_uint8(images)
    if len(tiles) == 1:  # make_grid gives a single image back without a margin
        return F.pad(tiles[0].expand(3, -1, -1), (padding,) * 4, value=255)
    grid: Tensor = make_grid(tiles, nrow=columns, padding=padding, pad_value=255)
    return grid


def draw_image_grid(
    images: Tensor,
    *,
    columns: int,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    scale: int = 2,
    title: str | None = None,
) -> Figure:
    """Images tiled row by row, each pixel a block of ``scale`` by ``scale`` dots, with names of rows and columns.

    The figure is as large as its content. Blocks are of equal size if it is saved at its own resolution (100 dots per
    inch) or a whole multiple.

    Args:
        images: Images, ``(N, C, H, W)`` float in [0, 1] (clamped) or uint8, C 1 or 3.
        columns: Number of images in a row.
        row_labels: Names of the rows.
        column_labels: Names of the columns; slanted if wider than an image.
        scale: Dots per pixel at the figure's own resolution.
        title: One line above.

    Raises:
        ValueError: if the images do not fit :func:`tile_images`, or labels do not fit rows and columns.
    """
    mosaic = tile_images(images, columns=columns, padding=1)
    rows = -(-len(images) // columns)
    for labels, count in ((row_labels, rows), (column_labels, columns)):
        if labels is not None and len(labels) != count:
            raise ValueError(f"{count} labels are needed for the grid's {count} rows or columns, not {len(labels)}")

    # All in dots of the figure, whole numbers, so that image blocks fall on dots.
    height, width = scale * mosaic.shape[1], scale * mosaic.shape[2]
    pitch_y, pitch_x = scale * (images.shape[2] + 1), scale * (images.shape[3] + 1)
    widest = max(map(measure_text_width, column_labels or [""]))
    slanted = widest > pitch_x - 4
    left = 16 + max(map(measure_text_width, row_labels or [""]))
    right = max(8, round(0.71 * widest) + 8 - pitch_x // 2) if slanted else 8
    top = 8 + (24 if title else 0) + ((round(0.71 * widest) if slanted else 0) + 16 if column_labels else 0)
    total_width = left + max(width + right, measure_text_width(title or "", bold=True) + 8)
    total_height = top + height + 8

    figure = Figure(figsize=(total_width / DPI, total_height / DPI), dpi=DPI)
    axes = figure.add_axes((left / total_width, 8 / total_height, width / total_width, height / total_height))
    axes.set_axis_off()
    picture = mosaic.permute(1, 2, 0).numpy()
    axes.imshow(picture, interpolation="nearest", aspect="auto", extent=(0, width, height, 0))
    for row, name in enumerate(row_labels or ()):
        axes.text(-6, (row + 0.5) * pitch_y + scale / 2, name, ha="right", va="center", size=SMALL)
    look: dict[str, Any] = {"rotation": 45, "rotation_mode": "anchor"} if slanted else {"ha": "center"}
    for column, name in enumerate(column_labels or ()):
        axes.text((column + 0.5) * pitch_x + scale / 2, -4, name, va="bottom", size=SMALL, **look)
    if title:
        axes.text(scale, 8 - top, title, va="top", size=SMALL, weight="bold")
    return figure


def save_figure(figure: Figure, path: Path, dpi: float = 2 * DPI) -> None:
    """Write a figure as PNG: the whole file or none, and the same bytes for the same figure.

    Missing folders are made, an existing file is replaced.

    Raises:
        OutputError: if the file cannot be written.
    """
    drawn = io.BytesIO()
    show_literally(figure)
    with (
        matplotlib.rc_context(STYLE),
        prepared_fonts(figure),
    ):  # the number of ticks depends on their size while drawing
        figure.savefig(drawn, format="png", dpi=dpi, metadata={"Software": None})
    with atomic_write(path) as partial:
        partial.write_bytes(drawn.getvalue())


def _to_uint8(images: Tensor) -> Tensor:
    if images.dtype == torch.uint8:
        return images.detach().cpu()
    if not images.is_floating_point():
        raise ValueError(f"images must be uint8 or float in [0, 1], not {images.dtype}")
    return images.detach().cpu().float().nan_to_num(0).clamp(0, 1).mul(255).round().to(torch.uint8)


def measure_text_width(text: str, *, bold: bool = False) -> int:
    """Width of a label in dots of the figure."""
    if not text.strip():
        return 0
    font = FontProperties(family=choose_families([text]), size=SMALL, weight="bold" if bold else "normal")
    with prepared_fonts():
        return int(TextPath((0, 0), text.replace("$", r"\$"), prop=font).get_extents().width * DPI / 72) + 1
