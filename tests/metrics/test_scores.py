"""A classifier's scores and their intervals as one result."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn import metrics

from medassay.core.files import write_json
from medassay.metrics.scores import DECISIONS, ClassificationScores, score_classification, score_decisions
from medassay.tasks.predictions import Predictions


def predictions_of(n: int, classes: int) -> Predictions:
    """Predictions that are better than chance and not perfect."""
    rng = torch.Generator().manual_seed(classes)
    labels = torch.arange(n) % classes
    logits = torch.randn(n, classes, generator=rng) + torch.nn.functional.one_hot(labels, classes)
    return Predictions(logits.softmax(1), labels)


def scores_of(predictions: Predictions) -> ClassificationScores:
    return score_classification(predictions.probabilities, predictions.labels)


def results_of(predictions: Predictions) -> dict[str, Any]:
    """The scores as they stand in ``metrics.json``."""
    return scores_of(predictions).to_json()


def test_numbers_of_several_classes_are_scikit_learns() -> None:
    found = predictions_of(90, 4)
    values = results_of(found)
    labels, probabilities = found.labels.numpy(), found.probabilities.double().numpy()
    probabilities /= probabilities.sum(1, keepdims=True)
    decided = probabilities.argmax(1)
    assert values["n"] == 90
    assert values["accuracy"] == pytest.approx(metrics.accuracy_score(labels, decided))
    assert values["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(labels, decided))
    assert values["f1"] == pytest.approx(metrics.f1_score(labels, decided, average="macro"))
    assert values["auroc"] == pytest.approx(metrics.roc_auc_score(labels, probabilities, multi_class="ovr"))
    assert values["confusion"] == metrics.confusion_matrix(labels, decided).tolist()


def test_numbers_of_two_classes_are_scikit_learns_for_class_1() -> None:
    found = predictions_of(60, 2)
    values = results_of(found)
    labels, scores = found.labels.numpy(), found.probabilities[:, 1].numpy()
    assert values["accuracy"] == pytest.approx(metrics.accuracy_score(labels, scores > 0.5))
    assert values["auroc"] == pytest.approx(metrics.roc_auc_score(labels, scores))
    assert values["f1"] == pytest.approx(metrics.f1_score(labels, scores > 0.5))


def test_every_single_number_has_an_interval_around_it() -> None:
    values = results_of(predictions_of(90, 4))
    numbers = {name for name, value in values.items() if isinstance(value, float)}
    assert set(values["interval_95"]) == numbers
    for name in ("accuracy", "balanced_accuracy", "auroc", "f1"):
        low, high = values["interval_95"][name]
        assert low < values[name] < high


def test_the_interval_of_the_accuracy_is_about_the_binomial_one() -> None:
    found = predictions_of(400, 2)
    low, high = results_of(found)["interval_95"]["accuracy"]
    accuracy = float((found.probabilities.argmax(1) == found.labels).double().mean())
    half = 1.96 * math.sqrt(accuracy * (1 - accuracy) / 400)
    assert (low, high) == pytest.approx((accuracy - half, accuracy + half), abs=0.01)


def test_numbers_can_be_written_as_json(tmp_path: Path) -> None:
    write_json(tmp_path / "metrics.json", results_of(predictions_of(12, 3)))
    assert (tmp_path / "metrics.json").stat().st_size > 0


# --- to JSON and back ------------------------------------------------------------------------------------------------


def written(scores: ClassificationScores, path: Path) -> ClassificationScores:
    """The scores after they were written to a file and read again."""
    write_json(path, scores.to_json())
    return ClassificationScores.from_json(json.loads(path.read_text()))


@pytest.mark.parametrize("classes", [2, 4])
def test_scores_are_read_back_as_they_were_written(classes: int, tmp_path: Path) -> None:
    scores = scores_of(predictions_of(60, classes))
    assert written(scores, tmp_path / "scores.json") == scores


def test_an_undefined_score_is_read_back_as_undefined(tmp_path: Path) -> None:
    full = predictions_of(30, 2)
    of_one_class = Predictions(full.probabilities[full.labels == 0], full.labels[full.labels == 0])
    before = scores_of(of_one_class)
    found = written(before, tmp_path / "scores.json")
    assert math.isnan(found.estimates["auroc"].value)
    assert all(math.isnan(area) for area in found.per_class["auroc"])
    assert found.estimates["accuracy"] == before.estimates["accuracy"]
    assert found.per_class["support"] == before.per_class["support"] == [15, 0]


# --- decisions -------------------------------------------------------------------------------------------------------


def test_the_scores_of_a_decision_are_scikit_learns_and_need_no_probability() -> None:
    found = predictions_of(60, 2)
    called = found.probabilities[:, 1] >= 0.3
    scores, labels = score_decisions(called, found.labels), found.labels.numpy()
    assert scores.values["accuracy"] == pytest.approx(metrics.accuracy_score(labels, called))
    assert scores.values["recall"] == pytest.approx(metrics.recall_score(labels, called))
    assert scores.values["specificity"] == pytest.approx(metrics.recall_score(labels, called, pos_label=0))
    assert scores.confusion == metrics.confusion_matrix(labels, called).tolist()
    assert {name.removeprefix("macro_") for name in scores.estimates} == set(DECISIONS)
    assert scores.per_class == {}
    assert "per_class" not in scores.to_json()
