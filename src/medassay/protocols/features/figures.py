"""The charts of a features report: scores with their intervals, and the features in two dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from medassay.data.order import make_stratified_order
from medassay.protocols.features.classifiers import LabelledFeatures
from medassay.protocols.features.results import METRICS, FeatureResults
from medassay.reporting.charts import (
    PALETTE,
    Chart,
    Series,
    add_legend_below,
    draw_dot_plot,
    make_small_axes,
    name_line,
    space_ticks,
)
from medassay.reporting.numbers import format_fixed, format_percent

POINTS = 1000  # images in the projection, at most: each is a shape in the page
_MARKERS = ("o", "s", "^", "D", "v")  # one for each round through the palette


class Projection(NamedTuple):
    """Images in the plane of the two directions in which the training images' features vary most.

    Attributes:
        places: Places of the images, ``(N, 2) float64``.
        shares: Share of the training images' variance along each direction.
    """

    places: Tensor
    shares: tuple[float, float]


def project(train: Tensor, judged: Tensor, *, standardise: bool, seed: int) -> Projection | None:
    """The first two principal components of ``judged (N, d)``, fitted on ``train (M, d)``; None where there are not two.

    Args:
        train, judged: Features.
        standardise: Whether to bring each feature to mean 0 and standard deviation 1 on ``train`` first.
        seed: Seed of the solver, which draws where there are many features.
    """
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    if min(train.shape) < 2 or not bool(train.std(0).any()):
        return None
    fitted, shown = train.double().numpy(), judged.double().numpy()
    if standardise:
        scaler = StandardScaler().fit(fitted)
        fitted, shown = scaler.transform(fitted), scaler.transform(shown)
    components = PCA(2, random_state=seed).fit(fitted)
    first, second = components.explained_variance_ratio_.tolist()
    return Projection(torch.from_numpy(components.transform(shown)), (first, second))


def draw_scores(results: FeatureResults) -> Chart:
    """A line per classifier, the net's last layer first: accuracy, balanced accuracy and AUROC with their intervals."""
    own = {"the net’s last layer": results.last_layer.scores} if results.last_layer is not None else {}
    rows = {**own, **{one.name: one.scores for one in results.classifiers}}
    looks = zip(METRICS.items(), ("#000000", PALETTE[0], PALETTE[1]), ("o", "s", "D"), strict=True)
    series = [
        Series(label, colour, marker, [scores[key] for scores in rows.values()])
        for (key, label), colour, marker in looks
    ]
    figure = draw_dot_plot([*rows], series, "score, 95 % interval", share=False)
    numbers = "; ".join(
        f"{name}: " + ", ".join(f"{label} {format_fixed(scores[key].value)}" for key, label in METRICS.items())
        for name, scores in rows.items()
    )
    return Chart(figure, f"Scores of each classifier. {numbers}.")


def draw_projection(projection: Projection, judged: LabelledFeatures, classes: Sequence[str]) -> Chart:
    """The images as points, coloured by class; classes in proportion where there are more than ``POINTS``."""
    chosen = make_stratified_order(judged.labels, seed=0)[:POINTS]
    places, labels = projection.places[chosen], judged.labels[chosen]
    figure, axes = make_small_axes(4.6, 4 + 0.17 * ((len(classes) + 1) // 2))
    for label, name in enumerate(classes):
        x, y = places[labels == label].T.tolist()
        marker, colour = _MARKERS[label // len(PALETTE) % len(_MARKERS)], PALETTE[label % len(PALETTE)]
        axes.plot(x, y, marker, color=colour, markersize=3.5, alpha=0.6, markeredgewidth=0, label=name_line(name))
    first, second = (format_percent(share) for share in projection.shares)
    axes.set(xlabel=f"first component ({first} of the variance)", ylabel=f"second component ({second})")
    space_ticks(axes)
    add_legend_below(figure, axes, 2)
    text = (
        f"{len(chosen):,} images as points, coloured by class. The two directions hold {first} and {second} of the variance "
        "of the training images’ features."
    )
    return Chart(figure, text)
