"""The assay: controls score as they must, and the verdict names what is wrong with them."""

from __future__ import annotations

import copy
import json
import math
import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from medassay import config as configuration
from medassay.config.moved import update_targets
from medassay.core.errors import ConfigError, DataError
from medassay.core.estimate import Estimate
from medassay.core.results import to_json
from medassay.core.types import LabelledImages, Splits
from medassay.data.modules import LabelledData
from medassay.data.phantoms import blood
from medassay.data.sources import medmnist_data, phantom_data
from medassay.evaluation import arms
from medassay.evaluation.encoders import Encoder, make_pixels_encoder, train_encoder
from medassay.evaluation.protocol import ComputeContext
from medassay.metrics.estimates import mean_over_seeds
from medassay.protocols.assay import controls, measures, performance, verdict
from medassay.protocols.assay.figures import choose_examples, choose_suspicious
from medassay.protocols.assay.measures import Yardstick
from medassay.protocols.assay.protocol import Assay
from medassay.protocols.assay.results import (
    ArmScores,
    AssayResults,
    Curves,
    Finding,
    Metrics,
    PerClass,
    Performance,
    Ratio,
    Row,
)
from medassay.protocols.assay.space import PoolSet, Space, compute_class_shares
from medassay.protocols.assay.subjects import Candidate, Real

CLASSES = list(blood.CLASSES)
CHANCE = 1 / 8


def phantoms(seed: int, **sizes: int) -> LabelledData:
    values = {"train": 640, "val": 320, "test": 320, **sizes}
    return phantom_data("blood_phantom", "blood", CLASSES, 3, phantom_seed=seed, **values)


def candidate_of(splits: Splits, name: str = "fresh real images") -> Candidate:
    return Candidate(name, splits.train, splits.val, None, {"samples": name})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> ComputeContext:
    return ComputeContext(torch.device("cpu"), 0, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def real() -> Real:
    return Real.from_data(phantoms(0), "test")


SETTINGS = Assay(budget="quick", jobs=1, sets=2)


@pytest.fixture(scope="module", autouse=True)
def few_steps() -> Iterator[None]:
    """Half the steps of a quick assay: phantoms are learnt sooner."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arms, "QUICK_STEPS", 100)
        yield


@pytest.fixture(scope="module")
def results(real: Real, place: ComputeContext) -> AssayResults:
    """An assay of images as good as real ones: rendered with another seed."""
    return SETTINGS.measure(real, candidate_of(phantoms(1).splits), place)[0]


@pytest.fixture(scope="module")
def rows(results: AssayResults) -> dict[str, Row]:
    return {row.key: row for row in results.rows}


def value(row: Row, metric: str, encoder: str = "classifier") -> float:
    number: float = getattr(row.encoders[encoder], metric).value
    return number


# --- the controls ----------------------------------------------------------------------------------------------------


def check_controls(rows: dict[str, Row], classes: list[str]) -> None:
    """What EVALUATION asks of them, on any data set."""
    floor, copies, noisy = rows["floor"], rows["copies"], rows["noisy_copies"]
    without, same_m, shuffled = rows["without_class"], rows["floor_same_m"], rows["shuffled_labels"]
    turned = rows["turned_copies"]
    # (b)
    assert value(copies, "authenticity") < 0.01
    assert value(copies, "membership_auc") > 0.95
    assert copies.exact_copies.value == 1
    # (c) in pixels: a classifier that never saw noise moves such images far away
    assert value(noisy, "authenticity", "pixels") < 0.8 * value(floor, "authenticity", "pixels")
    # Turned copies are found by looking at turned images alone
    assert value(turned, "authenticity_turned") < 0.01
    assert value(turned, "membership_auc_turned") > 0.95
    assert turned.exact_copies_turned.value == copies.exact_copies_turned.value == 1
    assert turned.exact_copies.value < 0.01
    assert value(floor, "authenticity_turned") <= value(floor, "authenticity")
    assert value(floor, "membership_auc_turned") == pytest.approx(0.5, abs=0.1)
    # (d)
    (dropped,) = [i for i, name in enumerate(classes) if without.name == f"floor without {name}"]
    assert without.m == same_m.m < floor.m
    assert without.per_class.coverage[dropped] < 0.25 * same_m.per_class.coverage[dropped]
    assert value(without, "precision") > 0.95 * value(same_m, "precision")
    # (e)
    assert shuffled.tstr is not None
    assert floor.tstr is not None
    assert shuffled.tstr.balanced_accuracy == pytest.approx(1 / len(classes), abs=0.08)
    assert floor.tstr.balanced_accuracy > 3 * shuffled.tstr.balanced_accuracy
    assert shuffled.class_consistency.value < 0.25
    assert value(shuffled, "frechet") == pytest.approx(value(floor, "frechet"))
    # the verdict
    assert "copies" in copies.faults
    assert "copies" in noisy.faults
    assert "copies" in turned.faults
    assert "missing_class" in without.faults
    assert shuffled.faults == ["labels"]
    assert floor.faults == same_m.faults == []


def test_controls_score_as_they_must_and_the_verdict_names_their_faults(rows: dict[str, Row]) -> None:
    check_controls(rows, CLASSES)


@pytest.mark.long
def test_controls_score_as_they_must_on_real_blood_cells(real_file: Callable[[str], Path], tmp_path: Path) -> None:
    file = str(real_file("bloodmnist_rebuilt.npz"))
    names = ["basophil", "eosinophil", "erythroblast", "immature granulocyte", "lymphocyte", "monocyte", "neutrophil"]
    data = medmnist_data("bloodmnist", "bloodmnist", [*names, "platelet"], 3, file=file)
    splits = data.splits
    half = splits.test[: len(splits.test) // 2], splits.test[len(splits.test) // 2 :]
    unseen = Candidate("real test images", half[0], half[1], None, {"samples": "test"})
    context = ComputeContext(torch.device("cpu"), 0, tmp_path)
    found = Assay(budget="quick").measure(Real.from_data(data, "val"), unseen, context)[0]
    check_controls({row.key: row for row in found.rows}, data.classes)
    assert "copies" not in found.faults
    assert "missing_class" not in found.faults


def test_images_as_good_as_real_ones_have_no_fault(results: AssayResults) -> None:
    assert results.faults == []
    assert {finding.level for finding in results.verdict} == {"good"}


def test_images_as_good_as_real_ones_score_like_the_floor(rows: dict[str, Row]) -> None:
    for metric in ("precision", "recall", "coverage", "authenticity"):
        assert value(rows["generator"], metric) == pytest.approx(value(rows["floor"], metric), abs=0.08)


def test_every_row_but_those_of_a_dropped_class_has_the_same_number_of_images(rows: dict[str, Row]) -> None:
    assert {rows[key].m for key in ("generator", "floor", "copies", "noisy_copies", "shuffled_labels")} == {320}


def test_the_generators_spread_is_over_disjoint_sets(rows: dict[str, Row]) -> None:
    assert rows["generator"].sets == 2
    sd = rows["generator"].encoders["classifier"].frechet.sd
    assert sd is not None
    assert sd > 0
    assert rows["floor"].encoders["classifier"].frechet.sd is None


def test_the_null_of_the_membership_attack_is_one_half(rows: dict[str, Row]) -> None:
    assert value(rows["generator"], "membership_null_auc") == pytest.approx(0.5, abs=0.06)
    assert value(rows["floor"], "membership_auc", "random_conv") == pytest.approx(0.5, abs=0.1)


def test_controls_of_other_encoders_weights_or_steps_are_measured_anew(
    real: Real, place: ComputeContext, results: AssayResults
) -> None:
    yardstick, floor = unused(real, place, results), controls.make_floor(real, 320)
    trainer = performance.Trainer(place)
    assert controls.KeptControls([floor], yardstick, trainer, arms.QUICK_STEPS).missing == []
    task = copy.deepcopy(yardstick.task)
    with torch.no_grad():
        next(task.parameters())[0] += 1
    others = [
        controls.KeptControls([floor], replace(yardstick, task=task), trainer, arms.QUICK_STEPS),
        controls.KeptControls([floor], yardstick, trainer, 2 * arms.QUICK_STEPS),
        controls.KeptControls([floor], replace(yardstick, encoders=yardstick.encoders[:-1]), trainer, arms.QUICK_STEPS),
    ]
    assert [other.missing for other in others] == [[floor]] * 3


@pytest.mark.parametrize("counts", [(38, 2), (14, 2), (198, 2)])
def test_a_few_images_of_a_class_are_enough_to_choose_an_epoch(counts: tuple[int, int]) -> None:
    labels = torch.arange(2).repeat_interleave(torch.tensor(counts))
    parts = controls.split_for_training(labels)
    assert parts is not None
    assert sorted(torch.cat(parts).tolist()) == [*range(sum(counts))]
    assert all(len(labels[part].unique()) == 2 for part in parts)


def test_one_image_of_a_class_is_not_enough_to_choose_an_epoch() -> None:
    assert controls.split_for_training(torch.tensor([0] * 20 + [1])) is None


def test_a_second_assay_trains_nothing_and_measures_no_control_again(
    real: Real, place: ComputeContext, results: AssayResults, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(arms, "fit", fail)
    measure = Yardstick.measure_rows
    measured: list[str] = []
    monkeypatch.setattr(
        Yardstick,
        "measure_rows",
        lambda self, subjects: (measured.extend(s.key for s in subjects), measure(self, subjects))[1],
    )
    again = to_json(SETTINGS.measure(real, candidate_of(phantoms(1).splits), place)[0])
    assert measured == ["generator"]
    before = to_json(results)
    assert again.keys() == before.keys()
    for key in before.keys() - {"seconds", "peak_memory_mb"}:
        assert json.dumps(again[key]) == json.dumps(before[key]), key


def unused(real: Real, place: ComputeContext, results: AssayResults) -> Yardstick:
    """A yardstick of the same encoders that cannot measure."""

    def fail(_: Tensor) -> Any:
        raise AssertionError("measured again")

    named: Any = results.encoders.items()
    task = train_encoder(real.train, real.val, len(real.classes), place.cache)  # is kept
    return Yardstick(real, [Encoder(name, text, fail, place.device) for name, text in named], task, place.device)


def test_a_control_that_an_older_version_kept_is_read(real: Real, place: ComputeContext, results: AssayResults) -> None:
    (file,) = (file for file in (place.cache / "controls").glob("floor_*.json") if "same_m" not in file.name)
    kept = file.read_text()
    row = json.loads(kept)
    for key in ("key", "name", "kind", "faults", "sha256"):
        del row[key]
    for estimate in (row["class_consistency"], row["exact_copies"], *row["encoders"]["pixels"].values()):
        del estimate["kind"], estimate["n"]
    file.write_text(json.dumps(row))
    try:
        kept_controls = controls.KeptControls(
            [controls.make_floor(real, 320)], unused(real, place, results), performance.Trainer(place), arms.QUICK_STEPS
        )
        assert kept_controls.missing == []
        (found,) = kept_controls.complete([])
    finally:
        file.write_text(kept)
    assert (found.key, found.kind) == ("floor", "floor")
    assert found.encoders["pixels"].frechet.value == results.floor.encoders["pixels"].frechet.value
    assert found.class_consistency.kind == "sets"
    assert found.tstr == results.floor.tstr


def one_digit_changed(text: str) -> str:
    changed = re.sub(r": (\d)\.", lambda match: f": {(int(match[1]) + 1) % 10}.", text, count=1)
    assert changed != text
    return changed


@pytest.mark.parametrize("damage", [lambda text: "{", one_digit_changed], ids=["cut short", "one digit"])
def test_a_damaged_kept_control_is_measured_anew_and_that_is_said(
    damage: Callable[[str], str],
    real: Real,
    place: ComputeContext,
    results: AssayResults,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (file,) = (file for file in (place.cache / "controls").glob("floor_*.json") if "same_m" not in file.name)
    kept = file.read_text()
    file.write_text(damage(kept))
    floor, trainer = controls.make_floor(real, 320), performance.Trainer(place)
    try:
        controls_again = controls.KeptControls([floor], unused(real, place, results), trainer, arms.QUICK_STEPS)
        assert controls_again.missing == [floor]
    finally:
        file.write_text(kept)
    assert f"{file} is damaged and is made anew" in caplog.text


def test_the_most_suspicious_samples_are_the_copies(real: Real, place: ComputeContext, results: AssayResults) -> None:
    fresh = phantoms(1).splits.train[:100]
    copied = real.train[100:110]
    images = performance.join(fresh, copied)
    space = Space(make_pixels_encoder(real.unique, place.device, place.cache), real, place.device)
    suspicion = space.measure(images.images, [], searched=len(images)).suspicion
    gallery = choose_suspicious(suspicion, real, Candidate("some copies", images, fresh, None, {}))
    assert (gallery.suspicion[:10] == 0).all()
    assert (gallery.suspicion[10:] > 0).all()
    assert torch.equal(gallery.samples[:10], gallery.nearest[:10])
    assert sorted(gallery.sample_labels[:10].tolist()) == sorted(copied.labels.tolist())


def test_examples_are_the_first_images_of_every_class(real: Real) -> None:
    candidate = candidate_of(phantoms(1).splits)
    shown = choose_examples(real, candidate, n=3)
    assert shown.real.shape == shown.generated.shape == (8, 3, 3, 28, 28)
    assert torch.equal(shown.real[2], real.test.images[real.test.labels == 2][:3])
    assert torch.equal(shown.generated[5], candidate.images.images[candidate.images.labels == 5][:3])


def test_validation_images_can_stand_in_for_test_images() -> None:
    data = phantoms(0, train=64, val=32, test=32)
    assert Real.from_data(data, "val").test is data.splits.val
    assert Real.from_data(data, "test").test is data.splits.test


# --- how controls are made -------------------------------------------------------------------------------------------


def small_real() -> Real:
    return Real.from_data(phantoms(3, train=160, val=80, test=40), "test")


def test_copies_are_training_images_and_say_which() -> None:
    real = small_real()
    control = {c.key: c for c in controls.make_controls(real, 40)}["copies"]
    assert control.members is not None
    assert torch.equal(control.images.images, real.unique.images[control.members])
    assert control.images.counts(8).tolist() == [5] * 8


def test_noise_has_the_standard_deviation_promised() -> None:
    real = small_real()
    made = {c.key: c for c in controls.make_controls(real, 80)}
    clean, noisy = (made[key].images.images.double() / 255 for key in ("copies", "noisy_copies"))
    inside = (clean > 0.2) & (clean < 0.8)  # away from the ends, where it is clipped
    assert float((noisy - clean)[inside].std()) == pytest.approx(0.05, rel=0.03)


def test_shuffled_labels_are_the_same_labels_on_the_same_images() -> None:
    real = small_real()
    made = {c.key: c for c in controls.make_controls(real, 80)}["shuffled_labels"].images
    assert torch.equal(made.images, real.val.images)
    assert sorted(made.labels.tolist()) == sorted(real.val.labels.tolist())
    assert not torch.equal(made.labels, real.val.labels)


def test_the_largest_class_is_dropped_and_the_floor_cut_to_the_same_number() -> None:
    real = small_real()
    val = real.val[torch.cat([torch.nonzero(real.val.labels != 3)[:, 0], torch.nonzero(real.val.labels == 3)[:, 0]])]
    unequal = Real(real.classes, real.train, val[10:], real.test, {})  # other classes lose some
    made = {c.key: c for c in controls.make_controls(unequal, 70)}
    dropped = int(unequal.val.counts(8).argmax())
    assert made["without_class"].images.counts(8)[dropped] == 0
    assert len(made["without_class"].images) == len(made["floor_same_m"].images)
    assert made["floor_same_m"].images.counts(8)[dropped] > 0


def test_a_control_that_would_be_too_small_is_left_out_aloud(caplog: pytest.LogCaptureFixture) -> None:
    labels = {"train": [40, 40], "val": [34, 6], "test": [10, 10]}
    parts = []
    for counts in labels.values():
        images = split_of(sum(counts), 0).images
        parts.append(LabelledImages(images, torch.arange(2).repeat_interleave(torch.tensor(counts))))
    real = Real(["common", "rare"], *parts, {})
    made = controls.make_controls(real, 40)
    assert [one.key for one in made] == ["copies", "noisy_copies", "turned_copies", "shuffled_labels"]
    assert "“floor without common” is left out: its 6 images are too few" in caplog.text
    with pytest.raises(DataError, match="compares 3 images finds too few neighbours"):
        controls.make_floor(real, 3)


def test_rows_are_kept_by_the_images_that_they_are_of(real: Real, place: ComputeContext, results: AssayResults) -> None:
    kept = controls.KeptControls([], unused(real, place, results), performance.Trainer(place), arms.QUICK_STEPS)
    one, other = (
        controls.Control("floor_same_m", "floor", "control", real.val, [rows])
        for rows in torch.arange(10).unfold(0, 9, 1)
    )
    assert kept._place(one) == kept._place(replace(one, name="renamed")) != kept._place(other)


# --- the verdict -----------------------------------------------------------------------------------------------------


def row(**changes: Any) -> Row:
    """A row as the floor's, with changes: metrics of the headline encoder, or ``class_consistency`` and the like."""
    values = {
        **dict.fromkeys((field.name for field in fields(Metrics)), math.nan),  # no rule asks for it
        "precision": 0.8,
        "density": 0.9,
        "recall": 0.7,
        "coverage": 0.5,
        "authenticity": 0.7,
        "membership_auc": 0.5,
        "membership_auc_se": 0.01,
        "authenticity_turned": 0.5,
        "membership_auc_turned": 0.5,
        "membership_auc_se_turned": 0.01,
    }
    metrics = Metrics(**{name: Estimate(changes.get(name, known), kind="sets") for name, known in values.items()})
    return Row(
        "floor",
        "floor",
        "floor",
        40,
        1,
        {"classifier": metrics},
        class_consistency=Estimate(changes.get("consistent", 0.9), kind="sets"),
        exact_copies=Estimate(changes.get("exact_copies", 0.0), kind="sets"),
        exact_copies_turned=Estimate(changes.get("exact_copies_turned", 0.0), kind="sets"),
        per_class=PerClass(changes.get("per_class", [0.5, 0.4]), [], [], changes.get("class_consistency", [0.9, 0.9])),
        curves=Curves([], []),
    )


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, None),
        ({"precision": 0.65}, None),
        ({"precision": 0.63}, "fidelity"),
        ({"coverage": 0.36}, None),
        ({"coverage": 0.34}, "diversity"),
        ({"per_class": [0.5, 0.11]}, None),
        ({"per_class": [0.5, 0.09]}, "missing_class"),
        ({"class_consistency": [0.6, 0.8]}, None),
        ({"class_consistency": [0.4, 0.8]}, "labels"),
        ({"class_consistency": [math.nan, 0.8]}, None),  # a class without images
        ({"class_consistency": [0.9, 0.1], "consistent": 0.82}, "labels"),  # the first class is nine of ten images
        ({"exact_copies": 0.005}, None),
        ({"exact_copies": 0.02}, "copies"),
        ({"exact_copies_turned": 0.005}, None),
        ({"exact_copies_turned": 0.02}, "copies"),
        ({"authenticity": 0.3}, None),  # crowded, but no attack succeeds
        ({"membership_auc": 0.7}, None),  # an attack succeeds, but samples are no copies
        ({"authenticity": 0.3, "membership_auc": 0.6}, "copies"),
        ({"authenticity": 0.3, "membership_auc": 0.54}, None),  # within four standard errors
        ({"authenticity_turned": 0.2, "membership_auc_turned": 0.6}, "copies"),
        ({"authenticity_turned": 0.2, "membership_auc": 0.6}, None),  # one upright, the other turned
    ],
)
def test_the_verdict_names_one_fault_for_one_fault(changes: dict[str, Any], fault: str | None) -> None:
    findings = verdict.judge(row(**changes), row(), ["round", "long"], learned(0.9, 0.92).trtr)
    assert verdict.list_faults(findings) == ([] if fault is None else [fault])


def test_copies_that_one_encoder_does_not_see_are_found_in_another() -> None:
    floor, copied = row(), row(authenticity=0.1, membership_auc=0.8)
    judged = replace(floor, encoders={**floor.encoders, "pixels": copied.headline})
    floor = replace(floor, encoders={**floor.encoders, "pixels": floor.headline})
    findings = verdict.judge(judged, floor, ["round", "long"], learned(0.9, 0.92).trtr)
    (text,) = [f.text for f in findings if f.fault == "copies"]
    assert "encoder: pixels" in text


def test_the_verdict_says_where_copies_are_turned() -> None:
    findings = verdict.judge(
        row(authenticity_turned=0.1, membership_auc_turned=0.8), row(), ["round", "long"], learned(0.9, 0.92).trtr
    )
    (text,) = [f.text for f in findings if f.fault == "copies"]
    assert "10 % of the samples are authentic" in text
    assert "AUC of 0.80 (0.50; encoder: classifier, images turned and mirrored, too)" in text


def test_the_verdict_says_how_many_exact_copies_are_turned() -> None:
    findings = verdict.judge(row(exact_copies_turned=0.05), row(), ["round", "long"], learned(0.9, 0.92).trtr)
    (text,) = [f.text for f in findings if f.fault == "copies"]
    assert "0 % equal a training image pixel by pixel (5 % turned or mirrored)" in text


def test_a_missing_class_is_named_with_its_numbers() -> None:
    findings = verdict.judge(row(per_class=[0.01, 0.4]), row(), ["round", "long"], learned(0.9, 0.92).trtr)
    (text,) = [f.text for f in findings if f.fault == "missing_class"]
    assert "round (1 % covered; new real images: 50 %)" in text
    assert "long" not in text


def learned(tstr: float, trtr: float) -> Performance:
    found = {}
    for name, reached in (("TSTR", tstr), ("TRTR", trtr)):
        estimate = mean_over_seeds([reached])
        found[name] = ArmScores(estimate, estimate, estimate, [reached, reached], 64)
    ratio = mean_over_seeds([tstr / trtr])
    return Performance(300, [0], 64, 40, found, Ratio(ratio, ratio))


@pytest.mark.parametrize(
    ("tstr", "level", "words"),
    [(0.89, "good", "Nearly as useful"), (0.8, "good", "less so"), (0.5, "missing", "Much less useful")],
)
def test_usefulness_is_judged_by_the_ratio_to_real_images(tstr: float, level: str, words: str) -> None:
    finding = verdict.judge_usefulness(learned(tstr, 0.92))
    assert finding.level == level
    assert words in finding.text


def seeded(balanced_accuracy: Sequence[float], auroc: Sequence[float]) -> Performance:
    """Classifiers that reach these numbers from real and from generated images alike, seed by seed."""
    decided, ranked = mean_over_seeds(balanced_accuracy), mean_over_seeds(auroc)
    arm = ArmScores(decided, decided, ranked, [0.5, 0.5], 64)
    one = mean_over_seeds([1.0] * len(auroc))
    return Performance(300, [*range(len(auroc))], 64, 40, {"TSTR": arm, "TRTR": arm}, Ratio(one, one))


@pytest.mark.parametrize(
    ("balanced_accuracy", "auroc", "level"),
    [
        ([0.74], [0.9], "undecided"),  # under 1.5 times chance
        ([0.76], [0.9], "good"),
        ([0.80, 0.82, 0.81], [0.88, 0.90, 0.89], "good"),
        ([0.60, 0.98, 0.75], [0.88, 0.90, 0.89], "undecided"),  # the interval over seeds reaches chance
        ([0.80, 0.82, 0.81], [0.45, 0.95, 0.75], "undecided"),
    ],
)
def test_a_classifier_at_chance_is_no_yardstick_for_usefulness_or_labels(
    balanced_accuracy: list[float], auroc: list[float], level: str
) -> None:
    reached = seeded(balanced_accuracy, auroc)
    usefulness = verdict.judge_usefulness(reached)
    findings = verdict.judge(row(), row(), ["a", "b"], reached.trtr)
    (labels,) = [one for one in findings if "requested class" in one.text]
    assert usefulness.level == labels.level == level
    assert ("cannot be judged" in usefulness.text) == ("cannot be judged" in labels.text) == (level == "undecided")
    assert verdict.list_faults([usefulness, labels]) == []


@pytest.mark.parametrize(("floor", "level"), [(0.74, "undecided"), (0.76, "suspicious"), (0.9, "suspicious")])
def test_labels_are_not_judged_by_a_classifier_that_does_not_find_the_class_of_real_images(
    floor: float, level: str
) -> None:
    reached = seeded([0.80, 0.82, 0.81], [0.88, 0.90, 0.89])
    judged, best = row(class_consistency=[0.2, 0.2]), row(class_consistency=[floor, floor])
    findings = verdict.judge(judged, best, ["a", "b"], reached.trtr)
    (labels,) = [one for one in findings if "requested class" in one.text]
    assert labels.level == level


def test_the_summary_says_that_something_cannot_be_judged() -> None:
    good, open_question = Finding("good", None, "Fine."), Finding("undecided", None, "Who knows.")
    assert verdict.summarise([good]) == "The rules find no fault."
    assert verdict.summarise([good, open_question]).startswith("The rules find no fault. Not all can be judged")


# --- predictive performance ------------------------------------------------------------------------------------------


def test_the_interval_is_students_t() -> None:
    values = [0.80, 0.83, 0.82]
    found = mean_over_seeds(values)
    low, high = stats.t.interval(0.95, 2, loc=statistics.fmean(values), scale=stats.sem(values))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_a_single_seed_has_no_interval() -> None:
    assert mean_over_seeds([0.8]) == Estimate(0.8, None, None, None, n=1, kind="seeds", values=(0.8,))


class Recorded(performance.Trainer):
    """Trains nothing; remembers what it was asked for."""

    asked: list[arms.Arm]

    @classmethod
    def at(cls, cache: Path) -> Recorded:
        return cls(ComputeContext(torch.device("cpu"), 0, cache))

    def train(self, wanted: Any) -> Any:
        object.__setattr__(self, "asked", list(wanted))
        return [arms.build_task(arm).eval() for arm in wanted]


def split_of(n: int, seed: int) -> LabelledImages:
    rng = torch.Generator().manual_seed(seed)
    return LabelledImages(torch.randint(0, 256, (n, 3, 28, 28), dtype=torch.uint8, generator=rng), torch.arange(n) % 8)


@pytest.fixture
def tiny_sets() -> tuple[Real, Candidate]:
    real = Real(CLASSES, split_of(64, 0), split_of(16, 1), split_of(24, 2), {})

    def more(n: int) -> LabelledImages:
        return split_of(n, 5)

    return real, Candidate("x", split_of(64, 3), split_of(16, 4), more, {})


def test_a_full_comparison_has_all_arms_with_the_same_steps(tiny_sets: tuple[Real, Candidate], tmp_path: Path) -> None:
    trainer = Recorded.at(tmp_path)
    found = performance.measure_performance(*tiny_sets, trainer, seeds=3, steps=40, full=True, multiples=[2, 5])
    assert list(found.arms) == ["TRTR", "TSTR", "TSTR 2x", "TSTR 5x", "TR+STR", "TRTS"]
    assert [arm.images for arm in found.arms.values()] == [64, 64, 128, 320, 128, 64]
    assert len(trainer.asked) == 15
    assert {arm.steps for arm in trainer.asked} == {40}
    assert {arm.seed for arm in trainer.asked} == {0, 1, 2}


def test_each_arm_is_selected_on_held_out_images_of_its_own_kind(
    tiny_sets: tuple[Real, Candidate], tmp_path: Path
) -> None:
    real, candidate = tiny_sets
    trainer = Recorded.at(tmp_path)
    performance.measure_performance(real, candidate, trainer, seeds=1, steps=20, full=True, multiples=[2, 5])
    held_out = {arm.name.partition(",")[0]: arm.held_out for arm in trainer.asked}
    assert all(held_out[name] is real.val for name in ("TRTR", "TR+STR"))
    assert all(held_out[name] is candidate.held_out for name in ("TSTR", "TSTR 2x", "TSTR 5x"))


def test_without_further_sizes_no_more_images_are_drawn(tiny_sets: tuple[Real, Candidate], tmp_path: Path) -> None:
    real, candidate = tiny_sets

    def refuse(n: int) -> LabelledImages:
        raise AssertionError(f"{n} images were drawn")

    frugal = replace(candidate, more=refuse)
    found = performance.measure_performance(real, frugal, Recorded.at(tmp_path), seeds=1, steps=20, full=True)
    assert list(found.arms) == ["TRTR", "TSTR", "TR+STR", "TRTS"]


@pytest.mark.parametrize("multiples", [[5, 2], [2, 2]])
def test_further_sizes_are_named_once_the_smallest_first(multiples: list[int]) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"protocol.multiples={multiples}: give each once")):
        Assay(multiples=multiples)


def test_a_quick_comparison_trains_two_classifiers(tiny_sets: tuple[Real, Candidate], tmp_path: Path) -> None:
    trainer = Recorded.at(tmp_path)
    found = performance.measure_performance(*tiny_sets, trainer, seeds=1, steps=20, full=False)
    assert list(found.arms) == ["TRTR", "TSTR"]
    assert len(trainer.asked) == 2


def test_images_from_elsewhere_have_no_larger_arms_than_there_are_images(
    tiny_sets: tuple[Real, Candidate], tmp_path: Path
) -> None:
    real, candidate = tiny_sets
    finite = Candidate("x", performance.join(candidate.images, split_of(70, 9)), candidate.held_out, None, {})
    place = Recorded.at(tmp_path)
    found = performance.measure_performance(real, finite, place, seeds=1, steps=20, full=True, multiples=[2, 5])
    assert "TSTR 2x" in found.arms
    assert "TSTR 5x" not in found.arms


def test_the_ratio_is_taken_seed_by_seed(tiny_sets: tuple[Real, Candidate], tmp_path: Path) -> None:
    found = performance.measure_performance(*tiny_sets, Recorded.at(tmp_path), seeds=3, steps=20, full=True)
    tstr, trtr = (found.arms[name].accuracy.values for name in ("TSTR", "TRTR"))
    expected = [a / b if b else math.nan for a, b in zip(tstr, trtr, strict=True)]
    assert found.ratio.accuracy.values == pytest.approx(expected, nan_ok=True)


# --- measures --------------------------------------------------------------------------------------------------------


def test_numbers_of_classes_are_shares_of_their_own_members() -> None:
    mask = torch.tensor([True, False, True, True])
    labels = torch.tensor([0, 0, 1, 1])
    found = compute_class_shares(mask, labels, 3)
    assert found[:2] == [0.5, 1.0]
    assert math.isnan(found[2])


def test_means_leave_out_undefined_numbers() -> None:
    assert measures.average_lists([[1.0, math.nan], [3.0, 2.0]]) == [2.0, 2.0]


def test_the_order_of_samples_changes_no_number(real: Real, place: ComputeContext, results: AssayResults) -> None:
    space = Space(make_pixels_encoder(real.unique, place.device, place.cache), real, place.device)
    images = phantoms(1).splits.val
    shuffled = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(1))]
    one, other = (
        space.measure(pool.images, [PoolSet(torch.arange(len(pool)), pool.labels)]).sets[0].values
        for pool in (images, shuffled)
    )
    assert {k: v for k, v in one.items() if "kid" not in k} == pytest.approx(
        {k: v for k, v in other.items() if "kid" not in k}, rel=1e-9, nan_ok=True
    )


def test_a_turned_copy_counts_by_its_nearest_form(real: Real, place: ComputeContext) -> None:
    space = Space(make_pixels_encoder(real.unique, place.device, place.cache), real, place.device)
    fresh, copied = phantoms(1).splits.val.images, real.unique.images[:10]
    pool = torch.cat([copied.transpose(-1, -2).flip(-1), fresh[:30]])  # ten training images, a quarter turn each
    everything = PoolSet(torch.arange(40), torch.zeros(40, dtype=torch.int64))
    upright = space.measure(pool, [everything], searched=20)
    (found,), suspicion = space.measure_turned(pool, [everything], upright.copies, upright.suspicion)
    assert (suspicion.ratio[:10] < 1e-3).all()
    assert suspicion.nearest[:10].tolist() == list(range(10))
    assert len(suspicion.ratio) == 20
    assert (suspicion.ratio <= upright.suspicion.ratio).all()
    assert found["authenticity_turned"] <= upright.sets[0].values["authenticity"] - 0.1
    forms = torch.stack(
        [
            one
            for turn in (pool, pool.transpose(-1, -2))
            for one in (turn, turn.flip(-1), turn.flip(-2), turn.flip(-1, -2))
        ]
    )  # another way to all eight
    features = space.encoder(forms.flatten(0, 1)).double()
    distance, index = torch.cdist(features, space.reference.features, compute_mode="donot_use_mm_for_euclid_dist").min(
        1
    )
    authentic = (distance > space.reference.gaps[index, 0]).view(8, 40).all(0)
    assert found["authenticity_turned"] == pytest.approx(float(authentic.double().mean()))


def test_the_floor_is_measured_for_copying_on_one_half_against_the_other(real: Real, place: ComputeContext) -> None:
    space = Space(make_pixels_encoder(real.unique, place.device, place.cache), real, place.device)
    everything = torch.arange(len(real.val))
    found = space.measure(real.val.images, [PoolSet(everything, real.val.labels)]).sets[0].values
    first, second = space.real.halves
    assert len(first) + len(second) == len(real.val)
    nearest_of = lambda a, b: torch.cdist(a, b).min(1).values  # noqa: E731
    ratio = nearest_of(space.validation[first].double(), space.reference.features).median()
    ratio /= nearest_of(space.validation[second].double(), space.reference.features).median()
    assert found["memorisation_ratio"] == pytest.approx(float(ratio), rel=0.02)
    assert found["membership_auc"] == pytest.approx(0.5, abs=0.1)


def test_more_validation_than_training_images_can_be_measured(place: ComputeContext) -> None:
    real = Real(CLASSES, split_of(64, 0), split_of(96, 1), split_of(24, 2), {})
    space = Space(make_pixels_encoder(real.unique, place.device, place.cache), real, place.device)
    fresh = split_of(96, 3)
    found = space.measure(fresh.images, [PoolSet(torch.arange(96), fresh.labels)]).sets[0].values
    assert found["membership_null_auc"] == pytest.approx(0.5, abs=0.2)


def test_settings_of_a_full_assay_need_three_seeds() -> None:
    node = update_targets({"_target_": "medassay.protocols.assay.AssaySettings"})  # as older versions wrote it
    with pytest.raises(ConfigError, match="seeds=2"):
        configuration.check({**node, "seeds": 2}, "protocol")
    assert configuration.build(node) == Assay(seeds=3)
