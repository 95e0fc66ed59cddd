"""Figures: what is drawn is what was given, and a file is written whole or not at all."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from medassay.core.errors import OutputError
from medassay.reporting import classification, figures
from tests.helpers import EIGHT, TWO, predictions


def drawn(figure: Figure, dpi: float = 100) -> np.ndarray:
    """The figure's pixels, ``(H, W, 3) uint8``."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return np.asarray(Image.open(buffer).convert("RGB"))


def example(kind: str, names: list[str]) -> Figure:
    k = len(names)
    if kind == "draw_confusion_matrix":
        counts = torch.randint(50, (k, k), generator=torch.Generator().manual_seed(0))
        return classification.draw_confusion_matrix(counts, names)
    if kind == "draw_image_grid":
        return figures.draw_image_grid(torch.rand(3 * k, 3, 28, 28), columns=3, row_labels=names)
    return getattr(classification, kind)(*predictions(k), names)


@pytest.mark.parametrize("names", [TWO, EIGHT], ids=["two", "eight"])
@pytest.mark.parametrize("kind", ["draw_confusion_matrix", "draw_roc_curves", "draw_pr_curves", "draw_image_grid"])
def test_each_figure_becomes_a_png_that_fits_a_page_and_cuts_nothing_off(
    kind: str, names: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "new" / "figure.png"
    figures.save_figure(example(kind, names), path, dpi=100)
    with Image.open(path) as file:
        assert file.format == "PNG"
        assert "Creation Time" not in file.info
        pixels = np.asarray(file.convert("RGB"))
    assert 100 < min(pixels.shape[:2]) <= max(pixels.shape[:2]) < 1000
    assert len(np.unique(pixels[..., 0])) > 10
    frame = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert (frame == 255).all()
    assert os.listdir(path.parent) == ["figure.png"]


def test_the_same_figure_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        figures.save_figure(example("draw_roc_curves", TWO), tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("padding", [0, 2])
def test_a_grid_array_holds_each_image_at_its_place(channels: int, padding: int) -> None:
    images = torch.randint(256, (7, channels, 5, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    grid = figures.tile_images(images, columns=3, padding=padding)
    assert grid.shape == (3, 3 * 5 + 4 * padding, 3 * 6 + 4 * padding)
    covered = torch.zeros(grid.shape[1:], dtype=torch.bool)
    for i, image in enumerate(images):
        y, x = padding + i // 3 * (5 + padding), padding + i % 3 * (6 + padding)
        assert torch.equal(grid[:, y : y + 5, x : x + 6], image.expand(3, -1, -1))
        covered[y : y + 5, x : x + 6] = True
    assert (grid[:, ~covered] == 255).all()


def test_float_images_are_rounded_to_the_nearest_grey_level() -> None:
    images = torch.tensor([0.0, 1.0, 127.4 / 255, 127.6 / 255, -0.5, 1.5]).view(1, 1, 1, 6)
    for level in figures.tile_images(images, columns=1, padding=0):
        assert level.flatten().tolist() == [0, 255, 127, 128, 0, 255]


def test_a_single_image_has_a_margin_too() -> None:
    grid = figures.tile_images(torch.zeros(1, 1, 4, 5), columns=1, padding=2)
    assert grid.shape == (3, 8, 9)
    assert grid.sum() == 255 * 3 * (8 * 9 - 4 * 5)


@pytest.mark.parametrize("shape", [(0, 1, 4, 4), (2, 2, 4, 4), (1, 4, 4)])
def test_what_is_not_a_set_of_images_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="a grid needs"):
        figures.draw_image_grid(torch.zeros(shape), columns=2)


@pytest.mark.parametrize("labels", [None, EIGHT[:2]])
@pytest.mark.parametrize(("scale", "dpi"), [(1, 100), (2, 100), (2, 200), (3, 200)])
@pytest.mark.parametrize("columns", [3, 7])
def test_pixels_of_an_image_grid_are_equal_blocks_of_the_exact_colour(
    columns: int, scale: int, dpi: int, labels: list[str] | None
) -> None:
    rng = torch.Generator().manual_seed(columns)
    images = torch.randint(200, (2 * columns, 3, 28, 28), dtype=torch.uint8, generator=rng)
    figure = figures.draw_image_grid(images, columns=columns, scale=scale, row_labels=labels, title="Samples")
    factor = scale * dpi // 100
    blocks = figures.tile_images(images, columns=columns, padding=1)[:, 1:-1, 1:-1].permute(1, 2, 0).numpy()
    expected = blocks.repeat(factor, 0).repeat(factor, 1)
    pixels = drawn(figure, dpi)
    bottom = pixels.shape[0] - (8 * dpi // 100) - factor
    found = pixels[bottom - expected.shape[0] : bottom]
    left = int(np.flatnonzero((found[-1] == expected[-1, 0]).all(-1))[0])
    assert np.array_equal(found[:, left : left + expected.shape[1]], expected)


def test_labels_that_do_not_fit_the_grid_are_refused() -> None:
    with pytest.raises(ValueError, match="2 labels are needed"):
        figures.draw_image_grid(torch.zeros(6, 1, 8, 8), columns=3, row_labels=EIGHT)


def test_long_labels_and_titles_are_not_cut_off() -> None:
    images = torch.full((4, 1, 8, 8), 0.5)
    figure = figures.draw_image_grid(images, columns=2, column_labels=EIGHT[2:4], row_labels=EIGHT[3:5], title="W" * 40)
    pixels = drawn(figure, 200)
    assert all((edge == 255).all() for edge in (pixels[:, :4], pixels[:, -4:], pixels[:4], pixels[-4:]))


def test_a_failed_write_is_one_line_and_leaves_nothing_behind(tmp_path: Path) -> None:
    target = tmp_path / "figure.png"
    target.mkdir()
    with pytest.raises(OutputError) as caught:
        figures.save_figure(example("draw_roc_curves", TWO), target)
    assert str(target) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["figure.png"]


def test_a_full_disk_keeps_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "figure.png"
    target.write_bytes(b"earlier")

    def write_half(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_half)
    with pytest.raises(OutputError, match="no space left"):
        figures.save_figure(example("draw_roc_curves", TWO), target)
    assert target.read_bytes() == b"earlier"
    assert os.listdir(tmp_path) == ["figure.png"]


def test_a_folder_that_cannot_be_made_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="another place"):
        figures.save_figure(example("draw_roc_curves", TWO), tmp_path / "file" / "figure.png")
