"""What a run that segments images says of any images: masks, probabilities and outlines, and a table of what is in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from medassay.core.types import Segmenter
from medassay.data.decoding import ImageReader
from medassay.data.image_files import describe_left_out
from medassay.data.window import Window, check_window
from medassay.evaluation.protocol import ComputeContext, Page, Report
from medassay.metrics.instances import label_components
from medassay.protocols.predict import given_images
from medassay.protocols.predict.mask_files import MaskFiles
from medassay.protocols.predict.reading import Reading, Unreadable, warn_of_unreadable
from medassay.reporting import html, regions
from medassay.reporting.numbers import format_fixed
from medassay.reporting.tables import format_csv
from medassay.runs.run import Run

SIDE = 384  # pixels of a picture's longer side in the page


@dataclass(frozen=True)
class MaskResults:
    """What was segmented.

    Attributes:
        images: Path of the images.
        channels: Number of channels that the model takes.
        n: Number of images.
        pixels: Number of pixels of each class in all images.
        regions: Number of connected regions of each class but the background.
        converted: By conversion, the number of images that it was done to.
        left_out: Number of files that are not read, by kind.
    """

    images: str
    channels: int
    n: int
    pixels: list[int]
    regions: list[int]
    converted: dict[str, int]
    unreadable: list[Unreadable]
    left_out: dict[str, int]


class Contents(NamedTuple):
    """What was found in one image: pixels of each class, and regions, connected by their sides, of all but the background."""

    height: int
    width: int
    pixels: list[int]
    regions: list[int]

    @property
    def shares(self) -> list[float]:
        return [count / (self.height * self.width) for count in self.pixels]


class Row(NamedTuple):
    """One image: its name, the path of its mask in the report's directory, and what was found."""

    name: str
    file: str
    contents: Contents


def segment_given_images(path: str, run: Run, context: ComputeContext, *, show: int, window: Window | None) -> Report:
    """Segments images of any size, one at a time.

    Args:
        path: An image file, a folder of them at any depth, or an ``.npz``.
        run: A run that segments images.
        context: Where to compute, and where files are kept until the report is written.
        show: Number of images in the page, at most.
        window: Range of the values that are shown of images of more than 8 bits; None takes that of the run's data.

    Raises:
        DataError: no image that can be read.
    """
    data, reading = run.segmented_data, Reading()
    window = data.source.shown_values if window is None else window
    check_window(window, given_images.WINDOW_KEY)
    reader = ImageReader(None, data.channels, window=window, window_key=given_images.WINDOW_KEY)
    rows: list[Row] = []
    cards: list[dict[str, Any]] = []
    with MaskFiles(context.cache, data.classes) as store:
        for part in given_images.iterate(path, reader, reading):
            for name, image in zip(part.names, part.images, strict=True):
                probabilities = segment(run.task, image, context.device)
                mask = probabilities.argmax(0).to(torch.uint8)
                file = store.add(name, probabilities, mask, regions.draw_class_outlines(image, mask))
                rows.append(Row(name, file, measure_contents(mask, data.num_classes)))
                if len(cards) < show:
                    cards.append({"row": rows[-1], "pictures": draw_pictures(image, mask)})
    results = MaskResults(
        images=path,
        channels=data.channels,
        n=len(rows),
        pixels=_add_up([row.contents.pixels for row in rows]),
        regions=_add_up([row.contents.regions for row in rows]),
        converted=reading.converted,
        unreadable=reading.unreadable,
        left_out=reading.left_out,
    )
    colours = [regions.choose_class_colour(label) for label in range(1, data.num_classes)]
    return Report(
        results,
        verdict=describe_masks(results, data.classes),
        files={"predictions.csv": format_rows(rows, data.classes), **store.files},
        warnings=warn_of_unreadable(reading.unreadable),
        page=Page(Path(__file__).with_name("masks.html.j2"), {"cards": cards, "colours": colours}),
    )


@torch.no_grad()
def segment(task: object, image: Tensor, device: torch.device) -> Tensor:
    """Probabilities ``(K, H, W) float32``, on the CPU, of an image ``(C, H, W) uint8``; the task is left on ``device``."""
    assert isinstance(task, torch.nn.Module)
    task.to(device).eval()
    assert isinstance(task, Segmenter)
    return task.segment(image.to(device).float() / 255).float().cpu()


def measure_contents(mask: Tensor, num_classes: int) -> Contents:
    """Counts the pixels and regions of a class map ``(H, W) uint8``."""
    counts = torch.bincount(mask.flatten(), minlength=num_classes).tolist()
    found = [int(label_components(mask == label).max()) for label in range(1, num_classes)]
    height, width = mask.shape
    return Contents(height, width, counts, found)


def draw_pictures(image: Tensor, mask: Tensor) -> list[str]:
    """The image ``(C, H, W) uint8``, and the same with the outlines of its mask, as addresses that need no file.

    Large ones are reduced before the outlines are drawn, which would be lost otherwise.
    """
    longer = max(mask.shape)
    if longer > SIDE:
        size = [max(1, round(extent * SIDE / longer)) for extent in mask.shape]
        image = F.interpolate(image[None].float(), size, mode="area")[0].round().to(torch.uint8)
        mask = F.interpolate(mask[None, None].float(), size, mode="nearest-exact")[0, 0].to(torch.uint8)
    return [html.embed_picture(view) for view in (regions.to_rgb(image), regions.draw_class_outlines(image, mask))]


def format_rows(rows: Sequence[Row], classes: Sequence[str]) -> str:
    """``predictions.csv``."""
    pixels, shares = ([f"{what} {name}" for name in classes] for what in ("pixels", "share"))
    header = ["image", "mask", "height", "width", *pixels, *shares, *(f"regions {name}" for name in classes[1:])]
    lines = [[name, file, own.height, own.width, *own.pixels, *own.shares, *own.regions] for name, file, own in rows]
    return format_csv(header, lines)


def _add_up(counts: Sequence[Sequence[int]]) -> list[int]:
    """The sum of all images' counts, class by class."""
    return [sum(column) for column in zip(*counts, strict=True)]


def describe_masks(results: MaskResults, classes: Sequence[str]) -> list[str]:
    """What was done, and found, in words."""
    lines = [f"converted: {what} ({count} of {results.n})" for what, count in results.converted.items()]
    if results.left_out:
        lines.append(f"left out: {describe_left_out(results.left_out)}")
    total = sum(results.pixels)
    shares = [f"{name} {format_fixed(100 * n / total, 1)} %" for name, n in zip(classes, results.pixels, strict=True)]
    counts = [f"{name} {n}" for name, n in zip(classes[1:], results.regions, strict=True)]
    images = "image" if results.n == 1 else "images"
    return [*lines, f"segmented: {results.n} {images}; pixels: {', '.join(shares)}; regions: {', '.join(counts)}"]
