"""Images with lines of text below each."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from medassay.reporting import figures
from medassay.reporting.captions import add_captions, replace_undrawable


def test_every_caption_stands_below_its_image(tmp_path: Path) -> None:
    images = torch.zeros(5, 1, 28, 28, dtype=torch.uint8)
    captions = [(f"true: {i}", f"said: {i}") for i in range(5)]
    figure = add_captions(images, captions, columns=3)
    assert [text.get_text() for text in figure.texts] == [line for lines in captions for line in lines]
    assert len(figure.axes) == 5
    assert figure.axes[3].get_position().y1 < figure.axes[0].get_position().y0  # the second row
    figures.save_figure(figure, tmp_path / "x.png")


def test_names_that_the_font_cannot_draw_or_that_are_long_draw_without_a_warning(tmp_path: Path) -> None:
    names = ["肺炎/図.png", "a$b$_{c.png", "x" * 300 + "_end.png"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = add_captions(torch.zeros(3, 1, 28, 28, dtype=torch.uint8), [(name,) for name in names], columns=3)
        figures.save_figure(figure, tmp_path / "x.png")
    assert figure.texts[2].get_text().endswith("_end.png")
    assert all(len(text.get_text()) <= 32 for text in figure.texts)


def test_a_short_text_stays_as_it_is() -> None:
    assert replace_undrawable("Größe → 3.png", 32) == "Größe → 3.png"


def test_another_number_of_captions_is_refused() -> None:
    with pytest.raises(ValueError, match="caption for each"):
        add_captions(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), [("a",)], columns=2)
