"""Many runs as one table, repetitions of one experiment together."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from pydoc import locate
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from medassay.core.errors import CheckpointError
from medassay.runs.check import check_training
from medassay.runs.compose import compose_training
from medassay.runs.groups import group_over_seeds
from medassay.runs.table import RunRow, hash_configuration, read_row, read_rows
from medassay.tasks.transfer import Transfer
from medassay.training.callbacks import Pictures


def config(seed: int, lr: float = 1e-3, root: str | None = None) -> dict[str, Any]:
    return {
        "seed": seed,
        "outputs": "outputs",
        "recipe": {"name": "pneumonia_cnn"},
        "model": {"_target_": "x", "optimizer": {"lr": lr}},
        "data": {"_target_": "x", "name": "chest_phantom", "seed": seed, "root": root},
        "trainer": {"_target_": "x", "max_epochs": 2, "threads": seed + 1},
        "callbacks": {"sample_grid": None},
    }


def made_run(path: Path, accuracy: float, status: str = "done", **settings: Any) -> None:
    (path / ".hydra").mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(config(**settings)), path / ".hydra" / "config.yaml")
    (path / "run.json").write_text(json.dumps({"status": status}))
    (path / "metrics.json").write_text(json.dumps({"test": {"accuracy": accuracy, "n": 4, "confusion": [[1]]}}))


def test_runs_that_differ_in_seed_and_place_alone_are_one_experiment() -> None:
    assert hash_configuration(config(0)) == hash_configuration(config(1, root="elsewhere"))
    assert hash_configuration(config(0)) != hash_configuration(config(0, lr=1e-2))


def test_keys_of_a_later_version_that_change_nothing_make_no_other_experiment() -> None:
    plain = {**config(0), "data": {**config(0)["data"], "augment": {"_target_": "x", "rotation": 5.0}}}
    transfer = {"_target_": "medassay.tasks.transfer.Transfer", **vars(Transfer())}
    later = {
        **plain,
        "model": {**plain["model"], "transfer": transfer, "adversarial_epsilon": None, "adversarial_steps": 7},
        "data": {
            **plain["data"],
            "steps": None,
            "resize": False,
            "augment": {**plain["data"]["augment"], "quarter_turn": 0.0},
        },
    }
    assert hash_configuration(later) == hash_configuration(plain)
    for node, key, value in (
        ("data", "steps", 5),
        ("data", "resize", True),
        ("model", "transfer", {**transfer, "freeze_epochs": 1}),
        ("model", "adversarial_epsilon", 2),
    ):
        used = {**later, node: {**later[node], key: value}}
        assert hash_configuration(used) != hash_configuration(plain)


def test_the_default_configuration_has_no_key_of_a_later_version_in_its_hash() -> None:
    values = check_training(compose_training(["data=chest_phantom"]))
    dropped = copy.deepcopy(values)
    for key in ("transfer", "adversarial_epsilon", "adversarial_steps"):
        del dropped["model"][key]
    del dropped["data"]["steps"], dropped["data"]["augment"]["quarter_turn"]
    for key in ("groups", "balance", "group", "second_group"):
        del dropped["data"][key]
    assert hash_configuration(values) == hash_configuration(dropped)
    for used in (["data.group.kind=noise"], ["data.balance=class_group"], ["data.second_group.kind=size"]):
        other = check_training(compose_training(["data=chest_phantom", *used]))
        assert hash_configuration(other) != hash_configuration(values)


def test_steps_of_runs_on_generated_images_tell_them_apart() -> None:
    keys = ("batch_size", "augment", "subset", "generator", "generator_seed", "root", "file", "path")
    data = {"_target_": "medassay.runs.samples.generated_data", "real": {"_target_": "x", "name": "blood"}, "seed": 0,
            **dict.fromkeys(keys)}  # fmt: skip
    hashes = {
        hash_configuration({**config(0), "data": {**data, **steps}}) for steps in ({}, {"steps": None}, {"steps": 5})
    }
    assert len(hashes) == 2


def test_what_its_owner_wrote_about_a_run_is_in_its_row_and_makes_it_no_other_experiment(tmp_path: Path) -> None:
    made_run(tmp_path / "a", 0.8, seed=0)
    (tmp_path / "a" / "run.json").write_text('{"status": "done", "tags": ["thesis", "b"], "notes": "wider"}')
    row = read_row(tmp_path / "a")
    assert (row.tags, row.notes) == (("thesis", "b"), "wider")
    assert hash_configuration({**config(0), "tags": ["thesis"], "notes": "wider"}) == hash_configuration(config(0))


@pytest.mark.parametrize("data", [["data=chest_phantom"], ["model=unet"], ["model=curve"], ["model=cvae"]])
def test_what_is_drawn_while_a_run_trains_makes_it_no_other_experiment(data: list[str]) -> None:
    values = check_training(compose_training(data))
    pictures = [
        name
        for name, node in values["callbacks"].items()
        if node is not None and isinstance(build := locate(node["_target_"]), type) and issubclass(build, Pictures)
    ]
    assert len(pictures) >= 4
    for name in pictures:
        others = {key: node for key, node in values["callbacks"].items() if key != name}
        assert hash_configuration({**values, "callbacks": others}) == hash_configuration(values), name


def test_a_callback_that_is_switched_off_is_as_if_there_were_none() -> None:
    plain = config(0)
    assert hash_configuration({**plain, "callbacks": {"pruning": None}}) == hash_configuration(plain)
    assert hash_configuration({**plain, "callbacks": {"pruning": {"_target_": "x"}}}) != hash_configuration(plain)


def test_an_epoch_chosen_by_samples_makes_another_experiment_and_where_its_classifiers_are_kept_does_not() -> None:
    def with_selection(**node: Any) -> str:
        values = config(0)
        values["callbacks"] = {**values["callbacks"], "tstr_selection": {"_target_": "x.select_epoch", **node}}
        return hash_configuration(values)

    assert with_selection(by=None, steps=300, outputs="outputs") == hash_configuration(config(0))
    chosen = with_selection(by="tstr", steps=300, outputs="outputs")
    assert chosen == with_selection(by="tstr", steps=300, outputs="elsewhere")
    assert len({hash_configuration(config(0)), chosen, with_selection(by="tstr", steps=200, outputs="outputs")}) == 3


def test_mean_and_sample_standard_deviation_are_over_the_seeds_of_each_configuration(tmp_path: Path) -> None:
    for seed, accuracy in enumerate((0.8, 0.9, 0.7)):
        made_run(tmp_path / f"a{seed}", accuracy, seed=seed)
    made_run(tmp_path / "b", 0.5, seed=0, lr=1e-2)
    several, single = group_over_seeds(read_rows([tmp_path]))
    assert (several.seeds, single.seeds) == ([0, 1, 2], [0])
    assert [len(group.rows) for group in (several, single)] == [3, 1]
    accuracy = several.numbers["test/accuracy"]
    assert accuracy.value == pytest.approx(np.mean([0.8, 0.9, 0.7]))
    assert (accuracy.sd, accuracy.n) == (pytest.approx(np.std([0.8, 0.9, 0.7], ddof=1)), 3)
    assert single.numbers["test/accuracy"].sd is None
    assert set(several.numbers) == {"test/accuracy"}  # counts and matrices are no numbers to average


def test_runs_that_are_not_done_do_not_count(tmp_path: Path) -> None:
    made_run(tmp_path / "a", 0.8, seed=0)
    made_run(tmp_path / "b", 0.1, seed=1, status="interrupted")
    (group,) = group_over_seeds(read_rows([tmp_path]))
    assert group.numbers["test/accuracy"].value == 0.8
    assert group.seeds == [0]


def test_a_seed_counts_once_with_its_last_run(tmp_path: Path) -> None:
    for name, accuracy in (("a", 0.8), ("b", 0.6)):
        made_run(tmp_path / name, accuracy, seed=0)
    (group,) = group_over_seeds(read_rows([tmp_path]))
    assert (len(group.rows), [row.path.name for row in group.counted]) == (2, ["b"])
    assert (group.numbers["test/accuracy"].value, group.numbers["test/accuracy"].n) == (0.6, 1)


def test_no_run_or_no_directory_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no run in"):
        read_rows([tmp_path])
    with pytest.raises(CheckpointError, match="does not exist"):
        read_rows([tmp_path / "nothing"])


# --- what was measured later -----------------------------------------------------------------------------------------


def evaluated(run: Path, name: str, when: int, **numbers: Any) -> None:
    """Numbers that an evaluation left in the run, written ``when`` seconds after the epoch."""
    file = run / "eval" / name / "metrics.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(numbers))
    os.utime(file, (when, when))


def values(tmp_path: Path) -> dict[str, float]:
    (row,) = read_rows([tmp_path])
    return row.values


def test_numbers_of_a_later_evaluation_stand_beside_those_of_training(tmp_path: Path) -> None:
    made_run(tmp_path / "a", 0.8, seed=0)
    evaluated(tmp_path / "a", "assay_1", 100, assay={"frechet": 2.5, "m": 16, "verdict": ["x"]}, overrides={})
    evaluated(tmp_path / "a", "classification_1", 100, val={"auroc": 0.75})
    assert values(tmp_path) == {"test/accuracy": 0.8, "assay/frechet": 2.5, "val/auroc": 0.75}


def test_of_several_assays_the_latest_counts_whatever_its_name(tmp_path: Path) -> None:
    made_run(tmp_path / "a", 0.8, seed=0)
    evaluated(tmp_path / "a", "assay_c", 100, assay={"frechet": 1.0, "coverage": 0.4})
    evaluated(tmp_path / "a", "assay_a", 300, assay={"frechet": 3.0})
    evaluated(tmp_path / "a", "assay_b", 200, assay={"frechet": 2.0})
    assert values(tmp_path) == {"test/accuracy": 0.8, "assay/frechet": 3.0, "assay/coverage": 0.4}


def test_numbers_of_training_are_not_replaced_by_later_ones(tmp_path: Path) -> None:
    made_run(tmp_path / "a", 0.8, seed=0)
    evaluated(tmp_path / "a", "classification_1", 100, test={"accuracy": 0.1})
    assert values(tmp_path) == {"test/accuracy": 0.8}


@pytest.mark.parametrize("key", ["data.file", "data.path"])
def test_an_evaluation_on_other_data_is_not_the_runs(key: str, tmp_path: Path) -> None:
    made_run(tmp_path / "a", 0.8, seed=0)
    evaluated(tmp_path / "a", "classification_1", 100, val={"auroc": 0.75}, overrides={key: "elsewhere"})
    assert values(tmp_path) == {"test/accuracy": 0.8}


def test_an_evaluation_elsewhere_on_the_same_data_counts(tmp_path: Path) -> None:
    made_run(tmp_path / "a", 0.8, seed=0)
    evaluated(tmp_path / "a", "classification_1", 100, val={"auroc": 0.75}, overrides={"trainer.gpus": 0})
    assert values(tmp_path)["val/auroc"] == 0.75


def test_an_evaluation_that_recorded_no_change_counts_wherever_the_data_were(tmp_path: Path) -> None:
    made_run(tmp_path / "a", 0.8, seed=0)
    moved: dict[str, Any] = {"overrides": {"data.path": "elsewhere"}, "changes": {}}
    evaluated(tmp_path / "a", "classification_1", 100, val={"auroc": 0.75}, **moved)
    assert values(tmp_path)["val/auroc"] == 0.75
    other = {**moved, "changes": {"data.path": "elsewhere"}}
    evaluated(tmp_path / "a", "classification_2", 200, val={"auroc": 0.5}, **other)
    assert values(tmp_path)["val/auroc"] == 0.75


@pytest.mark.parametrize(("images", "counts"), [(64, True), (None, True), ("scans/", False)])
def test_a_number_of_images_is_of_the_runs_own_and_a_path_of_others(
    images: int | str | None, counts: bool, tmp_path: Path
) -> None:
    made_run(tmp_path / "a", 0.8, seed=0)
    evaluated(tmp_path / "a", "x_1", 100, adversarial={"accuracy": 0.5}, protocol={"images": images})
    assert ("adversarial/accuracy" in values(tmp_path)) is counts


def test_numbers_on_validation_images_do_not_replace_those_on_test_images(tmp_path: Path) -> None:
    made_run(tmp_path / "a", 0.8, seed=0)
    evaluated(tmp_path / "a", "x_1", 100, adversarial={"accuracy": 0.5}, protocol={"split": "test"})
    evaluated(tmp_path / "a", "x_2", 200, adversarial={"accuracy": 0.9, "gap": 0.1}, protocol={"split": "val"})
    found = values(tmp_path)
    assert (found["adversarial/accuracy"], found["adversarial/gap"]) == (0.5, 0.1)


def test_a_run_that_was_finished_with_another_batch_size_is_no_repetition(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        made_run(tmp_path / f"{seed}", 0.8, seed=seed)
    (tmp_path / "1" / "run.json").write_text('{"status": "done", "resumed_with": {"data.batch_size": 4}}')
    (tmp_path / "2" / "run.json").write_text('{"status": "done", "resumed_with": {"trainer.gpus": 0}}')
    assert [group.seeds for group in group_over_seeds(read_rows([tmp_path]))] == [[0, 2], [1]]


def test_an_evaluation_is_no_run_of_its_own(tmp_path: Path) -> None:
    made_run(tmp_path / "a", 0.8, seed=0)
    evaluated(tmp_path / "a", "assay_1", 100, assay={"frechet": 1.0})
    assert len(read_rows([tmp_path])) == 1


def test_assays_of_repetitions_have_a_mean_over_the_seeds(tmp_path: Path) -> None:
    for seed, distance in enumerate((1.0, 4.0)):
        made_run(tmp_path / f"a{seed}", 0.8, seed=seed)
        evaluated(tmp_path / f"a{seed}", "assay_1", 100, assay={"frechet": distance})
    (group,) = group_over_seeds(read_rows([tmp_path]))
    assert group.numbers["assay/frechet"].value == 2.5
    assert group.numbers["assay/frechet"].sd == pytest.approx(np.std([1.0, 4.0], ddof=1))


def test_whether_a_run_was_assayed_after_training_does_not_make_it_another_experiment() -> None:
    assert hash_configuration({**config(0), "assay": "quick"}) == hash_configuration(config(0))


def test_a_run_from_before_there_were_stamps_is_a_repetition_of_one_without(tmp_path: Path) -> None:
    config: dict[str, Any] = {
        "data": {"name": "x"},
        "model": {},
        "recipe": {"name": "m"},
        "trainer": {},
        "callbacks": {},
        "seed": 0,
    }
    without = {**config, "data": {"name": "x", "stamp": {"kind": "none", "share": 1.0}}}
    stamped = {**config, "data": {"name": "x", "stamp": {"kind": "date", "share": 1.0}}}
    assert hash_configuration(config) == hash_configuration(without) != hash_configuration(stamped)


# --- how it was started and how it ended -----------------------------------------------------------------------------


def recorded(run: Path, **fields: Any) -> RunRow:
    """The row of a run whose ``run.json`` says ``fields``."""
    made_run(run, 0.8, seed=0)
    (run / "run.json").write_text(json.dumps({"status": "done", **fields}))
    return read_row(run)


def test_a_row_has_the_overrides_by_key(tmp_path: Path) -> None:
    given = ["model.optimizer.lr=1e-3", "+experiment=demo", "~callbacks.sample_grid", "data.path=a=b"]
    assert recorded(tmp_path / "a", overrides=given).overrides == {
        "model.optimizer.lr": "1e-3",
        "experiment": "demo",
        "callbacks.sample_grid": "",
        "data.path": "a=b",
    }


def test_a_row_says_why_a_run_failed_and_how_long_it_took(tmp_path: Path) -> None:
    found = recorded(tmp_path / "a", status="failed", reason="the loss is not finite", seconds=4.5)
    assert (found.status, found.reason, found.seconds) == ("failed", "the loss is not finite", 4.5)


def test_a_run_that_says_running_while_nobody_is_at_it_was_interrupted(tmp_path: Path) -> None:
    assert recorded(tmp_path / "a", status="running").status == "interrupted"


def test_the_sweep_that_started_a_run_does_not_make_it_another_experiment() -> None:
    assert hash_configuration({**config(0), "sweep": {"name": "x"}}) == hash_configuration(config(0))


def test_pruning_makes_a_run_another_experiment() -> None:
    pruned = {**config(0), "callbacks": {"pruning": {"_target_": "x"}}}
    assert hash_configuration(pruned) != hash_configuration(config(0))


def test_an_assay_on_validation_images_is_not_replaced_by_one_on_test_images(tmp_path: Path) -> None:
    made_run(tmp_path / "a", 0.8, seed=0)
    evaluated(tmp_path / "a", "assay_1", 100, assay={"frechet": 1.0}, protocol={"split": "val"})
    evaluated(tmp_path / "a", "assay_2", 200, assay={"frechet": 3.0}, protocol={"split": "test"})
    assert values(tmp_path) == {"test/accuracy": 0.8, "assay/frechet": 1.0, "test/frechet": 3.0}


def test_the_images_of_an_assay_made_right_after_training_are_known_from_its_results(tmp_path: Path) -> None:
    made_run(tmp_path / "a", 0.8, seed=0)
    evaluated(tmp_path / "a", "assay_1", 100, assay={"frechet": 2.0})
    (tmp_path / "a" / "eval" / "assay_1" / "assay.json").write_text(json.dumps({"split": "test"}))
    assert values(tmp_path)["test/frechet"] == 2.0


def test_runs_that_their_sweep_no_longer_lists_are_left_out_unless_they_are_named(tmp_path: Path) -> None:
    made_run(tmp_path / "now", 0.8, seed=0)
    made_run(tmp_path / "before", 0.1, seed=0)  # of earlier code
    (tmp_path / "sweep.json").write_text(json.dumps({"jobs": [{"directory": "now", "overrides": []}]}))
    assert [found.path.name for found in read_rows([tmp_path])] == ["now"]
    assert [found.path.name for found in read_rows([tmp_path / "before"])] == ["before"]
