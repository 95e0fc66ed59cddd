"""The ready searches, each on a grid cut down to minutes, by their own commands; run by ``make test-long``."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medassay import cli

pytestmark = pytest.mark.long

CHEST = ("data=chest_phantom", "data.train=256", "data.val=64", "data.test=64")
BLOOD = ("data=blood_phantom", "data.train=256", "data.val=160", "data.test=96")


def search(outputs: Path, *argv: str) -> tuple[Path, list[dict[str, str]]]:
    """Runs a search; gives its directory and its summary's line of each run."""
    name = argv[0].partition("=")[2]
    assert cli.main("train", ["-m", *argv, f"outputs={outputs}", "hydra.launcher.jobs=2"]) == 0
    directory = outputs / "sweeps" / name
    with (directory / "summary.csv").open(encoding="utf-8", newline="") as file:
        return directory, [line for line in csv.DictReader(file) if line["row"] == "run"]


def jobs_tested(directory: Path) -> set[str]:
    """The jobs that looked at test images."""
    looked = set()
    for file in directory.glob("*/eval/*/metrics.json"):
        values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if "test" in values or values.get("protocol", {}).get("split") == "test":
            looked.add(file.parts[-4])
    return looked


def chosen(directory: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((directory / "sweep.json").read_text(encoding="utf-8"))["chosen"]
    return values


def test_the_fine_tuning_search_tests_what_validation_chose_and_nothing_else(tmp_path: Path) -> None:
    small = ("trainer.max_epochs=2", "model.net.width=2,3", "model.net.normalisation=batch", "data.batch_size=64")
    directory, lines = search(
        tmp_path, "search=pneumonia_finetune", *CHEST, *small, "seed=0,1", "sweep.final_seeds=[0,1,2]"
    )
    assert len(lines) == 2 * 3 * 2 + 1  # widths, learning rates, seeds; one more seed of the chosen one
    best = chosen(directory)
    own = {line["directory"] for line in lines if line["group"] == "1" or line["part"] == "final"}
    assert jobs_tested(directory) == own
    assert (best["metric"], best["seeds"], len(own)) == ("val/auroc", [0, 1], 3)


def test_the_optuna_search_ends_with_its_trials_and_pictures(tmp_path: Path) -> None:
    small = ("trainer.max_epochs=3", "model.net.width=2,3", "hydra.sweeper.n_trials=4", "sweep.final_seeds=[0,1]")
    directory, lines = search(tmp_path, "search=pneumonia_optuna", *CHEST, *small)
    assert len([line for line in lines if line["part"] == "sweep"]) == 4
    assert (directory / "study.db").exists()
    assert "Parameter importance" in (directory / "sweep.html").read_text(encoding="utf-8")


def test_the_gan_search_ranks_by_a_quick_tstr_on_validation_images(tmp_path: Path) -> None:
    small = ("trainer.max_epochs=1", "model.net.width=4", "model.loss=bce", "model.optimizer.lr=2e-4,4e-4")
    directory, lines = search(tmp_path, "search=cgan_grid", *BLOOD, *small, "hydra.launcher.jobs=1")
    assert chosen(directory)["metric"] == "assay/tstr_balanced_accuracy"
    assert [bool(line["assay/tstr_balanced_accuracy"]) for line in lines] == [True, True]
    assert jobs_tested(directory) == {line["directory"] for line in lines if line["group"] == "1"}


def test_the_search_over_generators_ranks_families_by_a_quick_tstr_on_validation_images(tmp_path: Path) -> None:
    small = ("trainer.max_epochs=1", "model.net.width=4", "hydra.launcher.jobs=1")
    directory, lines = search(tmp_path, "search=generators", *BLOOD, *small)
    values = {line["model"]: float(line["assay/tstr_balanced_accuracy"]) for line in lines}
    assert set(values) == {"cgan", "cgan_strong", "cvae", "diffusion"}
    assert list(values.values()) == sorted(values.values(), reverse=True)
    assert (chosen(directory) or {}) == {}  # nothing is tested, so nothing is chosen for it
    assert jobs_tested(directory) == set()


def test_the_tstr_search_ranks_classifiers_on_held_out_images(tmp_path: Path) -> None:
    small = ("trainer.max_epochs=1", "model.net.width=2", "model.optimizer.lr=1e-3", "seed=0,1")
    directory, lines = search(tmp_path, "search=tstr_grid", *BLOOD, *small)
    assert (len(lines), chosen(directory)["metric"]) == (4, "val/auroc")


def test_the_fine_tuning_search_runs_on_real_images(real_file: Callable[[str], Path], tmp_path: Path) -> None:
    root = real_file("pneumoniamnist.npz").parent
    small = ("trainer.max_epochs=2", "model.net.width=8", "model.net.normalisation=batch", "data.batch_size=128")
    real = ("seed=0,1", "sweep.final_seeds=null", f"data.root={root}")
    directory, _ = search(tmp_path, "search=pneumonia_finetune", *small, *real)
    assert chosen(directory)["mean"] > 0.9  # validation AUROC; a net that guesses has 0.5
