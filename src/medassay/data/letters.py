"""Letters as images: what a classifier of anything else has never been shown.

They are white on black, of the size of MNIST's digits (LeCun et al. 1998): the longer side takes 20 of 28 pixels. The fonts are
those that matplotlib carries.
"""

from __future__ import annotations

import string
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageFont
from torch import Tensor

LETTERS = string.ascii_uppercase
FONTS = (
    *("DejaVuSans", "DejaVuSans-Oblique", "DejaVuSans-Bold", "DejaVuSans-BoldOblique"),
    *("DejaVuSansMono", "DejaVuSansMono-Oblique", "DejaVuSansMono-Bold", "DejaVuSansMono-BoldOblique"),
    *("DejaVuSerif", "DejaVuSerif-Italic", "DejaVuSerif-Bold", "DejaVuSerif-BoldItalic"),
)
FILLED = 20 / 28  # share of the image's side that the letter's longer side takes
_LARGER = 3  # times the size of the image at which a letter is drawn before it is made smaller, at least


def render_letters(size: int, channels: int = 1) -> tuple[Tensor, list[str]]:
    """Every capital letter in every font, letter by letter.

    Args:
        size: Height and width in pixels, at least 4.
        channels: 1, or 3 for the same values in each.

    Returns:
        Images ``(26 · 12, channels, size, size) uint8``, and the letter that each shows.
    """
    fonts = [ImageFont.truetype(_find(name), _LARGER * max(size, 28)) for name in FONTS]
    images = np.stack([_draw(letter, font, size) for letter in LETTERS for font in fonts])
    tensor = torch.from_numpy(images)[:, None].expand(-1, channels, -1, -1).contiguous()
    return tensor, [letter for letter in LETTERS for _ in fonts]


def _find(name: str) -> str:
    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf")


def _draw(letter: str, font: ImageFont.FreeTypeFont, size: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """One letter in the middle of its image, ``(size, size) uint8``."""
    mask = font.getmask(letter, mode="L")
    drawn = Image.frombytes("L", mask.size, bytes(mask))
    drawn = drawn.crop(drawn.getbbox())
    scale = FILLED * size / max(drawn.size)
    width, height = (max(1, round(scale * side)) for side in drawn.size)
    image = np.zeros((size, size), dtype=np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    image[top : top + height, left : left + width] = np.asarray(drawn.resize((width, height), Image.Resampling.BOX))
    return image
