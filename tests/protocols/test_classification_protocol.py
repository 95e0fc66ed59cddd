"""A classifier's evaluation: what it finds, and what it leaves behind."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from medmnist import Evaluator
from PIL import Image
from sklearn import metrics
from torch import Tensor

from medassay.core.files import write_json
from medassay.core.results import from_json, to_json
from medassay.data.given import compute_digest
from medassay.data.modules import LabelledData
from medassay.data.phantoms import blood, chest
from medassay.data.sources import medmnist_data, phantom_data
from medassay.evaluation.about import describe_run
from medassay.evaluation.protocol import ComputeContext
from medassay.evaluation.writer import write_report
from medassay.metrics.scores import ClassificationScores, score_classification
from medassay.nets.block_cnn import BlockCNN
from medassay.protocols.classification.ensemble import read_probabilities
from medassay.protocols.classification.measures import ClassificationResults
from medassay.protocols.classification.medmnist_results import (
    compute_medmnist_scores,
    format_predictions,
    name_predictions_file,
)
from medassay.protocols.classification.protocol import ClassifierScores
from medassay.reporting import figures
from medassay.runs.directory import RunDirectory
from medassay.runs.run import Run
from medassay.tasks.classification import Classification
from medassay.tasks.predictions import Predictions, predict
from medassay.training.settings import TrainerSettings

CPU = torch.device("cpu")
Factory = Callable[..., LabelledData]
# --- what it finds and leaves ----------------------------------------------------------------------------------------

RECORD = {
    "run": "outputs/x",
    "status": "done",
    "protocol": {"name": "classification", "split": "test"},
    "overrides": {},
}


def run_of(path: Path, data: LabelledData, *, seed: int = 3) -> Run:
    """A run as it is opened, with a net that has learnt nothing."""
    torch.manual_seed(seed)
    net = BlockCNN(data.channels, data.num_classes, image_size=data.size, width=4, blocks=2)
    config = {"recipe": {"name": "a_model"}, "seed": seed}
    return Run(RunDirectory(path), config, data, Classification(net, data.num_classes).eval(), TrainerSettings(gpus=0))


def evaluated(run: Run, directory: Path, **settings: Any) -> dict[str, Any]:
    """``classification.json`` after the protocol."""
    report = ClassifierScores(**settings).run(run, ComputeContext.from_settings(run.settings, directory))
    write_report(report, describe_run(run, report.split), RECORD, directory)
    found: dict[str, Any] = left(directory / "classification.json")
    return found


def scores_of(predictions: Predictions) -> ClassificationScores:
    return score_classification(predictions.probabilities, predictions.labels)


def left(path: Path) -> Any:
    """What a JSON file holds."""
    return json.loads(path.read_text())


class Judged(NamedTuple):
    """A run, what was found, and where it lies."""

    run: Run
    found: dict[str, Any]
    directory: Path


@pytest.fixture(scope="module")
def two_classes(tmp_path_factory: pytest.TempPathFactory) -> Judged:
    top = tmp_path_factory.mktemp("two_classes")
    data = phantom_data("chest_phantom", "chest", list(chest.CLASSES), 1, 16, 64, 64)
    run = run_of(top / "run", data)
    return Judged(run, evaluated(run, top / "e", mistakes=5), top / "e")


@pytest.fixture(scope="module")
def eight_classes(tmp_path_factory: pytest.TempPathFactory) -> Judged:
    top = tmp_path_factory.mktemp("eight_classes")
    data = phantom_data("blood_phantom", "blood", list(blood.CLASSES), 3, 16, 16, 64)
    run = run_of(top / "run", data)
    return Judged(run, evaluated(run, top / "e", mistakes=0), top / "e")


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every picture is one white pixel: drawing takes most of the time."""

    def save(figure: Any, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (1, 1), "white").save(path)

    monkeypatch.setattr(figures, "save_figure", save)


def test_it_leaves_numbers_pictures_events_predictions_and_a_page(two_classes: Judged) -> None:
    _, found, directory = two_classes
    names = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
    assert {"metrics.json", "classification.json", "report.html", found["predictions"]} <= names
    pictures = ["confusion_matrix", "confusion_matrix_youden", "roc", "precision_recall", "calibration", "mistakes"]
    assert {f"figures/test_{name}.png" for name in pictures} <= names
    assert any(name.startswith("tensorboard/events") for name in names)


def test_metrics_json_holds_the_record_and_the_splits_numbers_only(two_classes: Judged, tmp_path: Path) -> None:
    metrics_json = left(two_classes.directory / "metrics.json")
    assert set(metrics_json) == {*RECORD, "test", "test by threshold"}
    assert {name: metrics_json[name] for name in RECORD} == RECORD
    expected = scores_of(predict(two_classes.run.task, two_classes.run.data.split("test"), CPU))
    write_json(tmp_path / "expected.json", expected.to_json())
    assert metrics_json["test"] == left(tmp_path / "expected.json")
    threshold = two_classes.found["threshold"]
    assert metrics_json["test by threshold"] == {"value": threshold["value"], **threshold["metrics"]}


def test_metrics_json_has_no_decision_by_threshold_where_there_is_none(eight_classes: Judged) -> None:
    assert set(left(eight_classes.directory / "metrics.json")) == {*RECORD, "test"}


def test_the_threshold_is_the_best_one_of_the_validation_images_and_judged_on_the_test_images(
    two_classes: Judged,
) -> None:
    chosen = two_classes.found["threshold"]
    val, test = (predict(two_classes.run.task, two_classes.run.data.split(name), CPU) for name in ("val", "test"))
    fpr, tpr, thresholds = metrics.roc_curve(
        val.labels.numpy(), val.probabilities[:, 1].numpy(), drop_intermediate=False
    )
    assert chosen["value"] == pytest.approx(float(thresholds[(tpr - fpr).argmax()]))
    assert chosen["n"] == 64
    labels, called = test.labels.numpy(), (test.probabilities[:, 1] >= chosen["value"]).numpy()
    values = chosen["metrics"]
    assert values["accuracy"] == pytest.approx(metrics.accuracy_score(labels, called))
    assert values["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(labels, called))
    assert values["recall"] == pytest.approx(metrics.recall_score(labels, called))
    assert values["specificity"] == pytest.approx(metrics.recall_score(labels, called, pos_label=0))
    assert values["f1"] == pytest.approx(metrics.f1_score(labels, called, zero_division=0))
    assert values["confusion"] == metrics.confusion_matrix(labels, called).tolist()
    assert set(values["interval_95"]) == {name for name, value in values.items() if isinstance(value, float)}
    assert "auroc" not in values  # a decision has no ranking


@pytest.mark.parametrize("split", ["val", "test"])
def test_the_probabilities_are_kept_for_ensembles_with_the_digest_of_the_images(
    split: str, two_classes: Judged
) -> None:
    images = two_classes.run.data.split(split)
    found = read_probabilities(two_classes.directory)[split]
    expected = predict(two_classes.run.task, images, CPU)
    assert torch.equal(found.predictions.probabilities, expected.probabilities)
    assert torch.equal(found.predictions.labels, images.labels)
    assert found.images == compute_digest(images)


def test_with_more_than_two_classes_the_page_says_that_there_is_no_threshold(eight_classes: Judged) -> None:
    _, found, directory = eight_classes
    assert set(found["threshold"]) == {"none"}
    assert found["threshold"]["none"] in (directory / "report.html").read_text()
    assert not (directory / "figures" / "test_confusion_matrix_youden.png").exists()


def test_every_score_of_every_class_and_of_their_mean_has_an_interval_around_it(eight_classes: Judged) -> None:
    found = eight_classes.found
    for name in ("precision", "recall", "f1", "specificity", "auroc", "average_precision"):
        values = found["metrics"]["per_class"][name]
        assert len(values) == len(found["per_class"][name]) == 8
        for value, estimate in zip(values, found["per_class"][name], strict=True):
            assert estimate["mean"] == value
            assert estimate["low"] <= value <= estimate["high"]
        macro = found["macro"][name]
        assert macro["mean"] == pytest.approx(np.mean(values))
        assert [macro["low"], macro["high"]] == pytest.approx(found["metrics"]["interval_95"][name])


def test_the_mistakes_shown_are_the_ones_the_model_was_surest_of(two_classes: Judged) -> None:
    mistakes = two_classes.found["mistakes"]
    test = predict(two_classes.run.task, two_classes.run.data.split("test"), CPU)
    confidence, decision = (column.numpy() for column in test.probabilities.max(1))
    wrong = np.flatnonzero(decision != test.labels.numpy())
    assert mistakes["count"] == len(wrong)
    expected = sorted(wrong, key=lambda i: (-confidence[i], i))[:5]
    assert [shown["index"] for shown in mistakes["shown"]] == expected
    classes = two_classes.run.data.classes
    for shown in mistakes["shown"]:
        assert shown["true"] == classes[int(test.labels[shown["index"]])]
        assert shown["predicted"] != shown["true"]
        assert shown["probability"] == pytest.approx(float(confidence[shown["index"]]))


def test_of_two_classes_the_plain_numbers_have_the_interval_of_class_1(two_classes: Judged) -> None:
    found = two_classes.found
    for name, estimates in found["per_class"].items():
        bounds = [estimates[1]["low"], estimates[1]["high"]]
        assert bounds == pytest.approx(found["metrics"]["interval_95"][name])
    assert found["macro"]["f1"]["mean"] == pytest.approx(found["metrics"]["macro_f1"])


@pytest.mark.usefixtures("no_pictures")
def test_a_model_without_mistakes_is_reported_too(tiny_chest: Factory, tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", tiny_chest())
    sure = Sure(run.data.split("test").images, run.data.split("test").labels)
    found = evaluated(dataclasses.replace(run, task=sure), tmp_path / "e")
    assert found["mistakes"] == {"count": 0, "shown": []}
    assert "There is no mistake" in (tmp_path / "e" / "report.html").read_text()


class Sure(Classification):
    """Knows the images of one split by heart."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        super().__init__(BlockCNN(1, 2, width=1, blocks=1), 2)
        pairs = zip(images, labels.tolist(), strict=True)
        self.known = {(image.float() / 255).numpy().tobytes(): label for image, label in pairs}

    def forward(self, images: Tensor) -> Tensor:
        labels = torch.tensor([self.known.get(image.numpy().tobytes(), 0) for image in images])
        return 9.0 * torch.nn.functional.one_hot(labels, 2).float()


@pytest.mark.parametrize("name", ["two_classes", "eight_classes"])
def test_the_results_are_read_back_as_they_were_written(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    written = request.getfixturevalue(name).found
    write_json(tmp_path / "again.json", to_json(from_json(ClassificationResults, written)))
    again = left(tmp_path / "again.json")
    assert {"metrics", "per_class", "macro", "threshold", "mistakes"} <= set(again)
    assert again == {key: written[key] for key in again}


def test_a_run_on_phantoms_says_so(two_classes: Judged) -> None:
    assert "rendered phantoms, not real images" in (two_classes.directory / "report.html").read_text()


@pytest.mark.usefixtures("no_pictures")
def test_validation_numbers_are_said_to_be_too_good(two_classes: Judged, tmp_path: Path) -> None:
    found = evaluated(two_classes.run, tmp_path / "e", split="val")
    assert found["n"] == 64
    assert "their numbers are too good" in (tmp_path / "e" / "report.html").read_text()


@pytest.mark.usefixtures("no_pictures")
def test_a_cut_short_split_of_one_class_is_reported_without_threshold(tiny_chest: Factory, tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", tiny_chest(batch_size=1))
    found = evaluated(dataclasses.replace(run, settings=TrainerSettings(gpus=0, limit_batches=1)), tmp_path / "e")
    assert found["n"] == 1
    assert "all of one class" in found["threshold"]["none"]


def test_the_page_asks_for_nothing_from_outside(two_classes: Judged) -> None:
    page = (two_classes.directory / "report.html").read_text()
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert "python evaluate.py run=outputs/x protocol=classification protocol.split=test" in page


# --- MedMNIST's evaluator --------------------------------------------------------------------------------------------


def medmnist_run(folder: Path, name: str, classes: int, channels: int) -> Run:
    """A run on a made-up file under a MedMNIST set's own name."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split in ("train", "val", "test"):
        shape = (48, 28, 28) if channels == 1 else (48, 28, 28, channels)
        arrays[f"{split}_images"] = rng.integers(0, 256, shape, dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(48) % classes)[:, None].astype(np.uint8)
    np.savez(folder / f"{name}.npz", **arrays)
    names = [f"class {index}" for index in range(classes)]
    shape_of: Any = channels
    data = medmnist_data(name, name, names, shape_of, file=str(folder / f"{name}.npz"))
    return run_of(folder / "run", data)


@pytest.mark.parametrize(("name", "classes", "channels"), [("pneumoniamnist", 2, 1), ("bloodmnist", 8, 3)])
def test_medmnists_own_evaluator_gives_the_same_numbers_and_the_same_file(
    name: str, classes: int, channels: int, tmp_path: Path
) -> None:
    run = medmnist_run(tmp_path, name, classes, channels)
    predictions = predict(run.task, run.data.split("test"), CPU)
    scores, ours = scores_of(predictions), compute_medmnist_scores(run.data, "test", predictions)
    (tmp_path / "theirs").mkdir()
    theirs = Evaluator(name, "test", root=str(tmp_path)).evaluate(
        predictions.probabilities.numpy(), str(tmp_path / "theirs"), run=3
    )
    assert scores.values["auroc"] == pytest.approx(theirs.AUC, abs=1e-9)
    assert scores.values["accuracy"] == pytest.approx(theirs.ACC, abs=1e-12)
    assert ours is not None
    assert (ours.AUC, ours.ACC) == (theirs.AUC, theirs.ACC)
    (file,) = (tmp_path / "theirs").iterdir()
    assert name_predictions_file(run.data, "test", scores, 3) == file.name
    assert format_predictions(predictions.probabilities) == file.read_text()


@pytest.mark.usefixtures("no_pictures")
def test_the_page_on_a_medmnist_set_shows_its_evaluators_numbers(tmp_path: Path) -> None:
    run = medmnist_run(tmp_path, "pneumoniamnist", 2, 1)
    found = evaluated(run, tmp_path / "e")
    assert found["medmnist"]["AUC"] == pytest.approx(found["metrics"]["auroc"], abs=1e-9)
    probabilities = predict(run.task, run.data.split("test"), CPU).probabilities
    assert (tmp_path / "e" / found["predictions"]).read_text() == format_predictions(probabilities)
    page = (tmp_path / "e" / "report.html").read_text()
    assert f"<td>{found['medmnist']['AUC']:.6f}</td><td>{found['medmnist']['ACC']:.6f}</td>" in page
    assert "not a published file" in page


def test_the_file_of_predictions_is_one_that_medmnist_reads_and_scores_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = medmnist_run(tmp_path, "pneumoniamnist", 2, 1)
    found = predict(run.task, run.data.split("test"), CPU)
    scores = scores_of(found)
    path = tmp_path / name_predictions_file(run.data, "test", scores, 7)
    path.write_text(format_predictions(found.probabilities))
    monkeypatch.setattr(Evaluator.__init__, "__defaults__", (None, str(tmp_path)))
    theirs = Evaluator.parse_and_evaluate(str(path))
    capsys.readouterr()
    assert scores.values["auroc"] == pytest.approx(theirs.AUC, abs=1e-6)
    assert scores.values["accuracy"] == pytest.approx(theirs.ACC)


def test_phantoms_are_no_medmnist_set_and_their_predictions_are_named_alike(two_classes: Judged) -> None:
    found = two_classes.found
    assert found["medmnist"] is None
    auroc, accuracy = found["metrics"]["auroc"], found["metrics"]["accuracy"]
    assert found["predictions"] == f"chest_phantom_test_[AUC]{auroc:.3f}_[ACC]{accuracy:.3f}@3.csv"
