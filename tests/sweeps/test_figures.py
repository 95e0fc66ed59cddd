"""A sweep's charts show every run where its values are, and cope with one value, one epoch, one configuration."""

from __future__ import annotations

import io
from typing import Any

import pytest
from matplotlib.figure import Figure

from medassay.reporting.charts import PALETTE
from medassay.sweeps.figures import Curve, Line, draw_effect, draw_learning_curves, draw_parallel


def drawn(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def line(figure: Figure, label: str) -> Any:
    return next(found for found in figure.axes[0].get_lines() if found.get_label() == label)


def ticks(figure: Figure) -> list[str]:
    return [label.get_text() for label in figure.axes[0].get_xticklabels()]


def test_numbers_stand_side_by_side_in_their_order() -> None:
    assert ticks(draw_effect("lr", [("1e-2", 0.8), ("3e-4", 0.9), ("1e-3", 0.7)], "val/auroc")) == [
        "0.0003",
        "0.001",
        "0.01",
    ]


def test_words_stand_side_by_side() -> None:
    assert ticks(draw_effect("optimizer", [("sgd", 0.8), ("adamw", 0.9), ("–", 0.7)], "val/auroc")) == [
        "adamw",
        "sgd",
        "–",
    ]


def test_two_spellings_of_a_number_share_a_place() -> None:
    assert ticks(draw_effect("lr", [("1e-3", 0.8), ("0.001", 0.9)], "val/auroc")) == ["0.001"]


def test_the_mean_of_runs_with_one_value_is_drawn_with_its_deviation() -> None:
    figure = draw_effect("width", [("8", 0.8), ("8", 0.9), ("16", 0.7)], "val/auroc")
    (bars,) = figure.axes[0].containers
    assert list(bars[0].get_ydata()) == [pytest.approx(0.85)]
    (segment,) = bars[2][0].get_segments()
    assert segment[:, 1].tolist() == [pytest.approx(0.85 - 0.0707107), pytest.approx(0.85 + 0.0707107)]


def test_values_that_no_two_runs_share_have_no_mean() -> None:
    assert not draw_effect("width", [("8", 0.8), ("16", 0.7)], "val/auroc").axes[0].containers


@pytest.mark.parametrize(("exponent", "scale"), [(4, "log"), (1, "linear")])
def test_many_numbers_lie_by_size_and_over_decades_on_a_logarithmic_axis(exponent: int, scale: str) -> None:
    runs = [(repr(10 ** (-exponent * i / 20)), 0.5) for i in range(20)]
    figure = draw_effect("lr", runs, "val/auroc", best=runs[3][0])
    assert figure.axes[0].get_xscale() == scale
    assert sorted(line(figure, "run").get_xdata()) == sorted(float(value) for value, _ in runs)
    assert line(figure, "best configuration").get_xdata()[0] == float(runs[3][0])


def test_names_that_mean_something_to_matplotlib_are_drawn_as_they_are() -> None:
    assert drawn(draw_effect("a$_{", [("b$_{$", 0.8), ("c_^", 0.9)], "val/$x"))


def test_a_line_of_parallel_coordinates_ends_at_its_metric() -> None:
    lines = [Line(["1e-3", "adam"], 0.9, True), Line(["1e-2", "sgd"], 0.7, False), Line(["1e-2", "adam"], 0.8, False)]
    figure = draw_parallel(["lr", "optimizer"], lines, "val/auroc")
    best = line(figure, "best configuration")
    assert best.get_ydata()[-1] == 1
    assert best.get_color() == PALETTE[1]
    assert ticks(figure) == ["lr", "optimizer", "val/auroc"]


def test_where_less_is_better_the_least_is_on_top() -> None:
    lines = [Line(["1", "a"], 0.1, True), Line(["2", "b"], 0.7, False)]
    assert (
        line(draw_parallel(["x", "y"], lines, "val/loss", lower_is_better=True), "best configuration").get_ydata()[-1]
        == 1
    )


def test_lines_through_the_same_values_do_not_hide_each_other() -> None:
    lines = [Line(["1", "a"], 0.1, False), Line(["1", "a"], 0.7, False)]
    first, second = (
        found.get_ydata() for found in draw_parallel(["x", "y"], lines, "val/auroc").axes[0].get_lines()[:2]
    )
    assert all(one != other for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize(
    "lines", [[Line(["1", "a"], 0.5, True)], [Line([str(i), f"{i}e{i}"], i, i == 3) for i in range(99)]]
)
def test_one_configuration_and_a_hundred_can_be_drawn(lines: list[Line]) -> None:
    assert drawn(draw_parallel(["x", "y"], lines, "val/auroc"))


def test_curves_of_the_best_configuration_lie_above_the_others_in_colour() -> None:
    figure = draw_learning_curves([Curve([(1, 0.6), (2, 0.7)], True), Curve([(1, 0.5), (2, 0.6)], False)], "val/auroc")
    other, best = figure.axes[0].get_lines()
    assert (best.get_color(), list(best.get_ydata())) == (PALETTE[1], [0.6, 0.7])
    assert other.get_color() != PALETTE[1]


def test_a_run_of_one_epoch_is_a_point() -> None:
    figure = draw_learning_curves([Curve([(1, 0.6)], False)], "val/auroc")
    assert figure.axes[0].get_lines()[0].get_marker() == "o"
    assert drawn(figure)
