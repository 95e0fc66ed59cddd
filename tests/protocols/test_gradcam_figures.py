"""Heat maps over images, the steps of one, and charts of scores."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor

from medassay.core.estimate import Estimate
from medassay.explain.activation_maps import compute_grad_cam_steps
from medassay.metrics.chance import ChanceCheck
from medassay.nets.block_cnn import BlockCNN
from medassay.protocols.gradcam import figures
from medassay.protocols.gradcam.results import Comparison, ExplainedImage, MethodScores
from medassay.reporting import heat_maps


def pixels(figure: Figure) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


@pytest.fixture
def images() -> Tensor:
    return torch.randint(256, (2, 1, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture
def maps() -> Tensor:
    return torch.rand(2, 28, 28, generator=torch.Generator().manual_seed(1))


def test_an_overlay_without_opacity_is_the_image(images: Tensor, maps: Tensor) -> None:
    assert torch.equal(heat_maps.overlay(images, maps, "jet", 0), images.expand(-1, 3, -1, -1))


def test_a_full_overlay_has_the_colours_of_the_map(images: Tensor, maps: Tensor) -> None:
    found = heat_maps.overlay(images, maps, "viridis", 1)
    expected = matplotlib.colormaps["viridis"](maps.numpy(), bytes=True)[..., :3]
    difference = found.permute(0, 2, 3, 1).numpy().astype(int) - expected
    assert abs(difference).max() <= 1


def test_an_overlay_lies_between_image_and_colours(maps: Tensor) -> None:
    images = torch.full((2, 3, 28, 28), 100, dtype=torch.uint8)
    colours = heat_maps.colour_maps(maps, "jet").double()
    found = heat_maps.overlay(images, maps, "jet", 0.25)
    torch.testing.assert_close(found.double(), 75 + 0.25 * colours, atol=0.51, rtol=0)


EXPLAINED = [
    ExplainedImage(index=7, label=0, predicted=0, probabilities=[0.8, 0.2]),
    ExplainedImage(index=19, label=0, predicted=1, probabilities=[0.1, 0.9]),
]


def sheet(images: Tensor, maps: Tensor, **changes: Any) -> Figure:
    both = torch.stack([maps, torch.zeros_like(maps)], 1)
    return figures.draw_sheet(images, both, EXPLAINED, ["normal", "pneu_$x$"], title="Grad-CAM\nten images", **changes)


def test_a_sheet_says_what_each_image_is_and_what_the_classifier_says(images: Tensor, maps: Tensor) -> None:
    said = texts(sheet(images, maps))
    assert "no. 7\ntrue: normal\npredicted: normal\n" in said
    assert "no. 19\ntrue: normal\npredicted: pneu_$x$ (wrong)" in said
    assert "p = 0.80" in said
    assert "p = 0.90, empty" in said


def test_a_sheet_holds_image_and_overlay_pixel_by_pixel(images: Tensor, maps: Tensor) -> None:
    drawn = pixels(sheet(images, maps))
    enlarged = images[0, 0].repeat_interleave(3, 0).repeat_interleave(3, 1).numpy()
    where = [
        (y, x)
        for y in range(60, 80)
        for x in range(drawn.shape[1] - 84)
        if np.array_equal(drawn[y : y + 84, x : x + 84, 0], enlarged)
    ]
    assert len(where) == 1
    (y, x) = where[0]
    over = heat_maps.overlay(images[:1], maps[:1])[0].permute(1, 2, 0).numpy()
    tile = drawn[y : y + 84 : 3]
    assert any(np.array_equal(tile[:, x + shift : x + shift + 84 : 3], over) for shift in range(85, 160))


def test_nothing_on_a_sheet_is_cut_off(images: Tensor, maps: Tensor) -> None:
    drawn = pixels(sheet(images, maps))
    edges = np.concatenate(
        [drawn[:3].reshape(-1), drawn[-3:].reshape(-1), drawn[:, :3].reshape(-1), drawn[:, -3:].reshape(-1)]
    )
    assert (edges == 255).all()


@pytest.mark.parametrize("width", [8, 16])
def test_the_steps_show_each_map_with_its_weight_or_the_heaviest_ones(images: Tensor, width: int) -> None:
    torch.manual_seed(0)
    steps = compute_grad_cam_steps(BlockCNN(1, 2, width=width).eval(), images[0].float() / 255, 1)
    figure = figures.draw_steps(images[0], steps, "pneumonia")
    said = texts(figure)
    assert said.count("α =") == 32
    assert ("the 32," if width == 8 else "32 of 64,") in said
    assert "Laid over the image" in said
    pixels(figure)


def row(key: str, low: float) -> MethodScores:
    sanity = Estimate(low + 0.1, low, low + 0.2, n=9)
    return MethodScores(key, key.upper(), {"sanity": sanity}, [], gain={}, trusted=None, reasons=[], unlike=False)


def test_there_is_a_chart_for_each_score_that_was_measured_and_it_names_the_methods() -> None:
    chance = ChanceCheck(Estimate(0.5), Estimate(0.5), 0.5)
    drawn = figures.draw_charts(
        Comparison(chance, 9, 0, 10, 28, 1, rows=[row("one", -0.3), row("two", 0.6)], baselines=[])
    )
    assert list(drawn) == ["score_sanity"]
    figure, description = drawn["score_sanity"]
    assert description == "Sanity check: ONE −0.200; TWO 0.700."
    assert "passes below this" in texts(figure)
    low, high = figure.axes[0].get_xlim()
    assert low < -0.3
    assert high > 0.8
