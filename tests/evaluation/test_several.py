"""Several runs with one protocol: each is evaluated, a failing one is named, and one table holds mean and spread."""

from __future__ import annotations

import csv
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf
from sklearn import metrics as sk

from medassay.core.errors import CheckpointError
from medassay.core.files import write_json
from medassay.evaluation.several import Evaluations, evaluate_many, is_several, list_runs
from medassay.runs.directory import RunDirectory
from medassay.runs.table import hash_configuration
from tests.helpers import close_folder

PROTOCOL = {
    "_target_": "medassay.protocols.classification.protocol.ClassifierScores",
    "name": "classification",
    "split": "test",
}


def made_run(path: Path, seed: int, lr: float = 1e-3, status: str = "done", **data: Any) -> Path:
    config = {
        "seed": seed,
        "recipe": {"name": "pneumonia_cnn"},
        "model": {"_target_": "x", "optimizer": {"lr": lr}},
        "data": {"_target_": "x", "name": "pneumoniamnist", "seed": seed},
        "trainer": {"_target_": "x"},
        "callbacks": {},
    }
    (path / ".hydra").mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(config), path / ".hydra" / "config.yaml")
    overrides = ["model=pneumonia_cnn", f"model.optimizer.lr={lr}", f"seed={seed}"]
    write_json(path / "run.json", {"status": status, "overrides": overrides, "data": {"published": True, **data}})
    write_json(path / "metrics.json", {"data": "pneumoniamnist", "test": {"accuracy": 0.1}, "val": {"loss": 1.0}})
    return path


ACCURACY = {0: 0.8, 1: 0.9, 2: 0.7}


def evaluate_one(run: str, protocol: Mapping[str, Any], overrides: Mapping[str, Any], outputs: Path) -> Path:
    """Leaves what an evaluation leaves, its accuracy being known by the seed."""
    directory = RunDirectory(run).new_evaluation(protocol["name"])
    accuracy = ACCURACY[RunDirectory(run).config()["seed"]]
    record = {"run": run, "protocol": dict(protocol), "overrides": dict(overrides)}
    write_json(directory / "metrics.json", {**record, "test": {"n": 9, "accuracy": accuracy, "auroc": None}})
    (directory / "report.html").write_text("")
    return directory


def failing(run: str, *others: Any) -> Path:
    if run.endswith("b"):
        raise CheckpointError(f"{run} has no checkpoints/best.ckpt")
    if run.endswith("c"):
        raise ZeroDivisionError("a mistake of ours")
    return evaluate_one(run, *others)


def summary(found: Evaluations) -> list[dict[str, str]]:
    with (found.directory / "summary.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def many(paths: list[Path], outputs: Path, one: Any = evaluate_one, **overrides: Any) -> Evaluations:
    return evaluate_many([str(path) for path in paths], PROTOCOL, overrides, outputs, one)


# --- which runs ------------------------------------------------------------------------------------------------------


def test_a_list_and_a_folder_with_runs_are_several_and_a_run_is_not(tmp_path: Path) -> None:
    run = made_run(tmp_path / "sweep" / "a", 0)
    (tmp_path / "empty").mkdir()
    assert is_several([str(run), str(run)])
    assert is_several([str(tmp_path / "sweep")])
    assert not is_several([str(run)])
    assert not is_several([str(tmp_path / "empty")])
    assert not is_several([str(tmp_path / "nothing")])


def test_of_a_sweep_that_has_chosen_only_the_chosen_runs_are_looked_at(tmp_path: Path) -> None:
    good = [made_run(tmp_path / name, seed, lr=1e-3) for seed, name in enumerate("ab")]
    made_run(tmp_path / "c", 0, lr=1e-2)
    listed = [{"directory": name, "overrides": []} for name in "abc"]
    write_json(tmp_path / "sweep.json", {"jobs": listed, "chosen": None})
    assert len(list_runs([str(tmp_path)])) == 3
    chosen = {"configuration": hash_configuration(RunDirectory(good[0]).config())}
    write_json(tmp_path / "sweep.json", {"jobs": listed, "chosen": chosen})
    assert list_runs([str(tmp_path)]) == good


def test_the_runs_below_a_folder_are_found_sorted_and_each_once(tmp_path: Path) -> None:
    b, a = made_run(tmp_path / "s" / "b", 1), made_run(tmp_path / "s" / "deep" / "a", 0)
    assert list_runs([str(tmp_path / "s")]) == [b, a]
    assert list_runs([str(a), str(tmp_path / "s")]) == [a, b]


@pytest.mark.parametrize(("name", "fact"), [("empty", "holds no run"), ("nothing", "does not exist")])
def test_a_path_without_a_run_is_one_line_before_anything_is_evaluated(name: str, fact: str, tmp_path: Path) -> None:
    run = made_run(tmp_path / "a", 0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=rf"run=.*{name}: it {fact}"):
        many([run, tmp_path / name], tmp_path / "o")
    assert not (run / "eval").exists()


def test_a_path_that_may_not_be_looked_at_is_one_line_of_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made_run(tmp_path / "a", 0)
    close_folder(tmp_path, monkeypatch)
    for use in (is_several, list_runs):
        with pytest.raises(CheckpointError, match=r"^cannot read .*/a\S* \(Permission denied\)"):
            use([str(run)])


# --- the table -------------------------------------------------------------------------------------------------------


def test_mean_and_sample_standard_deviation_of_what_was_just_measured(tmp_path: Path) -> None:
    runs = [made_run(tmp_path / name, seed) for seed, name in enumerate("abc")]
    found = many(runs, tmp_path / "o")
    assert found.failed == []
    assert found.directory.parent == tmp_path / "o" / "eval"
    assert found.directory.name.startswith("classification_")
    lines = summary(found)
    about = ["row", "group", "part", "status", "model", "data", "seed"]
    assert list(lines[0]) == [*about, "test/accuracy", "seconds", "directory", "reason"]
    assert [line["directory"] for line in lines[:3]] == list(map(str, runs))
    assert [(line["row"], line["seed"]) for line in lines] == [
        ("run", "0"),
        ("run", "1"),
        ("run", "2"),
        ("mean", "0 1 2"),
        ("sd", "0 1 2"),
    ]
    accuracies = [float(line["test/accuracy"]) for line in lines]
    assert accuracies[:3] == [0.8, 0.9, 0.7]  # not 0.1, which training had found
    assert accuracies[3:] == pytest.approx([np.mean([0.8, 0.9, 0.7]), np.std([0.8, 0.9, 0.7], ddof=1)])
    assert "| test/accuracy | 0.800 ± 0.100 |" in (found.directory / "summary.md").read_text()
    page = (found.directory / "report.html").read_text()
    assert "pneumonia_cnn on pneumoniamnist, seeds 0–2" in page
    assert "0.800 ± 0.100" in page


def test_runs_of_another_configuration_are_another_column(tmp_path: Path) -> None:
    for seed in (0, 1):
        made_run(tmp_path / "s" / f"a{seed}", seed)
    made_run(tmp_path / "s" / "b", 2, lr=1e-2)
    found = many([tmp_path / "s"], tmp_path / "o")
    text = (found.directory / "summary.md").read_text()
    assert "| test/accuracy | 0.850 ± 0.071 | 0.700 |" in text
    assert "model=pneumonia_cnn model.optimizer.lr=0.01" in (found.directory / "report.html").read_text()


def test_columns_of_the_same_model_data_and_seeds_are_told_apart_by_what_was_typed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain, other = made_run(tmp_path / "a", 0), made_run(tmp_path / "b", 0, lr=1e-2)
    with caplog.at_level("INFO"):
        found = many([plain, other], tmp_path / "o")
    text = (found.directory / "summary.md").read_text()
    heads = [f"pneumonia_cnn on pneumoniamnist, seed 0, model.optimizer.lr={lr}" for lr in ("0.001", "0.01")]
    assert f"| metric | {heads[0]} | {heads[1]} |" in text
    assert [sum(line.startswith(head) for line in caplog.messages) for head in heads] == [1, 1]
    page = (found.directory / "report.html").read_text()
    assert all(head in page for head in heads)


def test_columns_in_which_nothing_typed_differs_are_told_apart_by_their_directories(tmp_path: Path) -> None:
    runs = [made_run(tmp_path / "a", 0), made_run(tmp_path / "b", 0, lr=1e-2)]
    for run in runs:
        write_json(run / "run.json", {"status": "done", "overrides": ["model=pneumonia_cnn"]})
    text = (many(runs, tmp_path / "o").directory / "summary.md").read_text()
    assert all(f"pneumonia_cnn on pneumoniamnist, seed 0, {run}" in text for run in runs)


def test_settings_are_shown_as_they_were_typed_without_seed_and_places(tmp_path: Path) -> None:
    run = made_run(tmp_path / "a", 0)
    typed = [
        "model=pneumonia_cnn",
        "~callbacks.pruning",
        "+model.extra=1",
        "seed=0",
        "data.root=/x",
        "trainer.threads=2",
    ]
    RunDirectory(run).update(overrides=typed)
    page = (many([run], tmp_path / "o").directory / "report.html").read_text()
    assert "<code>model=pneumonia_cnn ~callbacks.pruning +model.extra=1</code>" in page


def test_a_run_that_is_not_done_is_evaluated_and_left_out_of_the_mean(tmp_path: Path) -> None:
    runs = [made_run(tmp_path / "a", 0), made_run(tmp_path / "b", 1, status="interrupted")]
    found = many(runs, tmp_path / "o")
    assert len(found.done) == 2
    assert "| test/accuracy | 0.800 |" in (found.directory / "summary.md").read_text()
    assert "its status is interrupted" in (found.directory / "report.html").read_text()


def test_a_seed_counts_once_and_the_page_says_which_run_was_left_out(tmp_path: Path) -> None:
    found = many([made_run(tmp_path / "a", 0), made_run(tmp_path / "b", 0)], tmp_path / "o")
    page = (found.directory / "report.html").read_text()
    assert re.search(rf"<code>{tmp_path}/a</code>: a later run has the same configuration and seed", page)


def test_the_decision_by_threshold_has_its_mean_too(tmp_path: Path) -> None:
    def with_threshold(run: str, *others: Any) -> Path:
        directory = evaluate_one(run, *others)
        decided = {"value": 0.4, "n": 9, "accuracy": 0.6, "confusion": [[1]]}
        write_json(directory / "metrics.json", {"run": run, "test": {"accuracy": 0.8}, "test by threshold": decided})
        return directory

    found = many([made_run(tmp_path / "a", 0), made_run(tmp_path / "b", 1)], tmp_path / "o", with_threshold)
    text = (found.directory / "summary.md").read_text()
    assert "| test by threshold/accuracy | 0.600 ± 0.000 |" in text
    assert "| test by threshold/value | 0.400 ± 0.000 |" in text


def test_a_protocol_without_numbers_leaves_those_of_the_runs(tmp_path: Path) -> None:
    def silent(run: str, *others: Any) -> Path:
        (Path(run) / "eval" / "sample_1").mkdir(parents=True)
        return Path(run) / "eval" / "sample_1"

    found = many([made_run(tmp_path / "a", 0)], tmp_path / "o", silent)
    assert "| test/accuracy | 0.100 |" in (found.directory / "summary.md").read_text()


# --- ensembles -------------------------------------------------------------------------------------------------------

NETS = "ensemble of 3 nets (their probabilities averaged)"
LABELS = {"val": np.arange(60) % 2, "test": np.arange(80) % 2}


def probabilities_of(seed: int, split: str, classes: int = 2) -> np.ndarray:
    """A net's softmax of noise and a little of the truth."""
    rng = np.random.default_rng([seed, len(split)])
    logits = rng.normal(0, 2, (len(LABELS[split]), classes)) + 1.5 * np.eye(classes)[LABELS[split]]
    p: np.ndarray = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return p.astype(np.float32)


class Judging:
    """An evaluation that leaves probabilities; ``images(split, seed)`` says what was judged."""

    def __init__(self, images: Any = lambda split, seed: split, classes: int = 2) -> None:
        self.images = images
        self.classes = classes

    def __call__(self, run: str, protocol: Mapping[str, Any], *others: Any) -> Path:
        directory = evaluate_one(run, protocol, *others)
        seed = RunDirectory(run).config()["seed"]
        arrays: dict[str, Any] = {}
        for split in ("val", "test"):
            arrays[f"{split}_probabilities"] = probabilities_of(seed, split, self.classes)
            arrays[f"{split}_labels"] = LABELS[split]
            arrays[f"{split}_images"] = self.images(split, seed)
        np.savez(directory / "probabilities.npz", **arrays)
        test = {"n": 80, "accuracy": ACCURACY[seed], "auroc": 0.9}
        write_json(directory / "metrics.json", {"run": run, "test": test})
        return directory


def three_seeds(tmp_path: Path, one: Any) -> Evaluations:
    return many([made_run(tmp_path / name, seed) for seed, name in enumerate("abc")], tmp_path / "o", one)


def ensembles(found: Evaluations) -> list[dict[str, Any]]:
    values: list[dict[str, Any]] = json.loads((found.directory / "ensembles.json").read_text())["ensembles"]
    return values


def mean_probability(split: str) -> np.ndarray:
    """Of class 1, over the three seeds."""
    mean: np.ndarray = np.mean([probabilities_of(seed, split)[:, 1] for seed in range(3)], axis=0)
    return mean


def test_an_ensemble_is_judged_by_the_mean_of_its_nets_probabilities(tmp_path: Path) -> None:
    (found,) = ensembles(three_seeds(tmp_path, Judging()))
    p, labels = mean_probability("test"), LABELS["test"]
    assert (found["nets"], found["seeds"], found["split"], found["metrics"]["n"]) == (3, [0, 1, 2], "test", 80)
    assert found["metrics"]["accuracy"] == pytest.approx(sk.accuracy_score(labels, p > 0.5))
    assert found["metrics"]["auroc"] == pytest.approx(sk.roc_auc_score(labels, p))
    low, high = found["metrics"]["interval_95"]["auroc"]
    assert low < found["metrics"]["auroc"] < high


def test_an_ensembles_threshold_is_the_best_of_its_own_validation_probabilities(tmp_path: Path) -> None:
    (found,) = ensembles(three_seeds(tmp_path, Judging()))
    fpr, tpr, thresholds = sk.roc_curve(LABELS["val"], mean_probability("val"), drop_intermediate=False)
    chosen = thresholds[(tpr - fpr).round(9).argmax()]  # of equally good ones the highest
    assert found["threshold"]["value"] == pytest.approx(chosen, rel=1e-5)
    called = mean_probability("test") >= chosen - 1e-7
    expected = sk.balanced_accuracy_score(LABELS["test"], called)
    assert found["threshold"]["metrics"]["balanced_accuracy"] == pytest.approx(expected)


def test_an_ensemble_stands_beside_the_mean_and_is_no_part_of_it(tmp_path: Path) -> None:
    lines = {line["row"]: line for line in summary(three_seeds(tmp_path, Judging())) if line["row"] != "run"}
    assert list(lines) == ["mean", "sd", "ensemble", "ensemble low", "ensemble high"]
    assert float(lines["mean"]["test/accuracy"]) == pytest.approx(0.8)  # of 0.8, 0.9 and 0.7
    assert float(lines["sd"]["test/accuracy"]) == pytest.approx(0.1)
    auroc = sk.roc_auc_score(LABELS["test"], mean_probability("test"))
    assert float(lines["ensemble"]["test/auroc"]) == pytest.approx(auroc)
    assert float(lines["ensemble low"]["test/auroc"]) < auroc < float(lines["ensemble high"]["test/auroc"])
    assert {lines[row]["seed"] for row in ("ensemble", "ensemble low", "ensemble high")} == {"0 1 2"}


def test_the_tables_for_readers_say_what_an_ensemble_is(tmp_path: Path) -> None:
    found = three_seeds(tmp_path, Judging())
    text, page = ((found.directory / name).read_text() for name in ("summary.md", "report.html"))
    auroc = sk.roc_auc_score(LABELS["test"], mean_probability("test"))
    assert f"| metric | pneumonia_cnn on pneumoniamnist, seeds 0–2 | {NETS} |" in text
    assert f"| test/auroc | 0.900 ± 0.000 | {auroc:.3f} [" in text
    assert NETS in page
    assert f"{auroc:.3f} [" in page


def test_a_single_run_is_no_ensemble(tmp_path: Path) -> None:
    found = many([made_run(tmp_path / "a", 0)], tmp_path / "o", Judging())
    assert not (found.directory / "ensembles.json").exists()
    for name in ("summary.csv", "summary.md", "report.html"):
        assert "ensemble" not in (found.directory / name).read_text()


def test_nets_of_different_configurations_are_not_averaged(tmp_path: Path) -> None:
    runs = [made_run(tmp_path / name, seed) for seed, name in enumerate("ab")]
    found = many([*runs, made_run(tmp_path / "c", 2, lr=1e-2)], tmp_path / "o", Judging())
    assert [(e["nets"], e["seeds"]) for e in ensembles(found)] == [(2, [0, 1])]
    line = next(line for line in (found.directory / "summary.md").read_text().splitlines() if "test/auroc" in line)
    assert re.fullmatch(r"\| test/auroc \| 0.900 ± 0.000 \| 0.\d+ \[0.\d+, 0.\d+\] \| 0.900 \|", line)


def test_nets_judged_on_different_images_are_not_averaged(tmp_path: Path) -> None:
    found = three_seeds(tmp_path, Judging(lambda split, seed: f"{split} {seed}"))
    reason = "No ensemble: the nets were not judged on the same images."
    assert [e["none"] for e in ensembles(found)] == [reason]
    assert {line["row"] for line in summary(found)} == {"run", "mean", "sd"}
    for name in ("summary.md", "report.html"):
        assert reason in (found.directory / name).read_text()


def test_nets_without_common_validation_images_have_no_common_threshold(tmp_path: Path) -> None:
    images = Judging(lambda split, seed: "same" if split == "test" else f"generated with {seed}")
    found = three_seeds(tmp_path, images)
    assert set(ensembles(found)[0]["threshold"]) == {"none"}
    assert "not judged on the same validation images" in (found.directory / "report.html").read_text()


def test_an_ensemble_for_three_classes_has_no_threshold(tmp_path: Path) -> None:
    (found,) = ensembles(three_seeds(tmp_path, Judging(classes=3)))
    p = np.mean([probabilities_of(seed, "test", 3) for seed in range(3)], axis=0)
    assert found["metrics"]["accuracy"] == pytest.approx(sk.accuracy_score(LABELS["test"], p.argmax(1)))
    assert set(found["threshold"]) == {"none"}


# --- failures --------------------------------------------------------------------------------------------------------


def test_a_failing_run_is_named_and_does_not_stop_the_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    runs = [made_run(tmp_path / name, seed) for seed, name in zip((0, 1, 2, 1), "abcd", strict=True)]
    with caplog.at_level(logging.INFO):
        found = many(runs, tmp_path / "o", failing)
    assert [run for run, _ in found.done] == [runs[0], runs[3]]
    assert found.failed == [
        (runs[1], "has no checkpoints/best.ckpt"),
        (runs[2], "ZeroDivisionError: a mistake of ours"),
    ]
    for name, fact in (("b", "has no checkpoints"), ("c", "ZeroDivisionError: a mistake of ours")):
        assert f"{tmp_path / name}: {fact}" in caplog.text
        assert fact in (found.directory / "report.html").read_text()
        assert fact in (found.directory / "summary.md").read_text()
    (traced,) = (record for record in caplog.records if record.exc_info)  # the user's own mistakes need none
    assert traced.exc_info is not None
    assert traced.exc_info[0] is ZeroDivisionError
    assert "| test/accuracy | 0.850 ± 0.071 |" in (found.directory / "summary.md").read_text()


def test_where_every_run_fails_the_page_still_says_why(tmp_path: Path) -> None:
    found = many([made_run(tmp_path / "b", 0)], tmp_path / "o", failing)
    assert found.done == []
    assert "nothing to average" in (found.directory / "report.html").read_text()
    assert "No run to average" in (found.directory / "summary.md").read_text()


def test_ctrl_c_stops_all_of_them(tmp_path: Path) -> None:
    def interrupted(*others: Any) -> Path:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        many([made_run(tmp_path / "a", 0)], tmp_path / "o", interrupted)


# --- what a reader must know -----------------------------------------------------------------------------------------


def test_runs_on_phantoms_are_said_to_be_so_once(tmp_path: Path) -> None:
    runs = [made_run(tmp_path / name, seed, phantom=True) for seed, name in enumerate("ab")]
    page = (many(runs, tmp_path / "o").directory / "report.html").read_text()
    assert page.count("rendered phantoms") == 1


def test_the_command_that_repeats_it_is_there(tmp_path: Path) -> None:
    runs = [made_run(tmp_path / name, seed) for seed, name in enumerate("ab")]
    found = many(runs, tmp_path / "o", **{"data.root": "/else where"})
    page = (found.directory / "report.html").read_text()
    assert f"run=[{runs[0]},{runs[1]}]" in page
    assert "protocol=classification protocol.split=test" in page
    assert json.loads((found.done[0][1] / "metrics.json").read_text())["overrides"] == {"data.root": "/else where"}
