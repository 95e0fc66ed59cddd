"""Names outside Latin: drawn in a font that has their characters, else one line and no warning of matplotlib's."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.text import Text
from PIL import Image

from medassay.reporting import figures, fonts, html
from medassay.reporting.captions import replace_undrawable
from medassay.reporting.classification import draw_confusion_matrix

NAMES = ["日本", "中国"]


@pytest.fixture(autouse=True)
def only_own_fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine with matplotlib's fonts alone, on which nothing has been said yet."""
    own = [entry for entry in font_manager.fontManager.ttflist if "DejaVu" in entry.name or "Last" in entry.name]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    monkeypatch.setattr(font_manager, "findSystemFonts", list)
    monkeypatch.setattr(fonts, "_said", False)
    fonts._find_fallbacks.cache_clear()
    yield
    fonts._find_fallbacks.cache_clear()


def make_font(path: Path, characters: str) -> Path:
    """A font whose every character is the same black square."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for point in ((0, 900), (900, 900), (900, 0)):
        pen.lineTo(point)
    pen.closePath()
    names = [".notdef", *(f"g{number}" for number in range(len(characters)))]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap(dict(zip(map(ord, characters), names[1:], strict=True)))
    builder.setupGlyf(dict.fromkeys(names, pen.glyph()))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return path


def test_names_without_a_font_are_said_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    matrix = draw_confusion_matrix(torch.eye(2, dtype=torch.int64), NAMES)
    figures.save_figure(matrix, tmp_path / "a.png")  # a warning of matplotlib's would be an error here
    html.draw_svg(matrix, "a", "a")
    figures.save_figure(
        figures.draw_image_grid(torch.zeros(2, 1, 4, 4), columns=1, row_labels=NAMES), tmp_path / "b.png"
    )
    (line,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "no installed font has" in line
    assert "Noto Sans CJK" in line


def test_a_font_installed_since_draws_them_and_nothing_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    squares = make_font(tmp_path / "Squares.ttf", "日本")
    other = make_font(tmp_path / "Others.ttf", "国中")
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(squares), str(other), str(tmp_path / "none.ttf")])
    (tmp_path / "none.ttf").write_bytes(b"no font")
    grid = figures.draw_image_grid(torch.ones(2, 1, 8, 8), columns=1, row_labels=NAMES)
    figures.save_figure(grid, tmp_path / "a.png", dpi=100)
    families = {t.get_text(): t.get_fontfamily() for t in grid.findobj(Text) if isinstance(t, Text) and t.get_text()}
    assert families["日本"][1:] == ["Squares"]
    assert families["中国"][1:] == ["Others"]
    assert not caplog.records
    with Image.open(tmp_path / "a.png") as picture:
        pixels = np.asarray(picture.convert("L"))
    assert pixels.shape[1] > 2 * 8  # room for the name was made
    assert (pixels < 60).sum() > 2 * 2 * 50  # four black squares of about 8 points


def test_latin_names_look_for_no_font(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: pytest.fail("looked for fonts"))
    assert fonts.choose_families(["normal", "Größe → µm ± α"]) == ["sans-serif"]


def test_captions_keep_the_characters_that_a_font_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert replace_undrawable("日本.png", 32) == "??.png"
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(make_font(tmp_path / "Squares.ttf", "日"))])
    fonts._find_fallbacks.cache_clear()
    assert replace_undrawable("日本.png", 32) == "日?.png"
