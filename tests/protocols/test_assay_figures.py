"""The assay's charts show the numbers they were given, and cope with numbers that there are not."""

from __future__ import annotations

import io
import math
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from medassay.core.estimate import Estimate
from medassay.protocols.assay import figures
from medassay.protocols.assay.results import ArmScores, Curves, Metrics, PerClass, Performance, Ratio, Row
from medassay.reporting.figures import save_figure

KEYS = ["generator", "floor", "copies", "noisy_copies", "without_class", "floor_same_m", "shuffled_labels"]


def row(key: str, place: int, **changes: Estimate) -> Row:
    shifts = {"recall": 0.1, "precision": 0.2, "coverage": 0.15, "density": 0.3}
    sd = 0.05 if key == "generator" else None
    known = {name: Estimate(0.1 * place + shift, sd=sd, kind="sets") for name, shift in shifts.items()}
    metrics = Metrics(**{field.name: Estimate(math.nan, kind="sets") for field in fields(Metrics)} | known | changes)
    curves = Curves([i / 100 for i in range(101)], [i / 200 for i in range(101)])
    share = Estimate(0.5, kind="sets")
    return Row(key, key, "control", 40, 1, {"classifier": metrics}, share, share, PerClass([], [], [], []), curves)


def arms(half: float | None, *names: str) -> Performance:
    sizes = {"TRTR": 100, "TSTR": 100, "TSTR 2x": 200, "TSTR 5x": 500, "TR+STR": 200, "TRTS": 100}
    low, high = (None, None) if half is None else (0.5 - half, 0.5 + half)
    reached = Estimate(0.5, low, high, kind="seeds")
    found = {name: ArmScores(reached, reached, reached, [0.5, 0.5], sizes[name]) for name in names}
    return Performance(300, [0, 1, 2], 100, 50, found, Ratio(reached, reached))


def drawn(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_each_class_has_its_two_shares_on_its_line() -> None:
    figure = figures.draw_per_class(["a", "b"], [0.1, 0.2], [0.8, 0.9], ("generator", "floor"), "coverage")
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    assert list(lines["generator"].get_xdata()) == [0.1, 0.2]
    assert list(lines["floor"].get_xdata()) == [0.8, 0.9]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a", "b"]


@pytest.mark.parametrize("gone", [None, math.nan])
def test_a_class_without_a_number_is_drawn_without_its_point(gone: float | None) -> None:
    assert drawn(figures.draw_per_class(["a", "b$_{$"], [gone, 0.2], [0.8, gone], ("generator", "floor"), "coverage"))


def test_every_row_is_a_point_of_the_plane_with_its_name() -> None:
    rows = [row(key, place) for place, key in enumerate(KEYS)]
    figure = figures.draw_plane(rows, "recall", "precision")
    points = [(float(c[0].get_xdata()[0]), float(c[0].get_ydata()[0])) for c in figure.axes[0].containers]
    assert points == [pytest.approx((0.1 * i + 0.1, 0.1 * i + 0.2)) for i in range(len(KEYS))]
    assert legend(figure) == [figures.LOOKS[key].name for key in KEYS]


def test_only_the_generator_has_bars_in_the_plane() -> None:
    figure = figures.draw_plane([row("generator", 0), row("floor", 1)], "coverage", "density")
    assert [c.has_yerr for c in figure.axes[0].containers] == [True, False]


def test_a_density_above_one_lies_inside_the_plane() -> None:
    rows = [row("generator", 0, density=Estimate(2.5, sd=0.05, kind="sets")), row("floor", 1)]
    assert figures.draw_plane(rows, "coverage", "density").axes[0].get_ylim()[1] > 2.5


def test_a_row_without_numbers_does_not_stop_the_plane() -> None:
    rows = [row("generator", 0), row("floor", 1, recall=Estimate(math.nan, sd=math.nan, kind="sets"))]
    assert drawn(figures.draw_plane(rows, "recall", "precision"))


def test_a_curve_runs_over_the_whole_grid_beside_the_diagonal() -> None:
    figure = figures.draw_curve([row("generator", 0), row("floor", 1)], "beta")
    diagonal, mine, _ = figure.axes[0].get_lines()
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata()) == [0, 1]
    assert (mine.get_xdata()[0], mine.get_xdata()[-1], mine.get_ydata()[-1]) == (0.0, 1.0, 0.5)


def test_the_learning_curve_joins_the_sizes_of_tstr_and_marks_both() -> None:
    figure = figures.draw_learning_curve(arms(0.1, "TRTR", "TSTR", "TSTR 2x", "TSTR 5x", "TR+STR", "TRTS"), 0.125)
    tstr, both = figure.axes[0].containers
    assert list(tstr[0].get_xdata()) == [100, 200, 500]
    assert list(both[0].get_xdata()) == [200]
    assert "TRTS" not in " ".join(legend(figure))


def test_intervals_are_cut_at_0_and_1() -> None:
    figure = figures.draw_learning_curve(arms(0.9, "TRTR", "TSTR"), 0.5)
    (segment,) = figure.axes[0].containers[0][2][0].get_segments()
    assert segment[:, 1].tolist() == [0, 1]


def test_a_quick_assay_has_a_learning_curve_without_bars() -> None:
    figure = figures.draw_learning_curve(arms(None, "TRTR", "TSTR"), 0.5)
    assert not figure.axes[0].containers[0].has_yerr
    assert drawn(figure)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("n", [1, 5])
def test_examples_and_gallery_are_drawn_for_any_number_of_images(channels: int, n: int, tmp_path: Path) -> None:
    images = torch.randint(256, (2, n, channels, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    save_figure(figures.draw_examples(images, images, ["a", "b"]), tmp_path / "examples.png")
    save_figure(figures.draw_gallery(images[0], images[1], columns=3), tmp_path / "gallery.png")
    assert len(list(tmp_path.iterdir())) == 2
