"""A run back in memory from its directory alone, and the notebook's doors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf

import medassay
from medassay.cli import train as jobs
from medassay.core.errors import CheckpointError, ConfigError, UserError
from medassay.data.modules import LabelledData
from medassay.nets.block_cnn import BlockCNN
from medassay.runs import load
from medassay.runs.load import apply_overrides, choose_device, join_overrides
from medassay.runs.run import Run, makes_images
from medassay.tasks.classification import Classification
from medassay.tasks.predictions import predict
from medassay.training import fit as training
from medassay.training import settings
from medassay.training.settings import TrainerSettings

TINY = (
    "data=chest_phantom",
    "data.train=48",
    "data.val=32",
    "data.test=32",
    "data.batch_size=16",
    "debug=fast",
    "trainer.gpus=0",
    "model.net.width=2",
    "logger=none",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """What ``medassay.train_run`` gives; nobody changes it."""
    return medassay.train_run(*TINY, directory=tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def path(trained: Run) -> Path:
    return trained.directory.path


def saved_config(path: Path) -> dict[str, Any]:
    """The configuration as YAML's own reader sees it."""
    values: dict[str, Any] = yaml.safe_load((path / ".hydra" / "config.yaml").read_text())
    return values


# --- loading ---------------------------------------------------------------------------------------------------------


def test_training_from_python_leaves_a_run_directory(path: Path) -> None:
    assert json.loads((path / "run.json").read_text())["status"] == "done"
    assert json.loads((path / "run.json").read_text())["overrides"] == list(TINY)
    assert json.loads((path / "metrics.json").read_text())["test"]["n"] == 32


def test_training_from_python_without_a_directory_makes_one_under_the_outputs(tmp_path: Path) -> None:
    run = medassay.train_run(*TINY, "test=false")
    assert run.directory.path.parent == tmp_path / "outputs" / "pneumonia_cnn"
    assert "test" not in json.loads((run.directory.path / "metrics.json").read_text())


def test_the_configuration_is_the_one_that_was_saved(path: Path) -> None:
    assert medassay.load_run(path).config == saved_config(path)
    assert medassay.load_run(str(path)).config == saved_config(path)


def test_the_weights_are_those_of_the_best_checkpoint(path: Path) -> None:
    saved = torch.load(path / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    loaded = medassay.load_run(path).task.state_dict()
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)


def test_the_task_comes_back_in_evaluation_mode(path: Path) -> None:
    task = medassay.load_run(path).task
    assert not any(module.training for module in task.modules())


def test_the_data_come_back_as_they_were(path: Path, trained: Run) -> None:
    data = medassay.load_run(path).data
    assert [len(split) for split in data.splits] == [48, 32, 32]
    assert data.classes == ["normal", "pneumonia"]
    assert torch.equal(data.splits.test.images, trained.data.splits.test.images)


def test_the_run_given_back_after_training_is_the_one_that_loading_gives(trained: Run, path: Path) -> None:
    images = trained.data.splits.test.images.float() / 255
    with torch.no_grad():
        assert torch.equal(trained.task(images), medassay.load_run(path).task(images))


def test_a_classifiers_run_is_no_generators(trained: Run) -> None:
    assert not trained.is_generator


def test_loading_changes_no_file(path: Path) -> None:
    def state() -> dict[str, tuple[str, int]]:
        files = [file for file in path.rglob("*") if file.is_file()]
        return {str(f): (hashlib.sha256(f.read_bytes()).hexdigest(), f.stat().st_mtime_ns) for f in files}

    before = state()
    run = medassay.load_run(path, trainer_gpus=0, data_batch_size=3)
    _ = run.data.splits
    assert state() == before


def test_loading_twice_gives_runs_of_their_own(path: Path) -> None:
    first, second = medassay.load_run(path), medassay.load_run(path)
    with torch.no_grad():
        next(first.task.parameters()).zero_()
    first.config["data"]["name"] = "changed"
    assert next(second.task.parameters()).abs().sum() > 0
    assert second.config["data"]["name"] == "chest_phantom"


def test_a_checkpoint_named_as_in_other_programs_is_told_where_runs_are_named(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^ckpt_path: .*evaluate\.py run=<run directory>"):
        apply_overrides(saved_config(path), {"ckpt_path": "x"})


def test_a_tilde_in_the_place_of_data_on_this_machine_is_the_home_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    config = OmegaConf.to_container(medassay.compose("data=folder", "data.path=x", "data.classes=[a,b]"), resolve=True)
    assert isinstance(config, dict)
    changed = apply_overrides({str(k): v for k, v in config.items()}, {"data.path": "~/images"})
    assert changed["data"]["path"] == "/home/me/images"


# --- what may differ on another machine ------------------------------------------------------------------------------


def test_overrides_reach_the_settings_and_the_data(path: Path) -> None:
    run = medassay.load_run(path, trainer_gpus=0, trainer_limit_batches=3, data_batch_size=5)
    assert (run.settings.gpus, run.settings.limit_batches, run.data.batch_size) == (0, 3, 5)
    assert run.config["trainer"]["limit_batches"] == 3
    assert next(run.task.parameters()).device.type == "cpu"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model_name": "x"}, r"^model\.name: a finished run's configuration is fixed;"),
        ({"gpus": 0}, r"^gpus: a finished run's configuration is fixed;"),
        ({"trainer_gpu": 0}, r"^trainer\.gpu: .* Did you mean 'trainer\.gpus'\?"),
        ({"trainer_gpus": -1}, r"^trainer\.gpus=-1: expected"),
        ({"data_batch_size": 0}, r"^data\.batch_size=0: expected an integer >= 1"),
        ({"data_root": "/x"}, r"^data\.root: this run's data \(chest_phantom\) has no such key"),
        ({"data_seed": 3}, r"^data\.seed: a finished run's configuration is fixed;"),
    ],
)
def test_an_override_of_something_else_is_one_line(overrides: dict[str, Any], message: str, path: Path) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        medassay.load_run(path, **overrides)
    assert "\n" not in str(error.value)


FILE_DATA = {
    "_target_": "medassay.data.sources.medmnist_data",
    "name": "bloodmnist",
    "flag": "bloodmnist",
    "phantom": "blood_phantom",
    "classes": ["a", "b"],
    "channels": 3,
    "root": None,
    "file": None,
    "batch_size": 64,
}
CONFIG: dict[str, Any] = {
    "seed": 0,
    "data": FILE_DATA,
    "recipe": {"name": "tstr"},
    "trainer": {"_target_": "medassay.training.settings.TrainerSettings", "max_epochs": 3, "gpus": None},
}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.root", "/data"),
        ("data.file", "/data/mine.npz"),
        ("data.batch_size", 8),
        ("trainer.max_epochs", 9),
        ("trainer.gpus", [0, 1]),
        ("trainer.max_time", "00:00:10:00"),
    ],
)
def test_the_keys_that_may_change_do_and_no_others(key: str, value: Any) -> None:
    group, _, name = key.partition(".")
    changed = apply_overrides(CONFIG, {key: value})
    assert changed == {**CONFIG, group: {**CONFIG[group], name: value}}
    assert CONFIG["data"] is FILE_DATA  # what was passed is left alone
    assert CONFIG["trainer"].get(name) != value


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("data.path", "/x", r"^data\.path: this run's data \(bloodmnist\) has no such key$"),
        ("data.rot", "/x", r"^data\.rot: .* Did you mean 'data\.root'\?"),
        ("data", "chest_phantom", r"^data: a finished run's configuration is fixed"),
        ("data.classes", ["a"], r"^data\.classes: a finished run's"),
        ("model.net.width", 3, r"^model\.net\.width: a finished run's"),
        ("seed", 3, r"^seed: a finished run's .*trainer\.\* and protocol\.\*"),
        ("trainer", {}, r"^trainer: a finished run's"),
        ("trainer.max_epochs", "ten", r"^trainer\.max_epochs=ten: expected an integer >= 1$"),
        ("data.root", 3, r"^data\.root=3: expected text or null$"),
    ],
)
def test_a_key_that_may_not_change_or_a_wrong_value_is_one_line(key: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        apply_overrides(CONFIG, {key: value})


@pytest.mark.parametrize(
    ("saved", "given", "left"),
    [
        ({"accelerator": "cuda", "devices": 2}, {"gpus": 0}, {"gpus": 0, "accelerator": None, "devices": None}),
        ({"gpus": 1}, {"accelerator": "cpu"}, {"gpus": None, "accelerator": "cpu", "devices": None}),
        ({"accelerator": "cuda"}, {"devices": 2}, {"gpus": None, "accelerator": "cuda", "devices": 2}),
        ({"accelerator": "cpu"}, {"gpus": None}, {"gpus": None, "accelerator": "cpu", "devices": None}),
        ({"gpus": 1}, {"gpus": 0, "accelerator": "cpu"}, {"gpus": 0, "accelerator": "cpu", "devices": None}),
    ],
)
def test_one_way_of_saying_on_what_device_takes_the_place_of_the_other(
    saved: dict[str, Any], given: dict[str, Any], left: dict[str, Any]
) -> None:
    node = {"gpus": None, "accelerator": None, "devices": None, **saved}
    data = {
        **FILE_DATA,
        "_target_": "medassay.runs.samples.generated_data",
        "generator": "g",
        "real": FILE_DATA,
        **node,
    }
    del data["flag"], data["phantom"]
    config = {**CONFIG, "trainer": {**CONFIG["trainer"], **node}, "data": {**data, "size": 28}}
    changed = apply_overrides(config, {f"trainer.{name}": value for name, value in given.items()})
    for changed_node in (changed["trainer"], changed["data"]):
        assert {name: changed_node[name] for name in left} == left


def test_what_is_given_now_replaces_what_was_given_before_in_another_way() -> None:
    before = {"trainer.accelerator": "cpu", "data.batch_size": 4}
    assert join_overrides(before, {"trainer.gpus": 0}) == {"trainer.gpus": 0, "data.batch_size": 4}
    assert join_overrides(before, {"data.batch_size": 5}) == {"trainer.accelerator": "cpu", "data.batch_size": 5}
    assert join_overrides({"trainer.gpus": 1}, {"trainer.devices": 1}) == {"trainer.devices": 1}


def test_no_overrides_leave_the_configuration_as_it_was() -> None:
    assert apply_overrides(CONFIG, {}) == CONFIG


# --- parts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "generates"),
    [
        ("medassay.tasks.conditional_gan.ConditionalGAN", True),
        ("medassay.tasks.classification.Classification", False),
        ("medassay.tasks.optim.adam", False),
    ],
)
def test_a_model_that_samples_is_a_generator(target: str, generates: bool) -> None:
    assert makes_images({"model": {"_target_": target}}) is generates


@pytest.mark.parametrize(
    ("chosen", "present", "device"),
    [
        (TrainerSettings(), 0, "cpu"),
        (TrainerSettings(), 2, "cuda:0"),
        (TrainerSettings(gpus=0), 2, "cpu"),
        (TrainerSettings(gpus=2), 2, "cuda:0"),
        (TrainerSettings(gpus=[1]), 2, "cuda:1"),
        (TrainerSettings(accelerator="cpu"), 2, "cpu"),
        (TrainerSettings(accelerator="gpu"), 2, "cuda:0"),
        (TrainerSettings(accelerator="auto"), 2, "cuda:0"),
        (TrainerSettings(accelerator="auto"), 0, "cpu"),
        (TrainerSettings(devices=1), 2, "cuda:0"),
    ],
)
def test_evaluation_runs_on_the_first_device_that_the_settings_allow(
    chosen: TrainerSettings, present: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: present)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: present > 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert str(choose_device(chosen)) == device


def test_a_run_trained_on_apple_silicon_says_so_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(
        ConfigError, match=r"trainer\.accelerator=mps: this machine has none; use trainer\.accelerator=cpu"
    ):
        choose_device(TrainerSettings(accelerator="mps"))


# --- the package's door ----------------------------------------------------------------------------------------------


def test_the_notebooks_names_can_be_imported_from_the_package() -> None:
    from medassay import TrainerSettings, fit, load_run, train_run

    assert isinstance(TrainerSettings(), settings.TrainerSettings)
    assert (fit, load_run, train_run) == (training.fit, load.load_run, jobs.train_run)


def test_the_notebooks_names_are_offered_by_completion() -> None:
    assert {"TrainerSettings", "fit", "load_run", "train_run"} <= set(dir(medassay))


def test_a_name_that_the_package_has_not_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'medassay' has no attribute 'lead_run'"):
        _ = medassay.lead_run
    with pytest.raises(ImportError, match="lead_run"):
        from medassay import lead_run  # noqa: F401


@pytest.mark.parametrize(
    "overrides",
    [
        ("modle=cgan",),
        ("model=cgann",),
        ("model.optimizer.lrr=1",),
        ("data.name=a=b",),
        ("data=chest_phantom", "seed=-1"),
    ],
    ids=lambda overrides: overrides[-1],
)
def test_a_wrong_override_from_python_is_a_user_error_of_one_line(overrides: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as error:
        medassay.train_run(*overrides)
    assert "\n" not in str(error.value)


def test_loading_what_is_no_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is no run directory"):
        medassay.load_run(tmp_path)


def test_a_notebook_trains_objects_of_its_own_without_a_configuration(
    tiny_chest: Callable[..., LabelledData], tmp_path: Path
) -> None:
    data = tiny_chest(train=32, batch_size=16)
    task = Classification(BlockCNN(in_channels=1, num_classes=2, width=2), num_classes=2)
    directory = tmp_path / "mine"
    fitted = medassay.fit(task, data, directory=str(directory), max_epochs=2, settings=TrainerSettings(gpus=0))
    assert fitted.epochs == 2
    assert fitted.best == directory / "checkpoints" / "best.ckpt"
    assert (directory / "tensorboard").is_dir()

    predictions = predict(task, data.splits.test, torch.device("cpu"))
    expected = []
    task.eval()
    with torch.no_grad():
        for image in data.splits.test.images:
            logits = task.net(image[None].float() / 255)[0]
            expected.append(logits.exp() / logits.exp().sum())
    torch.testing.assert_close(predictions.probabilities, torch.stack(expected))
    assert torch.equal(predictions.labels, data.splits.test.labels)
