"""A classifier's predictions as pictures: confusion matrix, ROC and precision-recall curves; and its scores in a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from torch import Tensor
from torch.nn import functional as F

from medassay.core.estimate import Estimate
from medassay.metrics import classification
from medassay.metrics.chance import CHANCE_AUROC, ChanceCheck
from medassay.metrics.scores import ClassificationScores
from medassay.reporting.charts import DPI, GREY, PALETTE, STYLE, add_legend_below, make_small_axes, name_line
from medassay.reporting.figures import measure_text_width
from medassay.reporting.numbers import format_fixed, format_with_bounds

_STYLES = ("-", "--", "-.")  # one for each round through the palette


def draw_predictions(
    probabilities: Tensor, labels: Tensor, scores: ClassificationScores, class_names: Sequence[str]
) -> dict[str, Figure]:
    """Confusion matrix, ROC and precision-recall curves by name; arguments as of those functions."""
    return {
        "confusion_matrix": draw_confusion_matrix(scores.confusion, class_names),
        "roc": draw_roc_curves(probabilities, labels, class_names),
        "precision_recall": draw_pr_curves(probabilities, labels, class_names),
    }


def format_scores(estimates: Mapping[str, Estimate], names: Sequence[str]) -> str:
    """``name value [low, high], …`` in one line."""
    shown = ((name, estimates[name]) for name in names)
    return ", ".join(f"{name.replace('_', ' ')} {e.value:.3f} [{e.low:.3f}, {e.high:.3f}]" for name, e in shown)


def describe_chance(check: ChanceCheck) -> str:
    """A classifier's numbers beside those of guessing, in words."""
    chance = {"balanced_accuracy": check.chance, "auroc": CHANCE_AUROC}
    named = {"balanced_accuracy": "balanced accuracy", "auroc": "AUROC"}
    parts = [f"{named[key]} {format_with_bounds(getattr(check, key))}, chance {chance[key]:.3f}" for key in named]
    return "; ".join(parts if check.enough else ["too few images of a class to tell", *parts])


def summarise_scores(scores: ClassificationScores) -> str:
    """The headline scores in one line."""
    line = format_scores(scores.estimates, ("accuracy", "balanced_accuracy", "auroc", "f1"))
    present, classes = sum(any(row) for row in scores.confusion), len(scores.confusion)
    left_out = "" if present == classes else f"; means are over the {present} of {classes} classes that have images"
    return f"{line} (n = {scores.n}, 95 % bootstrap intervals{left_out})"


def draw_confusion_matrix(confusion: Tensor | Sequence[Sequence[int]], class_names: Sequence[str]) -> Figure:
    """Counts and, as shade and text, each row's percentages (so the diagonal shows the recall).

    Args:
        confusion: Confusion matrix, ``(K, K)`` counts, rows are true classes.
        class_names: K names.

    Raises:
        ValueError: if the matrix does not fit the names.
    """
    counts = torch.as_tensor(confusion)
    k = len(class_names)
    if counts.shape != (k, k):
        raise ValueError(f"a confusion matrix of {k} classes is ({k}, {k}), not {tuple(counts.shape)}")
    share = counts / counts.sum(1, keepdim=True)
    large = k <= 3
    cell = 1.1 if large else 0.62  # inches
    names_width = max(map(measure_text_width, class_names)) / DPI
    figure = Figure(figsize=(k * cell + 1.25 * names_width + 1.8, k * cell + 1.4), dpi=DPI, layout="compressed")
    axes = figure.add_subplot()
    image = axes.imshow(share.nan_to_num(0).numpy(), cmap="Blues", vmin=0, vmax=1)
    for row in range(k):
        for column in range(k):
            text, color = _format_cell(int(counts[row, column]), float(share[row, column]))
            axes.text(column, row, text, ha="center", va="center", color=color, fontsize=11 if large else 8)
    axes.set_xticks(range(k), class_names, parse_math=False)
    axes.set_yticks(range(k), class_names, parse_math=False)
    axes.set(xlabel="Predicted class", ylabel="True class")
    axes.tick_params(length=0, pad=6)
    axes.spines[:].set_visible(False)
    if names_width > 0.72 * cell:
        for label in axes.get_xticklabels():
            label.set(rotation=40, ha="right", rotation_mode="anchor")
        figure.set_figheight(figure.get_figheight() + 0.8 * names_width)
    bar = figure.colorbar(image, ax=axes, aspect=30, label="Share of the true class", format=PercentFormatter(1))
    bar.outline.set_visible(False)
    return figure


def draw_roc_curves(probabilities: Tensor, labels: Tensor, class_names: Sequence[str]) -> Figure:
    """ROC curves with their areas: of class 1 for two classes, else of each class against the rest.

    Args:
        probabilities: Class probabilities, ``(N, K)`` float, higher means more of the class.
        labels: True class indices, ``(N,) int64``.
        class_names: K names.

    Raises:
        ValueError: if the probabilities do not fit the names.
    """
    figure, axes = _make_unit_square("False positive rate", "True positive rate", len(class_names))
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":", label="chance  0.500")
    areas = []
    for index, look in _choose_looks(probabilities, class_names):
        scores, is_positive = probabilities[:, index], labels == index
        areas.append(classification.auroc(scores, is_positive))
        false_positive_rate, true_positive_rate = classification.roc_curve(scores, is_positive)
        label = name_line(f"{class_names[index]}  {format_fixed(areas[-1])}")
        axes.plot(false_positive_rate.numpy(), true_positive_rate.numpy(), label=label, **look)
    _enlarge_corner(axes, areas, right=False)
    add_legend_below(figure, axes, 1, "AUROC")
    return figure


def draw_pr_curves(probabilities: Tensor, labels: Tensor, class_names: Sequence[str]) -> Figure:
    """Precision against recall with the average precision, and the prevalence, which is what chance reaches, dotted.

    Arguments and errors are those of :func:`draw_roc_curves`.
    """
    figure, axes = _make_unit_square("Recall", "Precision", len(class_names))
    areas = []
    for index, look in _choose_looks(probabilities, class_names):
        scores, is_positive = probabilities[:, index], labels == index
        areas.append(classification.average_precision(scores, is_positive))
        prevalence = float(is_positive.double().mean())
        recall, precision = classification.pr_curve(scores, is_positive)
        # Only where another positive is found: the area under these steps is the average precision.
        steps = F.pad(recall.diff() > 0, (1, 0))
        label = name_line(f"{class_names[index]}  {format_fixed(areas[-1])} ({prevalence:.3f})")
        x, y = recall[steps].tolist(), precision[steps].tolist()
        axes.step([0, *x] if x else [], y[:1] + y, where="pre", label=label, **look)
        axes.axhline(prevalence, color=look["color"], linewidth=0.9, linestyle=":", zorder=1)
    _enlarge_corner(axes, areas, right=True)
    add_legend_below(figure, axes, 1, "Average precision (prevalence)")
    return figure


def _choose_looks(probabilities: Tensor, class_names: Sequence[str]) -> list[tuple[int, dict[str, Any]]]:
    """The classes to draw, each with its line's look: class 1 of two, else all."""
    k = len(class_names)
    if probabilities.ndim != 2 or probabilities.shape[1] != k:
        raise ValueError(f"probabilities of {k} classes are (N, {k}), not {tuple(probabilities.shape)}")
    return [
        (index, {"color": PALETTE[place % len(PALETTE)], "linestyle": _STYLES[place // len(PALETTE) % len(_STYLES)]})
        for place, index in enumerate([1] if k == 2 else range(k))
    ]


def _make_unit_square(x_label: str, y_label: str, classes: int) -> tuple[Figure, Axes]:
    """Axes from 0 to 1, with room below for a line per class."""
    figure, axes = make_small_axes(4, 4.1 + 0.17 * classes)
    axes.set(xlabel=x_label, ylabel=y_label, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    return figure, axes


def _enlarge_corner(axes: Axes, areas: Sequence[float], *, right: bool) -> None:
    """Draws the upper corner once more, larger, in the empty middle of the axes, where several curves crowd in it."""
    worst = min((area for area in areas if area == area), default=0)
    if len(areas) == 1 or worst < 0.95:
        return
    reach = 0.1 if worst >= 0.99 else 0.2
    with matplotlib.rc_context(STYLE):
        inset = axes.inset_axes((0.12 if right else 0.38, 0.32, 0.56, 0.56))
    for line in axes.get_lines():
        look = {name: getattr(line, f"get_{name}")() for name in ("color", "linestyle", "linewidth", "drawstyle")}
        inset.plot(*line.get_data(), **look)
    first, slack = 1 - reach if right else 0, 0.03 * reach
    inset.set(xlim=(first - slack, first + reach + slack), ylim=(1 - reach - slack, 1 + slack))
    inset.tick_params(labelsize=7)
    inset.locator_params(nbins=3)
    inset.spines[:].set(visible=True, color="0.6")
    axes.indicate_inset_zoom(inset, edgecolor="0.6", alpha=1)


def _format_cell(count: int, share: float) -> tuple[str, str]:
    """Text and colour of a confusion matrix's cell; an empty one steps back, and has no percentage."""
    if count == 0:
        return "0", "0.6"
    return f"{count}\n{share:.1%}", "white" if share > 0.55 else "black"
