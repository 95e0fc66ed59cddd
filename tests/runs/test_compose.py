"""Composing a training: nodes that build what they describe, keys of older versions, a generator's samples as data."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

import medassay
from medassay.config.moved import FIRST, restore_config, update_config
from medassay.core.errors import CheckpointError, ConfigError
from medassay.data.modules import LabelledData
from medassay.data.sources import GeneratedSamples
from medassay.runs.check import check_training
from medassay.runs.compose import choose_samples, choose_samples_in, compose_training
from medassay.runs.table import hash_configuration
from tests.helpers import Command, assert_one_line

RUNS = Path(__file__).parents[1] / "fixtures" / "runs"
CGAN, TSTR = str(RUNS / "cgan"), RUNS / "tstr"


def saved(run: Path) -> dict[str, Any]:
    """A configuration as an older version wrote it."""
    values = yaml.safe_load((run / ".hydra" / "config.yaml").read_text().replace("@RUNS@", str(RUNS)))
    assert isinstance(values, dict)
    return values


# --- nodes build what they describe ----------------------------------------------------------------------------------


def test_a_notebook_builds_data_and_task_from_the_nodes_as_composed() -> None:
    cfg = medassay.compose("model=cgan", "data=blood_phantom", "data.train=64", "model.net.width=4", "seed=5")
    assert "hydra" not in cfg
    data, task = medassay.build(cfg.data), medassay.build(cfg.model)
    assert (data.name, data.image_shape, data.seed, len(data.splits.train)) == ("blood_phantom", (3, 28, 28), 5, 64)
    assert type(task).__name__ == "ConditionalGAN"
    assert task.num_classes == 8


def test_a_wrong_value_in_a_node_is_said_when_it_is_built() -> None:
    cfg = medassay.compose("data=chest_phantom", "data.batch_size=0")
    with pytest.raises(ConfigError, match=r"batch_size=0: expected an integer >= 1"):
        medassay.build(cfg.data)


@pytest.mark.parametrize("model", ["pneumonia_cnn", "cgan", "cvae", "diffusion", "tstr"])
def test_every_node_is_what_its_constructor_takes(model: str) -> None:
    config = check_training(compose_training([f"model={model}", "data=chest_phantom"]))
    for name in ("data", "model", "recipe", "trainer", "logger", "sweep"):
        assert medassay.build(OmegaConf.create(config[name])) is not None
    assert set(config["recipe"]) == {"_target_", "name", "max_epochs", "batch_size", "monitor", "mode", "patience"}


# --- keys of older versions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "+"])
def test_an_old_key_is_answered_with_the_new_one(prefix: str, command: Command) -> None:
    result = command("train", "data=chest_phantom", f"{prefix}model.recipe.max_epochs=2")
    assert_one_line(result, "model.recipe", "it is called recipe")


def test_an_old_key_in_a_yaml_of_ones_own_is_answered_with_the_new_one() -> None:
    cfg = compose_training(["data=chest_phantom", "+model.name=mine"])
    with pytest.raises(ConfigError, match=r"^model\.name: it is called recipe\.name now$"):
        check_training(cfg)


@pytest.mark.parametrize("name", ["cnn", "cgan", "cvae", "tstr", "interrupted", "sweep/lr-0.001_seed-0_ad3732ac"])
def test_the_saved_configuration_of_an_older_version_is_read_in_the_present_form_and_can_be_given_back(
    name: str,
) -> None:
    before = saved(RUNS / name)
    now = update_config(before)
    assert now["recipe"] == {
        **before["model"]["recipe"],
        "_target_": now["recipe"]["_target_"],
        "name": before["model"]["name"],
    }
    assert not {"name", "recipe"} & set(now["model"])
    assert isinstance(medassay.build(now["data"]), LabelledData)
    expected = json.loads(json.dumps(before))
    for node in (expected["model"]["recipe"], *expected.values()):
        if isinstance(node, dict) and node.get("_target_") in FIRST:
            node["_target_"] = FIRST[node["_target_"]]
    given_back = restore_config(now)
    assert given_back["data"] == expected["data"]
    assert given_back["model"] == expected["model"]


def test_the_hash_of_an_older_runs_configuration_is_the_one_that_sweeps_have_on_record() -> None:
    record = json.loads((RUNS / "sweep" / "sweep.json").read_text())
    run = RUNS / "sweep" / record["jobs"][0]["directory"]
    values = saved(run)
    kept = {
        key: value
        for key, value in values.items()
        if key not in ("outputs", "resume", "logger", "assay", "sweep", "seed")
    }
    kept["data"] = {k: v for k, v in values["data"].items() if k not in ("root", "seed", "stamp")}
    kept["callbacks"] = {
        k: v for k, v in values["callbacks"].items() if v is not None and k not in ("sample_grid", "reconstructions")
    }
    places = ("threads", "progress", "profiler", "gpus", "accelerator", "devices")
    kept["trainer"] = {k: v for k, v in values["trainer"].items() if k not in places}
    expected = hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]
    assert hash_configuration(update_config(values)) == expected


# --- a generator's samples as data -----------------------------------------------------------------------------------


def test_naming_a_generator_chooses_its_samples_as_data() -> None:
    overrides = ["model=tstr", f"data.generator={CGAN}", "data.batch_size=16"]
    assert choose_samples(overrides) == [*overrides, "data=samples"]
    config = check_training(compose_training(overrides))
    data = medassay.build(config["data"])
    real = update_config(saved(Path(CGAN)))["data"]
    assert (data.name, data.classes, data.image_shape) == ("synthetic_blood_phantom", real["classes"], (3, 28, 28))
    assert data.batch_size == 16
    assert isinstance(data.source, GeneratedSamples)
    assert data.data_of("test").name == "blood_phantom"
    assert data.data_of("val") is data


def test_flags_stay_where_a_generator_is_named() -> None:
    argv = ["-m", f"data.generator={CGAN}", "seed=0,1", "--config-dir", "mine"]
    assert choose_samples_in(argv) == [
        f"data.generator={CGAN}",
        "seed=0,1",
        "data=samples",
        "-m",
        "--config-dir",
        "mine",
    ]


def test_without_a_generator_nothing_is_chosen() -> None:
    assert choose_samples(["model=tstr", "data=chest_phantom"]) == ["model=tstr", "data=chest_phantom"]
    assert choose_samples(["model=tstr", "data.generator=null"]) == ["model=tstr"]


def test_the_generators_own_data_may_be_named() -> None:
    assert choose_samples([f"data.generator={CGAN}", "data=blood_phantom"]) == [
        f"data.generator={CGAN}",
        "data=samples",
    ]


@pytest.mark.parametrize("other", ["data=chest_phantom", "data.size=64", "data.stamp.kind=date", "data.train=10"])
def test_other_data_than_the_generators_are_refused(other: str) -> None:
    with pytest.raises(
        ConfigError, match=r"the data are the generator's own \(blood_phantom\); leave it out$"
    ) as error:
        choose_samples(["model=tstr", f"data.generator={CGAN}", other])
    assert str(error.value).startswith(other)


def test_a_generator_that_is_no_run_is_one_line() -> None:
    with pytest.raises(CheckpointError, match="nowhere is no run directory"):
        compose_training(["model=tstr", "data.generator=nowhere"])


def test_samples_without_a_generator_say_what_is_missing(command: Command) -> None:
    assert_one_line(command("train", "model=tstr", "data=samples"), "data.generator: missing")


def test_a_place_that_the_real_data_have_not_is_one_line() -> None:
    config = check_training(compose_training(["model=tstr", f"data.generator={CGAN}", "data.file=x.npz"]))
    with pytest.raises(ConfigError, match=r"^data\.file=.*x\.npz: the data \(blood_phantom\) have no such key$"):
        medassay.build(config["data"])


# --- Hydra's own settings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "facts"),
    [
        (["hydra.job.chdir=true"], ["hydra.job.chdir=true", "leave it out"]),
        (["+hydra.callbacks.mine._target_=x"], ["hydra.callbacks"]),
        (["--config-dir", "nowhere"], ["--config-dir nowhere is not a directory"]),
        (["--config-name", "other"], ["--config-name", "--config-dir"]),
        (["-m", "--cfg", "job"], ["--cfg", "leave out -m"]),
        (["-m", "--config-dir", "x", "seed=0,1"], ["--config-dir x is not a directory"]),
        (["seed=0", "--config-dir"], ["--config-dir", "is not a directory"]),
        (["-m", "--config-name", "x", "seed=0,1"], ["--config-name", "a sweep does not take it"]),
    ],
)
def test_a_setting_of_hydras_that_a_run_does_not_follow_is_one_line(
    argv: list[str], facts: list[str], command: Command, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    result = command("train", "data=chest_phantom", f"hydra.run.dir={run}", *argv)
    assert_one_line(result, *facts)
    assert not run.exists()


def test_yamls_of_ones_own_are_found_in_the_directory_named(command: Command, tmp_path: Path) -> None:
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text("# @package _global_\nrecipe:\n  max_epochs: 0\n")
    result = command("train", "data=chest_phantom", "experiment=mine", f"--config-dir={tmp_path / 'conf'}")
    assert_one_line(result, "max_epochs=0: expected an integer >= 1")
