"""Pictures of segmentations: outlines of truth and prediction over the image, and what was missed or invented."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from PIL import ImageColor
from torch import Tensor

from medassay.reporting.charts import PALETTE

FOUND, INVENTED, MISSED = (0, 158, 115), (213, 94, 0), (0, 114, 178)  # pixels, as in the palette
TITLES = ("image", "truth green, prediction orange", "found; missed blue, invented orange")
SHADE = 0.55  # opacity of coloured pixels
CLASS_COLOURS = tuple(PALETTE[index] for index in (1, 0, 2, 3, 4, 5, 7))  # of outlines; black is none


def find_outline(mask: Tensor) -> Tensor:
    """The pixels of each region that have a neighbour, of four, of another class; ``(H, W)`` of integers to bool."""
    padded = torch.nn.functional.pad(mask.long()[None, None].float(), (1, 1, 1, 1), value=-1)[0, 0]
    middle = padded[1:-1, 1:-1]
    neighbours = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    differs = torch.stack([neighbour != middle for neighbour in neighbours]).any(0)
    return differs & (middle > 0)


def draw_outlines(image: Tensor, true: Tensor, predicted: Tensor) -> Tensor:
    """The image with the outline of the truth in green and that of the prediction in orange, the latter on top.

    Args:
        image: ``(C, H, W) uint8``.
        true, predicted: Class maps, ``(H, W)`` of integers.

    Returns:
        ``(3, H, W) uint8``.
    """
    picture = to_rgb(image)
    for mask, colour in ((true, FOUND), (predicted, INVENTED)):
        picture[:, find_outline(mask)] = torch.tensor(colour, dtype=torch.uint8)[:, None]
    return picture


def choose_class_colour(label: int) -> str:
    """The colour of a class's outline, ``#RRGGBB``, classes counted from 1; they begin anew after the seventh."""
    return CLASS_COLOURS[(label - 1) % len(CLASS_COLOURS)]


def draw_class_outlines(image: Tensor, mask: Tensor) -> Tensor:
    """The image with the outline of each class but 0, one pixel wide and inside of it, in the class's colour.

    Args:
        image: ``(C, H, W) uint8``.
        mask: Class map, ``(H, W)`` of integers.

    Returns:
        ``(3, H, W) uint8``.
    """
    picture, outline = to_rgb(image), find_outline(mask)
    for label in range(1, int(mask.max()) + 1):
        colour = torch.tensor(ImageColor.getrgb(choose_class_colour(label)), dtype=torch.uint8)
        picture[:, outline & (mask == label)] = colour[:, None]
    return picture


def draw_errors(image: Tensor, true: Tensor, predicted: Tensor) -> Tensor:
    """The image in grey; pixels of a class that were found green, missed ones blue, invented or confused ones orange.

    Shapes as in :func:`draw_outlines`.
    """
    grey = to_rgb(image).float().mean(0, keepdim=True).expand(3, -1, -1)
    right, wrong, missed = (
        (true == predicted) & (true > 0),
        (true != predicted) & (predicted > 0),
        (true > 0) & (predicted == 0),
    )
    picture = grey.clone()
    for pixels, colour in ((right, FOUND), (wrong, INVENTED), (missed, MISSED)):
        shade = torch.tensor(colour, dtype=torch.float32)[:, None]
        picture[:, pixels] = (1 - SHADE) * grey[:, pixels] + SHADE * shade
    return picture.round().to(torch.uint8)


def draw_views(image: Tensor, true: Tensor, predicted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The image, its outlines and its errors, as ``TITLES`` names them; shapes as in :func:`draw_outlines`."""
    return to_rgb(image), draw_outlines(image, true, predicted), draw_errors(image, true, predicted)


def to_rgb(image: Tensor) -> Tensor:
    """``(1 or 3, H, W) uint8 -> (3, H, W)``, a copy."""
    return image.expand(3, -1, -1).clone()


def draw_sheet(rows: Sequence[Sequence[Tensor]], titles: Sequence[str], labels: Sequence[str]) -> Figure:
    """Pictures ``(3, H, W) uint8`` of any sizes in a table.

    Args:
        rows: The pictures of each line.
        titles: Heading of each column.
        labels: What stands before each line.
    """
    figure = Figure(figsize=(2.1 * len(titles) + 0.5, 2.1 * len(rows) + 0.4), layout="constrained")
    axes = figure.subplots(len(rows), len(titles), squeeze=False)
    for line, label, places in zip(rows, labels, axes, strict=True):
        for picture, place in zip(line, places, strict=True):
            place.imshow(picture.permute(1, 2, 0).numpy(), interpolation="nearest")
            place.set(xticks=[], yticks=[])
        places[0].set_ylabel(label, fontsize=8, parse_math=False)
    for place, title in zip(axes[0], titles, strict=True):
        place.set_title(title, fontsize=8)
    return figure
