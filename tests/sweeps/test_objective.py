"""The number that ranks the jobs of a sweep."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from medassay.core.files import write_json
from medassay.sweeps.objective import TSTR, Objective, choose_objective, read_value


def config(monitor: str | None, mode: str = "max") -> dict[str, Any]:
    return {"recipe": {"monitor": monitor, "mode": mode}}


@pytest.mark.parametrize(
    ("monitor", "mode", "metric", "asked", "expected"),
    [
        ("val/auroc", "max", None, None, Objective("val/auroc", "max")),
        ("val/loss", "min", None, None, Objective("val/loss", "min")),
        (None, "max", None, None, Objective(TSTR, "max")),
        ("val/auroc", "max", "val/ece", "min", Objective("val/ece", "min")),
        ("val/loss", "min", "val/accuracy", None, Objective("val/accuracy", "max")),
    ],
)
def test_a_sweep_is_ranked_by_what_is_asked_for_else_by_what_chooses_the_epoch_else_by_tstr(
    monitor: str | None, mode: str, metric: str | None, asked: Any, expected: Objective
) -> None:
    assert choose_objective(config(monitor, mode), metric, asked) == expected


def finished(path: Path, numbers: dict[str, Any]) -> Path:
    """A run that ended with these numbers."""
    node = {"_target_": "x", "name": "x"}
    config = {"seed": 0, "data": node, "model": node, "recipe": {"name": "x"}, "trainer": node, "callbacks": {}}
    (path / ".hydra").mkdir()
    OmegaConf.save(OmegaConf.create(config), path / ".hydra" / "config.yaml")
    write_json(path / "run.json", {"status": "done"})
    write_json(path / "metrics.json", numbers)
    return path


def test_the_final_number_of_a_run_is_its_value(tmp_path: Path) -> None:
    assert read_value(finished(tmp_path, {"epochs": 3, "val": {"auroc": 0.75}}), "val/auroc") == 0.75


def test_a_generator_is_ranked_by_its_latest_assay(tmp_path: Path) -> None:
    finished(tmp_path, {"val": {"loss": 0.4}})
    for time, (name, number) in enumerate({"assay_b": 0.5, "assay_a": 0.6}.items()):
        file = tmp_path / "eval" / name / "metrics.json"
        write_json(file, {"assay": {"tstr_balanced_accuracy": number}, "protocol": {"split": "val"}})
        os.utime(file, (time, time))
    assert read_value(tmp_path, TSTR) == 0.6


def test_an_assay_on_validation_images_ranks_before_one_on_test_images(tmp_path: Path) -> None:
    finished(tmp_path, {})
    for time, (split, number) in enumerate({"val": 0.5, "test": 0.9}.items()):
        file = tmp_path / "eval" / f"assay_{split}" / "metrics.json"
        write_json(file, {"assay": {"tstr_balanced_accuracy": number}, "protocol": {"split": split}})
        os.utime(file, (time, time))
    assert read_value(tmp_path, TSTR) == 0.5


@pytest.mark.parametrize(
    "numbers",
    [{}, {"val": {}}, {"val": {"auroc": None}}, {"val": None}, {"val": {"auroc": "high"}}, {"test": {"auroc": 0.9}}],
)
def test_where_there_is_no_number_there_is_no_value(numbers: dict[str, Any], tmp_path: Path) -> None:
    assert read_value(finished(tmp_path, numbers), "val/auroc") is None
