"""Images with lines of text below each."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor

from medassay.reporting.charts import DPI, SMALL
from medassay.reporting.figures import measure_text_width
from medassay.reporting.fonts import find_undrawable

_LINE, _TITLE = 13, 18  # dots of a caption's line, and of a title's
_LONGEST = 32  # characters of a caption's line
_CAPTION_SIZE = 7.0  # points
_CHARACTER = 5.4  # dots, about the mean width of a caption's characters
_TILE = 84  # dots that a small image's side is enlarged to, about


def choose_enlargement(side: int) -> int:
    """The whole number that brings a small image's side near 84 dots; 1 for a large one."""
    return max(1, _TILE // side)


def add_captions(images: Tensor, captions: Sequence[Sequence[str]], *, columns: int, title: str = "") -> Figure:
    """Images row by row, each with its lines of text below.

    Args:
        images: Images, ``(N, C, H, W) uint8``, C 1 or 3, N at least 1; small ones are enlarged.
        captions: N lists of lines; a long line keeps its beginning and its end.
        columns: Number of images in a row, at most.
        title: Lines above all.

    Raises:
        ValueError: no images, or another number of captions.
    """
    n, _, height, width = images.shape
    if n == 0 or len(captions) != n:
        raise ValueError(f"a caption for each of at least one image is needed, not {len(captions)} for {n}")
    columns, scale = min(columns, n), choose_enlargement(height)
    height, width, above = scale * height, scale * width, 8 + _TITLE * len(title.splitlines())
    longest = min(_LONGEST, max(len(line) for lines in captions for line in lines))
    cell_width = 12 + max(width, round(_CHARACTER * longest))
    cell_height = height + 14 + _LINE * max(map(len, captions))
    whole_width = 8 + max(
        [columns * cell_width, *(measure_text_width(line, bold=True) + 8 for line in title.splitlines())]
    )
    whole_height = above + -(-n // columns) * cell_height
    figure = Figure(figsize=(whole_width / DPI, whole_height / DPI), dpi=DPI)
    pixels = images.expand(n, 3, -1, -1).permute(0, 2, 3, 1).numpy()

    def write(x: float, y: float, text: str, size: float, weight: str) -> None:
        figure.text(x / whole_width, 1 - y / whole_height, text, va="top", parse_math=False, size=size, weight=weight)

    for place, lines in enumerate(captions):
        left, top = 8 + place % columns * cell_width, above + place // columns * cell_height
        bottom = 1 - (top + height) / whole_height
        axes = figure.add_axes((left / whole_width, bottom, width / whole_width, height / whole_height))
        axes.imshow(pixels[place], interpolation="nearest", aspect="auto")
        axes.set_axis_off()
        for number, line in enumerate(lines):
            text = replace_undrawable(line, _LONGEST)
            write(left, top + height + 5 + number * _LINE, text, _CAPTION_SIZE, "normal")
    for number, line in enumerate(title.splitlines()):
        write(8, 8 + number * _TITLE, line, SMALL, "bold")
    return figure


def replace_undrawable(text: str, length: int) -> str:
    """A text in characters that some installed font has, at most ``length`` of them: its beginning and its end."""
    undrawable = find_undrawable(text)
    plain = "".join(c if c.isprintable() and c not in undrawable else "?" for c in text)
    if len(plain) <= length:
        return plain
    tail = (length - 1) * 2 // 3
    return f"{plain[: length - 1 - tail]}…{plain[-tail:]}"
