"""Arrays in, matplotlib figures out: confusion matrices, ROC and precision-recall curves, grids of images.

Figures are built with matplotlib's objects and no global state, so that they can be drawn in any process or thread.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # on a new machine it announces a list of fonts

# ruff: noqa: E402
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from matplotlib.ticker import PercentFormatter
from torch import Tensor
from torch.nn import functional as F

from medassay.core.files import whole
from medassay.metrics import classification

# Okabe & Ito's colours, strongest on white first; their yellow, too pale for a line, is replaced by a wine red that
# keeps the smallest CIELAB distance under simulated protanopia, deuteranopia and tritanopia above 16.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#882255")

_DPI = 100  # of a figure on screen; tiles of images are whole pixels at multiples of it
_LABEL_SIZE = 8  # points
_GREY = "#666666"
_STYLES = ("-", "--", "-.")  # one for each round through the palette
_Corner = Literal["lower left", "lower right"]


def confusion_matrix(confusion: Tensor | Sequence[Sequence[int]], class_names: Sequence[str]) -> Figure:
    """Counts and, as shade and text, each row's percentages (so the diagonal shows the recall).

    Args:
        confusion: ``(K, K)`` counts, rows are true classes.
        class_names: K names.

    Raises:
        ValueError: if the matrix does not fit the names.
    """
    counts = torch.as_tensor(confusion)
    k = len(class_names)
    if counts.shape != (k, k):
        raise ValueError(f"a confusion matrix of {k} classes is ({k}, {k}), not {tuple(counts.shape)}")
    share = counts / counts.sum(1, keepdim=True)
    large = k <= 3
    cell = 1.1 if large else 0.62  # inches
    names_width = max(map(_text_width, class_names)) / _DPI
    figure = Figure(figsize=(k * cell + 1.25 * names_width + 1.8, k * cell + 1.4), dpi=_DPI, layout="compressed")
    axes = figure.add_subplot()
    image = axes.imshow(share.nan_to_num(0).numpy(), cmap="Blues", vmin=0, vmax=1)
    for row in range(k):
        for column in range(k):
            text, color = _cell(int(counts[row, column]), float(share[row, column]))
            axes.text(column, row, text, ha="center", va="center", color=color, fontsize=11 if large else 8)
    axes.set_xticks(range(k), class_names)
    axes.set_yticks(range(k), class_names)
    axes.set(xlabel="Predicted class", ylabel="True class")
    axes.tick_params(length=0, pad=6)
    axes.spines[:].set_visible(False)
    if names_width > 0.72 * cell:
        for label in axes.get_xticklabels():
            label.set(rotation=40, ha="right", rotation_mode="anchor")
        figure.set_figheight(figure.get_figheight() + 0.8 * names_width)
    bar = figure.colorbar(image, ax=axes, aspect=30, label="Share of the true class", format=PercentFormatter(1))
    bar.outline.set_visible(False)
    return figure


def roc_curves(probabilities: Tensor, labels: Tensor, class_names: Sequence[str]) -> Figure:
    """ROC curves with their areas: of class 1 for two classes, else of each class against the rest.

    Args:
        probabilities: ``(N, K)`` float, higher means more of the class.
        labels: ``(N,) int64``, true class indices.
        class_names: K names.

    Raises:
        ValueError: if the probabilities do not fit the names.
    """
    figure, axes = _unit_square("False positive rate", "True positive rate")
    axes.plot([0, 1], [0, 1], color=_GREY, linewidth=1, linestyle=":", label="chance  0.500")
    areas = []
    for index, look in _curves(probabilities, class_names):
        scores, is_positive = probabilities[:, index], labels == index
        areas.append(classification.auroc(scores, is_positive))
        false_positive_rate, true_positive_rate = classification.roc_curve(scores, is_positive)
        label = f"{class_names[index]}  {_number(areas[-1])}"
        axes.plot(false_positive_rate.numpy(), true_positive_rate.numpy(), label=label, **look)
    if reach := _zoom_reach(areas):
        _zoom(axes, x=0.38, x_range=(0, reach), y_range=(1 - reach, 1))
    _legend(figure, axes, "AUROC", inside="lower right" if len(class_names) == 2 else None)
    return figure


def pr_curves(probabilities: Tensor, labels: Tensor, class_names: Sequence[str]) -> Figure:
    """Precision against recall with the average precision, and the prevalence, which is what chance reaches, dotted.

    Arguments and errors are those of :func:`roc_curves`.
    """
    figure, axes = _unit_square("Recall", "Precision")
    areas = []
    for index, look in _curves(probabilities, class_names):
        scores, is_positive = probabilities[:, index], labels == index
        areas.append(classification.average_precision(scores, is_positive))
        prevalence = float(is_positive.double().mean())
        recall, precision = classification.pr_curve(scores, is_positive)
        # Only where another positive is found: the area under these steps is the average precision.
        steps = F.pad(recall.diff() > 0, (1, 0))
        label = f"{class_names[index]}  {_number(areas[-1])} ({prevalence:.3f})"
        x, y = recall[steps].tolist(), precision[steps].tolist()
        axes.step([0, *x] if x else [], y[:1] + y, where="pre", label=label, **look)
        axes.axhline(prevalence, color=look["color"], linewidth=0.9, linestyle=":", zorder=1)
    if reach := _zoom_reach(areas):
        _zoom(axes, x=0.12, x_range=(1 - reach, 1), y_range=(1 - reach, 1))
    _legend(figure, axes, "Average precision (prevalence)", inside="lower left" if len(class_names) == 2 else None)
    return figure


def grid_array(images: Tensor, *, columns: int, padding: int = 2) -> Tensor:
    """Images tiled row by row on white, for a viewer that enlarges by itself.

    Image i lies at row ``i // columns``, column ``i % columns``; its upper left pixel is at
    ``padding + row * (H + padding), padding + column * (W + padding)``.

    Args:
        images: ``(N, C, H, W)`` float in [0, 1] (clamped) or uint8, C 1 or 3, N at least 1.
        columns: images in a row.
        padding: white pixels between and around the images.

    Returns:
        ``(C, height, width) uint8``.

    Raises:
        ValueError: if shape, dtype, ``columns`` or ``padding`` is not one of these.
    """
    if images.ndim != 4 or len(images) == 0 or images.shape[1] not in (1, 3) or columns < 1 or padding < 0:
        raise ValueError(
            f"a grid needs (N >= 1, 1 or 3, H, W) images, columns >= 1 and padding >= 0, "
            f"not {tuple(images.shape)}, {columns} and {padding}"
        )
    pixels = _uint8(images)
    n, channels, height, width = pixels.shape
    rows = -(-n // columns)
    pitch_y, pitch_x = height + padding, width + padding
    tiles = torch.full((rows * columns, channels, pitch_y, pitch_x), 255, dtype=torch.uint8)
    tiles[:n, :, padding:, padding:] = pixels
    grid = torch.full((channels, rows * pitch_y + padding, columns * pitch_x + padding), 255, dtype=torch.uint8)
    tiled = tiles.view(rows, columns, channels, pitch_y, pitch_x).permute(2, 0, 3, 1, 4)
    grid[:, : rows * pitch_y, : columns * pitch_x] = tiled.reshape(channels, rows * pitch_y, columns * pitch_x)
    return grid


def image_grid(
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
        images: ``(N, C, H, W)`` float in [0, 1] (clamped) or uint8, C 1 or 3.
        columns: images in a row.
        row_labels: a name for each row.
        column_labels: a name for each column; slanted if wider than an image.
        scale: dots per pixel at the figure's own resolution.
        title: one line above.

    Raises:
        ValueError: if the images do not fit :func:`grid_array`, or labels do not fit rows and columns.
    """
    mosaic = grid_array(images, columns=columns, padding=1)
    rows = -(-len(images) // columns)
    for labels, count in ((row_labels, rows), (column_labels, columns)):
        if labels is not None and len(labels) != count:
            raise ValueError(f"{count} labels are needed for the grid's {count} rows or columns, not {len(labels)}")

    # All in dots of the figure, whole numbers, so that image blocks fall on dots.
    height, width = scale * mosaic.shape[1], scale * mosaic.shape[2]
    pitch_y, pitch_x = scale * (images.shape[2] + 1), scale * (images.shape[3] + 1)
    widest = max(map(_text_width, column_labels or [""]))
    slanted = widest > pitch_x - 4
    left = 16 + max(map(_text_width, row_labels or [""]))
    right = max(8, round(0.71 * widest) + 8 - pitch_x // 2) if slanted else 8
    top = 8 + (24 if title else 0) + ((round(0.71 * widest) if slanted else 0) + 16 if column_labels else 0)
    total_width = left + max(width + right, _text_width(title or "", bold=True) + 8)
    total_height = top + height + 8

    figure = Figure(figsize=(total_width / _DPI, total_height / _DPI), dpi=_DPI)
    axes = figure.add_axes((left / total_width, 8 / total_height, width / total_width, height / total_height))
    axes.set_axis_off()
    picture = mosaic.expand(3, -1, -1).permute(1, 2, 0).numpy()
    axes.imshow(picture, interpolation="nearest", aspect="auto", extent=(0, width, height, 0))
    for row, name in enumerate(row_labels or ()):
        axes.text(-6, (row + 0.5) * pitch_y + scale / 2, name, ha="right", va="center", size=_LABEL_SIZE)
    look: dict[str, Any] = {"rotation": 45, "rotation_mode": "anchor"} if slanted else {"ha": "center"}
    for column, name in enumerate(column_labels or ()):
        axes.text((column + 0.5) * pitch_x + scale / 2, -4, name, va="bottom", size=_LABEL_SIZE, **look)
    if title:
        axes.text(scale, 8 - top, title, va="top", size=_LABEL_SIZE, weight="bold")
    return figure


def save(figure: Figure, path: Path, dpi: float = 2 * _DPI) -> None:
    """Write a figure as PNG: the whole file or none, and the same bytes for the same figure.

    Args:
        figure: what to draw.
        path: where; missing folders are made, an existing file is replaced.
        dpi: dots per inch.

    Raises:
        OutputError: if the file cannot be written.
    """
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi, metadata={"Software": None})
    with whole(path) as partial:
        partial.write_bytes(drawn.getvalue())


def _uint8(images: Tensor) -> Tensor:
    if images.dtype == torch.uint8:
        return images.detach().cpu()
    if not images.is_floating_point():
        raise ValueError(f"images must be uint8 or float in [0, 1], not {images.dtype}")
    return images.detach().cpu().float().nan_to_num(0).clamp(0, 1).mul(255).round().to(torch.uint8)


def _text_width(text: str, *, bold: bool = False) -> int:
    """Width of a label in dots of the figure."""
    if not text.strip():
        return 0
    font = FontProperties(size=_LABEL_SIZE, weight="bold" if bold else "normal")
    return int(TextPath((0, 0), text, prop=font).get_extents().width * _DPI / 72) + 1


def _number(area: float) -> str:
    return "–" if area != area else f"{area:.3f}"


def _curves(probabilities: Tensor, class_names: Sequence[str]) -> list[tuple[int, dict[str, Any]]]:
    """The classes to draw, each with its line's look: class 1 of two, else all."""
    k = len(class_names)
    if probabilities.ndim != 2 or probabilities.shape[1] != k:
        raise ValueError(f"probabilities of {k} classes are (N, {k}), not {tuple(probabilities.shape)}")
    return [
        (index, {"color": PALETTE[place % len(PALETTE)], "linestyle": _STYLES[place // len(PALETTE) % len(_STYLES)]})
        for place, index in enumerate([1] if k == 2 else range(k))
    ]


def _unit_square(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4, 4), dpi=_DPI, layout="compressed")
    axes = figure.add_subplot()
    axes.set(xlabel=x_label, ylabel=y_label, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _legend(figure: Figure, axes: Axes, title: str, *, inside: _Corner | None) -> None:
    """A legend in a corner of the axes, or right of them, where many curves leave no room."""
    if inside is not None:
        legend = axes.legend(loc=inside, title=title, edgecolor="none", framealpha=0.85, fontsize=9, title_fontsize=9)
    else:
        widest = max(map(_text_width, [title, *axes.get_legend_handles_labels()[1]]))
        figure.set_figwidth(figure.get_figwidth() + 9 / _LABEL_SIZE * widest / _DPI + 0.7)
        place: Any = "outside right center"  # understood by figures only, and left out of their type hints
        legend = figure.legend(loc=place, title=title, frameon=False, fontsize=9, title_fontsize=9)
    legend.set_alignment("left")


def _zoom_reach(areas: Sequence[float]) -> float | None:
    """How far from its corner to enlarge several curves of these areas; None if they can be told apart without."""
    worst = min((area for area in areas if area == area), default=0.0)
    if len(areas) == 1 or worst < 0.95:
        return None
    return 0.1 if worst >= 0.99 else 0.2


def _zoom(axes: Axes, *, x: float, x_range: tuple[float, float], y_range: tuple[float, float]) -> None:
    """Draw the curves in a range once more, enlarged, in the empty middle of the axes, from their share ``x`` on."""
    inset = axes.inset_axes((x, 0.32, 0.56, 0.56))
    for line in axes.get_lines():
        copy = inset.plot(line.get_xdata(), line.get_ydata(), color=line.get_color(), linestyle=line.get_linestyle())[0]
        copy.set(drawstyle=line.get_drawstyle(), linewidth=line.get_linewidth())
    slack = 0.03 * (x_range[1] - x_range[0])
    inset.set(xlim=(x_range[0] - slack, x_range[1] + slack), ylim=(y_range[0] - slack, y_range[1] + slack))
    inset.tick_params(labelsize=7)
    inset.locator_params(nbins=3)
    inset.grid(color="0.92", linewidth=0.8)
    inset.spines[:].set_color("0.6")
    axes.indicate_inset_zoom(inset, edgecolor="0.6", alpha=1)


def _cell(count: int, share: float) -> tuple[str, str]:
    """Text and colour of a confusion matrix's cell; an empty one steps back, and has no percentage."""
    if count == 0:
        return "0", "0.6"
    return f"{count}\n{share:.1%}", "white" if share > 0.55 else "black"
