"""Domain shift: the rules at their limits, errors by hand, the remedy, another set, and a whole run on phantoms."""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from medassay.core.errors import CheckpointError, ConfigError, DataError
from medassay.core.estimate import Estimate
from medassay.core.results import read_result
from medassay.core.types import LabelledImages
from medassay.data.corruptions import TABLE, corrupt_stored
from medassay.data.modules import LabelledData
from medassay.data.sources import phantom_data
from medassay.evaluation.about import describe_run
from medassay.evaluation.protocol import ComputeContext, Report
from medassay.evaluation.writer import write_report
from medassay.metrics.chance import ChanceCheck
from medassay.nets.block_cnn import BlockCNN
from medassay.protocols.domain_shift import measures, monitors, verdict
from medassay.protocols.domain_shift.audit import Audit
from medassay.protocols.domain_shift.external import read_external
from medassay.protocols.domain_shift.protocol import BUDGETS, DomainShift, list_empty_classes
from medassay.protocols.domain_shift.remedy import has_batch_norm, reestimate_batch_norm
from medassay.protocols.domain_shift.results import (
    LEVELS,
    Answer,
    BatchTest,
    Condition,
    DomainShiftResults,
    Fall,
    Level,
    Remedy,
)
from medassay.runs.directory import RunDirectory
from medassay.runs.load import load_run
from medassay.runs.run import Run
from medassay.tasks.classification import Classification
from medassay.tasks.predictions import predict
from medassay.training.settings import TrainerSettings
from tests.helpers import Command, assert_one_line, list_differences

CPU = torch.device("cpu")
SAVED = Path(__file__).parents[1] / "fixtures" / "runs"
TWO = ["normal", "pneumonia"]


# --- the rules -------------------------------------------------------------------------------------------------------


def interval(low: float, high: float) -> Estimate:
    return Estimate((low + high) / 2, low, high, n=100)


def make_fall(accuracy: tuple[float, float], surplus: tuple[float, float] = (0.01, 0.02)) -> Fall:
    some = interval(*accuracy)
    return Fall(some, some, interval(0.0, 0.02), interval(*surplus))


@pytest.mark.parametrize(
    ("accuracy", "surplus", "level"),
    [
        ((-0.01, 0.0499), (0.1, 0.2), "holds"),
        ((-0.01, 0.05), (0.1, 0.2), "undecided"),
        ((0.0499, 0.2), (0.1, 0.2), "undecided"),
        ((0.05, 0.2), (0.001, 0.2), "silent"),
        ((0.05, 0.2), (0.0, 0.2), "unclear"),
        ((0.05, 0.2), (-0.2, 0.0), "unclear"),
        ((0.05, 0.2), (-0.2, -0.001), "open"),
        ((float("nan"), float("nan")), (0.1, 0.2), "undecided"),
    ],
)
def test_a_net_fails_where_the_whole_fall_lies_at_or_above_5_points_and_silently_where_confidence_stays(
    accuracy: tuple[float, float], surplus: tuple[float, float], level: Level
) -> None:
    assert verdict.judge(make_fall(accuracy, surplus)) == level


def test_a_net_is_said_to_hold_only_on_so_many_images_that_a_fall_of_5_points_could_not_be_missed_in_all() -> None:
    assert 0.95**verdict.LEAST <= 0.025 < 0.95 ** (verdict.LEAST - 1)
    assert f"with fewer than {verdict.LEAST} images nothing is said to hold" in verdict.RULE
    for n, level in ((verdict.LEAST - 1, "undecided"), (verdict.LEAST, "holds")):
        flat = Estimate(0.0, 0.0, 0.0, n=n)  # all answers right before and after
        assert verdict.judge(Fall(flat, flat, flat, flat)) == level
    few = replace(condition("blur", 1, "undecided", 0.0), n=10)
    text = verdict.judge_accuracy([few]).text
    assert text.endswith("Undecided: blur (1); with fewer than 72 images nothing is said to hold.")


def batch(m: int, low: float, high: float) -> BatchTest:
    return BatchTest(m, Estimate((low + high) / 2, low, high, n=100, kind="exact"))


@pytest.mark.parametrize(
    ("alarms", "false_alarms", "answer"),
    [
        ((0.81, 0.9), (0.01, 0.1), "yes"),
        ((0.8, 0.9), (0.01, 0.1), "undecided"),
        ((0.1, 0.8), (0.01, 0.1), "no"),
        ((0.1, 0.81), (0.01, 0.1), "undecided"),
        ((0.81, 0.9), (0.05, 0.2), "yes"),
        ((0.81, 0.9), (0.051, 0.2), "undecided"),  # it cries wolf
    ],
)
def test_a_monitor_notices_where_its_alarm_rate_is_high_and_that_of_false_alarms_is_not(
    alarms: tuple[float, float], false_alarms: tuple[float, float], answer: Answer
) -> None:
    tests = [batch(50, 0.0, 0.1), batch(200, *alarms)]
    assert verdict.judge_monitor(tests, [batch(50, 0.5, 0.9), batch(200, *false_alarms)]) == answer
    assert verdict.judge_monitor([], []) is None


def test_a_set_of_another_size_is_judged_on_the_largest_batches_that_both_have() -> None:
    few, many = [batch(50, 0.9, 1.0)], [batch(50, 0.9, 1.0), batch(200, 0.0, 0.1)]
    assert verdict.judge_monitor(few, [batch(50, 0.0, 0.1), batch(200, 0.2, 0.4)]) == "yes"
    assert verdict.judge_monitor(many, [batch(50, 0.0, 0.1)]) == "yes"
    assert verdict.judge_monitor(many[1:], [batch(50, 0.0, 0.1)]) == "undecided"


def condition(
    name: str, severity: int | None, level: Level, fall: float = 0.1, noticed: Answer | None = "yes", gain: float = 0.05
) -> Condition:
    some = Estimate(0.9, 0.85, 0.95, n=100)
    return Condition(
        key=name,
        name=name,
        severity=severity,
        parameter="",
        n=100,
        scores=dict.fromkeys(("accuracy", "balanced_accuracy", "auroc", "ece"), some),
        confidence=some,
        recall=[0.9, 0.9],
        fall=make_fall((fall - 0.01, fall + 0.01)),
        detection={},
        batch_tests=[batch(50, 0.0, 0.2)],
        remedy=Remedy(some, interval(gain - 0.01, gain + 0.01)),
        level=level,
        noticed=noticed,
    )


def test_the_verdict_is_the_worst_level_with_its_corruptions_and_their_severities() -> None:
    found = [condition("blur", 1, "holds", 0.0), condition("blur", 3, "silent"), condition("blur", 5, "silent", 0.3)]
    level, words, reason = verdict.summarise([*found, condition("noise", 5, "open", 0.4)])
    assert level == "silent"
    assert (
        words
        == "Silent failure: of 4 changes, the net fails silently under 2, fails and says so under 1, holds under 1."
    )
    assert reason.startswith(
        "Fails silently under blur (3, 5); severities in brackets. Most is lost under blur, severity 5"
    )
    assert verdict.summarise(found[:1])[:2] == ("holds", "Holds: of 1 change, the net holds under 1.")
    assert verdict.summarise(found[:1])[2].startswith("Nowhere does accuracy fall by 5 points")


@pytest.mark.parametrize(
    ("levels", "worst"),
    [(["holds", "undecided"], "undecided"), (["undecided", "open"], "open"), (["open", "unclear"], "unclear")],
)
def test_a_failure_outweighs_what_is_undecided(levels: list[Level], worst: Level) -> None:
    assert verdict.summarise([condition(str(k), 1, level) for k, level in enumerate(levels)])[0] == worst


def test_of_many_corruptions_the_first_are_named() -> None:
    text = verdict.list_conditions([condition(str(k), 1, "silent") for k in range(12)])
    assert text.startswith("0 (1), 1 (1)")
    assert text.endswith("and 2 more")


def test_findings_say_what_holds_what_is_missed_and_what_helps() -> None:
    clean = replace(condition("unchanged", None, "holds"), fall=None, level=None)
    conditions = [
        condition("blur", 1, "holds", 0.0),
        condition("blur", 3, "silent", noticed="no", gain=-0.1),
        condition("noise", 3, "open", 0.2, gain=0.2),
    ]
    found = {
        one.question: one
        for one in verdict.list_findings(clean, conditions, None, [batch(200, 0.9, 1.0)], "test images")
    }
    looks = [one.look for one in found.values()]
    assert looks == ["suspicious", "suspicious", "missing", "missing", "missing"]
    texts = [one.text for one in found.values()]
    assert texts[0] == "It holds under 1 of 3 corruptions and severities. It fails under blur (3), noise (3)."
    assert texts[1].startswith("Not in 1 of 2 failures. Blur, severity 3")
    assert texts[2].startswith("It notices 1 of 2 failures. Missed: blur (3). On unchanged batches it raises")
    assert texts[3].startswith("No: beside validation images, 95 %")
    assert texts[4] == (
        "It raises accuracy in 1 of 2 failures. It lowers it under blur (3). "
        "All that was lost comes back under noise (3)."
    )


def test_a_net_at_chance_is_not_judged() -> None:
    text = verdict.refuse_judgement(ChanceCheck(interval(0.4, 0.6), interval(0.4, 0.6), 0.5))
    assert text.startswith("Not judged")


# --- what is measured ------------------------------------------------------------------------------------------------


def test_mean_corruption_error_is_that_of_the_paper_by_hand() -> None:
    clean, baseline_clean = torch.tensor([1.0, 0, 0, 0]), torch.tensor([0.0, 0, 0, 0])
    own = {"a": [torch.tensor([1.0, 1, 0, 0]), torch.tensor([1.0, 1, 1, 0])], "b": [torch.tensor([1.0, 0, 0, 0])] * 2}
    theirs = {
        "a": [torch.tensor([1.0, 0, 0, 0]), torch.tensor([1.0, 1, 1, 1])],
        "b": [torch.tensor([1.0, 1, 0, 0])] * 2,
    }
    found = measures.measure_errors(clean, own, (baseline_clean, theirs), ("outputs/a", "a_model on data"))
    assert found.by_corruption["a"].value == pytest.approx((0.5 + 0.75) / (0.25 + 1))
    assert found.by_corruption["b"].value == pytest.approx(0.5 / 1)
    assert found.relative.value == pytest.approx((1 + 0.5) / 2)
    assert found.rise is not None
    assert found.rise.value == pytest.approx(((1.25 - 0.5) / 1.25 + 0) / 2)
    assert found.mean.value == pytest.approx((1.25 + 0.5) / 4)
    no_worse = {name: [baseline_clean] * 2 for name in own}
    no_worse["a"] = theirs["a"]
    assert measures.measure_errors(clean, own, (baseline_clean, no_worse), ("outputs/a", "a_model")).rise is None
    alone = measures.measure_errors(clean, own, None)
    assert (alone.relative.value, alone.baseline, alone.undefined) == (pytest.approx((1.25 / 0.5 + 1) / 2), None, None)
    none = measures.measure_errors(baseline_clean, own, None)
    assert "no error on unchanged images" in str(none.undefined)


def test_falls_compare_the_same_images_and_the_surplus_is_half_the_accuracy_s_fall_less_the_confidence_s() -> None:
    labels = torch.arange(40) % 2
    sure = torch.nn.functional.one_hot(labels, 2).double() * 4
    half = torch.arange(40) < 20
    flipped = torch.where(half[:, None], sure.flip(1), sure)  # half of the answers turn round, as sure as before
    clean, changed = (measures.measure(measures.Observed(logits, labels)) for logits in (sure, flipped))
    fall = measures.compare(clean, changed)
    assert (fall.accuracy.value, fall.confidence.value) == (0.5, pytest.approx(0))
    assert fall.surplus.value == pytest.approx(0.25)
    assert (fall.confidence.low, fall.confidence.high) == (pytest.approx(0), pytest.approx(0))
    drawn = torch.randint(40, (1000, 40), generator=torch.Generator().manual_seed(0))
    expected = np.quantile(half[drawn].double().mean(1).numpy(), [0.025, 0.975])
    assert [fall.accuracy.low, fall.accuracy.high] == pytest.approx(expected.tolist())
    assert verdict.judge(fall) == "silent"


def test_a_batch_never_holds_an_image_and_its_changed_copy_so_that_unchanged_batches_alarm_as_often_as_set() -> None:
    features = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    (found,) = monitors.count_alarms(features, features, same=True, sizes=(30, 31), trials=60, bandwidth=2.0, seed=0)
    assert found.m == 30  # batches of 31 would need 62 images
    assert not found.alarms.is_above(monitors.NOMINAL)
    (shifted,) = monitors.count_alarms(features, features + 2, same=True, sizes=(30,), trials=20, bandwidth=2.0, seed=0)
    assert shifted.alarms.value == 1


# --- the remedy ------------------------------------------------------------------------------------------------------


def make_net(seed: int = 0, **settings: Any) -> BlockCNN:
    torch.manual_seed(seed)
    return BlockCNN(1, 2, width=4, blocks=2, **settings).eval()


def fit_statistics(net: BlockCNN, images: Tensor) -> BlockCNN:
    """The net with batch-norm statistics of ``images (N, C, H, W) uint8``, as after training."""
    adapted = reestimate_batch_norm(net, images, CPU)
    assert isinstance(adapted, BlockCNN)
    return adapted


@pytest.fixture(scope="module")
def chests() -> LabelledData:
    data = phantom_data("chest_phantom", "chest", TWO, 1, train=48, val=16, test=120)
    _ = data.splits
    return data


def test_new_statistics_undo_a_shift_of_the_inputs_and_leave_the_net_itself_alone(chests: LabelledData) -> None:
    torch.manual_seed(0)
    test = chests.splits.test
    net = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(784, 2)).eval()
    fitted = reestimate_batch_norm(net, test.images, CPU)
    labels = predict(fitted, test, CPU).decisions
    before = copy.deepcopy(fitted.state_dict())
    shifted = LabelledImages((test.images.float() * 0.3 + 150).round().to(torch.uint8), labels)  # other gain and offset
    first = predict(fitted, shifted, CPU).decisions
    adapted = reestimate_batch_norm(fitted, shifted.images, CPU)
    second = predict(adapted, shifted, CPU).decisions
    assert float((first == labels).float().mean()) < 0.8
    assert float((second == labels).float().mean()) > 0.95  # but for the rounding to 8 bits
    assert not list_differences(before, fitted.state_dict())
    assert not adapted.training
    assert [part.momentum for part in adapted.modules() if isinstance(part, nn.BatchNorm2d)] == [0.1]


def test_statistics_of_a_batch_norm_at_the_input_are_the_images_own() -> None:
    images = torch.randint(0, 256, (50, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    norm = reestimate_batch_norm(nn.Sequential(nn.BatchNorm2d(1)), images, CPU)[0]  # type: ignore[index]
    values = images.double() / 255
    assert float(norm.running_mean) == pytest.approx(float(values.mean()), rel=1e-5)  # type: ignore[arg-type]
    assert float(norm.running_var) == pytest.approx(float(values.var()), rel=1e-5)  # type: ignore[arg-type]


def test_nets_without_batch_norm_are_told_from_those_with() -> None:
    assert has_batch_norm(make_net())
    assert not has_batch_norm(make_net(normalisation="group"))
    with pytest.raises(ValueError, match="at least two images"):
        reestimate_batch_norm(make_net(), torch.zeros(1, 1, 28, 28, dtype=torch.uint8), CPU)


# --- another set -----------------------------------------------------------------------------------------------------


def write_npz(path: Path, images: Any, labels: Any, **more: Any) -> str:
    np.savez(path, test_images=images, test_labels=labels, **more)
    return str(path)


GREY = np.arange(6 * 28 * 28, dtype=np.int64).reshape(6, 28, 28).astype(np.uint8)


def test_an_npz_of_test_images_alone_is_read_resized_and_named(tmp_path: Path, chests: LabelledData) -> None:
    path = write_npz(tmp_path / "a.npz", GREY, np.array([[0], [1], [0], [1], [1], [1]], dtype=np.uint8))
    found = read_external(path, chests, None)
    assert torch.equal(found.images.images[:, 0], torch.from_numpy(GREY))
    assert (found.images.labels.tolist(), found.classes, found.named) == (
        [0, 1, 0, 1, 1, 1],
        ["class 0", "class 1"],
        False,
    )
    assert found.converted == []
    assert read_external(path, chests, ["healthy", "ill"]).classes == ["healthy", "ill"]
    large = write_npz(tmp_path / "b.npz", GREY.repeat(2, 1).repeat(2, 2), [0] * 6, classes=np.array(["no", "yes"]))
    other = read_external(large, chests, None)
    assert (other.images.images.shape, other.classes, other.named) == ((6, 1, 28, 28), ["no", "yes"], True)
    assert other.converted == ["resized from 56 to 28 pixels a side (bicubic)"]


@pytest.mark.parametrize(
    ("arrays", "facts"),
    [
        (
            (GREY, [0, 1, 2, 0, 1, 2]),
            ("its labels go up to 2", "knows 2 classes (normal, pneumonia)", "protocol.external="),
        ),
        ((np.stack([GREY] * 3, 3), [0] * 6), ("its images are RGB", "the run takes grey")),
        (
            (GREY, [0, 1]),
            ("6 'test_images', but 2 'test_labels': save it anew, or name another with protocol.external=",),
        ),
        ((GREY.astype(float), [0] * 6), ("expected uint8",)),
        ((GREY[:, :20], [0] * 6), ("shape (6, 20, 28), expected (N, 28, 28): name another protocol.external",)),
        ((GREY.reshape(-1), [0] * 6), ("test_images of shape (4704,)", "class folders")),
    ],
)
def test_a_set_with_other_classes_or_channels_is_refused(
    tmp_path: Path, chests: LabelledData, arrays: tuple[Any, Any], facts: tuple[str, ...]
) -> None:
    path = write_npz(tmp_path / "a.npz", *arrays)
    with pytest.raises(DataError) as caught:
        read_external(path, chests, None)
    for fact in facts:
        assert fact in str(caught.value)
    assert "data.file" not in str(caught.value)


def test_names_that_are_not_as_many_as_the_classes_are_refused(chests: LabelledData) -> None:
    with pytest.raises(ConfigError, match="3 names, and the run knows 2 classes"):
        read_external("x.npz", chests, ["a", "b", "c"])
    with pytest.raises(DataError, match=r"protocol\.external=x\.npz does not exist: give an \.npz"):
        read_external("x.npz", chests, None)


def test_class_folders_correspond_by_index_or_by_the_run_s_own_names(tmp_path: Path, chests: LabelledData) -> None:
    for name in ("a healthy", "b ill"):
        (tmp_path / "other" / name).mkdir(parents=True)
        Image.new("L", (28, 28), 100).save(tmp_path / "other" / name / "0.png")
    found = read_external(str(tmp_path / "other"), chests, None)
    assert (found.classes, found.images.labels.tolist()) == (["a healthy", "b ill"], [0, 1])
    turned = read_external(str(tmp_path / "other"), chests, ["b ill", "a healthy"])
    assert turned.classes == ["b ill", "a healthy"]
    for split, name in (("train", "pneumonia"), ("val", "normal"), ("test", "normal"), ("test", "pneumonia")):
        (tmp_path / "own" / split / name).mkdir(parents=True)
        Image.new("L", (40, 28), 100).save(tmp_path / "own" / split / name / "0.png")
    own = read_external(str(tmp_path / "own" / "test"), chests, None)
    assert (own.classes, own.images.images.shape) == (TWO, (2, 1, 28, 28))
    (tmp_path / "other" / "c").mkdir()
    Image.new("L", (28, 28)).save(tmp_path / "other" / "c" / "0.png")
    with pytest.raises(DataError, match=r"has 3 class folders .* knows 2 classes"):
        read_external(str(tmp_path / "other"), chests, None)


def test_adults_x_rays_are_read_for_a_net_of_children_s(data_root: Path, chests: LabelledData) -> None:
    file = data_root.parent / "external" / "nih_pneumonia_28.npz"
    if not file.is_file():
        pytest.skip(f"no real data: {file} is not there")
    found = read_external(str(file), chests, ["no finding", "pneumonia"])
    assert found.images.counts(2).tolist() == [500, 500]
    assert found.md5 == "79712a4ce0619fa2c9f21c380a4785b6"
    assert found.images.images.shape == (1000, 1, 28, 28)


# --- a whole run -----------------------------------------------------------------------------------------------------


def run_of(data: LabelledData, directory: Path, net: nn.Module) -> Run:
    config = {"recipe": {"name": "pneumonia_cnn"}, "seed": 3}
    return Run(RunDirectory(directory), config, data, Classification(net, 2).eval(), TrainerSettings(gpus=0))


def evaluate(run: Run, directory: Path, *, events: bool = True, **settings: Any) -> Report:
    """The report of a run, written to ``directory``; without ``events`` no metrics and nothing for TensorBoard."""
    report = DomainShift(**settings).run(run, ComputeContext(CPU, 0, directory))
    report = report if events else replace(report, metrics={})
    record = {"run": "outputs/a run", "status": "done", "protocol": {"name": "domain_shift"}, "overrides": {}}
    write_report(report, describe_run(run, report.split), record, directory)
    return report


Audited = tuple[Run, dict[str, Tensor], Report, Path]


@pytest.fixture(scope="module")
def audited(chests: LabelledData, tmp_path_factory: pytest.TempPathFactory) -> Audited:
    """A run whose net makes no mistake on unchanged images, its weights before, and its report."""
    directory = tmp_path_factory.mktemp("domain_shift")
    net = fit_statistics(make_net(), chests.splits.train.images)
    data = relabel(chests, net)
    external = write_npz(
        directory / "other.npz", (255 - data.splits.test.images[:, 0]).numpy(), data.splits.test.labels.numpy()
    )
    run = run_of(data, directory, net)
    before = copy.deepcopy(run.task.state_dict())
    settings = {"corruptions": ["brighter"], "budget": "quick", "external": external}
    return run, before, evaluate(run, directory, **settings), directory


def relabel(data: LabelledData, net: BlockCNN) -> LabelledData:
    """The data with test labels that the net gives, of as many images each."""
    images = data.splits.test.images
    with torch.no_grad():
        logits = net(images.float() / 255)
        net.head.bias[1] += (logits[:, 0] - logits[:, 1]).median()
        net.head.weight *= 20  # sure of itself
        net.head.bias *= 20
    changed = copy.copy(data)
    labels = predict(net, data.splits.test, CPU).decisions
    changed._splits = data.splits._replace(test=LabelledImages(images, labels))
    return changed


def test_scores_are_those_of_the_net_on_the_corrupted_images(audited: Audited) -> None:
    run, _, report, _ = audited
    test, results = run.data.splits.test, report.results
    assert results.clean.scores["accuracy"] == Estimate(1.0, 1.0, 1.0, n=120)
    assert [(one.key, one.severity) for one in results.corrupted] == [("brighter", s) for s in (1, 3, 5)]
    for one in results.corrupted:
        images = corrupt_stored(test.images, one.key, one.severity, seed=0)
        said = predict(run.task, LabelledImages(images, test.labels), CPU)
        right = (said.decisions == test.labels).double()
        assert one.scores["accuracy"].value == pytest.approx(float(right.mean()))
        assert one.confidence.value == pytest.approx(float(said.probabilities.amax(1).mean()), abs=1e-5)
        assert one.fall.accuracy.value == pytest.approx(1 - float(right.mean()))
        assert set(one.detection) == {"max_softmax", "energy", "neighbours"}
        assert [test.m for test in one.batch_tests] == [50]
    worst = results.corrupted[2]
    assert worst.level == "silent"
    assert worst.noticed == "yes"
    assert results.level == "silent"
    assert results.verdict.startswith("Silent failure")


def test_the_run_s_own_net_stays_as_it_is(audited: Audited) -> None:
    run, before, _, _ = audited
    assert not list_differences(before, run.task.state_dict())
    assert not run.task.training


def test_the_report_is_one_file_with_verdict_rule_counts_and_a_row_for_each_severity(audited: Audited) -> None:
    _, _, report, directory = audited
    page = (directory / "report.html").read_text()
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    for text in (report.results.verdict, describe_counts(report), "n = 120", "class 0", "protocol.external_classes"):
        assert text in page.replace("\N{NO-BREAK SPACE}", " ")
    assert "No batches of 200: they need 400 images" in page
    assert page.count('<th scope="row">severity 5') == 4  # scores, recall, monitor, remedy
    assert page.count("<img src=") == 2  # two classes, one corruption
    assert {path.stem for path in (directory / "figures").iterdir()} == {
        "curve_brighter", "falls", "pictures_0", "pictures_1",
    }  # fmt: skip


def describe_counts(report: Report) -> str:
    first, second = report.results.n_by_class
    return f"normal {first}, pneumonia {second}"


def test_single_numbers_and_results_are_written(audited: Audited) -> None:
    _, _, report, directory = audited
    written = json.loads((directory / "domain_shift.json").read_text())
    again = read_result(DomainShiftResults, directory / "domain_shift.json", "")
    assert (again.verdict, again.reason) == (report.results.verdict, report.results.reason)
    assert again.corrupted[2].fall == report.results.corrupted[2].fall
    assert written["level"] == "silent"
    assert written["corrupted"][2]["fall"]["accuracy"]["kind"] == "bootstrap"
    assert written["corrupted"][2]["batch_tests"][0]["alarms"]["kind"] == "exact"
    values = json.loads((directory / "metrics.json").read_text())["domain_shift"]
    assert values["brighter/5/accuracy"] == report.results.corrupted[2].scores["accuracy"].value
    assert values["external/fall"] == report.results.external.condition.fall.accuracy.value
    assert sum(values[f"share_{level}"] for level in LEVELS) == pytest.approx(1)
    assert values["relative_corruption_error"] is None  # the net makes no error on unchanged images
    assert "no error on unchanged images" in written["error"]["undefined"]


def test_another_set_is_resampled_by_itself_and_its_remedy_uses_its_own_images(audited: Audited) -> None:
    run, _, report, _ = audited
    one = report.results.external.condition
    test = run.data.splits.test
    inverted = LabelledImages(255 - test.images, test.labels)
    adapted = reestimate_batch_norm(run.task.net, inverted.images, CPU)  # type: ignore[arg-type]
    right = (predict(adapted, inverted, CPU).decisions == test.labels).double().mean()
    assert one.remedy.accuracy.value == pytest.approx(float(right))
    assert one.detection["energy"].n == 240
    assert [test.m for test in one.batch_tests] == [50]


def judge_other_set(
    chests: LabelledData, directory: Path, n: int, corruptions: list[str], monkeypatch: pytest.MonkeyPatch
) -> DomainShiftResults:
    """A net that makes no mistake, on the first ``n`` of the unchanged images as if they were another set."""
    net = fit_statistics(make_net(), chests.splits.train.images)
    data = relabel(chests, net)
    test = data.splits.test
    other = write_npz(directory / "other.npz", test.images[:n, 0].numpy(), test.labels[:n].numpy())
    monkeypatch.setattr("medassay.reporting.figures.save_figure", lambda *_: None)
    monkeypatch.setattr("medassay.reporting.html.draw_svg", lambda *_: "")
    settings: dict[str, Any] = {"corruptions": corruptions, "budget": "quick", "external": other}
    results = evaluate(run_of(data, directory, net), directory, events=False, **settings).results
    assert isinstance(results, DomainShiftResults)
    return results


@pytest.mark.parametrize("corruptions", [[], ["brighter"]])
def test_a_small_set_is_undecided_and_said_to_be_too_small_for_batches(
    corruptions: list[str], chests: LabelledData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = judge_other_set(chests, tmp_path, 30, corruptions, monkeypatch)
    assert results.external is not None
    fall = results.external.condition.fall
    assert fall is not None
    assert fall.accuracy.value == 0
    assert results.external.condition.level == "undecided"
    assert results.skipped == [
        "No batches of 200: they need 400 images, half of them usual ones, and there are 120.",
        "The other set has 30 images, too few for batches of 50.",
    ]
    assert any("With fewer than 72 images nothing is said to hold" in finding.text for finding in results.findings)


def test_another_set_of_one_image_has_no_remedy_and_a_page(
    chests: LabelledData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = judge_other_set(chests, tmp_path, 1, [], monkeypatch)
    assert results.external is not None
    assert results.external.condition.remedy is None
    assert "The other set has 1 image, too few for batches of 50." in results.skipped
    assert '<td>–</td><td class="own">–</td>' in (tmp_path / "report.html").read_text()


def test_a_net_at_chance_without_batch_norm_and_without_features_is_measured_and_not_judged(
    chests: LabelledData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 2))
    monkeypatch.setattr("medassay.reporting.figures.save_figure", lambda *_: None)
    monkeypatch.setattr("medassay.reporting.html.draw_svg", lambda *_: "")  # of this page only the words are read
    report = evaluate(run_of(chests, tmp_path, net), tmp_path, corruptions=["contrast"], budget="quick", events=False)
    results = report.results
    assert results.level is None
    assert {one.level for one in results.conditions} == {None}
    assert results.verdict.startswith("Not judged")
    assert len(results.skipped) == 2
    assert "No k-NN distance and no batch test" in results.skipped[0]
    assert "No remedy" in results.skipped[1]
    page = (tmp_path / "report.html").read_text()
    assert all(text in page for text in ("Not judged", "No remedy", "no statistics to estimate anew"))
    assert set(results.corrupted[0].detection) == {"max_softmax", "energy"}


def test_the_quick_budget_takes_few_images_with_the_classes_in_proportion() -> None:
    assert BUDGETS["quick"].images == 400
    assert BUDGETS["full"].severities == (1, 2, 3, 4, 5)
    labels = (torch.arange(1000) % 4 == 0).long()
    split = LabelledImages(torch.zeros(1000, 1, 2, 2, dtype=torch.uint8), labels)
    assert DomainShift().choose(split, 400).counts(2).tolist() == [300, 100]
    assert DomainShift().choose(split, None) is split


def test_a_class_without_images_is_named(chests: LabelledData) -> None:
    sick = chests.splits.test[chests.splits.test.labels == 1]
    audit = Audit(make_net(), sick, sick, CPU, 1, 0)
    assert list_empty_classes(TWO, audit, None) == [
        "The unchanged images are without normal: means over the classes leave these out."
    ]


def test_nothing_to_try_and_names_of_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"protocol\.corruptions=\[\]: nothing to try"):
        DomainShift(corruptions=[])
    with pytest.raises(ConfigError, match="give that, too"):
        DomainShift(external_classes=["a", "b"])
    assert DomainShift().corruptions == list(TABLE)


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[str], Path]:
    def copy_run(name: str) -> Path:
        return Path(shutil.copytree(SAVED / name, tmp_path / name, ignore=shutil.ignore_patterns("eval")))

    return copy_run


def test_errors_are_relative_to_a_baseline_on_the_same_images(saved: Callable[[str], Path]) -> None:
    path = saved("cnn")
    run = load_run(path, trainer_gpus=0)
    settings: dict[str, Any] = {"corruptions": ["contrast"], "budget": "quick", "baseline": str(path)}
    error = DomainShift(**settings).run(run, ComputeContext(CPU, 0, path)).results.error
    assert (error.relative.value, error.relative.low, error.relative.high) == (1, 1, 1)  # beside itself
    assert (error.baseline, error.baseline_model) == (str(path), "pneumonia_cnn on chest_phantom")
    with pytest.raises(CheckpointError, match=r"protocol\.baseline=nowhere"):
        DomainShift(baseline="nowhere").read_compared(run)
    larger = replace(run, data=phantom_data("chest_phantom", "chest", TWO, 1, size=32))
    with pytest.raises(
        ConfigError, match="28 pixels a side, and the run 2 classes, 1 channels, 32 pixels a side: give a run"
    ):
        DomainShift(baseline=str(path)).read_compared(larger)


def test_wrong_settings_are_one_line(saved: Callable[[str], Path], tmp_path: Path, command: Command) -> None:
    common = [f"run={saved('cnn')}", "protocol=domain_shift", "trainer.gpus=0", "trainer.threads=1"]
    path = write_npz(tmp_path / "rgb.npz", np.stack([GREY] * 3, 3), [0] * 6)
    assert_one_line(
        command("evaluate", *common, f"protocol.external={path}"), "its images are RGB", "protocol.external="
    )
    generator = saved("cgan")
    assert_one_line(command("evaluate", *common, f"protocol.baseline={generator}"), "give a classifier's")
    assert_one_line(command("evaluate", *common, "protocol.corruptions=[fog]"), "fog", "blur")
