"""Pictures of a classifier's predictions, and its scores in a line: what is drawn and said is what was measured."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from medassay.core.estimate import Estimate
from medassay.metrics.scores import ClassificationScores, score_classification
from medassay.reporting import classification, figures
from medassay.reporting.charts import make_small_axes
from medassay.reporting.html import draw_svg
from tests.helpers import EIGHT, TWO, predictions


def draw(figure: Figure) -> None:
    """Draws it, which raises where a number or a layout is impossible."""
    figure.savefig(io.BytesIO(), format="png", dpi=100)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def legend_labels(figure: Figure) -> list[str]:
    return figure.axes[0].get_legend_handles_labels()[1]


def test_a_confusion_matrix_shows_counts_and_shares_of_the_row() -> None:
    figure = classification.draw_confusion_matrix([[3, 1], [0, 8]], TWO)
    assert texts(figure) == ["3\n75.0%", "1\n25.0%", "0", "8\n100.0%"]


def test_a_confusion_matrix_may_have_a_class_without_images() -> None:
    figure = classification.draw_confusion_matrix([[3, 1], [0, 0]], TWO)
    assert texts(figure)[2:] == ["0", "0"]
    draw(figure)


def test_a_confusion_matrix_that_does_not_fit_its_names_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(8, 8\)"):
        classification.draw_confusion_matrix([[3, 1], [0, 0]], EIGHT)


def test_two_classes_have_one_curve_and_eight_have_eight() -> None:
    two, eight = (
        classification.draw_pr_curves(*predictions(2), TWO),
        classification.draw_roc_curves(*predictions(8), EIGHT),
    )
    assert [label.split()[0] for label in legend_labels(two)] == ["pneumonia"]
    assert [label.rsplit("  ")[0] for label in legend_labels(eight)] == ["chance", *EIGHT]


def test_the_legend_gives_the_area_under_the_drawn_curve() -> None:
    figure = classification.draw_roc_curves(*predictions(2), TWO)
    x, y = (np.asarray(data) for data in figure.axes[0].get_lines()[1].get_data())
    assert legend_labels(figure)[1] == f"pneumonia  {np.trapezoid(y, x):.3f}"


def test_the_area_under_the_drawn_precision_steps_is_the_average_precision() -> None:
    figure = classification.draw_pr_curves(*predictions(2), TWO)
    recall, precision = (np.asarray(data) for data in figure.axes[0].get_lines()[0].get_data())
    assert f"  {np.sum(np.diff(recall) * precision[1:]):.3f} " in legend_labels(figure)[0]


@pytest.mark.parametrize("kind", ["draw_roc_curves", "draw_pr_curves"])
def test_a_class_without_images_is_named_without_an_area(kind: str) -> None:
    probabilities, labels = predictions(8)
    kept = labels != 3
    figure = getattr(classification, kind)(probabilities[kept], labels[kept], EIGHT)
    assert any(label.startswith("immature granulocyte  –") for label in legend_labels(figure))
    draw(figure)


def test_curves_that_crowd_in_a_corner_are_enlarged() -> None:
    assert classification.draw_roc_curves(*predictions(8, strength=1.0), EIGHT).axes[0].child_axes == []
    assert len(classification.draw_roc_curves(*predictions(8, strength=6.0), EIGHT).axes[0].child_axes) == 1


def test_more_classes_than_colours_are_told_apart_by_their_line() -> None:
    names = [f"organ {i}" for i in range(11)]
    lines = classification.draw_roc_curves(*predictions(11), names).axes[0].get_lines()[1:]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 11


# --- all of one split ------------------------------------------------------------------------------------------------


def test_the_pictures_of_a_split_are_those_of_its_predictions() -> None:
    probabilities, labels = predictions(8)
    scores = score_classification(probabilities, labels)
    drawn = classification.draw_predictions(probabilities, labels, scores, EIGHT)
    assert list(drawn) == ["confusion_matrix", "roc", "precision_recall"]
    counts = [int(text.split("\n")[0]) for text in texts(drawn["confusion_matrix"])]
    assert counts == [count for row in scores.confusion for count in row]
    assert legend_labels(drawn["roc"]) == legend_labels(classification.draw_roc_curves(probabilities, labels, EIGHT))
    expected = classification.draw_pr_curves(probabilities, labels, EIGHT)
    assert legend_labels(drawn["precision_recall"]) == legend_labels(expected)


def test_a_cut_short_split_without_images_of_a_class_is_drawn_too(tmp_path: Path) -> None:
    probabilities, labels = predictions(3, n=30)
    kept = labels < 2
    scores = score_classification(probabilities[kept], labels[kept])
    drawn = classification.draw_predictions(probabilities[kept], labels[kept], scores, ["a", "b", "c"])
    for name, figure in drawn.items():
        figures.save_figure(figure, tmp_path / f"{name}.png")
    assert len(list(tmp_path.glob("*.png"))) == 3


# --- in a line -------------------------------------------------------------------------------------------------------


def test_the_headline_names_numbers_intervals_and_images() -> None:
    names = ("accuracy", "balanced_accuracy", "auroc", "f1")
    estimates = {name: Estimate(0.8 + 0.01 * i, 0.5, 0.9) for i, name in enumerate(names)}
    line = classification.summarise_scores(ClassificationScores(32, estimates, {}, []))
    assert line == (
        "accuracy 0.800 [0.500, 0.900], balanced accuracy 0.810 [0.500, 0.900], auroc 0.820 [0.500, 0.900], "
        "f1 0.830 [0.500, 0.900] (n = 32, 95 % bootstrap intervals)"
    )


NAMES = ["a$_$b", "x$1$", "_hidden", "50 % <b>"]


def test_names_are_drawn_as_they_are_written_whatever_they_hold(tmp_path: Path) -> None:
    given = torch.rand(40, 4, generator=torch.Generator().manual_seed(0)).softmax(1), torch.arange(40) % 4, NAMES
    curves = classification.draw_roc_curves(*given), classification.draw_pr_curves(*given)
    confusion = classification.draw_confusion_matrix(torch.ones(4, 4, dtype=torch.int64), NAMES)
    labels: dict[str, Any] = {"row_labels": NAMES[:2], "column_labels": NAMES[2:], "title": NAMES[0]}
    grid = figures.draw_image_grid(torch.rand(4, 1, 8, 8), columns=2, **labels)
    for figure in (*curves, confusion, grid):
        figures.save_figure(figure, tmp_path / "a.png")  # as mathematics, some of them could not be set
        draw_svg(figure, "a", "names")
    for figure, others in zip(curves, (1, 0), strict=True):  # chance has a line of its own
        texts = [text.get_text().strip() for text in figure.legends[0].get_texts()]
        assert len(texts) == 4 + others
        assert all(any(text.startswith(name) for text in texts) for name in NAMES)


def test_powers_of_ten_at_ticks_stay_mathematics(tmp_path: Path) -> None:
    figure, axes = make_small_axes(3, 3)
    axes.set(xscale="log", xlim=(1e-4, 1e2))
    figures.save_figure(figure, tmp_path / "a.png")
    assert all(label.get_parse_math() for label in axes.get_xticklabels())
