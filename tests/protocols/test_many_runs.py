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

from medassay.errors import CheckpointError
from medassay.files import write_json
from medassay.protocols.many import Evaluations, evaluate_many, is_several, runs_of
from medassay.runs.directory import RunDirectory

PROTOCOL = {"_target_": "x", "name": "classification", "split": "test"}


def made_run(path: Path, seed: int, lr: float = 1e-3, status: str = "done", **data: Any) -> Path:
    config = {
        "seed": seed,
        "model": {"_target_": "x", "name": "pneumonia_cnn", "optimizer": {"lr": lr}},
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


def test_the_runs_below_a_folder_are_found_sorted_and_each_once(tmp_path: Path) -> None:
    b, a = made_run(tmp_path / "s" / "b", 1), made_run(tmp_path / "s" / "deep" / "a", 0)
    assert runs_of([str(tmp_path / "s")]) == [b, a]
    assert runs_of([str(a), str(tmp_path / "s")]) == [a, b]


@pytest.mark.parametrize(("name", "fact"), [("empty", "holds no run"), ("nothing", "does not exist")])
def test_a_path_without_a_run_is_one_line_before_anything_is_evaluated(name: str, fact: str, tmp_path: Path) -> None:
    run = made_run(tmp_path / "a", 0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=rf"run=.*{name}: it {fact}"):
        many([run, tmp_path / name], tmp_path / "o")
    assert not (run / "eval").exists()


# --- the table -------------------------------------------------------------------------------------------------------


def test_mean_and_sample_standard_deviation_of_what_was_just_measured(tmp_path: Path) -> None:
    runs = [made_run(tmp_path / name, seed) for seed, name in enumerate("abc")]
    found = many(runs, tmp_path / "o")
    assert found.failed == []
    assert found.directory.parent == tmp_path / "o" / "eval"
    assert found.directory.name.startswith("classification_")
    lines = summary(found)
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
        chosen = {"value": 0.4, "metrics": {"n": 9, "accuracy": 0.6, "confusion": [[1]]}}
        write_json(directory / "classification.json", {"split": "test", "threshold": chosen})
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
