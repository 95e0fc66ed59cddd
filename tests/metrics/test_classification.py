"""Classification metrics against scikit-learn, torchmetrics, MedMNIST's evaluator and values worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import medmnist.evaluator
import numpy as np
import pytest
import sklearn.metrics as sk
import torch
import torchmetrics.functional.classification as tm
from torch import Tensor
from torch.nn import functional as F

from medassay.metrics.bootstrap import draw_resample_weights, percentile_interval
from medassay.metrics.classification import (
    auroc,
    average_precision,
    choose_youden_threshold,
    compute_intervals,
    measure_classification,
    pr_curve,
    roc_curve,
)

Predictions = tuple[Tensor, Tensor]
NAMES = (
    "accuracy",
    "balanced_accuracy",
    "precision",
    "recall",
    "f1",
    "specificity",
    "auroc",
    "average_precision",
    "ece",
)


def predictions(n: int, k: int, *, seed: int = 0, decimals: int | None = None) -> Predictions:
    """Informative predictions; with ``decimals`` many scores are equal."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(k, (n,), generator=rng)
    probabilities = (torch.randn(n, k, generator=rng) + F.one_hot(labels, k)).softmax(1)
    if decimals is not None:
        probabilities = probabilities.double().round(decimals=decimals).clamp(min=10**-decimals)
        probabilities = (probabilities / probabilities.sum(1, keepdim=True)).float()
    return probabilities, labels


def reference(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The scalar metrics, by scikit-learn and a loop over calibration bins; all classes must be present."""
    k = probabilities.shape[1]
    decided = probabilities.argmax(1)
    classes = [1] if k == 2 else range(k)

    def mean(function: Callable[[np.ndarray, np.ndarray], float], values: np.ndarray) -> float:
        return float(np.mean([function(labels == c, values[:, c]) for c in classes]))

    called = np.eye(k, dtype=bool)[decided]
    confidence, correct, error = probabilities.max(1).astype(np.float64), decided == labels, 0.0
    for i in range(15):
        inside = (confidence > i / 15) & (confidence <= (i + 1) / 15)
        if inside.any():
            error += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    return {
        "accuracy": sk.accuracy_score(labels, decided),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, decided),
        "precision": mean(lambda truth, call: sk.precision_score(truth, call, zero_division=0), called),
        "recall": mean(sk.recall_score, called),
        "f1": mean(sk.f1_score, called),
        "specificity": mean(lambda truth, call: sk.recall_score(~truth, ~call), called),
        "auroc": mean(sk.roc_auc_score, probabilities),
        "average_precision": mean(sk.average_precision_score, probabilities),
        "ece": error,
    }


@pytest.mark.parametrize("k", [2, 3, 8])
@pytest.mark.parametrize("decimals", [None, 1])
def test_scalars_agree_with_scikit_learn_with_and_without_ties(k: int, decimals: int | None) -> None:
    probabilities, labels = predictions(500, k, decimals=decimals)
    metrics = measure_classification(probabilities, labels)
    expected = reference(probabilities.numpy(), labels.numpy())
    assert {name: metrics[name] for name in NAMES} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("k", [2, 8])
def test_scalars_agree_with_torchmetrics(k: int) -> None:
    probabilities, labels = predictions(500, k)
    metrics = measure_classification(probabilities, labels)
    names = ("auroc", "average_precision", "ece")
    if k == 2:
        score = probabilities[:, 1]
        expected = [tm.binary_auroc(score, labels), tm.binary_average_precision(score, labels)]
    else:
        expected = [
            tm.multiclass_auroc(probabilities, labels, k),
            tm.multiclass_average_precision(probabilities, labels, k),
        ]
    expected.append(tm.multiclass_calibration_error(probabilities, labels, k, n_bins=15))
    assert [metrics[name] for name in names] == pytest.approx([float(value) for value in expected], abs=1e-6)


@pytest.mark.parametrize(("k", "task"), [(2, "binary-class"), (8, "multi-class")])
def test_auroc_and_accuracy_are_those_of_the_medmnist_evaluator(k: int, task: str) -> None:
    probabilities, labels = predictions(400, k, decimals=2)
    metrics = measure_classification(probabilities, labels)
    truth, scores = labels.numpy()[:, None], probabilities.numpy()  # labels as its files hold them
    assert metrics["auroc"] == pytest.approx(medmnist.evaluator.getAUC(truth, scores, task), abs=1e-12)
    assert metrics["accuracy"] == pytest.approx(medmnist.evaluator.getACC(truth, scores, task), abs=1e-12)


def test_binary_metrics_are_those_of_class_one_and_macro_ones_have_a_prefix() -> None:
    #                 class 0: 3 right, 1 wrong          class 1: 1 right, 1 wrong
    positive = torch.tensor([0.1, 0.2, 0.3, 0.8, 0.9, 0.4])
    metrics = measure_classification(torch.stack([1 - positive, positive], 1), torch.tensor([0, 0, 0, 0, 1, 1]))
    expected = {"precision": 1 / 2, "recall": 1 / 2, "f1": 1 / 2, "specificity": 3 / 4, "auroc": 7 / 8}
    expected |= {"macro_precision": 5 / 8, "macro_recall": 5 / 8, "macro_f1": 5 / 8, "macro_specificity": 5 / 8}
    expected |= {"accuracy": 4 / 6, "balanced_accuracy": 5 / 8, "average_precision": (1 + 2 / 3) / 2}
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    assert metrics["confusion"] == [[3, 1], [1, 1]]
    assert metrics["per_class"]["support"] == [4, 2]


def test_rows_of_the_confusion_matrix_are_true_classes() -> None:
    probabilities, labels = predictions(300, 8)
    confusion = measure_classification(probabilities, labels)["confusion"]
    assert confusion == sk.confusion_matrix(labels, probabilities.argmax(1)).tolist()


def test_a_class_without_images_has_no_score_and_is_left_out_of_the_means() -> None:
    probabilities, labels = predictions(300, 3)
    kept = labels != 1
    probabilities, labels = probabilities[kept], labels[kept]
    metrics = measure_classification(probabilities, labels)
    for name in ("precision", "recall", "f1", "specificity", "auroc", "average_precision"):
        first, missing, last = metrics["per_class"][name]
        assert math.isnan(missing)
        assert metrics[name] == pytest.approx((first + last) / 2)
    areas = [sk.roc_auc_score(labels == c, probabilities[:, c]) for c in (0, 2)]
    assert metrics["auroc"] == pytest.approx(np.mean(areas))
    assert metrics["balanced_accuracy"] == metrics["recall"]


def test_intervals_leave_a_class_without_images_out_too() -> None:
    probabilities, labels = predictions(300, 3)
    kept = labels != 1
    low, high = compute_intervals(probabilities[kept], labels[kept], resamples=50)["auroc"]
    assert low < measure_classification(probabilities[kept], labels[kept])["auroc"] < high


def test_a_class_never_predicted_has_precision_zero() -> None:
    probabilities = torch.tensor([[0.6, 0.4, 0.0], [0.6, 0.4, 0.0], [0.4, 0.6, 0.0]])
    per_class = measure_classification(probabilities, torch.tensor([0, 2, 1]))["per_class"]
    assert per_class["precision"] == [0.5, 1.0, 0.0]


def test_labels_of_one_class_give_accuracy_but_no_auroc() -> None:
    probabilities, _ = predictions(20, 2)
    labels = torch.zeros(20, dtype=torch.int64)
    assert measure_classification(probabilities, labels)["accuracy"] > 0
    intervals = compute_intervals(probabilities, labels, resamples=20)
    assert all(math.isnan(bound) for bound in intervals["auroc"])
    assert not any(math.isnan(bound) for bound in intervals["accuracy"])


def test_full_confidence_shares_the_last_calibration_bin() -> None:
    probabilities = torch.tensor([[1.0, 0.0], [0.96, 0.04]])
    # Together in one bin: |1/2 - 0.98|. In a bin each: (|0 - 1| + |1 - 0.96|) / 2 = 0.52.
    assert measure_classification(probabilities, torch.tensor([1, 0]))["ece"] == pytest.approx(0.48)


def test_float16_probabilities_are_accepted() -> None:
    probabilities, labels = predictions(100, 8)
    half = measure_classification(probabilities.half(), labels)
    assert half["ece"] == pytest.approx(measure_classification(probabilities, labels)["ece"], abs=0.02)


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (torch.tensor([[2.0, -2.0]]), torch.tensor([0]), "are these logits"),
        (torch.tensor([[torch.nan, 0.5]]), torch.tensor([0]), "finite"),
        (torch.tensor([[0.5, 0.5]]), torch.tensor([2]), "0..1"),
        (torch.tensor([[0.5, 0.5]]), torch.tensor([[1]]), "int64"),
        (torch.tensor([0.5, 0.5]), torch.tensor([0, 1]), "K >= 2"),
        (torch.empty(0, 2), torch.empty(0, dtype=torch.int64), "no predictions"),
    ],
)
def test_what_is_not_a_prediction_is_refused(probabilities: Tensor, labels: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure_classification(probabilities, labels)


@pytest.mark.parametrize("k", [2, 8])
@pytest.mark.parametrize("decimals", [None, 1])
def test_intervals_are_those_of_a_plain_loop_over_the_same_resamples(k: int, decimals: int | None) -> None:
    n, resamples = 12 * k, 12
    probabilities, labels = predictions(n, k, seed=3, decimals=decimals)
    drawn = torch.randint(n, (resamples, n), generator=torch.Generator().manual_seed(5)).numpy()
    scores, truth = probabilities.numpy(), labels.numpy()
    whole = [index for index in drawn if len(np.unique(truth[index])) == k]
    values = [reference(scores[index], truth[index]) for index in whole]
    intervals = compute_intervals(probabilities, labels, resamples=resamples, seed=5, level=0.9)
    # Accuracy and calibration need no class in particular: they use every resample.
    for name in set(NAMES) - ({"accuracy", "ece"} if len(whole) < resamples else set()):
        expected = np.quantile([value[name] for value in values], [0.05, 0.95])
        assert intervals[name] == pytest.approx(tuple(expected), abs=1e-12), name


def test_a_resample_without_a_class_is_left_out() -> None:
    probabilities, labels = predictions(12, 2, seed=1)
    labels[:] = torch.tensor([1] + [0] * 11)  # about a third of the resamples miss class 1
    drawn = torch.randint(12, (200, 12), generator=torch.Generator().manual_seed(0)).numpy()
    areas = [
        sk.roc_auc_score(labels.numpy()[index], probabilities.numpy()[index, 1])
        for index in drawn
        if (index == 0).any()
    ]
    assert 100 < len(areas) < 180
    low, high = compute_intervals(probabilities, labels, resamples=200)["auroc"]
    assert (low, high) == pytest.approx(tuple(np.quantile(areas, [0.025, 0.975])))


@pytest.mark.parametrize("k", [2, 8])
def test_every_scalar_has_an_interval_around_it(k: int) -> None:
    probabilities, labels = predictions(800, k)
    metrics = measure_classification(probabilities, labels)
    intervals = compute_intervals(probabilities, labels, resamples=300)
    assert set(intervals) == set(metrics) - {"per_class", "confusion"}
    # Not ECE: its resampled values are biased upwards, since noise within a bin never cancels.
    assert all(low < metrics[name] < high for name, (low, high) in intervals.items() if name != "ece")


def test_an_accuracy_interval_is_about_as_wide_as_the_binomial_one() -> None:
    probabilities, labels = predictions(2000, 2)
    accuracy = measure_classification(probabilities, labels)["accuracy"]
    low, high = compute_intervals(probabilities, labels)["accuracy"]
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(accuracy * (1 - accuracy) / 2000), rel=0.1)


def test_resamples_do_not_depend_on_the_chunk_size() -> None:
    whole = torch.cat(list(draw_resample_weights(50, resamples=23, seed=1)))
    pieces = torch.cat(list(draw_resample_weights(50, resamples=23, seed=1, chunk_elements=120)))
    assert whole.shape == (23, 50)
    assert torch.equal(whole, pieces)
    assert (whole.sum(1) == 50).all()


def test_a_percentile_interval_ignores_undefined_values() -> None:
    values = torch.cat([torch.arange(101.0), torch.full((9,), torch.nan)])
    assert percentile_interval(values, level=0.9) == pytest.approx((5, 95))


@pytest.mark.parametrize(("resamples", "level"), [(0, 0.95), (10, 1.0), (10, 0.0)])
def test_impossible_bootstrap_settings_are_refused(resamples: int, level: float) -> None:
    with pytest.raises(ValueError, match=r"resample|level"):
        compute_intervals(*predictions(10, 2), resamples=resamples, level=level)


@pytest.mark.parametrize("decimals", [None, 1])
def test_curves_are_those_of_scikit_learn(decimals: int | None) -> None:
    probabilities, labels = predictions(200, 2, decimals=decimals)
    scores = probabilities[:, 1]
    fpr, tpr, _ = sk.roc_curve(labels, scores, drop_intermediate=False)
    precision, recall, _ = sk.precision_recall_curve(labels, scores)
    assert torch.stack(roc_curve(scores, labels == 1)).numpy() == pytest.approx(np.stack([fpr, tpr]))
    assert torch.stack(pr_curve(scores, labels == 1)).numpy() == pytest.approx(np.stack([recall, precision])[:, ::-1])
    assert auroc(scores, labels == 1) == pytest.approx(sk.auc(fpr, tpr))
    assert average_precision(scores, labels == 1) == pytest.approx(sk.average_precision_score(labels, scores))


def test_equal_scores_have_an_auroc_of_one_half() -> None:
    assert auroc(torch.ones(7), torch.arange(7) < 3) == 0.5


def test_ranking_refuses_scores_that_are_not_numbers() -> None:
    with pytest.raises(ValueError, match="finite"):
        auroc(torch.tensor([0.1, torch.nan]), torch.tensor([True, False]))


def test_the_youden_threshold_maximises_sensitivity_plus_specificity() -> None:
    probabilities, labels = predictions(300, 2, decimals=2)
    scores = probabilities[:, 1]

    def index(threshold: float) -> float:
        called = scores >= threshold
        return float(called[labels == 1].double().mean() - called[labels == 0].double().mean())

    threshold = choose_youden_threshold(scores, labels)
    assert index(threshold) == pytest.approx(max(index(float(score)) for score in scores.unique()))


def test_among_equally_good_thresholds_the_highest_is_taken() -> None:
    # From the top: positive at 0.9 (index 1/3), negative at 0.5 (1/3 - 1/3), positive at 0.4 (2/3 - 1/3), ...
    scores = torch.tensor([0.9, 0.5, 0.4, 0.3, 0.2, 0.1])
    labels = torch.tensor([1, 0, 1, 0, 1, 0])
    assert choose_youden_threshold(scores, labels) == pytest.approx(0.9)


def test_a_threshold_needs_both_classes() -> None:
    with pytest.raises(ValueError, match="both classes"):
        choose_youden_threshold(torch.rand(5), torch.ones(5, dtype=torch.int64))
