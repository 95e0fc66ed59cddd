"""The features before the last layer: what the file holds, how classifiers on them are chosen and judged, what is refused."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import Tensor, nn
from torch.nn import functional as F

from medassay.core.errors import ConfigError, DataError
from medassay.core.estimate import Estimate
from medassay.core.types import LabelledImages
from medassay.data.modules import LabelledData
from medassay.evaluation.about import describe_run
from medassay.evaluation.protocol import ComputeContext
from medassay.evaluation.writer import write_report
from medassay.metrics.bootstrap import draw_resample_weights
from medassay.metrics.scores import score_classification
from medassay.nets.block_cnn import BlockCNN
from medassay.protocols.features import classifiers, verdict
from medassay.protocols.features.classifiers import LabelledFeatures, choose_classifier, predict_probabilities
from medassay.protocols.features.figures import draw_projection, project
from medassay.protocols.features.measures import Scores
from medassay.protocols.features.other_images import read_other_images
from medassay.protocols.features.protocol import Features
from medassay.protocols.features.results import FeatureResults
from medassay.reporting.charts import Chart
from medassay.runs.directory import RunDirectory
from medassay.runs.run import Run
from medassay.tasks.classification import Classification
from medassay.tasks.predictions import predict
from medassay.training.settings import TrainerSettings
from tests.helpers import Command, assert_one_line

CPU = torch.device("cpu")
SAVED = Path(__file__).parents[1] / "fixtures" / "runs"
Factory = Callable[..., LabelledData]
FAST = ["logistic_regression"]


def run_of(path: Path, data: LabelledData, net: nn.Module | None = None, **settings: Any) -> Run:
    """A run as it is opened, with a net that has learnt nothing."""
    torch.manual_seed(0)
    net = net or BlockCNN(data.channels, data.num_classes, image_size=data.size, width=4, blocks=2)
    config = {"recipe": {"name": "a_model"}, "seed": 3}
    task = Classification(net, data.num_classes).eval()
    return Run(RunDirectory(path), config, data, task, TrainerSettings(gpus=0, **settings))


class Left(NamedTuple):
    """``features.json``, the file of features, the page and where they lie."""

    results: dict[str, Any]
    arrays: dict[str, np.ndarray[Any, Any]]
    page: str
    directory: Path


def compute_results(run: Run, **settings: Any) -> FeatureResults:
    """The results, of which nothing is written."""
    results = Features(**settings).run(run, ComputeContext.from_settings(run.settings, run.directory.path)).results
    assert isinstance(results, FeatureResults)
    return results


def leave_evaluation(run: Run, directory: Path, **settings: Any) -> Left:
    """What is written, with empty pictures: drawing takes most of the time."""
    report = Features(**settings).run(run, ComputeContext.from_settings(run.settings, directory))
    report = replace(report, figures={name: Chart(Figure(), "") for name in report.figures})
    record = {"run": "outputs/x", "status": "done", "protocol": {"name": "features", **settings}, "overrides": {}}
    write_report(report, describe_run(run, report.split), record, directory)
    with np.load(directory / "features.npz") as archive:
        arrays = dict(archive)
    results = json.loads((directory / "features.json").read_text())
    return Left(results, arrays, (directory / "report.html").read_text(), directory)


def compute(net: nn.Module, images: Tensor) -> np.ndarray[Any, Any]:
    """The net's features of ``images (N, C, H, W) uint8``, all in one batch."""
    with torch.no_grad():
        return np.asarray(net.features(images.float() / 255))  # type: ignore[operator]


def blobs(n: int = 60, *, k: int = 3, apart: float = 8.0, seed: int = 0) -> LabelledFeatures:
    """Clouds of points in the plane, one a class; at 8 deviations from each other every classifier tells them apart."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % k
    centres = apart * torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])[:k]
    return LabelledFeatures(torch.randn(n, 2, generator=rng) + centres[labels], labels)


def rings(n: int = 80, seed: int = 0) -> LabelledFeatures:
    """Two classes, one in a ring around the other: no straight border is better than chance by much."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    angle, radius = 2 * torch.pi * torch.rand(n, generator=rng), 1.0 + 3 * labels
    return LabelledFeatures(torch.stack([radius * angle.cos(), radius * angle.sin()], 1), labels)


# --- the file --------------------------------------------------------------------------------------------------------


def test_the_file_holds_what_the_last_layer_sees_of_every_image(tiny_chest: Factory, tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", tiny_chest(val=16, test=24))
    left = leave_evaluation(run, tmp_path / "out", classifiers=[])
    net = run.task.net
    assert isinstance(net, BlockCNN)
    for split, n in (("train", 96), ("val", 16), ("test", 24)):
        images = run.data.split(split)
        features = left.arrays[f"{split}_features"]
        assert features.shape == (n, 8)
        assert features.dtype == np.float32
        np.testing.assert_allclose(features, compute(net, images.images), atol=1e-6)
        assert left.arrays[f"{split}_labels"].tolist() == images.labels.tolist()
        logits = net.head(torch.from_numpy(features))
        torch.testing.assert_close(logits.softmax(1), predict(run.task, images, CPU).probabilities)
    assert left.arrays["classes"].tolist() == ["normal", "pneumonia"]
    assert json.loads(str(left.arrays["provenance"]))["run"] == str(tmp_path / "run")


def test_without_classifiers_there_is_the_file_and_nothing_is_judged(tiny_chest: Factory, tmp_path: Path) -> None:
    left = leave_evaluation(run_of(tmp_path / "run", tiny_chest()), tmp_path / "out", classifiers=[])
    assert left.results["classifiers"] == []
    assert left.results["last_layer"] is None
    assert left.results["verdict"] == ""
    assert not (left.directory / "metrics.json").exists()
    assert "Verdict" not in left.page
    assert 'np.load("features.npz")' in left.page


def test_a_subset_and_a_run_cut_short_give_the_images_that_were_used(tiny_chest: Factory, tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", tiny_chest(subset=40), limit_batches=1)
    left = leave_evaluation(run, tmp_path / "out", classifiers=[])
    assert left.results["n"] == {"train": 16, "val": 16, "test": 16}
    assert left.arrays["train_labels"].tolist() == run.data.splits.train.labels[:16].tolist()
    assert compute_results(run_of(tmp_path / "run", tiny_chest(subset=40)), classifiers=[]).n["train"] == 40


def test_with_validation_images_no_test_image_is_looked_at(
    tiny_chest: Factory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tiny_chest()
    whole = data.split

    def split(name: str) -> LabelledImages:
        assert name != "test"
        return whole(name)

    monkeypatch.setattr(data, "split", split)
    left = leave_evaluation(run_of(tmp_path / "run", data), tmp_path / "out", classifiers=FAST, split="val")
    assert not [name for name in left.arrays if name.startswith("test")]
    assert "so their numbers are too good" in left.page
    assert "No test image was looked at" in left.page
    (one,) = left.results["classifiers"]
    assert one["scores"]["balanced_accuracy"]["mean"] == one["chosen"]["score"]


# --- the choice ------------------------------------------------------------------------------------------------------


def test_logistic_regression_is_scikit_learns_on_standardised_features_chosen_by_balanced_accuracy() -> None:
    train, val, test = (blobs(90, apart=1.5, seed=seed) for seed in range(3))
    choice = choose_classifier("logistic_regression", train, val, 3)
    scaler = StandardScaler().fit(train.features.double().numpy())
    by_hand = []
    for c in (0.001, 0.01, 0.1, 1.0, 10.0):
        model = LogisticRegression(C=c, class_weight="balanced", max_iter=2000)
        model.fit(scaler.transform(train.features.double().numpy()), train.labels.numpy())
        decisions = model.predict(scaler.transform(val.features.double().numpy()))
        by_hand.append((balanced_accuracy_score(val.labels.numpy(), decisions), model))
    assert [one.score for one in choice.candidates] == pytest.approx([score for score, _ in by_hand])
    model = max(by_hand, key=lambda one: one[0])[1]
    assert choice.chosen.settings == {"C": model.C}
    expected = model.predict_proba(scaler.transform(test.features.double().numpy()))
    np.testing.assert_allclose(predict_probabilities(choice.classifier, test.features, 3).numpy(), expected, atol=1e-12)


def test_a_support_vector_machine_decides_and_ranks_by_its_decision_values() -> None:
    train, val = blobs(90, apart=1.5), blobs(60, apart=1.5, seed=1)
    choice = choose_classifier("svm", train, val, 3, standardise=False)
    model = SVC(class_weight="balanced", break_ties=True, **choice.chosen.settings)
    model.fit(train.features.double().numpy(), train.labels.numpy())
    decisions = predict_probabilities(choice.classifier, val.features, 3).argmax(1)
    assert decisions.tolist() == model.predict(val.features.double().numpy()).tolist()
    train, val = blobs(60, k=2, apart=1.5), blobs(60, k=2, apart=1.5, seed=1)
    choice = choose_classifier("svm", train, val, 2)
    area = roc_auc_score(val.labels.numpy(), choice.classifier.decision_function(val.features.double().numpy()))
    probabilities = predict_probabilities(choice.classifier, val.features, 2)
    assert Scores.from_probabilities(probabilities, val.labels).values["auroc"] == pytest.approx(area)


def test_a_curved_border_is_chosen_where_the_classes_need_one_and_the_nearest_where_they_alternate() -> None:
    choice = choose_classifier("svm", rings(), rings(seed=1), 2)
    assert choice.chosen.settings["kernel"] == "rbf"
    line = torch.arange(40.0)[:, None]
    pairs = LabelledFeatures(line, (torch.arange(40) // 2) % 2)
    between = LabelledFeatures(line + 0.1, pairs.labels)
    assert choose_classifier("knn", pairs, between, 2).chosen.settings == {"n_neighbors": 1}


@pytest.mark.parametrize("name", ["logistic_regression", "svm", "knn"])
def test_among_equally_good_settings_the_simplest_is_taken(name: classifiers.Name) -> None:
    choice = choose_classifier(name, blobs(120), blobs(30, seed=1), 3)
    assert [one.score for one in choice.candidates] == [1.0] * len(choice.candidates)
    assert choice.chosen.settings == classifiers.GRIDS[name][0]


def test_more_neighbours_than_training_images_are_not_tried() -> None:
    assert choose_classifier("knn", blobs(9), blobs(30, seed=1), 3).candidates[0].settings == {"n_neighbors": 5}


def test_a_class_without_training_images_has_no_probability() -> None:
    two = blobs(60, k=2)
    names: tuple[classifiers.Name, ...] = ("logistic_regression", "svm")
    for name in names:
        choice = choose_classifier(name, two, blobs(30, seed=1), 3)
        probabilities = predict_probabilities(choice.classifier, two.features, 3)
        assert probabilities[:, 2].tolist() == [0] * 60
        torch.testing.assert_close(probabilities.sum(1), torch.ones(60, dtype=torch.float64))


def test_a_fit_that_is_cut_short_is_told_of_and_not_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifiers, "ITERATIONS", 2)
    choice = choose_classifier("logistic_regression", blobs(60, apart=1.5), blobs(30, seed=1), 3)
    assert not choice.candidates[-1].converged


def test_test_labels_take_no_part_in_the_choice(tiny_chest: Factory, tmp_path: Path) -> None:
    data = tiny_chest()
    names = ["logistic_regression", "knn"]
    first = compute_results(run_of(tmp_path / "run", data), classifiers=names)
    test = data.splits.test
    data._splits = data.splits._replace(test=LabelledImages(test.images, 1 - test.labels))
    turned = compute_results(run_of(tmp_path / "run", data), classifiers=names)
    assert turned.best == first.best
    for one, other in zip(first.classifiers, turned.classifiers, strict=True):
        assert (other.chosen, other.candidates) == (one.chosen, one.candidates)
        assert other.scores["accuracy"].value == pytest.approx(1 - one.scores["accuracy"].value)


def test_the_largest_number_of_training_images_cuts_what_is_fitted_on_and_the_page_says_so(
    tiny_chest: Factory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    run = run_of(tmp_path / "run", tiny_chest())
    left = leave_evaluation(run, tmp_path / "out", classifiers=FAST, largest=40)
    assert left.results["fitted_on"] == 40
    assert len(left.arrays["train_features"]) == 96
    assert "40 of the 96 training images" in left.page
    assert "logistic regression: 5 settings on 40 images …" in caplog.text


# --- the numbers and the verdict -------------------------------------------------------------------------------------


def test_a_difference_is_taken_on_the_same_resamples_image_by_image() -> None:
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 2
    first, second = ((torch.randn(40, 2, generator=rng) + F.one_hot(labels, 2)).softmax(1) for _ in range(2))
    own = Scores.from_probabilities(first, labels)
    assert own.subtract(own) == Estimate(0.0, 0.0, 0.0, n=40)
    right = [(p.argmax(1) == labels).double() for p in (first, second)]
    weights = torch.cat([*draw_resample_weights(40, resamples=1000, seed=0)])
    recalls = [
        torch.stack([weights @ (hit * (labels == k)) / (weights @ (labels == k).double()) for k in (0, 1)]).mean(0)
        for hit in right
    ]
    low, high = np.quantile((recalls[0] - recalls[1]).numpy(), (0.025, 0.975))
    difference = own.subtract(Scores.from_probabilities(second, labels))
    assert (difference.low, difference.high) == pytest.approx((low, high))


def test_scores_are_those_of_a_classifiers_own_report() -> None:
    labels = torch.arange(30) % 3
    probabilities = torch.rand(30, 3, generator=torch.Generator().manual_seed(0)).softmax(1)
    expected = score_classification(probabilities, labels).estimates
    for name, estimate in Scores.from_probabilities(probabilities, labels).estimates.items():
        assert estimate == expected[name]


GOOD = {"balanced_accuracy": Estimate(0.9, 0.85, 0.95), "auroc": Estimate(0.95, 0.9, 0.99)}
AT_CHANCE = {"balanced_accuracy": Estimate(0.55, 0.45, 0.65), "auroc": Estimate(0.6, 0.5, 0.7)}


@pytest.mark.parametrize(
    ("low", "high", "level"),
    [
        (-0.019, 0.019, "as_good"),
        (0.001, 0.019, "as_good"),
        (0.001, 0.03, "better"),
        (-0.03, -0.001, "worse"),
        (-0.03, 0.001, "undecided"),
        (-0.001, 0.03, "undecided"),
        (-0.02, 0.0, "undecided"),
    ],
)
def test_the_verdict_reads_the_whole_interval_of_the_difference(low: float, high: float, level: str) -> None:
    difference = Estimate((low + high) / 2, low, high)
    assert verdict.judge(difference, GOOD, [50, 50]) == level
    assert verdict.judge(difference, AT_CHANCE, [50, 50]) == "undecided"
    assert verdict.judge(difference, GOOD, [2, 2]) == "undecided"


def test_the_verdict_is_about_the_classifier_that_validation_images_prefer(tiny_chest: Factory, tmp_path: Path) -> None:
    results = compute_results(run_of(tmp_path / "run", tiny_chest()), classifiers=["knn", "logistic_regression"])
    best = max(results.classifiers, key=lambda one: one.chosen.score)
    assert results.best == best.key
    assert best.name in results.verdict


def test_the_plane_is_spanned_by_the_training_images_alone() -> None:
    train = torch.tensor([[-2.0, 0.0, 5.0], [2.0, 0.0, 5.0], [0.0, 1.0, 5.0], [0.0, -1.0, 5.0]])
    plane = project(train, train[:1] + torch.tensor([[0.0, 3.0, 9.0]]), standardise=False, seed=0)
    assert plane is not None
    assert plane.shares == pytest.approx((0.8, 0.2))
    assert plane.places.abs().tolist() == [pytest.approx([2.0, 3.0])]
    assert project(torch.ones(5, 3), torch.ones(2, 3), standardise=True, seed=0) is None
    judged = blobs(30)
    description = draw_projection(plane._replace(places=judged.features.double()), judged, ["a", "b", "c"]).description
    assert description.startswith("30 images")
    assert "80 % and 20 %" in description


# --- another set's images --------------------------------------------------------------------------------------------


def write_other_set(path: Path, *, side: int = 32, n: int = 24) -> dict[str, np.ndarray[Any, Any]]:
    """RGB images of three classes in MedMNIST's layout, told apart by their colour."""
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for split in ("train", "val", "test"):
        labels = np.arange(n) % 3
        noise = rng.integers(0, 60, (n, side, side, 3), dtype=np.uint8)
        arrays[f"{split}_images"] = noise + 90 * np.eye(3, dtype=np.uint8)[labels][:, None, None]
        arrays[f"{split}_labels"] = labels[:, None].astype(np.uint8)
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return arrays


def test_the_images_of_another_set_are_brought_to_the_nets_size_and_channels(
    tiny_chest: Factory, tmp_path: Path
) -> None:
    stored = write_other_set(tmp_path / "other.npz")
    run = run_of(tmp_path / "run", tiny_chest())
    left = leave_evaluation(run, tmp_path / "out", classifiers=FAST, images=str(tmp_path / "other.npz"))
    converted = [
        np.asarray(Image.fromarray(image).convert("L").resize((28, 28), Image.Resampling.BICUBIC))
        for image in stored["test_images"]
    ]
    expected = compute(run.task.net, torch.from_numpy(np.stack(converted))[:, None])
    np.testing.assert_allclose(left.arrays["test_features"], expected, atol=1e-6)
    assert left.arrays["test_labels"].tolist() == stored["test_labels"][:, 0].tolist()
    assert left.arrays["classes"].tolist() == ["class 0", "class 1", "class 2"]
    assert left.results["converted"] == {"RGB to grey": 72, "reduced to 28×28 (bicubic, antialiased)": 72}


def test_of_another_set_the_last_layer_is_left_out_and_numbers_are_a_group_of_their_own(
    tiny_blood: Factory, tmp_path: Path
) -> None:
    write_other_set(tmp_path / "other.npz", side=28)
    run = run_of(tmp_path / "run", tiny_blood())
    left = leave_evaluation(run, tmp_path / "out", classifiers=FAST, images=str(tmp_path / "other.npz"))
    assert left.results["last_layer"] is None
    assert left.results["converted"] == {}
    assert left.results["verdict"].startswith("The features tell the classes apart: logistic regression")
    assert "last layer is left out" in left.page
    metrics = json.loads((left.directory / "metrics.json").read_text())
    assert "features" not in metrics
    assert metrics["transfer"]["logistic_regression/test/accuracy"] == 1.0
    assert not Features(images="other.npz").uses_own_data
    assert Features().uses_own_data


# --- what is refused -------------------------------------------------------------------------------------------------


def refused(run: Run, tmp_path: Path, **settings: Any) -> str:
    with pytest.raises((ConfigError, DataError)) as caught:
        Features(**settings).run(run, ComputeContext.from_settings(run.settings, tmp_path))
    return str(caught.value)


def test_a_net_without_features_is_refused(tiny_chest: Factory, tmp_path: Path) -> None:
    plain = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 2))
    message = refused(run_of(tmp_path / "run", tiny_chest(), plain), tmp_path)
    assert message.startswith("model.net is a Sequential, which has no function features(images)")

    class Maps(nn.Module):
        def features(self, x: Tensor) -> Tensor:
            return x

    message = refused(run_of(tmp_path / "run", tiny_chest(), Maps()), tmp_path)
    assert "features(images) of a Maps gives (96, 1, 28, 28), expected (B, d)" in message


def test_training_images_of_one_class_are_refused(tiny_chest: Factory, tmp_path: Path) -> None:
    data = tiny_chest()
    train = data.splits.train
    data._splits = data.splits._replace(train=train[train.labels == 0])
    assert "all of one class" in refused(run_of(tmp_path / "run", data), tmp_path, classifiers=FAST)


def test_another_set_that_cannot_be_read_is_refused_by_the_name_of_its_setting(
    tiny_chest: Factory, tmp_path: Path
) -> None:
    run = run_of(tmp_path / "run", tiny_chest())
    assert "protocol.images=nothing.npz is no file" in refused(run, tmp_path, images="nothing.npz")
    file = tmp_path / "other.npz"
    file.write_text("no archive")
    assert "is not an .npz file" in refused(run, tmp_path, images=str(file))
    np.savez(file, train_images=np.zeros((4, 28, 28), dtype=np.uint8))
    message = refused(run, tmp_path, images=str(file))
    assert "has no train_labels" in message
    assert "name another protocol.images" in message


@pytest.mark.parametrize(
    ("shape", "advice"),
    [
        ((4, 28, 28, 1), "save train_images[..., 0]"),
        ((4, 1, 28, 28), "save train_images[:, 0]"),
        ((4, 3, 28, 28), "save train_images.transpose(0, 2, 3, 1)"),
    ],
)
def test_another_set_of_another_layout_is_refused_with_what_brings_it_there(
    shape: tuple[int, ...], advice: str, tmp_path: Path
) -> None:
    arrays = {f"{split}_images": np.zeros(shape, dtype=np.uint8) for split in ("train", "val", "test")}
    labels = {f"{split}_labels": np.arange(4)[:, None] % 2 for split in ("train", "val", "test")}
    np.savez(tmp_path / "other.npz", **arrays, **labels)
    with pytest.raises(DataError) as caught:
        read_other_images(str(tmp_path / "other.npz"), size=28, channels=1)
    assert advice in str(caught.value)
    assert "data." not in str(caught.value)


def test_a_generator_and_an_unknown_classifier_are_refused_in_one_line(command: Command) -> None:
    gpus = ("trainer.gpus=0", "trainer.threads=1")
    assert_one_line(command("evaluate", f"run={SAVED / 'cgan'}", "protocol=features", *gpus), "is a generator's run")
    asked = command("evaluate", f"run={SAVED / 'cnn'}", "protocol=features", "protocol.classifiers=[tree]", *gpus)
    assert_one_line(asked, "protocol.classifiers=['tree']", "logistic_regression")


# --- the whole command -----------------------------------------------------------------------------------------------


def test_the_command_judges_all_classifiers_twice_the_same_and_leaves_a_page(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifiers, "TREES", 20)
    run = shutil.copytree(SAVED / "cnn", tmp_path / "cnn", ignore=shutil.ignore_patterns("eval"))
    for _ in range(2):
        result = command("evaluate", f"run={run}", "protocol=features", "trainer.gpus=0", "trainer.threads=1")
        assert result.code == 0, result.err
    assert "random forest: 3 settings on 64 images …" in result.out
    first, second = sorted((run / "eval").glob("features_*"))
    assert (first / "features.npz").read_bytes() == (second / "features.npz").read_bytes()
    first_results, again = (json.loads((path / "features.json").read_text()) for path in (first, second))
    for name in ("classifiers", "last_layer", "verdict"):
        assert first_results[name] == again[name]
    assert [one["key"] for one in first_results["classifiers"]] == [
        "logistic_regression",
        "svm",
        "random_forest",
        "knn",
    ]
    assert first_results["verdict"] in result.out
    page = (first / "report.html").read_text()
    for fact in ("Verdict", "random forest", "What was tried", "(chosen)", "How to read this", "rendered phantoms"):
        assert fact in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert {path.name for path in (first / "figures").iterdir()} == {"scores.png", "projection.png"}
    numbers = json.loads((first / "metrics.json").read_text())["features"]
    own = json.loads((run / "metrics.json").read_text())["test"]
    assert numbers["last_layer/test/accuracy"] == pytest.approx(own["accuracy"])
    assert numbers["svm/test/difference"] == pytest.approx(
        numbers["svm/test/balanced_accuracy"] - numbers["last_layer/test/balanced_accuracy"]
    )
