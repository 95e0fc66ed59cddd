"""A page of one file: numbers as text, charts and images inside it."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import jinja2
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

import medassay
from medassay.core.estimate import Estimate
from medassay.reporting import html
from medassay.reporting.charts import PALETTE

PROTOCOLS = Path(medassay.__file__).parent / "protocols"


def chart(label: str = "a label") -> Figure:
    figure = Figure(figsize=(3, 2))
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], "o-", color=PALETTE[0], label=label)
    axes.legend()
    return figure


def decoded(address: str) -> Tensor:
    """The pixels of a data URI, ``(H, W, 4) uint8``."""
    kind, _, content = address.partition(",")
    assert kind == "data:image/png;base64"
    return torch.from_numpy(np.array(Image.open(io.BytesIO(base64.b64decode(content)))))


def test_a_chart_has_its_description_and_no_style_for_the_whole_page() -> None:
    drawn = html.draw_svg(chart(), "one", 'what "it" shows <here>')
    assert 'aria-label="what &quot;it&quot; shows &lt;here&gt;"' in drawn
    assert "<style" not in drawn
    assert "<metadata" not in drawn
    assert drawn.startswith("<svg")


def test_a_chart_takes_the_text_colour_and_the_series_colours_of_the_page() -> None:
    drawn = html.draw_svg(chart(), "one", "x")
    assert "#000000" not in drawn
    assert "currentColor" in drawn
    assert f"var(--series-0, {PALETTE[0]})" in drawn


def test_text_in_a_chart_is_text_and_escaped() -> None:
    assert ">a &lt; b &amp; c</text>" in html.draw_svg(chart("a < b & c"), "one", "x")


def test_ids_of_two_charts_differ_and_every_reference_is_found() -> None:
    both = [html.draw_svg(chart(), name, "x") for name in ("one", "two")]
    ids = [set(re.findall(r'\bid="([^"]+)"', drawn)) for drawn in both]
    assert not ids[0] & ids[1]
    for drawn, own in zip(both, ids, strict=True):
        used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', drawn))
        assert used
        assert used <= own


def test_a_chart_is_the_same_for_the_same_figure() -> None:
    assert html.draw_svg(chart(), "one", "x") == html.draw_svg(chart(), "one", "x")


def test_images_in_a_strip_keep_their_pixels_with_a_transparent_gap() -> None:
    images = torch.randint(256, (3, 3, 5, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    pixels = decoded(html.draw_strip(images))
    assert pixels.shape == (5, 3 * 4 + 2, 4)
    assert torch.equal(pixels[:, 5:9, :3], images[1].permute(1, 2, 0))
    assert (pixels[:, [4, 9], 3] == 0).all()
    assert (pixels[:, :4, 3] == 255).all()


def test_grey_images_are_grey_in_a_strip() -> None:
    images = torch.full((2, 1, 4, 4), 77, dtype=torch.uint8)
    assert decoded(html.draw_strip(images))[0, 0].tolist() == [77, 77, 77, 255]


def test_large_images_are_reduced_in_a_page() -> None:
    assert decoded(html.draw_strip(torch.zeros(1, 3, 224, 112, dtype=torch.uint8))).shape == (96, 48, 4)


def test_the_address_of_an_image_is_a_png_of_its_size() -> None:
    assert html.embed_picture(torch.zeros(3, 5, 7, dtype=torch.uint8)).startswith("data:image/png;base64,")


class Skeleton(HTMLParser):
    """The tags of a page with their attributes."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_base_page_asks_for_nothing_and_suits_phones_and_dark_screens() -> None:
    content = html.render_page("base.html.j2")
    tags = Skeleton(content).tags
    assert ("html", {"lang": "en"}) in tags
    names = {attributes.get("name") for tag, attributes in tags if tag == "meta"}
    assert {"viewport", "color-scheme"} <= names
    assert not {"link", "script", "iframe"} & {tag for tag, _ in tags}
    assert "http" not in content
    assert "@import" not in content
    assert "url(" not in content
    assert "prefers-color-scheme: dark" in content
    assert "@media print" in content


@pytest.mark.parametrize(
    "template", ["report.html.j2", PROTOCOLS / "classification" / "page.html.j2"], ids=["ours", "anywhere"]
)
def test_a_page_with_a_value_missing_is_refused(template: str | Path) -> None:
    with pytest.raises(jinja2.UndefinedError):
        html.render_page(template)


def test_a_template_anywhere_may_extend_and_import_those_of_the_package(tmp_path: Path) -> None:
    (tmp_path / "mine.html.j2").write_text(
        '{% extends "base.html.j2" %}{% import "parts.html.j2" as parts %}'
        "{% block content %}{{ parts.banner([text]) }}{{ number | with_bounds }}{% endblock %}"
    )
    content = html.render_page(tmp_path / "mine.html.j2", text="a < b", number=Estimate(0.5, 0.25, 0.75))
    assert "<strong>a &lt; b</strong>" in content
    assert "0.500 [0.250,\N{NO-BREAK SPACE}0.750]" in content
    assert ("html", {"lang": "en"}) in Skeleton(content).tags


def test_a_template_formats_numbers_by_the_names_of_the_filters(tmp_path: Path) -> None:
    file = tmp_path / "page.html.j2"
    file.write_text(
        "{{ e.value | fixed(2) }};{{ e.value | significant }};{{ e | bounds(2) }};{{ e | with_bounds(2) }};{{ m | spread(2) }};"
        "{{ '5 %' | unbroken }}",
        encoding="utf-8",
    )
    estimate, mean = Estimate(0.1234, 0.1, 0.2), Estimate(0.5, sd=0.25, kind="sets")
    text = html.render_page(file, e=estimate, m=mean).replace("\N{NO-BREAK SPACE}", " ")
    assert text == "0.12;0.123;[0.10, 0.20];0.12 [0.10, 0.20];0.50 ± 0.25;5 %"
