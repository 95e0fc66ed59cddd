"""Judging images from elsewhere on the command line, and a generator right after its training."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from medassay import cli
from medassay.core.errors import DataError
from medassay.data.phantoms import blood
from medassay.data.sources import Phantom, phantom_data
from medassay.evaluation import arms
from medassay.evaluation.protocol import Report
from medassay.protocols.assay.protocol import Assay
from tests.helpers import Command, assert_one_line

BLOOD = ("data=blood_phantom", "data.train=48", "data.val=40", "data.test=40")
SMALL = (*BLOOD, "data.size=12")
QUICK = ("protocol.budget=quick", "trainer.gpus=0")
CGAN = ("model=cgan", "model.net.width=2", "debug=fast", "logger=none", "trainer.gpus=0")


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """One look after every step of a quick arm, and one training at a time."""
    monkeypatch.setattr(arms, "QUICK_STEPS", 20)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)


def samples_file(path: Path, size: int = 12, n: int = 96) -> Path:
    """Phantoms of another seed: as good as a generator can be."""
    images = phantom_data("b", "blood", list(blood.CLASSES), 3, n, 40, 8, phantom_seed=7, size=size).splits.train
    np.savez(path, train_images=images.images.permute(0, 2, 3, 1).numpy(), train_labels=images.labels[:, None].numpy())
    return path


def results(directory: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((directory / "assay.json").read_text())
    return values


# --- samples= --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("short")
def test_images_from_elsewhere_are_judged_into_a_directory_of_their_own(command: Command, tmp_path: Path) -> None:
    path = samples_file(tmp_path / "made.npz", size=16)
    result = command("evaluate", f"samples={path}", *SMALL, *QUICK, "resize=true")
    assert result.code == 0, result.err
    (directory,) = (tmp_path / "outputs" / "eval").iterdir()
    assert directory.name.startswith("assay_")
    assert f"results: {directory}" in result.out
    found = results(directory)
    assert (found["split"], found["budget"], found["m"]) == ("test", "quick", 40)
    assert found["samples"] == str(path)
    assert found["resize"] is True
    assert found["real"]["train"] == 48
    assert found["generator"]["images"] + found["generator"]["held_out"] == 96
    assert {row["kind"] for row in found["rows"]} == {"generator", "floor", "control"}
    assert set(found["performance"]["arms"]) == {"TRTR", "TSTR"}
    assert (tmp_path / "outputs" / ".cache" / "controls").is_dir()


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the assay is asked to judge; it judges nothing."""
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(Assay, "judge", lambda *args: asked.append(args) or Report({}))
    return asked


def test_the_keys_of_data_say_which_real_images_to_compare_with(
    command: Command, tmp_path: Path, judged: list[tuple[Any, ...]]
) -> None:
    path = samples_file(tmp_path / "made.npz")
    assert command("evaluate", f"samples={path}", *SMALL, *QUICK, "data.phantom_seed=3").code == 0
    ((settings, real, candidate, place),) = judged
    (directory,) = (tmp_path / "outputs" / "eval").iterdir()
    record = results(directory)
    expected = phantom_data("b", "blood", list(blood.CLASSES), 3, 48, 40, 40, phantom_seed=3, size=12).splits
    assert torch.equal(real.train.images, expected.train.images)
    assert torch.equal(real.test.images, expected.test.images)
    assert len(candidate.images) + len(candidate.held_out) == 96
    assert settings.budget == "quick"
    assert place.cache == tmp_path / "outputs" / ".cache"
    assert place.device.type == "cpu"
    assert directory.name.startswith("assay_")
    assert "data.phantom_seed=3" in record["overrides"]


def test_with_split_val_no_test_image_is_compared_with(
    command: Command, tmp_path: Path, judged: list[tuple[Any, ...]]
) -> None:
    path = samples_file(tmp_path / "made.npz")
    assert command("evaluate", f"samples={path}", *SMALL, *QUICK, "protocol.split=val").code == 0
    real = judged[0][1]
    assert torch.equal(real.test.images, real.val.images)


def test_outputs_go_where_they_are_told(command: Command, tmp_path: Path, judged: list[tuple[Any, ...]]) -> None:
    path = samples_file(tmp_path / "made.npz")
    assert command("evaluate", f"samples={path}", *SMALL, *QUICK, f"outputs={tmp_path}/there").code == 0
    assert judged[0][3].cache == tmp_path / "there" / ".cache"
    (directory,) = (tmp_path / "there" / "eval").iterdir()
    assert directory.name.startswith("assay_")
    assert not (tmp_path / "outputs" / "eval").exists()


def test_a_path_with_spaces_and_a_tilde_is_found(
    command: Command, tmp_path: Path, judged: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    samples_file(tmp_path / "made by me.npz")
    result = command("evaluate", "samples='~/made by me.npz'", *SMALL, *QUICK)
    assert result.code == 0, result.err


@pytest.mark.parametrize(
    ("argv", "facts"),
    [
        ([], ["samples= needs the real data set", "data=bloodmnist"]),
        (["data.train=48"], ["samples= needs the real data set"]),
        (["data=blood_phantom", "run=somewhere"], ["run= and samples=", "one of them"]),
        ([*SMALL, "protocol=classification"], ["protocol=classification", "protocol=assay"]),
        ([*SMALL, "protocol=sample"], ["protocol=sample", "protocol=assay"]),
        ([*SMALL, "protocol=assai"], ["protocol=assai", "Did you mean 'assay'"]),
        (["data=chest_phantom", "data.size=12"], ["(96, 12, 12, 3)"]),
        (["data=blood_phantom"], ["12x12, the data set 28x28", "resize=true"]),
        (["data=blod_phantom"], ["Did you mean 'blood_phantom'"]),
        (["data=null"], ["data=bloodmnist"]),
        ([*SMALL, "data.sise=12"], ["data.sise"]),
        ([*SMALL, "data.train=-1"], ["data.train=-1", ">= 8"]),
        ([*SMALL, "trainer.gpu=0"], ["Did you mean 'trainer.gpus'"]),
        ([*SMALL, "trainer.gpus=1"], ["trainer.gpus=1", "no CUDA GPU", "trainer.gpus=0"]),
        ([*SMALL, "resize=maybe"], ["resize=maybe", "true or false"]),
        ([*SMALL, "protocol.budget=huge"], ["protocol.budget=huge", "quick"]),
        ([*SMALL, "protocol.seeds=1"], ["protocol.seeds=1", ">= 3"]),
        ([*SMALL, "protocol.encodes=[pixels]"], ["protocol.encodes"]),
        ([*SMALL, "protocol.encoders=[fid]"], ["protocol.encoders", "pixels"]),
        ([*SMALL, "-m"], ["leave out -m"]),
        ([*SMALL, "zzz=1"], ["zzz"]),
    ],
)
def test_a_wrong_command_on_samples_is_one_line(
    argv: list[str], facts: list[str], command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    path = samples_file(tmp_path / "made.npz")
    assert_one_line(command("evaluate", f"samples={path}", *argv), *facts)


def test_samples_that_are_not_there_are_one_line(command: Command, tmp_path: Path) -> None:
    assert_one_line(command("evaluate", f"samples={tmp_path}/none.npz", *SMALL, *QUICK), "none.npz does not exist")


def test_a_data_set_whose_file_is_missing_is_one_line(command: Command, tmp_path: Path) -> None:
    argv = (
        f"samples={samples_file(tmp_path / 'made.npz', size=28)}",
        "data=bloodmnist",
        f"data.root={tmp_path}",
        *QUICK,
    )
    assert_one_line(command("evaluate", *argv), str(tmp_path / "bloodmnist.npz"))


def test_too_few_real_images_are_one_line(command: Command, tmp_path: Path) -> None:
    path = samples_file(tmp_path / "made.npz")
    assert_one_line(command("evaluate", f"samples={path}", *SMALL, *QUICK, "data.val=8"), "validation images", "8")


@pytest.mark.parametrize(
    "argument", ["seed=3", "model=cgan", "model.net.width=4", "test=false", "callbacks.early_stopping=null"]
)
def test_a_key_that_changes_nothing_about_samples_is_refused(
    argument: str, command: Command, tmp_path: Path, judged: list[tuple[Any, ...]]
) -> None:
    path = samples_file(tmp_path / "made.npz")
    assert_one_line(command("evaluate", f"samples={path}", *SMALL, *QUICK, argument), argument.partition("=")[0])


def test_inception_without_its_file_is_refused_before_anything_is_trained(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arms, "train_arms", lambda *_, **__: pytest.fail("trained"))
    path = samples_file(tmp_path / "made.npz")
    result = command("evaluate", f"samples={path}", *SMALL, *QUICK, "protocol.encoders=[pixels,inception]")
    assert_one_line(result, "protocol.inception_weights=")


# --- train assay= ----------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.usefixtures("short")
def test_a_generator_is_judged_after_its_training_on_validation_images_where_it_is_not_tested(
    command: Command, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    argv = (*CGAN, *BLOOD, "assay=quick", "test=false", f"hydra.run.dir={run}")
    result = command("train", *argv)
    assert result.code == 0, result.err
    assert json.loads((run / "run.json").read_text())["status"] == "done"
    (directory,) = (run / "eval").iterdir()
    assert directory.name.startswith("assay_")
    assert str(directory / "report.html") in result.out
    assert (directory / "report.html").exists()
    found = results(directory)
    assert (found["split"], found["budget"]) == ("val", "quick")
    assert found["generator"]["model"] == "cgan"
    assert found["performance"]["test"] == 40


@pytest.fixture
def assayed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What ``train`` asks to be judged; nothing is."""
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(Assay, "run", lambda *args: asked.append(args) or Report({}))
    return asked


@pytest.mark.parametrize(("argv", "split"), [([], "test"), (["test=true"], "test"), (["test=false"], "val")])
def test_test_images_are_looked_at_only_where_the_run_looks_at_them(
    argv: list[str], split: str, command: Command, tmp_path: Path, assayed: list[tuple[Any, ...]]
) -> None:
    assert command("train", *CGAN, *BLOOD, "assay=full", *argv, f"hydra.run.dir={tmp_path}/a").code == 0
    ((settings, run, context),) = assayed
    assert run.directory.path == tmp_path / "a"
    assert (settings.budget, settings.split) == ("full", split)
    (directory,) = (tmp_path / "a" / "eval").iterdir()
    assert directory.name.startswith("assay_")
    assert context.cache == tmp_path / "outputs" / ".cache"


@pytest.mark.long
def test_a_sweep_over_more_than_seeds_is_judged_on_validation_images(
    command: Command, tmp_path: Path, assayed: list[tuple[Any, ...]]
) -> None:
    argv = ("-m", *CGAN[:1], *CGAN[2:], *BLOOD, "assay=quick", "model.net.width=2,3")
    assert command("train", *argv, f"hydra.sweep.dir={tmp_path}/sweep").code == 0
    assert [settings.split for settings, *_ in assayed] == ["val", "val"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[Any, ...]]]:
    """A generator's run without ``assay=``, and what was judged meanwhile; nobody changes it."""
    top, asked = tmp_path_factory.mktemp("trained"), list[tuple[Any, ...]]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Assay, "run", lambda *args: asked.append(args) or Report({}))
        argv = [*CGAN, *BLOOD, f"outputs={top}/outputs", f"hydra.run.dir={top}/run"]
        assert cli.main("train", argv) == 0
    return top / "run", asked


def test_without_assay_nothing_is_judged(trained: tuple[Path, list[tuple[Any, ...]]]) -> None:
    run, asked = trained
    assert json.loads((run / "run.json").read_text())["status"] == "done"
    assert asked == []
    assert not (run / "eval").exists()


def test_an_assay_that_fails_leaves_a_run_that_is_done(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Path:
        raise DataError("too few images")

    monkeypatch.setattr(Assay, "run", fail)
    run = tmp_path / "run"
    result = command("train", *CGAN, *BLOOD, "assay=quick", f"hydra.run.dir={run}")
    assert_one_line(result, "too few images")
    assert json.loads((run / "run.json").read_text())["status"] == "done"
    assert (run / "checkpoints" / "best.ckpt").exists()


@pytest.fixture
def to_judge(trained: tuple[Path, list[tuple[Any, ...]]], tmp_path: Path) -> Path:
    """A copy of that run with ``assay=quick`` on record."""
    run = Path(shutil.copytree(trained[0], tmp_path / "run"))
    file = run / ".hydra" / "config.yaml"
    config = yaml.safe_load(file.read_text())
    assert config["assay"] == "none"
    file.write_text(yaml.safe_dump({**config, "assay": "quick"}))
    return run


def interrupted(run: Path, **trainer: Any) -> None:
    """Makes a finished run one that was interrupted before its last epoch, with other trainer settings on record."""
    file = run / ".hydra" / "config.yaml"
    config = yaml.safe_load(file.read_text())
    config["trainer"] |= trainer
    file.write_text(yaml.safe_dump(config))
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "status": "interrupted"}))


def test_a_resumed_run_is_judged_once_it_is_done(
    to_judge: Path, command: Command, assayed: list[tuple[Any, ...]]
) -> None:
    interrupted(to_judge, max_epochs=2)
    result = command("train", f"resume={to_judge}")
    assert result.code == 0, result.err
    ((settings, run, _),) = assayed
    assert (settings.budget, run.directory.path) == ("quick", to_judge)


def test_a_run_resumed_on_a_machine_without_gpu_is_judged_there(
    to_judge: Path, command: Command, assayed: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    interrupted(to_judge, max_epochs=2, gpus=1)
    result = command("train", f"resume={to_judge}", "trainer.gpus=0")
    assert result.code == 0, result.err
    ((_, run, context),) = assayed
    assert run.directory.path == to_judge
    assert context.device.type == "cpu"


@pytest.mark.parametrize("model", ["pneumonia_cnn", "tstr"])
def test_an_assay_of_a_classifier_is_refused_before_any_image_is_read(
    model: str, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Phantom, "read", lambda *_: pytest.fail("rendered"))
    run = tmp_path / "run"
    result = command("train", f"model={model}", "data=blood_phantom", "assay=quick", f"hydra.run.dir={run}")
    assert_one_line(result, "assay=quick", f"model={model}", "model=cgan")
    assert not run.exists()


def test_a_budget_that_there_is_not_is_one_line(command: Command) -> None:
    assert_one_line(command("train", *CGAN, *BLOOD, "assay=fast"), "assay=fast", "quick")
