"""How well a net fits a curve: its error on beats it has not seen, beside how much these differ among themselves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from medassay.core.types import Regressor
from medassay.evaluation.protocol import ComputeContext, Page, Protocol, Report
from medassay.metrics.curves import CurveScores, score_curve
from medassay.reporting.curves import CurveView, draw_curve
from medassay.reporting.numbers import format_fixed, format_significant, format_spread
from medassay.runs.curve_scores import predict_values, select_points, view_curve
from medassay.runs.run import Run


@dataclass(frozen=True)
class CurveResults:
    """What was measured.

    Attributes:
        split: The split that was judged.
        scores: On its beats; see :class:`medassay.metrics.curves.CurveScores`.
        train: On the training beats.
        truth_rmse: Root of the mean squared distance from what is known to be true, over the range of the beats; None where
            that is not known.
        x_label, y_label: Names and units.
    """

    split: str
    scores: CurveScores
    train: CurveScores
    truth_rmse: float | None
    x_label: str
    y_label: str


@dataclass(frozen=True)
class CurveFit(Protocol):
    """How well does a net fit a curve?

    Attributes:
        name: Name of the protocol.
        split: Split to judge by.
    """

    requires: ClassVar[type] = Regressor
    name: str = "curve"
    split: Literal["test", "val"] = "test"

    def run(self, run: Run, context: ComputeContext) -> Report:
        """Judges a run that fits a curve."""
        data, device = run.curve_data, context.device
        scores, views = {}, {}
        for split in ("train", self.split):
            curve = select_points(data, split, run.settings)
            scores[split] = score_curve(predict_values(run.task, curve.x, device), curve, data.splits.train)
            views[split] = view_curve(run.task, data, curve, device)
        shown = views[self.split]
        results = CurveResults(
            self.split,
            scores[self.split],
            scores["train"],
            measure_truth_rmse(shown),
            data.x_axis.label,
            data.y_axis.label,
        )
        truth = {} if results.truth_rmse is None else {"truth_rmse": results.truth_rmse}
        groups = {split: one.to_json() for split, one in scores.items()}
        groups[self.split] |= truth
        return Report(
            results,
            split=self.split,
            verdict=[describe_results(results)],
            metrics={"split": self.split, **groups},
            figures={"judged": draw_curve(shown), "train": draw_curve(views["train"])},
            page=Page(Path(__file__).with_name("page.html.j2")),
        )


def measure_truth_rmse(view: CurveView) -> float | None:
    """Root of the mean squared distance of the drawn curve from the truth; None where that is not known."""
    return None if view.truth is None else math.sqrt(float((view.y - view.truth).double().square().mean()))


def describe_results(results: CurveResults) -> str:
    """The most important numbers in a sentence."""
    scores, train = results.scores, results.train
    text = (
        f"curve: mean squared error {format_spread(scores.error, None)} on {len(scores.beats)} {results.split} beats, "
        f"{format_fixed(scores.ratio, 2)} times their difference from the mean of the training beats; on the training beats "
        f"{format_fixed(train.ratio, 2)} times the variance between them"
    )
    if results.truth_rmse is None:
        return text
    return f"{text}; {format_significant(results.truth_rmse)} from the truth (root mean square)"
