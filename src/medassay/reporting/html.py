"""One self-contained HTML page: templates, numbers as text, charts as inline SVG, images as data.

A page asks for nothing from outside, and the same values give the same bytes.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import torch
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from medassay.reporting.figures import PALETTE

DASH = "–"
_TEMPLATES = Path(__file__).parent / "templates"
_LARGEST = 96  # pixels of an image's side in a page; larger ones are reduced
_INK = "#000000"  # what matplotlib draws text and axes in


def page(template: str, **values: Any) -> str:
    """A template of this package, filled in; values are escaped, except :class:`markupsafe.Markup`.

    Raises:
        jinja2.UndefinedError: the template uses a value that was not given.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters = (fixed, significant, spread, bounds, strip, unbroken)
    environment.filters |= {function.__name__: function for function in filters}
    return environment.get_template(template).render(values)


# --- numbers ---------------------------------------------------------------------------------------------------------


def known(value: float | None) -> bool:
    """Whether there is a number: not None, NaN or infinite."""
    return value is not None and math.isfinite(value)


def fixed(value: float | None, places: int = 3) -> str:
    """A number with so many decimals; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return DASH
    text = f"{value:.{places}f}"
    if not text.strip("-0."):
        text = text.lstrip("-")  # no minus zero
    return text.replace("-", "−")


def decimals(value: float | None, digits: int = 3) -> int:
    """The decimals that show so many significant digits of ``value``, from 0 to 6."""
    if value is None or not math.isfinite(value) or value == 0:
        return digits - 1
    return min(6, max(0, digits - 1 - math.floor(math.log10(abs(value)))))


def significant(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits, for what has no natural scale."""
    return fixed(value, decimals(value, digits))


def spread(value: Mapping[str, Any], places: int | None = 3) -> str:
    """``mean ± sd`` of ``{"mean", "sd"}``, or the mean alone; None for three significant digits of the mean."""
    mean, sd = value["mean"], value.get("sd")
    places = decimals(mean) if places is None else places
    return (
        f"{fixed(mean, places)} ±\N{NO-BREAK SPACE}{fixed(sd, places)}"
        if known(mean) and known(sd)
        else fixed(mean, places)
    )


def bounds(value: Mapping[str, Any], places: int = 3) -> str:
    """``[low, high]`` of ``{"low", "high"}``, or nothing."""
    low, high = value.get("low"), value.get("high")
    return f"[{fixed(low, places)},\N{NO-BREAK SPACE}{fixed(high, places)}]" if known(low) and known(high) else ""


def unbroken(text: str) -> str:
    """The text with its numbers and their percent signs on one line."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


# --- pictures --------------------------------------------------------------------------------------------------------


def svg(figure: Figure, name: str, description: str) -> Markup:
    """A figure as inline SVG on transparent ground, in the page's own text colour and series colours.

    Args:
        figure: what to draw; black is taken for ink, and the colours of ``PALETTE`` for the page's ``--series-<i>``.
        name: put before every id, so that those of several charts in a page differ.
        description: for those who cannot see it.
    """
    drawn = io.StringIO()
    # Text stays text: a page's fonts are no wider than matplotlib's, so that what fits there fits here
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = drawn.getvalue()
    text = text[text.index("<svg") :]
    for part in ("metadata", "style"):  # the style would hold for the whole page
        text = re.sub(rf"\s*<{part}.*?</{part}>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    for index, colour in enumerate(PALETTE):
        if colour != _INK:
            text = re.sub(colour, f"var(--series-{index}, {colour})", text, flags=re.IGNORECASE)
    text = text.replace(_INK, "currentColor")
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    attributes = f'width="{width}" height="{height}" role="img" aria-label="{escape(description)}"'
    text = re.sub(r'height="[^"]*" ?', "", text, count=1)
    return Markup(re.sub(r'width="[^"]*"', lambda _: attributes, text, count=1).strip())


def reduced(images: Tensor) -> Tensor:
    """``(N, C, H, W) uint8`` images with sides of at most 96 pixels."""
    side = max(images.shape[2:])
    if side <= _LARGEST or len(images) == 0:
        return images
    size = [max(1, round(extent * _LARGEST / side)) for extent in images.shape[2:]]
    return F.interpolate(images.float(), size, mode="area").round().to(torch.uint8)


def strip(images: Tensor) -> str:
    """Images side by side, one transparent pixel between them, as the address of an image that needs no file.

    Args:
        images: ``(N, C, H, W) uint8``, C 1 or 3, N at least 1; :func:`reduced` where they are large.
    """
    tiles = reduced(images)
    colours = tiles.expand(-1, 3, -1, -1)
    opaque = torch.cat([colours, torch.full_like(colours[:, :1], 255)], 1)
    row = torch.cat(list(F.pad(opaque, (0, 1))), 2)[:, :, :-1]
    return _png_address(row)


def _png_address(rgba: Tensor) -> str:
    written = io.BytesIO()
    Image.fromarray(rgba.permute(1, 2, 0).contiguous().numpy()).save(written, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(written.getvalue()).decode("ascii")
