"""Fonts for names in any script: installed fonts that have what matplotlib's own lacks, else one line that says so."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text

logger = logging.getLogger(__name__)

OWN = "DejaVu Sans"  # matplotlib's, which comes with it
_said = False
UNFIT = ("Last Resort", "LastResort", "Emoji")  # boxes for every character; pictures that matplotlib cannot draw


def choose_families(texts: Iterable[str]) -> list[str]:
    """Families of fonts to write ``texts`` in, to be taken in turn for each character; matplotlib's default comes first.

    That there are characters which no installed font has is said once.
    """
    families, undrawable = _find_fallbacks(_list_lacking("".join(texts)))
    if undrawable:
        _say_once("".join(sorted(undrawable)[:10]))
    return ["sans-serif", *families]


def find_undrawable(text: str) -> frozenset[str]:
    """The characters of ``text`` that no installed font has."""
    return _find_fallbacks(_list_lacking(text))[1]


@contextmanager
def prepared_fonts(figure: Figure | None = None) -> Iterator[None]:
    """Draws inside without matplotlib's warning for each character that it has no picture of.

    Args:
        figure: Its texts get fonts that have their characters first.
    """
    for text in [] if figure is None else figure.findobj(Text):
        assert isinstance(text, Text)
        if len(families := choose_families([text.get_text()])) > 1:
            text.set_fontfamily(families)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def _list_lacking(text: str) -> frozenset[str]:
    """The characters of ``text`` that matplotlib's own font has not."""
    if text.isascii():
        return frozenset()
    return frozenset(c for c in text if not c.isspace()) - _read_characters(font_manager.findfont(OWN))


def _say_once(examples: str) -> None:
    global _said
    if _said:
        return
    _said = True
    logger.warning(
        "no installed font has characters such as %s: pictures show a box or a question mark instead; install a font that has "
        "them, e.g. Noto Sans, or Noto Sans CJK for Chinese, Japanese and Korean",
        examples,
    )


@cache
def _find_fallbacks(lacking: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """A few installed families that have as many of ``lacking`` as there are fonts for, and the characters left."""
    if not lacking:
        return (), lacking
    listed = {Path(entry.fname) for entry in font_manager.fontManager.ttflist}
    for path in font_manager.findSystemFonts():
        if Path(path) not in listed:  # installed since matplotlib made its list
            try:
                font_manager.fontManager.addfont(path)
            except (OSError, RuntimeError):  # no font after all
                continue
    having: dict[str, frozenset[str]] = {}
    for entry in font_manager.fontManager.ttflist:
        if entry.style == "normal" and not any(name in entry.name for name in UNFIT):
            having[entry.name] = having.get(entry.name, frozenset()) | (_read_characters(entry.fname) & lacking)
    families: list[str] = []
    while lacking and (name := max(sorted(having), key=lambda name: len(having[name] & lacking), default=None)):
        if not having[name] & lacking:
            break
        families.append(name)
        lacking -= having[name]
    return tuple(families), lacking


@cache
def _read_characters(path: str) -> frozenset[str]:
    """The characters of a font whose outlines matplotlib can draw; none of a file that cannot be read."""
    try:
        font = font_manager.get_font(path)
    except (OSError, RuntimeError):
        return frozenset()
    return frozenset(map(chr, font.get_charmap())) if font.scalable else frozenset()
