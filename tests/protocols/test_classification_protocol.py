"""A classifier's numbers and pictures on one split."""

from __future__ import annotations

import dataclasses
import json
import math
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
from torch import Tensor, nn

from medassay.core.files import write_json
from medassay.core.types import LabelledImages
from medassay.data.given import digest
from medassay.data.modules import ImageDataModule, MedMNISTData, PhantomData
from medassay.data.phantoms import blood, chest
from medassay.nets.block_cnn import BlockCNN
from medassay.protocols import classification
from medassay.protocols.classification import (
    ClassificationSettings,
    Predictions,
    classification_run,
    pictures,
    predict,
    results,
    summary,
)
from medassay.protocols.ensemble import kept
from medassay.protocols.medmnist_results import medmnist_scores, predictions_name, write_predictions
from medassay.reporting import figures
from medassay.runs.directory import RunDirectory
from medassay.runs.load import Run
from medassay.tasks.classification import Classification
from medassay.training.settings import TrainerSettings

CPU = torch.device("cpu")
Factory = Callable[..., PhantomData]


def split_of(n: int, classes: int = 3, channels: int = 1) -> LabelledImages:
    rng = torch.Generator().manual_seed(n)
    images = torch.randint(256, (n, channels, 8, 8), generator=rng, dtype=torch.uint8)
    return LabelledImages(images, torch.randint(classes, (n,), generator=rng))


def predictions_of(n: int, classes: int) -> Predictions:
    """Predictions that are better than chance and not perfect."""
    rng = torch.Generator().manual_seed(classes)
    labels = torch.arange(n) % classes
    logits = torch.randn(n, classes, generator=rng) + torch.nn.functional.one_hot(labels, classes)
    return Predictions(logits.softmax(1), labels)


@pytest.fixture
def task() -> Classification:
    torch.manual_seed(0)
    return Classification(BlockCNN(1, 3, image_size=8, width=2, blocks=2, dropout=0.5), 3)


# --- predicting ------------------------------------------------------------------------------------------------------


def test_predictions_are_the_softmax_of_each_images_logits_in_order(task: Classification) -> None:
    split = split_of(11)
    found = predict(task.train(), split, CPU)
    expected = []
    task.eval()
    with torch.no_grad():
        for image in split.images.numpy():
            logits = task(torch.from_numpy(image[None].astype(np.float32) / 255))[0].double().numpy()
            expected.append(np.exp(logits) / np.exp(logits).sum())
    assert found.probabilities.dtype == torch.float32
    np.testing.assert_allclose(found.probabilities.numpy(), np.stack(expected), rtol=1e-5, atol=1e-7)
    assert torch.equal(found.labels, split.labels)


class FirstPixel(nn.Module):
    """Logits that tell which image it was."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.batches.append(len(images))
        value = images[:, 0, 0, 0]
        return torch.stack([value, 1 - value], 1)


def test_several_batches_keep_the_order_of_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classification, "BATCH", 4)
    images = torch.arange(10, dtype=torch.uint8)[:, None, None, None].expand(10, 1, 2, 2).clone()
    net, labels = FirstPixel(), torch.arange(10) % 2
    found = predict(net, LabelledImages(images, labels), CPU)
    value = np.arange(10) / 255
    expected = np.exp(value) / (np.exp(value) + np.exp(1 - value))
    np.testing.assert_allclose(found.probabilities[:, 0].numpy(), expected, rtol=1e-5)
    assert torch.equal(found.labels, labels)
    assert net.batches == [4, 4, 2]


def test_predicting_twice_gives_the_same_although_the_net_has_dropout(task: Classification) -> None:
    split = split_of(6)
    assert torch.equal(predict(task, split, CPU).probabilities, predict(task, split, CPU).probabilities)


def test_predicting_leaves_weights_and_statistics_as_they_were_without_gradients(task: Classification) -> None:
    before = {name: value.clone() for name, value in task.state_dict().items()}
    found = predict(task.train(), split_of(6), CPU)
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())
    assert not found.probabilities.requires_grad
    assert not task.training


def test_low_precision_logits_are_raised_before_the_softmax() -> None:
    class Half(FirstPixel):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images).bfloat16()

    found = predict(Half(), split_of(5, classes=2), CPU)
    torch.testing.assert_close(found.probabilities.sum(1), torch.ones(5), atol=1e-6, rtol=0)


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_numbers_of_several_classes_are_scikit_learns() -> None:
    found = predictions_of(90, 4)
    values = results(found)
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
    values = results(found)
    labels, scores = found.labels.numpy(), found.probabilities[:, 1].numpy()
    assert values["accuracy"] == pytest.approx(metrics.accuracy_score(labels, scores > 0.5))
    assert values["auroc"] == pytest.approx(metrics.roc_auc_score(labels, scores))
    assert values["f1"] == pytest.approx(metrics.f1_score(labels, scores > 0.5))


def test_every_single_number_has_an_interval_around_it() -> None:
    values = results(predictions_of(90, 4))
    numbers = {name for name, value in values.items() if isinstance(value, float)}
    assert set(values["interval_95"]) == numbers
    for name in ("accuracy", "balanced_accuracy", "auroc", "f1"):
        low, high = values["interval_95"][name]
        assert low < values[name] < high


def test_the_interval_of_the_accuracy_is_about_the_binomial_one() -> None:
    found = predictions_of(400, 2)
    low, high = results(found)["interval_95"]["accuracy"]
    accuracy = float((found.probabilities.argmax(1) == found.labels).double().mean())
    half = 1.96 * math.sqrt(accuracy * (1 - accuracy) / 400)
    assert (low, high) == pytest.approx((accuracy - half, accuracy + half), abs=0.01)


def test_numbers_can_be_written_as_json(tmp_path: Path) -> None:
    write_json(tmp_path / "metrics.json", results(predictions_of(12, 3)))
    assert (tmp_path / "metrics.json").stat().st_size > 0


def test_the_headline_names_numbers_intervals_and_images() -> None:
    names = ("accuracy", "balanced_accuracy", "auroc", "f1")
    values: dict[str, Any] = {name: 0.8 + 0.01 * i for i, name in enumerate(names)}
    line = summary({**values, "interval_95": {name: [0.5, 0.9] for name in names}, "n": 32})
    assert line == (
        "accuracy 0.800 [0.500, 0.900], balanced accuracy 0.810 [0.500, 0.900], auroc 0.820 [0.500, 0.900], "
        "f1 0.830 [0.500, 0.900] (n = 32, 95 % bootstrap intervals)"
    )


# --- pictures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["val", "test"])
def test_the_pictures_are_named_after_the_split(split: str, tmp_path: Path) -> None:
    found = predictions_of(30, 3)
    paths = pictures(tmp_path / "figures", split, found, results(found), ["a", "b", "c"])
    names = [f"{split}_confusion_matrix.png", f"{split}_roc.png", f"{split}_precision_recall.png"]
    assert paths == [tmp_path / "figures" / name for name in names]
    for path in paths:
        with Image.open(path) as picture:
            assert picture.format == "PNG"


def test_a_cut_short_split_without_images_of_a_class_is_drawn_too(tmp_path: Path) -> None:
    full = predictions_of(30, 3)
    kept = full.labels < 2
    found = Predictions(full.probabilities[kept], full.labels[kept])
    assert len(pictures(tmp_path, "val", found, results(found), ["a", "b", "c"])) == 3


# --- the long form ---------------------------------------------------------------------------------------------------

RECORD = {
    "run": "outputs/x",
    "status": "done",
    "protocol": {"name": "classification", "split": "test"},
    "overrides": {},
}


def run_of(path: Path, data: ImageDataModule, *, seed: int = 3) -> Run:
    """A run as it is opened, with a net that has learnt nothing."""
    torch.manual_seed(seed)
    net = BlockCNN(data.channels, data.num_classes, image_size=data.size, width=4, blocks=2)
    config = {"model": {"name": "a_model"}, "seed": seed}
    return Run(RunDirectory(path), config, data, Classification(net, data.num_classes).eval(), TrainerSettings(gpus=0))


def evaluated(run: Run, directory: Path, **settings: Any) -> dict[str, Any]:
    """``classification.json`` after the protocol."""
    classification_run(run, ClassificationSettings(**settings), directory, RECORD, directory)
    found: dict[str, Any] = json.loads((directory / "classification.json").read_text())
    return found


class Judged(NamedTuple):
    """A run, what was found, and where it lies."""

    run: Run
    found: dict[str, Any]
    directory: Path


@pytest.fixture(scope="module")
def two_classes(tmp_path_factory: pytest.TempPathFactory) -> Judged:
    top = tmp_path_factory.mktemp("two_classes")
    data = PhantomData("chest_phantom", "chest", list(chest.CLASSES), 1, 16, 64, 64)
    run = run_of(top / "run", data)
    return Judged(run, evaluated(run, top / "e", mistakes=5), top / "e")


@pytest.fixture(scope="module")
def eight_classes(tmp_path_factory: pytest.TempPathFactory) -> Judged:
    top = tmp_path_factory.mktemp("eight_classes")
    data = PhantomData("blood_phantom", "blood", list(blood.CLASSES), 3, 16, 16, 64)
    run = run_of(top / "run", data)
    return Judged(run, evaluated(run, top / "e", mistakes=0), top / "e")


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every picture is one white pixel: drawing takes most of the time."""

    def save(figure: Any, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (1, 1), "white").save(path)

    monkeypatch.setattr(figures, "save", save)


def test_the_long_form_leaves_numbers_pictures_events_predictions_and_a_page(two_classes: Judged) -> None:
    _, found, directory = two_classes
    names = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
    assert {"metrics.json", "classification.json", "report.html", found["predictions"]} <= names
    pictures = ["confusion_matrix", "confusion_matrix_youden", "roc", "precision_recall", "calibration", "mistakes"]
    assert {f"figures/test_{name}.png" for name in pictures} <= names
    assert any(name.startswith("tensorboard/events") for name in names)


def test_metrics_json_holds_the_record_and_the_splits_numbers_only(two_classes: Judged, tmp_path: Path) -> None:
    metrics_json = json.loads((two_classes.directory / "metrics.json").read_text())
    assert set(metrics_json) == {*RECORD, "test"}
    expected = results(predict(two_classes.run.task, two_classes.run.data.split("test"), CPU))
    write_json(tmp_path / "expected.json", expected)
    assert metrics_json["test"] == json.loads((tmp_path / "expected.json").read_text())


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
    found, expected = kept(two_classes.directory)[split], predict(two_classes.run.task, images, CPU)
    assert torch.equal(found.predictions.probabilities, expected.probabilities)
    assert torch.equal(found.predictions.labels, images.labels)
    assert found.images == digest(images)


def test_with_more_than_two_classes_the_page_says_that_there_is_no_threshold(eight_classes: Judged) -> None:
    _, found, directory = eight_classes
    assert set(found["threshold"]) == {"none"}
    assert found["threshold"]["none"] in (directory / "report.html").read_text()
    assert not (directory / "figures" / "test_confusion_matrix_youden.png").exists()


def test_every_score_of_every_class_and_of_their_mean_has_an_interval_around_it(eight_classes: Judged) -> None:
    found = eight_classes.found
    for name in ("precision", "recall", "f1", "specificity", "auroc", "average_precision"):
        values = found["metrics"]["per_class"][name]
        assert len(values) == len(found["class_intervals_95"][name]) == 8
        for value, (low, high) in zip(values, found["class_intervals_95"][name], strict=True):
            assert low <= value <= high
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
    for name, intervals in found["class_intervals_95"].items():
        assert intervals[1] == pytest.approx(found["metrics"]["interval_95"][name])
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
    data = MedMNISTData(name, name, names, shape_of, file=str(folder / f"{name}.npz"))
    return run_of(folder / "run", data)


@pytest.mark.parametrize(("name", "classes", "channels"), [("pneumoniamnist", 2, 1), ("bloodmnist", 8, 3)])
def test_medmnists_own_evaluator_gives_the_same_numbers_and_the_same_file(
    name: str, classes: int, channels: int, tmp_path: Path
) -> None:
    run = medmnist_run(tmp_path, name, classes, channels)
    predictions = predict(run.task, run.data.split("test"), CPU)
    values, ours = results(predictions), medmnist_scores(run.data, "test", predictions)
    (tmp_path / "theirs").mkdir()
    theirs = Evaluator(name, "test", root=str(tmp_path)).evaluate(
        predictions.probabilities.numpy(), str(tmp_path / "theirs"), run=3
    )
    assert values["auroc"] == pytest.approx(theirs.AUC, abs=1e-9)
    assert values["accuracy"] == pytest.approx(theirs.ACC, abs=1e-12)
    assert ours is not None
    assert (ours["AUC"], ours["ACC"]) == (theirs.AUC, theirs.ACC)
    (file,) = (tmp_path / "theirs").iterdir()
    assert predictions_name(run.data, "test", values, 3) == file.name
    write_predictions(tmp_path / "ours.csv", predictions.probabilities)
    assert (tmp_path / "ours.csv").read_text() == file.read_text()


@pytest.mark.usefixtures("no_pictures")
def test_the_page_on_a_medmnist_set_shows_its_evaluators_numbers(tmp_path: Path) -> None:
    found = evaluated(medmnist_run(tmp_path, "pneumoniamnist", 2, 1), tmp_path / "e")
    assert found["medmnist"]["AUC"] == pytest.approx(found["metrics"]["auroc"], abs=1e-9)
    assert (tmp_path / "e" / found["predictions"]).is_file()
    page = (tmp_path / "e" / "report.html").read_text()
    assert f"<td>{found['medmnist']['AUC']:.6f}</td><td>{found['medmnist']['ACC']:.6f}</td>" in page
    assert "not a published file" in page


def test_the_file_of_predictions_is_one_that_medmnist_reads_and_scores_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = medmnist_run(tmp_path, "pneumoniamnist", 2, 1)
    found = predict(run.task, run.data.split("test"), CPU)
    values = results(found)
    path = tmp_path / predictions_name(run.data, "test", values, 7)
    write_predictions(path, found.probabilities)
    monkeypatch.setattr(Evaluator.__init__, "__defaults__", (None, str(tmp_path)))
    theirs = Evaluator.parse_and_evaluate(str(path))
    capsys.readouterr()
    assert values["auroc"] == pytest.approx(theirs.AUC, abs=1e-6)
    assert values["accuracy"] == pytest.approx(theirs.ACC)


def test_phantoms_are_no_medmnist_set_and_their_predictions_are_named_alike(two_classes: Judged) -> None:
    found = two_classes.found
    assert found["medmnist"] is None
    auroc, accuracy = found["metrics"]["auroc"], found["metrics"]["accuracy"]
    assert found["predictions"] == f"chest_phantom_test_[AUC]{auroc:.3f}_[ACC]{accuracy:.3f}@3.csv"
