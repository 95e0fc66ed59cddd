"""The command lines: whole runs on tiny data, and every error as one line with exit code 2."""

from __future__ import annotations

import errno
import io
import json
import shlex
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from medassay import cli
from medassay.config.command_line import quote_value
from medassay.core import files
from medassay.evaluation.protocol import ComputeContext, Report
from medassay.protocols.assay.protocol import Assay
from medassay.runs import samples
from medassay.runs import train as train_module
from medassay.runs.check import check_training
from medassay.runs.compose import compose_training
from medassay.runs.directory import RunDirectory
from medassay.runs.run import Run
from tests.helpers import Command, assert_one_line, flip_byte

TINY = ("data.train=48", "data.val=32", "data.test=32", "data.batch_size=16", "debug=fast", "trainer.gpus=0")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One small run of each kind; tests that change one work on a copy."""
    top = tmp_path_factory.mktemp("runs")
    commands = {
        "classifier": ("model=pneumonia_cnn", "data=chest_phantom", "model.net.width=2"),
        "generator": ("model=cgan", "data=blood_phantom", "model.net.width=2"),
    }
    for name, argv in commands.items():
        assert cli.main("train", [*argv, *TINY, f"outputs={top}/outputs", f"hydra.run.dir={top}/{name}"]) == 0
    return {name: top / name for name in commands}


def numbers(run: Path, name: str = "metrics.json") -> dict[str, Any]:
    values: dict[str, Any] = json.loads((run / name).read_text())
    return values


# --- errors that composing or checking the configuration finds ----------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "facts"),
    [
        (["model.optimizer.lrr=1"], ["model.optimizer.lrr", "Did you mean 'model.optimizer.lr'"]),
        (["modle=cgan"], ["modle", "Did you mean 'model'"]),
        (["data.batchsize=3"], ["data.batchsize", "Did you mean 'data.batch_size'"]),
        (["zzz=3"], ["zzz: unknown key"]),
        (["ckpt_path=x"], ["ckpt_path", "resume=<run directory>", "run=<run directory>"]),
        (["train=false"], ["train: ", "always trains", "evaluate.py run="]),
        (["hparams_search=x"], ["search=<name>"]),
        (["max_epochs=3"], ["Did you mean 'trainer.max_epochs'"]),
        (["lr=0.1"], ["Did you mean 'model.optimizer.lr'"]),
        (["+zzz=3"], ["zzz: unknown key"]),
        (["+trainer.zzz=3"], ["trainer.zzz: unknown key", "max_epochs"]),
        (["model=cgann"], ["model=cgann", "Did you mean 'cgan'", "pneumonia_cnn"]),
        (["model/net=block_cn"], ["model/net=block_cn", "Did you mean 'block_cnn'"]),
        (["data=pneumoniamnits"], ["Did you mean 'pneumoniamnist'"]),
        (["experiment=dem"], ["Did you mean 'demo'"]),
        (["logger=wandbb"], ["logger=wandbb", "Did you mean 'wandb'", "csv, mlflow, none, tensorboard, wandb"]),
        (["model.optimizer.lr=-1"], ["model.optimizer.lr=-1", "> 0"]),
        (["model.optimizer.lr=nan"], ["model.optimizer.lr=nan"]),
        (["model.optimizer.betas=[0.9]"], ["model.optimizer.betas=[0.9]", "2 values"]),
        (["data.batch_size=0"], ["data.batch_size=0", ">= 1"]),
        (["data.batch_size=1.5"], ["data.batch_size=1.5", "an integer"]),
        (["trainer.max_epochs=ten"], ["trainer.max_epochs=ten", "an integer >= 1"]),
        (["trainer.compile=maybe"], ["trainer.compile=maybe", "true or false"]),
        (["trainer.precision=fp8"], ["trainer.precision=fp8", "bf16-mixed"]),
        (["trainer.max_time=3h"], ["trainer.max_time=3h", "DD:HH:MM:SS"]),
        (["trainer.accelerator=tpu"], ["trainer.accelerator=tpu", "cuda"]),
        (["trainer.gpus=-1"], ["trainer.gpus=-1"]),
        (["model.net.activation=rely"], ["model.net.activation=rely", "leaky_relu"]),
        (["model.net.blocks=5"], ["model.net.blocks=5", "at most 4"]),
        (["model.net=3"], ["model.net=3"]),
        (["model.net._target_=os.system"], ["os.system", "MEDASSAY_TRUSTED_PACKAGES"]),
        (["model.net._target_=medassay.nets.nothing.Net"], ["medassay.nets.nothing.Net"]),
        (["callbacks.sample_grid.every_n_epochs=0"], ["callbacks.sample_grid.every_n_epochs=0"]),
        (["data.augment.rotation=-3"], ["data.augment.rotation=-3"]),
        (["data.augment.horizontal_flip=2"], ["data.augment.horizontal_flip=2"]),
        (["seed=-1"], ["seed=-1", ">= 0"]),
        (["seed=null"], ["seed=null"]),
        (["seed=${nothing}"], ["seed", "nothing"]),
        (["test=perhaps"], ["test=perhaps"]),
        (["model=cgan", "data.size=64"], ["model.net.image_size=64", "<= 32"]),
        (
            ["model=cgan", "data=blood_phantom", *TINY, "trainer.accumulate=2"],
            ["trainer.accumulate=2", "data.batch_size"],
        ),
        (["logger=null"], ["logger=null", "logger=none"]),
        (["model=null"], ["model=null"]),
        (["callbacks.early_stopping=3"], ["callbacks.early_stopping=3", "null"]),
        (["logger.tensorboard=3"], ["logger.tensorboard=3", "null"]),
        (["data.channels=3"], ["data.channels=3"]),
        (["data.size=4"], ["data.size=4", ">= 8"]),
        (["model.net.in_channels=3"], ["model.net.in_channels=3", "data.channels"]),
        (["model.num_classes=3"], ["model.num_classes=3", "data.classes"]),
        ([*TINY, "recipe.monitor=val/auroxc"], ["val/auroxc", "Did you mean 'val/auroc'"]),
        (["-m", "resume=a,b"], ["leave out -m"]),
        (["resume=x", "hydra.run.dir=y"], ["hydra.run.dir"]),
        (["data=folder"], ["data.path=<directory"]),
        (["data=folder", "data.path=/does/not/exist"], ["data.path=/does/not/exist"]),
        (["data.name=a=b"], ["data.name=a=b", "quotes", "\"data.name='a=b'\""]),
        (["data.classes=[a"], ["data.classes=[a", "quotes"]),
        (["--force"], ["--force", "key=value"]),
        (["--cfgg"], ["--cfgg"]),
        (["resume=/does/not/exist"], ["/does/not/exist", "no run directory"]),
        (["-m", "resume=x"], ["leave out -m"]),
    ],
)
def test_a_wrong_key_group_or_value_is_one_line(argv: list[str], facts: list[str], command: Command) -> None:
    base = [] if any(a.startswith(("data=", "model=cgan")) for a in argv) else ["data=chest_phantom"]
    assert_one_line(command("train", *base, *argv), *facts)


def test_a_wrong_value_leaves_no_directory_behind(command: Command, tmp_path: Path) -> None:
    command("train", "data=chest_phantom", "seed=-1", f"hydra.run.dir={tmp_path}/run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("argv", "facts"),
    [
        (["trainer.gpus=1"], ["trainer.gpus=1", "no CUDA GPU", "trainer.gpus=0"]),
        (["trainer.gpus=[0,3]"], ["trainer.gpus=[0, 3]", "no CUDA GPU"]),
        (["trainer.gpus=1", "trainer.devices=1"], ["trainer.gpus=1", "trainer.devices"]),
        (["trainer.gpus=0", "trainer.accelerator=cpu"], ["trainer.gpus=0", "trainer.accelerator"]),
        (["trainer.accelerator=cuda"], ["no CUDA GPU"]),
    ],
)
def test_an_absent_gpu_or_a_doubled_choice_of_devices_is_one_line(
    argv: list[str], facts: list[str], command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert_one_line(command("train", "data=chest_phantom", *TINY[:-1], *argv), *facts)


# --- data files -----------------------------------------------------------------------------------------------------


def npz(path: Path, shape: tuple[int, ...] = (28, 28, 3), labels: int = 8, columns: int = 1) -> Path:
    """A file in MedMNIST's layout with 24 images per split."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split in ("train", "val", "test"):
        arrays[f"{split}_images"] = rng.integers(0, 256, (24, *shape), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.tile(np.arange(24)[:, None] % labels, (1, columns)).astype(np.uint8)
    np.savez(path, **arrays)
    return path


def test_a_missing_file_says_where_to_put_it_and_which_phantom_runs_without(command: Command, tmp_path: Path) -> None:
    result = command("train", f"data.root={tmp_path}", "trainer.gpus=0")
    assert_one_line(
        result, str(tmp_path / "pneumoniamnist.npz"), "28209eda62fecd6e6a2d98b1501bb15f", "data=chest_phantom"
    )


def test_a_file_of_the_official_name_with_another_md5_is_refused(command: Command, tmp_path: Path) -> None:
    npz(tmp_path / "bloodmnist.npz")
    result = command("train", "model=cgan", f"data.root={tmp_path}", "trainer.gpus=0")
    assert_one_line(result, "7053d0359d879ad8a5505303e11de1dc", "data.file=")


@pytest.mark.parametrize(
    ("spoil", "fact"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:900]), "cut short"),
        (lambda p: p.unlink(), "does not exist"),
        (lambda p: npz(p, shape=(32, 32, 3)), "(24, 32, 32, 3)"),
        (lambda p: npz(p, columns=3), "multi-label"),
        (lambda p: npz(p, labels=11), "data.classes"),
    ],
    ids=["truncated", "missing", "another shape", "multi-label", "a label too many"],
)
def test_a_damaged_or_unfit_data_file_is_one_line(
    spoil: Callable[[Path], object], fact: str, command: Command, tmp_path: Path
) -> None:
    path = npz(tmp_path / "mine.npz")
    spoil(path)
    run = tmp_path / "run"
    result = command("train", "model=cgan", f"data.file={path}", "trainer.gpus=0", f"hydra.run.dir={run}")
    assert_one_line(result, str(path), fact)
    assert numbers(run, "run.json")["status"] == "failed"
    assert fact in numbers(run, "run.json")["reason"]


def test_a_file_that_is_not_the_published_one_is_recorded_as_such(command: Command, tmp_path: Path) -> None:
    path = npz(tmp_path / "mine.npz")
    run = tmp_path / "run"
    argv = ["model=tstr", f"data.file={path}", "data.batch_size=8", "debug=fast", "trainer.gpus=0"]
    result = command("train", *argv, f"hydra.run.dir={run}")
    assert result.code == 0, result.err
    data = numbers(run, "run.json")["data"]
    assert data["published"] is False
    assert len(data["md5"]) == 32
    assert "not a published file" in result.out


@pytest.mark.long
def test_several_processes_train_on_augmented_images_of_a_configuration(command: Command, tmp_path: Path) -> None:
    devices = ["trainer.accelerator=cpu", "trainer.devices=2", "trainer.threads=1"]
    small = [text for text in TINY if not text.startswith("trainer.")]
    result = command(
        "train", "data=chest_phantom", *small, *devices, "data.augment.rotation=5", f"hydra.run.dir={tmp_path / 'run'}"
    )
    assert (result.code, result.err) == (0, "")
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["epochs"] == 1


def test_a_relative_data_file_is_found_again_from_another_directory_and_a_changed_one_refused(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = npz(tmp_path / "mine.npz")
    monkeypatch.chdir(tmp_path)
    argv = ["model=tstr", "data.file=mine.npz", "data.batch_size=8", "debug=fast", "trainer.gpus=0", "logger=none"]
    assert command("train", *argv, "model.net.width=2", f"hydra.run.dir={tmp_path}/run").code == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert command("evaluate", "run=../run").code == 0
    npz(path, labels=7)
    assert_one_line(command("evaluate", "run=../run"), "have changed since training", "data.file=")
    assert command("evaluate", "run=../run", f"data.file={path}").code == 0


# --- places ---------------------------------------------------------------------------------------------------------


def test_an_output_that_cannot_be_written_is_one_line(command: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    result = command("train", "data=chest_phantom", *TINY, f"hydra.run.dir={tmp_path}/file/run")
    assert_one_line(result, "hydra.run.dir=")


def test_a_full_disk_keeps_the_last_good_checkpoint_and_the_run_resumes(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    real, saves = torch.save, []

    def full(contents: Any, path: Any) -> None:
        saves.append(path)
        if len(saves) > 2:  # the first epoch's best and last
            Path(path).write_bytes(b"half of it")
            raise OSError(28, "No space left on device", str(path))
        real(contents, path)

    monkeypatch.setattr(torch, "save", full)
    argv = ["data=chest_phantom", *TINY, "trainer.max_epochs=2", "model.net.width=2"]
    assert_one_line(command("train", *argv, f"hydra.run.dir={run}"), "no space left", "resume=")
    assert numbers(run, "run.json")["status"] == "failed"
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    monkeypatch.setattr(torch, "save", real)
    assert command("train", f"resume={run}").code == 0
    assert numbers(run)["epochs"] == 2


@pytest.fixture
def own(runs: dict[str, Path], tmp_path: Path) -> Path:
    """A classifier's run of this test's own."""
    return shutil.copytree(runs["classifier"], tmp_path / "own")


def interrupt(run: Path) -> None:
    """Makes a finished run one that was interrupted after its last epoch so far."""
    RunDirectory(run).update(status="interrupted")


def test_an_evaluation_with_a_damaged_checkpoint_is_one_line_that_says_how_to_train_anew(
    own: Path, command: Command
) -> None:
    flip_byte(own / "checkpoints" / "best.ckpt")
    result = command("evaluate", f"run={own}", "trainer.gpus=0")
    assert_one_line(result, "best.ckpt is damaged", "restore it from a copy", "train anew: python train.py ")
    assert list(own.glob("eval/*")) == []
    again = shlex.split(result.err.partition("train anew: python train.py ")[2])
    assert again == [text for text in numbers(own, "run.json")["overrides"] if not text.startswith("hydra.run.dir=")]


def test_weights_of_another_run_in_place_of_the_runs_own_are_noticed_where_the_record_knows_them(
    own: Path, command: Command, tmp_path: Path
) -> None:
    png, best = tmp_path / "x.png", own / "checkpoints" / "best.ckpt"
    Image.new("L", (28, 28), 90).save(png)
    contents = torch.load(best, weights_only=True)
    contents["state_dict"]["net.head.bias"] += 1
    torch.save(contents, best)
    assert_one_line(command("evaluate", f"run={own}", "trainer.gpus=0"), "not the file that training left")
    RunDirectory(own).update(sha256=None)  # an older run, or one that was killed
    assert command("evaluate", f"run={own}", "trainer.gpus=0", "protocol=predict", f"protocol.images={png}").code == 0


def test_resuming_with_a_damaged_checkpoint_is_one_line_whose_advice_works(own: Path, command: Command) -> None:
    interrupt(own)
    for name in ("best.ckpt", "last.ckpt"):
        flip_byte(own / "checkpoints" / name)
        result = command("train", f"resume={own}")
        assert_one_line(result, f"{name} is damaged", f"delete {own}/checkpoints, then python train.py resume={own}")
    shutil.rmtree(own / "checkpoints")
    assert command("train", f"resume={own}").code == 0
    assert numbers(own, "run.json")["status"] == "done"


def test_resuming_without_the_chosen_epochs_weights_is_one_line(own: Path, command: Command) -> None:
    interrupt(own)
    (own / "checkpoints" / "best.ckpt").unlink()
    assert_one_line(command("train", f"resume={own}"), "best.ckpt is missing", f"resume={own}")


def test_a_killed_run_whose_record_is_older_than_its_checkpoints_is_resumed(own: Path, command: Command) -> None:
    with RunDirectory(own).record_ending():
        during = numbers(own, "run.json")  # what a run that is killed leaves
    last = own / "checkpoints" / "last.ckpt"
    contents = torch.load(last, weights_only=True)
    torch.save({**contents, "pytorch-lightning_version": str(contents["pytorch-lightning_version"])}, last)
    (own / "run.json").write_text(json.dumps(during))
    assert command("train", f"resume={own}", "trainer.max_epochs=2").code == 0
    assert numbers(own)["epochs"] == 2


def test_the_checkpoints_of_fit_are_not_overwritten_by_a_run(own: Path, command: Command) -> None:
    (own / "run.json").unlink()
    result = command("train", "data=chest_phantom", *TINY, f"hydra.run.dir={own}")
    assert_one_line(result, f"{own} already holds checkpoints and ", "hydra.run.dir", "move them away")


def test_folders_of_ones_own_are_not_replaced_by_a_run(command: Command, tmp_path: Path) -> None:
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / "measured.csv").write_text("mine")
    result = command("train", "data=chest_phantom", *TINY, f"hydra.run.dir={tmp_path}")
    assert_one_line(result, "already holds csv, which a training would replace", "move it away")
    assert (tmp_path / "csv" / "measured.csv").read_text() == "mine"
    assert not (tmp_path / "run.json").exists()


@pytest.mark.parametrize(
    ("mistake", "fact"),
    [
        ("trainer.gpus=[9]", "trainer.gpus="),
        ("trainer.max_epochs=2", "3 epochs are trained already; give 3 or more"),
        ("trainer.precision=16-mixed", "half precision needs a GPU"),
    ],
)
def test_a_mistake_in_resuming_holds_for_that_time_only(mistake: str, fact: str, own: Path, command: Command) -> None:
    interrupt(own)
    last = own / "checkpoints" / "last.ckpt"
    torch.save({**torch.load(last, weights_only=True), "epoch": 2}, last)
    RunDirectory(own).update(sha256=None, resumed_with={"trainer.max_epochs": 3})
    data = numbers(own, "run.json")["data"]
    assert_one_line(command("train", f"resume={own}", mistake), fact)
    assert numbers(own, "run.json")["resumed_with"] == {"trainer.max_epochs": 3}
    assert numbers(own, "run.json")["data"] == data


def test_a_change_in_resuming_is_recorded(own: Path, command: Command) -> None:
    interrupt(own)
    assert command("train", f"resume={own}", "trainer.threads=1").code == 0
    assert numbers(own, "run.json")["resumed_with"] == {"trainer.threads": 1}


def paint_class_folders(top: Path, images: int) -> Path:
    for name, grey in (("cat", 40), ("dog", 160)):
        (top / name).mkdir(parents=True)
        for number in range(images):
            Image.new("L", (28, 28), grey + number).save(top / name / f"{number}.png")
    return top


def test_a_run_whose_images_have_changed_goes_on_only_where_these_are_named(command: Command, tmp_path: Path) -> None:
    images, run = paint_class_folders(tmp_path / "images", 12), tmp_path / "run"
    small = ("data.batch_size=8", "model.net.width=2", "trainer.gpus=0", "trainer.max_epochs=1", "logger=none")
    assert command("train", "data=folder", f"data.path={images}", *small, f"hydra.run.dir={run}").code == 0
    before = numbers(run, "run.json")["data"]
    Image.new("L", (28, 28), 99).save(images / "cat" / "new.png")
    facts = ("the data have changed since training", before["md5"], "data.path=")
    assert_one_line(command("train", f"resume={run}", "trainer.max_epochs=2"), *facts)
    assert {path.name for path in tmp_path.iterdir()} == {"images", "run"}
    interrupt(run)
    assert_one_line(command("train", f"resume={run}"), *facts)
    mistaken = command("train", f"resume={run}", f"data.path={images}", "trainer.precision=16-mixed")
    assert_one_line(mistaken, "half precision needs a GPU")
    assert numbers(run, "run.json")["data"] == before
    assert not numbers(run, "run.json").get("other_data")
    assert command("train", f"resume={run}", f"data.path={images}").code == 0
    assert numbers(run, "run.json")["data"]["md5"] != before["md5"]
    assert numbers(run, "run.json")["other_data"]


def test_more_epochs_keep_what_an_earlier_resumption_changed(
    own: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs: list[dict[str, Any]] = []
    monkeypatch.setattr(train_module, "train_in", lambda run, config, **options: configs.append(config))
    before = {
        "data.batch_size": 7,
        "trainer.accelerator": "cpu",
        "trainer.gpus": None,
        "trainer.max_time": "0:01:00:00",
    }
    RunDirectory(own).update(resumed_with=before)
    assert command("train", f"resume={own}", "trainer.max_epochs=3", "trainer.gpus=0").code == 0
    ((data, trainer),) = [(config["data"], config["trainer"]) for config in configs]
    assert data["batch_size"] == 7
    assert (trainer["max_epochs"], trainer["max_time"]) == (3, None)
    assert (trainer["gpus"], trainer["accelerator"]) == (0, None)


def test_places_of_data_given_in_resuming_are_recorded_in_full(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory(tmp_path / "run")
    run.create(check_training(compose_training(["data=pneumoniamnist"])), [])
    configs: list[dict[str, Any]] = []
    monkeypatch.setattr(train_module, "train_in", lambda run, config, **options: configs.append(config))
    monkeypatch.chdir(tmp_path)
    assert command("train", f"resume={run.path}", "data.file=mine.npz").code == 0
    assert run.record()["resumed_with"] == {"data.file": f"{tmp_path}/mine.npz"}
    assert configs[0]["data"]["file"] == f"{tmp_path}/mine.npz"


def test_a_path_that_needs_quotes_is_quoted_where_it_is_advised(own: Path, command: Command, tmp_path: Path) -> None:
    odd = shutil.move(own, tmp_path / "a b=c,d")
    interrupt(odd)
    flip_byte(odd / "checkpoints" / "best.ckpt")
    result = command("train", f"resume={quote_value(str(odd))}")
    advised = result.err.partition("then python train.py ")[2]
    shutil.rmtree(odd / "checkpoints")
    assert command("train", *shlex.split(advised)).code == 0


def test_a_folder_of_yamls_may_have_an_apostrophe_in_its_name(command: Command, tmp_path: Path) -> None:
    (tmp_path / "it's" / "model").mkdir(parents=True)
    (tmp_path / "it's" / "model" / "mine.yaml").write_text("defaults: [pneumonia_cnn]\nnet: {width: 2}\n")
    argv = ["--config-dir", str(tmp_path / "it's"), "model=mine", "data=chest_phantom", *TINY]
    assert command("train", *argv, f"hydra.run.dir={tmp_path}/run").code == 0


@pytest.mark.parametrize("flags", [[], ["-m"], ["--cfg", "job"]])
def test_a_fault_in_a_yaml_of_the_users_is_one_line_however_it_is_read(
    flags: list[str], command: Command, tmp_path: Path
) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("notes: [a\nseed: 1\n")
    result = command("train", *flags, "--config-dir", str(tmp_path), "experiment=mine", "data=chest_phantom")
    assert_one_line(result, f"{tmp_path}/experiment/mine.yaml, line 2: no valid YAML")


@pytest.mark.parametrize(
    ("argv", "facts"),
    [
        (["resume=x", "--cfg", "job"], ["--cfg", ".hydra/config.yaml", "leave out resume="]),
        (["data=chest_phantom", "sweep.name=x"], ["sweep.name: one training has none", "add -m"]),
        (["-m", "data=chest_phantom", "seed=0,1", "hydra.run.dir=x"], ["hydra.run.dir", "hydra.sweep.dir"]),
        (["-m", "data=chest_phantom", "seed=0,1", "hydra.sweep.subdir=x"], ["hydra.sweep.subdir", "leave it out"]),
    ],
)
def test_what_would_be_passed_over_is_refused(argv: list[str], facts: list[str], command: Command) -> None:
    assert_one_line(command("train", *argv), *facts)


class ReadOnly:
    """``tempfile.TemporaryDirectory`` where nothing below a folder can be written, whoever asks."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.make = folder, tempfile.TemporaryDirectory

    def __call__(self, *, dir: Path, prefix: str = "") -> Any:
        if Path(dir).is_relative_to(self.folder):
            raise PermissionError(errno.EACCES, "Permission denied", str(dir))
        return self.make(dir=dir, prefix=prefix)


@pytest.mark.parametrize("several", [False, True])
def test_a_read_only_run_is_evaluated_into_another_directory(
    several: bool, own: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files.tempfile, "TemporaryDirectory", ReadOnly(own))
    argv = [f"run=[{own}]" if not several else f"run=[{own},{own}]", "trainer.gpus=0", "protocol=predict"]
    Image.new("L", (28, 28), 90).save(tmp_path / "x.png")
    argv.append(f"protocol.images={tmp_path / 'x.png'}")
    if not several:
        assert_one_line(command("evaluate", *argv), f"{own}/eval/", "is not writable", "eval_dir=<directory>")
    before = sorted(own.rglob("*"))
    assert command("evaluate", *argv, f"eval_dir={tmp_path}/results").code == 0
    assert sorted(own.rglob("*")) == before
    reports = list((tmp_path / "results").glob("predict_*/report.html"))
    assert len(reports) == (2 if several else 1)


def test_a_tilde_in_every_key_of_a_place_is_the_home_directory(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDASSAY_OUTPUTS", "~/out")
    Path("home").mkdir()
    Image.new("L", (28, 28), 90).save("home/x.png")
    small = ("data=chest_phantom", *TINY, "model.net.width=2", "logger=none", "test=false")
    assert command("train", *small).code == 0
    (run,) = Path("home/out/pneumonia_cnn").iterdir()
    assert numbers(run, "run.json")["status"] == "done"
    run.rename("home/own")
    assert_one_line(command("train", "resume='~/own'"), "this run is done after 1 epochs")
    assert_one_line(command("train", "model=tstr", "data.generator='~/own'"), "is a classifier's run")
    for key in ("hydra.run.dir", "hydra.sweep.dir"):
        assert_one_line(
            command("train", *(["-m"] if "sweep" in key else []), *small, f"{key}='~/x.png/run'"), "home/x.png"
        )
    images = ["protocol=predict", "protocol.images='~/x.png'", "trainer.gpus=0"]
    assert command("evaluate", "run='~/own'", "eval_dir='~/results'", *images).code == 0
    assert len(list(Path("home/results").glob("predict_*"))) == 1
    assert_one_line(
        command("evaluate", "samples='~/own/run.json'", "data=chest_phantom"), f"{tmp_path}/home/own/run.json"
    )
    assert not Path("~").exists()


def test_a_tilde_of_a_user_that_there_is_not_is_one_line(command: Command, tmp_path: Path) -> None:
    for argv in (["outputs='~nobody_at_all/x'"], ["hydra.run.dir='~nobody_at_all/x'"], ["resume='~nobody_at_all/x'"]):
        assert_one_line(command("train", "data=chest_phantom", *argv), "~nobody_at_all/x", "no such home directory")


def test_a_directory_with_a_run_in_it_is_not_overwritten(command: Command, runs: dict[str, Path]) -> None:
    before = (runs["classifier"] / ".hydra" / "config.yaml").read_bytes()
    result = command("train", "data=chest_phantom", *TINY, "seed=7", f"hydra.run.dir={runs['classifier']}")
    assert_one_line(result, "already holds a run", "resume=")
    assert (runs["classifier"] / ".hydra" / "config.yaml").read_bytes() == before


# --- whole runs -----------------------------------------------------------------------------------------------------


def test_a_run_leaves_all_that_it_promises(runs: dict[str, Path]) -> None:
    run = runs["classifier"]
    record, values = numbers(run, "run.json"), numbers(run)
    assert record["status"] == "done"
    assert {"overrides", "code", "packages", "data", "seed", "threads", "hardware", "started", "seconds"} <= set(record)
    assert values["test"]["n"] == 32
    assert values["val"]["interval_95"]["accuracy"][0] <= values["val"]["accuracy"]
    for name in ("confusion_matrix", "roc", "precision_recall"):
        assert (run / "figures" / f"test_{name}.png").stat().st_size > 1000
    for checkpoint in ("best.ckpt", "last.ckpt"):
        assert "state_dict" in torch.load(run / "checkpoints" / checkpoint, weights_only=True)
    assert "BlockCNN" in (run / "model.txt").read_text()


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(command: Command, tmp_path: Path) -> None:
    outputs, weights = tmp_path / "outputs" / "pneumonia_cnn", []
    for seed in (5, 5, 6):
        before = set(outputs.glob("*"))
        argv = ["data=chest_phantom", *TINY, "model.net.width=2", "logger=none", "test=false", f"seed={seed}"]
        assert command("train", *argv).code == 0
        (run,) = set(outputs.iterdir()) - before  # a directory of its own
        assert run.name.endswith("_chest_phantom")  # a phantom run says so in its name
        weights.append(torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"])
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    assert not torch.equal(weights[0]["net.head.weight"], weights[2]["net.head.weight"])


def test_evaluating_again_gives_the_numbers_of_training(command: Command, runs: dict[str, Path]) -> None:
    run = runs["classifier"]
    result = command("evaluate", f"run={run}")
    assert result.code == 0, result.err
    directory = Path(result.out.rpartition("results: ")[2].strip())
    assert directory.parent == run / "eval"
    assert f"report: {directory / 'report.html'}" in result.out.splitlines()
    assert numbers(directory)["test"] == numbers(run)["test"]
    assert not list(Path.cwd().glob("*.log"))


def test_a_path_with_equals_sign_space_and_brackets_works_when_quoted(
    command: Command, runs: dict[str, Path], tmp_path: Path
) -> None:
    odd = tmp_path / "a=b [c]"
    shutil.copytree(runs["classifier"], odd)
    assert_one_line(command("evaluate", f"run={odd}"), f"\"run='{odd}'\"")
    result = command("evaluate", f"run='{odd}'")
    assert result.code == 0, result.err
    assert str(odd / "eval") in result.out


def test_samples_are_written_for_the_classes_asked_for(command: Command, runs: dict[str, Path]) -> None:
    run = runs["generator"]
    result = command("evaluate", f"run={run}", "protocol=sample", "protocol.n=3", "protocol.labels=[monocyte,7]")
    assert result.code == 0, result.err
    directory = Path(result.out.rpartition("results: ")[2].strip())
    with np.load(directory / "samples.npz") as file:
        assert {key for key in file.files if key != "provenance"} == {"train_images", "train_labels"}
        assert file["train_images"].shape == (6, 28, 28, 3)
        assert file["train_images"].dtype == np.uint8
        assert file["train_labels"].tolist() == [[5]] * 3 + [[7]] * 3
    assert {p.name for p in directory.glob("*.png")} == {"overview.png", "class_5_monocyte.png", "class_7_platelet.png"}


def test_a_generators_default_protocol_is_the_assay(
    command: Command, runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Assay, Run, ComputeContext]] = []

    def run_nothing(settings: Assay, run: Run, context: ComputeContext) -> Report:
        asked.append((settings, run, context))
        return Report(results={}, split="test")

    monkeypatch.setattr(Assay, "run", run_nothing)
    result = command("evaluate", f"run={runs['generator']}", "protocol.budget=quick", "protocol.seed=3")
    assert result.code == 0, result.err
    ((settings, run, context),) = asked
    assert run.directory.path == runs["generator"]
    directory = Path(result.out.rpartition("results: ")[2].strip())
    assert directory.parent == runs["generator"] / "eval"
    assert context.cache == tmp_path / "outputs" / ".cache"
    assert (settings.budget, settings.seed, settings.split) == ("quick", 3, "test")
    assert numbers(directory, "assay.json")["protocol"]["name"] == "assay"


@pytest.mark.parametrize(
    ("run", "argv", "facts"),
    [
        ("generator", ["protocol=classification"], ["generator's run", "use protocol=assay or sample"]),
        ("classifier", ["protocol=sample"], ["classifier's run", "use protocol=classification"]),
        ("classifier", ["protocol=assay"], ["classifier's run", "use protocol=classification"]),
        ("classifier", ["protocol=gradcamm"], ["protocol=gradcamm", "classification"]),
        ("generator", ["protocol=sample", "protocol.labels=[monocite]"], ["monocite", "Did you mean 'monocyte'"]),
        ("generator", ["protocol=sample", "protocol.labels=[8]"], ["8", "0..7"]),
        ("generator", ["protocol=sample", "protocol.n=0"], ["protocol.n=0", ">= 1"]),
        ("generator", ["protocol.m=3"], ["protocol.m"]),
        ("generator", ["protocol.budget=huge"], ["protocol.budget=huge", "full"]),
        ("generator", ["protocol.seeds=2"], ["protocol.seeds=2", ">= 3"]),
        ("generator", ["protocol.encoders=[vgg]"], ["protocol.encoders", "random_conv"]),
        ("generator", ["protocol.split=train"], ["protocol.split=train"]),
        ("generator", ["protocol.jobs=0"], ["protocol.jobs=0", ">= 1"]),
        ("classifier", ["model.net.width=4"], ["model.net.width", "trainer.*"]),
        ("classifier", ["data.root=/x"], ["data.root", "chest_phantom"]),
        ("classifier", ["trainer.gpus=9"], ["trainer.gpus=9"]),
        ("classifier", ["trainer.gpu=0"], ["Did you mean 'trainer.gpus'"]),
        ("classifier", ["-m"], ["leave out -m"]),
    ],
)
def test_an_evaluation_that_does_not_fit_the_run_is_one_line(
    run: str, argv: list[str], facts: list[str], command: Command, runs: dict[str, Path]
) -> None:
    assert_one_line(command("evaluate", f"run={runs[run]}", *argv), *facts)


def test_evaluating_nothing_or_no_run_is_one_line(command: Command, tmp_path: Path) -> None:
    assert_one_line(command("evaluate"), "run=<run directory>")
    assert_one_line(command("evaluate", f"run={tmp_path}"), "no run directory")
    assert_one_line(command("evaluate", f"run={tmp_path}/none"), "does not exist")


def test_a_checkpoint_of_another_architecture_or_a_damaged_one_is_one_line(
    command: Command, runs: dict[str, Path], tmp_path: Path
) -> None:
    wider, cut, none = (tmp_path / name for name in ("wider", "cut", "none"))
    for copy in (wider, cut, none):
        shutil.copytree(runs["classifier"], copy)
    config = wider / ".hydra" / "config.yaml"
    config.write_text(config.read_text().replace("width: 2", "width: 3"))
    assert_one_line(command("evaluate", f"run={wider}"), "another architecture")
    best = cut / "checkpoints" / "best.ckpt"
    best.write_bytes(best.read_bytes()[:1000])
    assert_one_line(command("evaluate", f"run={cut}"), "best.ckpt is damaged")
    (none / "checkpoints" / "best.ckpt").unlink()
    assert_one_line(command("evaluate", f"run={none}"), "has no checkpoints/best.ckpt", "sweep.keep=none")


def test_a_loss_that_is_no_number_stops_the_run_and_is_recorded(command: Command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    argv = ["data=chest_phantom", *TINY, "model/optimizer=sgd", "model.optimizer.lr=1e38", "trainer.max_epochs=3"]
    assert_one_line(command("train", *argv, f"hydra.run.dir={run}"), "not finite", "model.optimizer.lr")
    assert numbers(run, "run.json")["status"] == "failed"
    assert "not finite" in numbers(run, "run.json")["reason"]


def test_a_finished_run_given_more_epochs_continues_in_a_new_directory(
    command: Command, runs: dict[str, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs["classifier"], run)
    before = numbers(run)
    assert_one_line(command("train", f"resume={run}"), "done", "trainer.max_epochs=")
    assert_one_line(command("train", f"resume={run}", "model.net.width=4"), "model.net.width")
    assert command("train", f"resume={run}", "trainer.max_epochs=3").code == 0
    assert numbers(run) == before
    (longer,) = (p for p in tmp_path.iterdir() if (p / "run.json").exists() and p != run)
    assert numbers(longer)["epochs"] == 3
    assert numbers(longer, "run.json")["continues"] == str(run)


def test_a_run_that_a_time_limit_ended_trains_on_when_it_is_given_more_epochs(command: Command, tmp_path: Path) -> None:
    argv = ["data=chest_phantom", *TINY, "trainer.max_epochs=9999", "trainer.max_time=00:00:00:01", "logger=none"]
    argv += ["recipe.patience=null"]  # a fast machine would come to it
    run = tmp_path / "run"
    assert command("train", *argv, f"hydra.run.dir={run}").code == 0
    trained = numbers(run)["epochs"]
    assert trained == len(numbers(run, "history.json")["rows"]) < 9999
    interrupt(run)  # while it was being tested
    assert command("train", f"resume={run}").code == 0
    assert numbers(run)["epochs"] == trained
    result = command("train", f"resume={run}", f"trainer.max_epochs={trained + 2}")
    assert result.code == 0
    assert "00:00:00:01 was the first training's" in result.out + result.err
    (longer,) = (path for path in tmp_path.iterdir() if (path / "run.json").exists() and path != run)
    assert numbers(longer)["epochs"] == trained + 2
    more = (
        f"trainer.max_epochs={trained + 1}",
        "trainer.max_time=00:00:00:01",
    )  # a second more, for an epoch of a fraction
    assert command("train", f"resume={run}", *more).code == 0
    (limited,) = (path for path in tmp_path.iterdir() if (path / "run.json").exists() and path not in (run, longer))
    assert numbers(limited)["epochs"] == trained + 1


# --- train on synthetic, test on real -------------------------------------------------------------------------------


def test_tstr_trains_on_samples_tests_on_real_and_draws_them_once(
    command: Command, runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["model=tstr", f"data.generator={runs['generator']}", "debug=fast", "trainer.gpus=0"]
    first = command("train", *argv, f"hydra.run.dir={tmp_path}/a")
    assert first.code == 0, first.err
    assert "synthetic_blood_phantom" in first.out
    (file,) = (tmp_path / "outputs" / ".cache" / "samples").iterdir()
    with np.load(file) as drawn:
        assert drawn["train_images"].shape == (48, 28, 28, 3)
        assert np.bincount(drawn["train_labels"][:, 0]).tolist() == [6] * 8
        assert len(drawn["val_labels"]) == 32
    again = command("evaluate", f"run={tmp_path}/a", "protocol.split=val")
    assert again.code == 0, again.err
    directory = Path(again.out.rpartition("results: ")[2].strip())
    assert numbers(directory)["val"] == numbers(tmp_path / "a")["val"]  # held-out images of its own, generated kind
    monkeypatch.setattr(samples, "draw", lambda *a, **k: pytest.fail("drawn again"))
    assert command("train", *argv, "seed=1", f"hydra.run.dir={tmp_path}/b").code == 0
    assert numbers(tmp_path / "a")["test"]["n"] == 32
    record = numbers(tmp_path / "a", "run.json")
    assert record["data"]["real"]["phantom"] is True


@pytest.mark.parametrize(
    ("generator", "argv", "facts"),
    [
        ("generator", ["data=bloodmnist"], ["data=bloodmnist", "blood_phantom"]),
        ("generator", ["data.size=64"], ["data.size=64", "blood_phantom"]),
        ("classifier", [], ["classifier's run", "model=cgan"]),
        ("nothing", [], ["no run directory"]),
    ],
)
def test_a_generator_that_does_not_fit_is_one_line(
    generator: str, argv: list[str], facts: list[str], command: Command, runs: dict[str, Path], tmp_path: Path
) -> None:
    path = runs.get(generator, tmp_path / "nothing")
    assert_one_line(command("train", "model=tstr", f"data.generator={path}", *argv), *facts)


# --- multirun -------------------------------------------------------------------------------------------------------


def hparams(run: Path) -> tuple[set[str], set[str]]:
    """Names of the hyper-parameters and metrics that a run's event files show in the HParams tab."""
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(run))
    multiplexer.Reload()
    names: set[str] = set()
    metrics: set[str] = set()
    for name in multiplexer.Runs():
        accumulator = multiplexer.GetAccumulator(name)
        for content in accumulator.summary_metadata.values():
            if content.plugin_data.plugin_name == "hparams":
                data = HParamsPluginData.FromString(content.plugin_data.content)
                names |= set(data.session_start_info.hparams)
                metrics |= {info.name.tag for info in data.experiment.metric_infos}
    return names, metrics


def jobs_of(sweep: Path) -> list[Path]:
    """The directories of a sweep's jobs; its own figures lie beside them."""
    return sorted(file.parent for file in sweep.glob("*/run.json"))


def test_a_multirun_gives_every_job_a_directory_and_shows_validation_figures(command: Command, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    argv = ["-m", "data=chest_phantom", *TINY, "model.net.width=2,3", "model.optimizer.lr=1e-3,3e-4"]
    result = command("train", *argv, f"hydra.sweep.dir={sweep}")
    assert result.code == 0, result.err
    jobs = jobs_of(sweep)
    assert len(jobs) == 4
    for job in jobs:
        assert "val" in numbers(job)
        assert "test" not in numbers(job)  # candidates are not tested: only what is chosen from them, later
    names, metrics = hparams(jobs[0])
    assert names == {"model.net.width", "model.optimizer.lr"}  # what the jobs differ by
    assert result.out.count("trainable parameters") == 1  # one table of the model for all jobs
    assert "val_final/auroc" in metrics
    assert not any(metric.startswith("test") for metric in metrics)


@pytest.mark.long
def test_a_multirun_over_seeds_alone_is_tested(command: Command, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    argv = ["-m", "data=chest_phantom", *TINY, "model.net.width=2", "seed=0,1", f"hydra.sweep.dir={sweep}"]
    assert command("train", *argv).code == 0
    jobs = jobs_of(sweep)
    assert len(jobs) == 2
    assert all("test" in numbers(job) for job in jobs)
    assert any(metric.startswith("test") for metric in hparams(jobs[0])[1])


def test_a_failed_job_does_not_stop_the_others_and_the_sweep_exits_with_1(command: Command, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    argv = ["-m", "data=chest_phantom", *TINY, "model.net.width=0,2", f"hydra.sweep.dir={sweep}"]
    result = command("train", *argv)
    assert result.code == 1
    first, last = result.err.splitlines()
    failed, done = jobs_of(sweep)
    assert first.startswith(f"medassay: job {failed.name} failed: model.net.width=0: expected an integer >= 1")
    assert last == "medassay: 1 of 2 jobs failed; start the same command again to retry them"
    assert [numbers(job, "run.json")["status"] for job in (failed, done)] == ["failed", "done"]
    assert first.endswith(numbers(failed, "run.json")["reason"])


@pytest.mark.long
def test_a_damaged_record_is_one_jobs_matter_and_deleting_it_goes_on_with_the_job(
    command: Command, tmp_path: Path
) -> None:
    sweep = tmp_path / "sweep"
    argv = [
        "-m",
        "data=chest_phantom",
        *TINY,
        "model.net.width=2",
        f"hydra.sweep.dir={sweep}",
        "logger=none",
        "test=false",
    ]
    assert command("train", *argv, "seed=0").code == 0
    (first,) = jobs_of(sweep)
    weights = (first / "checkpoints" / "best.ckpt").read_bytes()
    (first / "run.json").write_text('{"status": "do')
    result = command("train", *argv, "seed=0,1")
    assert result.code == 1
    assert "run.json" in result.err
    second = next(job for job in jobs_of(sweep) if job != first)
    assert numbers(second, "run.json")["status"] == "done"
    (first / "run.json").unlink()
    assert command("train", *argv, "seed=0,1").code == 0
    assert numbers(first, "run.json")["status"] == "done"
    assert torch.equal(
        *(weights_in(content) for content in (weights, (first / "checkpoints" / "best.ckpt").read_bytes()))
    )
    (first / "run.json").write_text('{"status": "do')
    assert command("train", *argv, "seed=0", "sweep.force=true").code == 0


def weights_in(checkpoint: bytes) -> torch.Tensor:
    state = torch.load(io.BytesIO(checkpoint), weights_only=True)["state_dict"]
    return torch.cat([value.flatten().double() for value in state.values()])


def test_the_final_test_of_a_sweep_is_made_where_it_is_started(command: Command, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    argv = ["-m", "data=chest_phantom", *TINY, "model.net.width=2,3", f"hydra.sweep.dir={sweep}", "logger=none"]
    assert command("train", *argv).code == 0
    for job in jobs_of(sweep):  # as if they had been trained on another machine
        file = job / ".hydra" / "config.yaml"
        assert "gpus: 0" in file.read_text()
        file.write_text(file.read_text().replace("gpus: 0", "gpus: 3"))
    again = [*argv, "trainer.gpus=[]"]  # a list is plain by then
    assert command("train", *again, "sweep.final=true").code == 0
    assert len(list(sweep.glob("*/eval/*/metrics.json"))) == 1


def test_several_devices_in_a_job_of_a_multirun_are_refused(command: Command, tmp_path: Path) -> None:
    argv = ["-m", "data=chest_phantom", "trainer.devices=2", "trainer.accelerator=cpu", "seed=0,1"]
    result = command("train", *argv, f"hydra.sweep.dir={tmp_path}/sweep")
    assert result.code == 1
    assert "several devices" in result.err
