"""One self-contained HTML page: templates, charts as inline SVG, images as data.

A page asks for nothing from outside, and the same values give the same bytes.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Mapping
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

from medassay.reporting.charts import PALETTE, STYLE, Chart, show_literally
from medassay.reporting.fonts import prepared_fonts
from medassay.reporting.numbers import (
    format_bounds,
    format_fixed,
    format_percent,
    format_percent_bounds,
    format_significant,
    format_spread,
    format_with_bounds,
    keep_together,
)

_TEMPLATES = Path(__file__).parent / "templates"
_LARGEST = 96  # pixels of an image's side in a page; larger ones are reduced
_INK = "#000000"  # what matplotlib draws text and axes in


def render_page(template: str | Path, **values: Any) -> str:
    """A template filled in; values are escaped, except :class:`markupsafe.Markup`.

    Args:
        template: Name of a template of this package, or a file anywhere that may extend or import those.
        **values: Its variables.

    Raises:
        jinja2.UndefinedError: the template uses a value that was not given.
    """
    file = Path(template)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([file.parent, _TEMPLATES] if file.is_absolute() else _TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= FILTERS
    return environment.get_template(file.name).render(values)


# --- pictures --------------------------------------------------------------------------------------------------------


def draw_svg(figure: Figure, name: str, description: str) -> Markup:
    """A figure as inline SVG on transparent ground, in the page's own text colour and series colours.

    Args:
        figure: The figure to draw; black is taken for ink, and the colours of ``PALETTE`` for the page's ``--series-<i>``.
        name: A name to put before every id, so that those of several charts in a page differ.
        description: A text for those who cannot see it.
    """
    drawn = io.StringIO()
    show_literally(figure)
    # Text stays text: a page's fonts are no wider than matplotlib's, so that what fits there fits here
    with matplotlib.rc_context({**STYLE, "svg.fonttype": "none", "svg.hashsalt": name}), prepared_fonts():
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


def inline_charts(charts: Mapping[str, Chart]) -> dict[str, tuple[Markup, str]]:
    """Charts by name as inline SVG, each with its description."""
    return {
        name: (draw_svg(figure, name.replace("_", "-"), description), description)
        for name, (figure, description) in charts.items()
    }


def shrink_images(images: Tensor) -> Tensor:
    """``(N, C, H, W) uint8`` images with sides of at most 96 pixels."""
    side = max(images.shape[2:])
    if side <= _LARGEST or len(images) == 0:
        return images
    size = [max(1, round(extent * _LARGEST / side)) for extent in images.shape[2:]]
    return F.interpolate(images.float(), size, mode="area").round().to(torch.uint8)


def draw_strip(images: Tensor) -> str:
    """Images side by side, one transparent pixel between them, as the address of an image that needs no file.

    Args:
        images: Images, ``(N, C, H, W) uint8``, C 1 or 3, N at least 1; :func:`shrink_images` where they are large.
    """
    tiles = shrink_images(images)
    colours = tiles.expand(-1, 3, -1, -1)
    opaque = torch.cat([colours, torch.full_like(colours[:, :1], 255)], 1)
    row = torch.cat(list(F.pad(opaque, (0, 1))), 2)[:, :, :-1]
    return embed_picture(row)


def embed_picture(pixels: Tensor) -> str:
    """A picture ``(C, H, W) uint8``, C 3 or 4 (with opacity), as large as it is, as an address that needs no file."""
    written = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).save(written, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(written.getvalue()).decode("ascii")


FILTERS: dict[str, Callable[..., str]] = {  # by the names that templates use
    "fixed": format_fixed,
    "significant": format_significant,
    "spread": format_spread,
    "bounds": format_bounds,
    "with_bounds": format_with_bounds,
    "percent": format_percent,
    "percent_bounds": format_percent_bounds,
    "strip": draw_strip,
    "unbroken": keep_together,
}
