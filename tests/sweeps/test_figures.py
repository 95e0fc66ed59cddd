"""A sweep's charts show every run where its values are, and cope with one value, one epoch, one configuration."""

from __future__ import annotations

import io
from typing import Any

import pytest
from matplotlib.figure import Figure

from medassay.core.estimate import Estimate
from medassay.reporting.charts import PALETTE
from medassay.runs.groups import Group
from medassay.sweeps.charts import choose_axes
from medassay.sweeps.figures import (
    Cell,
    Curve,
    draw_effect,
    draw_interaction,
    draw_learning_curves,
    drop_shared_folders,
)
from medassay.sweeps.parallel import Line, choose_shade, draw_parallel
from tests.helpers import assert_ticks_apart


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


SWEPT = [
    Line([lr, width, norm], score, score == 0.9)
    for score, (lr, width, norm) in zip(
        (0.9, 0.85, 0.8, 0.6, 0.55),
        [
            ("1e-3", "16", "batch"),
            ("1e-2", "16", "batch"),
            ("3e-4", "8", "instance"),
            ("1e-3", "8", "batch"),
            ("1e-2", "8", "none"),
        ],
        strict=True,
    )
]


@pytest.mark.parametrize("lower_is_better", [False, True])
def test_every_line_stays_on_its_axes(lower_is_better: bool) -> None:
    figure = draw_parallel(["lr", "width", "norm"], SWEPT, "val/auroc", lower_is_better)
    for found in figure.axes[0].get_lines():
        assert min(found.get_ydata()) >= 0
        assert max(found.get_ydata()) <= 1
    bands = [patch.get_bbox() for patch in figure.axes[0].patches]
    assert all(band.y0 < 0 and band.y1 > 1 for band in bands)


def test_values_stand_inside_bands_in_front_of_the_lines() -> None:
    figure = draw_parallel(["lr", "width", "norm"], SWEPT, "val/auroc")
    axes = figure.axes[0]
    figure.canvas.draw()
    in_front = max(found.get_zorder() for found in axes.get_lines())
    bands = [patch.get_window_extent() for patch in axes.patches]
    values = [text for text in axes.texts if text.get_ha() == "center"]
    assert len(bands) == 3
    assert {text.get_text() for text in values} == {"0.0003", "0.001", "0.01", "8", "16", "batch", "instance", "none"}
    for text in values:
        box = text.get_window_extent()
        assert any(band.x0 < box.x0 and box.x1 < band.x1 and band.y0 < box.y0 and box.y1 < band.y1 for band in bands)
    assert all(
        patch.get_zorder() > in_front and text.get_zorder() > patch.get_zorder()
        for patch in axes.patches
        for text in values
    )


def test_the_worst_line_is_readable_on_white_and_better_ones_are_darker() -> None:
    def contrast(height: float) -> float:  # WCAG 2.1: 3 to 1 for lines
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in choose_shade(height)[:3]]
        return 1.05 / (0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)

    found = [contrast(height / 10) for height in range(11)]
    assert found[0] >= 3
    assert found == sorted(found)


def test_three_settings_fit_a_phone_in_the_type_of_the_other_charts() -> None:
    figure = draw_parallel(["lr", "width", "norm"], SWEPT, "val/auroc")
    assert 96 * figure.get_size_inches()[0] <= 368
    axes = figure.axes[0]
    assert {text.get_fontsize() for text in [*axes.texts, *axes.get_xticklabels()]} == {8.0}


def test_names_of_settings_do_not_touch_however_long() -> None:
    names = ["optimizer.weight_decay", "net.normalisation_layer", "scheduler.warmup_epochs"]
    assert_ticks_apart(draw_parallel(names, SWEPT, "val/balanced_accuracy"), gap=2)


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_epochs_are_counted_in_whole_numbers(epochs: int) -> None:
    figure = draw_learning_curves([Curve([(e, 0.5) for e in range(1, epochs + 1)], False)], "val/auroc")
    figure.canvas.draw()
    low, high = figure.axes[0].get_xlim()
    assert [tick for tick in figure.axes[0].get_xticks() if low <= tick <= high] == [*range(1, epochs + 1)]


def test_curves_of_the_best_configuration_lie_above_the_others_in_colour() -> None:
    figure = draw_learning_curves([Curve([(1, 0.6), (2, 0.7)], True), Curve([(1, 0.5), (2, 0.6)], False)], "val/auroc")
    other, best = figure.axes[0].get_lines()
    assert (best.get_color(), list(best.get_ydata())) == (PALETTE[1], [0.6, 0.7])
    assert other.get_color() != PALETTE[1]


def test_a_run_of_one_epoch_is_a_point() -> None:
    figure = draw_learning_curves([Curve([(1, 0.6)], False)], "val/auroc")
    assert figure.axes[0].get_lines()[0].get_marker() == "o"
    assert drawn(figure)


def test_a_line_for_each_value_of_one_key_lies_along_the_other() -> None:
    cells = [
        Cell(along, name, Estimate(value, sd=0.01, n=3))
        for along, values in {"64": (0.6, 0.7), "1024": (0.8, 0.9), "256": (0.7, 0.75)}.items()
        for name, value in zip(("wrong", "fitting"), values, strict=True)
    ]
    figure = draw_interaction("subset", "augment", cells, "val/accuracy")
    assert ticks(figure) == ["64", "256", "1024"]
    lines = {bars.get_label(): list(bars[0].get_ydata()) for bars in figure.axes[0].containers}
    assert lines == {"fitting": [0.7, 0.75, 0.9], "wrong": [0.6, 0.7, 0.8]}


def test_lines_of_several_runs_are_named_by_what_their_paths_differ_in() -> None:
    runs = ["/home/someone/outputs/nets/blood", "/home/someone/outputs/nets/chest"]
    assert list(drop_shared_folders(runs).values()) == ["blood", "chest"]
    assert list(drop_shared_folders(["outputs/a/x", "/elsewhere/x", "none"]).values()) == [
        "outputs/a/x",
        "/elsewhere/x",
        "none",
    ]


def test_runs_of_two_versions_with_the_same_settings_make_no_table() -> None:
    groups = [group(a=a, b=b) for a in "12" for b in "xy"]
    assert choose_axes([*groups, group(a="1", b="x")], ["a", "b"]) is None


def group(**settings: str) -> Group:
    return Group(settings, None, [], [], {"val/auroc": Estimate(0.5)}, complete=True)


def test_numbers_lie_along_the_axis_and_words_make_the_lines() -> None:
    groups = [group(a=word, b=number) for word in ("x", "y", "z") for number in ("1", "2")]
    assert choose_axes(groups, ["a", "b"]) == ("b", "a")


@pytest.mark.parametrize(
    "pairs",
    [
        [("1", "x"), ("2", "y")],
        [("1", "x"), ("2", "x")],
        [("1", "x")],
        [(str(i), str(j)) for i in range(9) for j in range(9)],
    ],
    ids=["no full table", "one line", "one cell", "too many lines"],
)
def test_settings_that_make_no_table_get_no_lines(pairs: list[tuple[str, str]]) -> None:
    assert choose_axes([group(a=a, b=b) for a, b in pairs], ["a", "b"]) is None
