"""What a sweep has found: its configurations over their seeds, the best on validation data, and every job's fate."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from medassay.core.errors import CheckpointError, ConfigError
from medassay.runs.groups import Group, shorten_keys
from medassay.runs.table import RunRow, hash_configuration
from medassay.sweeps import multirun
from medassay.sweeps.summary import format_value, list_seeds, summarise
from tests.helpers import make_run_config

LR, WIDTH = "model.optimizer.lr", "model.net.width"


class Sweep:
    """A sweep's directory, job by job."""

    def __init__(self, path: Path, monitor: str | None = "val/auroc", mode: str = "max") -> None:
        self.path, self.monitor, self.mode = path, monitor, mode
        self.jobs: list[dict[str, Any]] = []
        self.final: list[dict[str, Any]] = []
        path.mkdir(exist_ok=True)

    def config(self, seed: int, lr: str, width: int) -> dict[str, Any]:
        return make_run_config(seed, {"optimizer": {"lr": float(lr)}, "net": {"width": width}}, self.monitor, self.mode)

    def job(
        self, val: float | None, seed: int = 0, lr: str = "1e-3", width: int = 8, status: str = "done",
        given: Sequence[str] | None = None, final: bool = False, reason: str | None = None, **metrics: Any,
    ) -> Path:  # fmt: skip
        """A run as it stands on disk, with ``val/auroc`` or, for a generator, its assay's numbers in ``metrics``."""
        overrides = [f"{LR}={lr}", f"{WIDTH}={width}"] if given is None else list(given)
        overrides = [*overrides, f"seed={seed}", "trainer.threads=1"]
        run = self.path / f"{len(self.jobs) + len(self.final)}"
        (run / ".hydra").mkdir(parents=True)
        OmegaConf.save(OmegaConf.create(self.config(seed, lr, width)), run / ".hydra" / "config.yaml")
        write(run / "run.json", {"status": status, "reason": reason, "overrides": overrides, "seconds": 2.0})
        numbers = {} if val is None else {"val": {"auroc": val, "n": 10}}
        write(run / "metrics.json", {**numbers, **metrics})
        (self.final if final else self.jobs).append({"directory": run.name, "overrides": overrides})
        return run

    def listed(self, **fields: Any) -> Path:
        """Writes ``sweep.json``."""
        record = {
            "name": "s",
            "metric": None,
            "mode": None,
            "jobs": self.jobs,
            "final_jobs": self.final,
            "chosen": None,
        }
        write(self.path / "sweep.json", {**record, **fields})
        return self.path


def write(file: Path, values: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values))


def evaluated(run: Path, auroc: float) -> None:
    write(run / "eval" / "classification_1" / "metrics.json", {"test": {"auroc": auroc}})


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path / "s")


# --- ranking ---------------------------------------------------------------------------------------------------------


def test_configurations_are_means_over_their_seeds_best_first(sweep: Sweep) -> None:
    for seed, (a, b) in enumerate([(0.80, 0.90), (0.82, 0.96)]):
        sweep.job(a, seed)
        sweep.job(b, seed, lr="1e-2")
    first, second = summarise(sweep.listed()).groups
    assert first.settings == {LR: "1e-2"}
    assert first.seeds == second.seeds == [0, 1]
    assert first.numbers["val/auroc"].value == pytest.approx(0.93)
    assert first.numbers["val/auroc"].sd == pytest.approx(np.std([0.90, 0.96], ddof=1))


def test_a_single_seed_has_no_standard_deviation(sweep: Sweep) -> None:
    sweep.job(0.8)
    (only,) = summarise(sweep.listed()).groups
    assert only.numbers["val/auroc"].sd is None


def test_where_less_is_better_the_least_comes_first(sweep: Sweep) -> None:
    sweep.job(0.8)
    sweep.job(0.9, lr="1e-2")
    best = summarise(sweep.listed(metric="val/auroc", mode="min")).best
    assert best is not None
    assert best.numbers["val/auroc"].value == 0.8


def test_a_configuration_that_lacks_a_seed_is_never_the_best(sweep: Sweep) -> None:
    for seed in (0, 1):
        sweep.job(0.8, seed)
    sweep.job(0.99, 0, lr="1e-2")
    sweep.job(None, 1, lr="1e-2", status="failed", reason="x")
    found = summarise(sweep.listed())
    assert found.best is not None
    assert found.best.settings == {LR: "1e-3"}
    assert [group.complete for group in found.groups] == [True, False]


@pytest.mark.parametrize("status", ["failed", "pruned", "interrupted"])
def test_a_run_that_did_not_finish_is_in_no_mean(status: str, sweep: Sweep) -> None:
    sweep.job(0.8, 0)
    sweep.job(0.2, 1, status=status)
    (only,) = summarise(sweep.listed()).groups
    assert only.seeds == [0]


@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_finished_run_without_the_number_is_in_no_mean(value: float | None, sweep: Sweep) -> None:
    sweep.job(0.8, 0)
    sweep.job(value, 1)
    (only,) = summarise(sweep.listed()).groups
    assert only.seeds == [0]


def test_a_test_number_is_refused_as_what_ranks(sweep: Sweep) -> None:
    sweep.job(0.8)
    with pytest.raises(ConfigError, match=r"test/auroc.*validation"):
        summarise(sweep.listed(), metric="test/auroc")


def test_a_number_that_no_run_has_is_named_with_those_that_there_are(sweep: Sweep) -> None:
    sweep.job(0.8)
    found = summarise(sweep.listed(), metric="val/dice")
    assert found.best is None
    assert found.notes == ["No finished run has val/dice: there are val/auroc."]


def test_further_seeds_of_the_chosen_one_are_in_no_mean(sweep: Sweep) -> None:
    sweep.job(0.8, 0)
    sweep.job(0.7, 0, lr="1e-2")
    sweep.job(0.1, 1, final=True)
    found = summarise(sweep.listed())
    assert found.best is not None
    assert found.best.numbers["val/auroc"].value == 0.8
    assert all(group.complete for group in found.groups)


def test_generators_are_ranked_by_tstr_on_validation_images(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "s", monitor=None)
    for lr, score in (("1e-3", 0.5), ("1e-2", 0.6)):
        run = sweep.job(None, lr=lr)
        write(
            run / "eval" / "assay_1" / "metrics.json",
            {"assay": {"tstr_balanced_accuracy": score}, "protocol": {"split": "val"}},
        )
    found = summarise(sweep.listed())
    assert found.metric == "assay/tstr_balanced_accuracy"
    assert found.best is not None
    assert found.best.settings == {LR: "1e-2"}


def test_assays_on_test_images_choose_no_generator(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "s", monitor=None)
    for lr, score in (("1e-3", 0.5), ("1e-2", 0.6)):
        run = sweep.job(None, lr=lr)
        write(
            run / "eval" / "assay_1" / "metrics.json",
            {"assay": {"tstr_balanced_accuracy": score}, "protocol": {"split": "test"}},
        )
    found = summarise(sweep.listed())
    assert found.best is None
    assert "split=val" in found.notes[0]


# --- in what the jobs differ -----------------------------------------------------------------------------------------


def test_seed_places_and_what_all_jobs_share_are_not_swept(sweep: Sweep) -> None:
    for seed, lr in ((0, "1e-3"), (1, "1e-2")):
        shared = ["data=chest_phantom", f"{LR}={lr}", f"outputs=/{seed}", f"trainer.gpus={seed}", f"data.root=/{seed}"]
        sweep.job(0.8, seed, lr=lr, given=shared)
    assert summarise(sweep.listed()).swept == [LR]


def test_a_key_that_some_jobs_leave_out_has_the_value_of_their_configuration(sweep: Sweep) -> None:
    sweep.job(0.8, given=[])
    sweep.job(0.9, width=16, given=[f"{WIDTH}=16"])
    found = summarise(sweep.listed())
    assert [group.settings[WIDTH] for group in found.groups] == ["16", "8"]


def test_a_group_that_some_jobs_leave_out_is_a_dash(sweep: Sweep) -> None:
    sweep.job(0.8, given=[])
    sweep.job(0.9, lr="1e-2", given=["model/optimizer=adamw"])
    found = summarise(sweep.listed())
    assert [group.settings["model/optimizer"] for group in found.groups] == ["adamw", "–"]
    assert found.best is not None
    assert found.best.overrides == ["model/optimizer=adamw"]


def test_two_spellings_of_a_number_are_one_value(sweep: Sweep) -> None:
    sweep.job(0.8, 0, given=[f"{LR}=1e-3"])
    sweep.job(0.9, 1, given=[f"{LR}=0.001"])
    sweep.job(0.7, 0, lr="1e-2")
    sweep.job(0.7, 1, lr="1e-2")
    assert [group.seeds for group in summarise(sweep.listed()).groups] == [[0, 1], [0, 1]]


def test_the_effect_of_a_value_is_over_all_runs_that_have_it(sweep: Sweep) -> None:
    for lr, width, value in (("1e-3", 8, 0.8), ("1e-3", 16, 0.9), ("1e-2", 8, 0.6), ("1e-2", 16, 0.5)):
        sweep.job(value, lr=lr, width=width)
    effects = summarise(sweep.listed()).effects
    assert {value: s.value for value, s in effects[LR].items()} == {
        "1e-3": pytest.approx(0.85),
        "1e-2": pytest.approx(0.55),
    }
    assert effects[WIDTH]["16"].sd == pytest.approx(np.std([0.9, 0.5], ddof=1))
    assert effects[WIDTH]["8"].n == 2


# --- what became of the jobs -----------------------------------------------------------------------------------------


def test_jobs_without_a_result_are_told_apart(sweep: Sweep) -> None:
    sweep.job(0.8)
    sweep.job(None, status="failed", lr="2", reason="loss is not finite")
    sweep.job(None, status="pruned", lr="3", reason="below the median")
    sweep.job(None, status="running", lr="4")  # by nobody: it was killed
    sweep.jobs.append({"directory": "later", "overrides": [f"{LR}=5", "seed=0"]})
    found = summarise(sweep.listed())
    assert [row.reason for row in found.failed] == ["loss is not finite"]
    assert [row.reason for row in found.pruned] == ["below the median"]
    assert [row.overrides[LR] for row in found.unfinished] == ["4"]
    assert [row.overrides[LR] for row in found.waiting] == ["5"]


def test_a_job_that_failed_before_it_began_belongs_to_its_configuration(sweep: Sweep) -> None:
    sweep.job(0.8, 0)
    overrides = [f"{LR}=1e-3", f"{WIDTH}=8", "seed=1"]
    write(sweep.path / "early" / "run.json", {"status": "failed", "reason": "no file", "overrides": overrides})
    sweep.jobs.append({"directory": "early", "overrides": overrides})
    (only,) = summarise(sweep.listed()).groups
    assert [row.status for row in only.rows] == ["done", "failed"]


def test_a_job_whose_record_cannot_be_read_does_not_hide_the_others(sweep: Sweep) -> None:
    sweep.job(0.8)
    broken = sweep.job(0.9, lr="1e-2")
    (broken / "run.json").write_text("{")
    found = summarise(sweep.listed())
    assert len(found.failed) == 1
    assert "run.json cannot be read" in str(found.failed[0].reason)


def test_without_a_list_of_jobs_all_runs_below_count(sweep: Sweep) -> None:
    sweep.job(0.8)
    sweep.job(0.9, lr="1e-2")
    best = summarise(sweep.path).best
    assert best is not None
    assert best.settings == {LR: "1e-2"}


def test_only_listed_jobs_count(sweep: Sweep) -> None:
    sweep.job(0.8)
    sweep.job(0.9, lr="1e-2")
    sweep.jobs.pop()
    assert len(summarise(sweep.listed()).rows) == 1


@pytest.mark.parametrize("name", ["", "missing"])
def test_a_folder_without_runs_is_one_line(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds runs"):
        summarise(tmp_path / name)


# --- test ------------------------------------------------------------------------------------------------------------


def test_the_chosen_one_is_tested_over_its_seeds_and_further_ones(sweep: Sweep) -> None:
    for seed, auroc in ((0, 0.7), (1, 0.8)):
        evaluated(sweep.job(0.9, seed), auroc)
        sweep.job(0.8, seed, lr="1e-2", test={"auroc": 0.1})
    sweep.job(0.1, 2, final=True, test={"auroc": 0.9})
    found = summarise(sweep.listed()).test["test/auroc"]
    assert (found.value, found.n) == (pytest.approx(0.8), 3)
    assert found.sd == pytest.approx(np.std([0.7, 0.8, 0.9], ddof=1))


def test_what_was_chosen_stays_chosen_and_the_difference_is_said(sweep: Sweep) -> None:
    sweep.job(0.8, test={"auroc": 0.75})
    sweep.job(0.9, lr="1e-2", test={"auroc": 0.1})
    chosen = {"configuration": hash_configuration(sweep.config(0, "1e-3", 8))}
    found = summarise(sweep.listed(chosen=chosen))
    assert found.test["test/auroc"].value == 0.75
    assert any("was the best when it was chosen" in note for note in found.notes)


def test_by_another_number_than_it_was_chosen_by_another_configuration_may_be_first_and_both_are_named(
    sweep: Sweep,
) -> None:
    for lr, auroc, accuracy in (("1e-3", 0.9, 0.7), ("1e-2", 0.8, 0.75)):
        run = sweep.job(None, lr=lr)
        write(run / "metrics.json", {"val": {"auroc": auroc, "accuracy": accuracy}, "test": {"auroc": auroc}})
    chosen = {"configuration": hash_configuration(sweep.config(0, "1e-3", 8)), "metric": "val/auroc"}
    notes = summarise(sweep.listed(chosen=chosen), metric="val/accuracy").notes
    assert notes == ["The tested configuration was chosen by val/auroc; by val/accuracy another one is first."]


# --- weights that are kept with sweep.keep=none ----------------------------------------------------------------------


def with_weights(run: Path) -> Path:
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "best.ckpt").touch()
    return run


def list_with_weights(top: Path) -> set[Path]:
    return {folder.parent for folder in top.glob("*/checkpoints")}


def test_the_chosen_configuration_and_its_further_seeds_keep_their_weights_and_the_others_lose_them(
    sweep: Sweep,
) -> None:
    kept = [with_weights(sweep.job(0.9, seed)) for seed in (0, 1)]
    others = [with_weights(sweep.job(0.8, seed, lr="1e-2")) for seed in (0, 1)]
    others.append(with_weights(sweep.job(None, lr="1e-1", status="pruned")))
    kept.append(with_weights(sweep.job(0.1, 2, final=True)))
    multirun._forget_checkpoints(summarise(sweep.listed()))
    assert list_with_weights(sweep.path) == {*kept}
    assert all((run / "run.json").exists() for run in others)


def test_what_was_chosen_keeps_its_weights_where_another_configuration_is_the_best_now(sweep: Sweep) -> None:
    chosen = [with_weights(sweep.job(0.8, seed)) for seed in (0, 1)]
    for seed in (0, 1):
        with_weights(sweep.job(0.9, seed, lr="1e-2"))
    record = {"configuration": hash_configuration(sweep.config(0, "1e-3", 8))}
    multirun._forget_checkpoints(summarise(sweep.listed(chosen=record)))
    assert list_with_weights(sweep.path) == {*chosen}


@pytest.mark.parametrize(
    ("status", "final"),
    [("failed", False), ("interrupted", False), ("running", False), ("waiting", False), ("failed", True)],
)
def test_no_weights_are_removed_while_a_job_has_no_result(status: str, final: bool, sweep: Sweep) -> None:
    runs = [
        with_weights(sweep.job(0.9 if lr == "1e-3" else 0.8, seed, lr=lr)) for lr in ("1e-3", "1e-2") for seed in (0, 1)
    ]
    if status == "waiting":
        sweep.jobs.append({"directory": "later", "overrides": [f"{LR}=1e-2", "seed=2"]})
    else:
        runs.append(with_weights(sweep.job(None, 2, status=status, final=final)))
    multirun._forget_checkpoints(summarise(sweep.listed()))
    assert list_with_weights(sweep.path) == {*runs}


# --- as text ---------------------------------------------------------------------------------------------------------


def test_the_terminal_gets_aligned_columns_the_best_and_its_test(sweep: Sweep) -> None:
    for seed in (0, 1):
        sweep.job(0.9 + seed / 50, seed, lr="0.00012345678", test={"auroc": 0.85})
        sweep.job(0.8, seed, lr="1e-2")
    head, first, second, best, test = summarise(sweep.listed()).lines()
    assert head.index("val/auroc") == first.index("0.9100 ± 0.0141") == second.index("0.8000 ± 0.0000")
    assert "0.0001235" in first
    assert best == "best: model.optimizer.lr=0.00012345678: val/auroc 0.9100 ± 0.0141, seeds 0, 1 (2 runs)"
    assert test == "test: auroc 0.8500 ± 0.0000 (2 seeds)"


def test_the_terminal_gets_no_more_than_asked_for(sweep: Sweep) -> None:
    for lr in range(1, 5):
        sweep.job(lr / 10, lr=str(lr))
    lines = summarise(sweep.listed()).lines(2)
    assert [line.split()[1] for line in lines[1:3]] == ["4", "3"]
    assert lines[3] == "and 2 more in summary.md"


def test_labels_are_as_short_as_they_can_be_told_apart() -> None:
    keys = ["model.optimizer.lr", "model.net.width", "data.augment.width", "model/optimizer"]
    assert list(shorten_keys(keys).values()) == ["lr", "net.width", "augment.width", "optimizer"]


@pytest.mark.parametrize(("value", "text"), [("1e-3", "0.001"), ("0.123456", "0.1235"), ("64", "64"), ("v1.x", "v1.x")])
def test_settings_are_shown_with_four_digits(value: str, text: str) -> None:
    assert format_value(value) == text


def test_a_summary_needs_no_torch() -> None:
    code = "import sys, medassay.sweeps.summary; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_metric_that_the_images_leave_undefined_ranks_nothing_and_the_summary_says_why(sweep: Sweep) -> None:
    for lr in ("1e-3", "1e-4"):
        run = sweep.job(None, lr=lr)
        numbers = {"auroc": None, "accuracy": 1.0, "classes_without_images": ["pneumonia"]}
        write(run / "metrics.json", {"val": numbers})
    found = summarise(sweep.listed())
    assert found.best is None
    assert any("val/auroc is undefined because the val images lack pneumonia" in line for line in found.lines())
    assert summarise(sweep.path, "val/accuracy").best is not None  # what the line advises


@pytest.mark.parametrize(
    ("seeds", "complete", "text"),
    [
        ([0], True, "seed 0 (1 run)"),
        ([0, 3], True, "seeds 0, 3 (2 runs)"),
        ([1], False, "seed 1 (1 run, incomplete)"),
        ([None], True, "seed unknown (1 run)"),
        ([], False, "no finished run"),
    ],
)
def test_seeds_are_listed_with_the_number_of_their_runs(seeds: list[int | None], complete: bool, text: str) -> None:
    rows = [RunRow(Path("run"), "done", seed=seed) for seed in seeds]
    assert list_seeds(Group({}, None, rows, rows, {}, complete)) == text
