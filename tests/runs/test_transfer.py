"""A classifier that starts from the weights of another run, by the command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from medassay.core.errors import ConfigError
from tests.helpers import Command

SAVED = Path(__file__).parents[1] / "fixtures" / "runs"
SMALL = ["trainer.gpus=0", "trainer.max_epochs=1", "trainer.limit_batches=1", "logger=none", "model.net.width=4"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch on blood phantoms."""
    from medassay import cli

    path = tmp_path_factory.mktemp("source") / "run"
    code = cli.main("train", [*SMALL, "data=blood_phantom", "data.train=64", "data.val=16", "data.test=16",
                              "model.ema_decay=0.5", f"hydra.run.dir={path}"])  # fmt: skip
    assert code == 0
    return path


CHEST = ["data=chest_phantom", "data.train=64", "data.val=16", "data.test=16"]


def weights_of(path: Path, name: str = "best") -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(path / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]
    return state


def test_a_run_starts_from_the_chosen_weights_of_another_and_records_which(
    source: Path, command: Command, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    result = command("train", *SMALL, *CHEST, f"model.transfer.weights={source}", "model.transfer.frozen_stages=all",
                     "model.ema_decay=0.5", f"hydra.run.dir={run}")  # fmt: skip
    assert result.code == 0, result.err
    assert "1 adapted to the image channels (blocks.0.features.0), 1 new (head)" in result.out
    theirs, ours = weights_of(source), weights_of(run)
    for name in ("net.blocks.0.features.3.weight", "net.blocks.2.features.4.running_mean"):
        assert torch.equal(theirs[name], ours[name])
    torch.testing.assert_close(
        ours["net.blocks.0.features.0.weight"], theirs["net.blocks.0.features.0.weight"].sum(1, True)
    )
    record = json.loads((run / "run.json").read_text())["transfer"]
    assert (record["weights"], record["data"], record["epoch"]) == (str(source), "blood_phantom", 1)
    assert record["new"] == ["head"]
    assert record["reshaped"] == ["blocks.0.features.0"]


def test_a_run_of_the_same_classes_keeps_the_last_layer(source: Path, command: Command, tmp_path: Path) -> None:
    result = command("train", *SMALL, "data=blood_phantom", "data.train=64", "data.val=16", "data.test=16",
                     f"model.transfer.weights={source}", f"hydra.run.dir={tmp_path / 'run'}")  # fmt: skip
    assert result.code == 0, result.err
    assert "new" not in result.out.split("starts from", 1)[1].splitlines()[0]


@pytest.mark.long
def test_a_run_goes_on_and_is_judged_when_the_other_is_gone(source: Path, command: Command, tmp_path: Path) -> None:
    copy, run = tmp_path / "copy", tmp_path / "run"
    shutil.copytree(source, copy)
    assert command("train", *SMALL, *CHEST, f"model.transfer.weights={copy}", f"hydra.run.dir={run}").code == 0
    shutil.rmtree(copy)
    resumed = command("train", f"resume={run}", "trainer.max_epochs=2")
    assert resumed.code == 0, resumed.err
    assert command("evaluate", f"run={run}").code == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["model.net.width=8"], "no convolution there has the name and shape of one of this net (BlockCNN)"),
        (["model.transfer.weights=imagenett"], "model.transfer.weights=imagenett: imagenett is no run directory"),
        (["model.net.blocks=4", "model.transfer.frozen_stages=all"], "has nothing for 4 layers that are to be frozen"),
        (["model.transfer.freeze_epochs=1"], "model.transfer.freeze_epochs=1: training ends after 1 epochs"),
        (["transfer=frozen", "model.transfer.weights=null"], "the frozen layers would keep random weights; name a run"),
        (["model.transfer.weights=imagenet"], "there are none for this net (BlockCNN); choose model/net=alexnet"),
        (["model.transfer.layer_decay=1.5"], "model.transfer.layer_decay=1.5: expected a number > 0 and <= 1"),
        (
            ["model.transfer.frozen_stages=some"],
            "model.transfer.frozen_stages=some: expected an integer >= 0 or one of all",
        ),
    ],
)
def test_what_cannot_start_a_run_is_one_line(
    changes: list[str], message: str, source: Path, command: Command, tmp_path: Path
) -> None:
    result = command(
        "train", *SMALL, *CHEST, f"model.transfer.weights={source}", *changes, f"hydra.run.dir={tmp_path / 'run'}"
    )
    assert result.code == 2
    assert message in result.err
    assert len(result.err.strip().splitlines()) == 1


def test_a_generators_weights_are_refused_before_anything_is_written(command: Command, tmp_path: Path) -> None:
    gan, run = shutil.copytree(SAVED / "cgan", tmp_path / "gan"), tmp_path / "run"
    result = command("train", *SMALL, *CHEST, f"model.transfer.weights={gan}", f"hydra.run.dir={run}")
    assert result.code == 2
    assert f"model.transfer.weights={gan} is a generator's run (model=cgan): give a classifier's" in result.err
    assert not run.exists()


def test_from_scratch_no_weights_are_read(command: Command, tmp_path: Path) -> None:
    run = tmp_path / "a"
    result = command(
        "train", *SMALL, *CHEST, "model.transfer.weights=nowhere", "transfer=scratch", f"hydra.run.dir={run}"
    )
    assert result.code == 0, result.err
    assert "starts from" not in result.out
    assert "transfer" not in json.loads((run / "run.json").read_text())


@pytest.mark.long
def test_reports_name_the_start_also_of_a_run_that_went_on(source: Path, command: Command, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "run"
    assert command("train", *SMALL, *CHEST, f"model.transfer.weights={source}", f"hydra.run.dir={run}").code == 0
    assert command("train", f"resume={run}", "trainer.max_epochs=2").code == 0
    longer = next(path for path in run.parent.iterdir() if path != run)
    assert command("evaluate", f"run={longer}", f"eval_dir={tmp_path / 'eval'}").code == 0
    (report,) = (tmp_path / "eval").glob("*/report.html")
    assert f"did not start from random weights but from {source}, trained on blood_phantom." in report.read_text()


def test_fit_refuses_a_task_whose_weights_were_not_loaded(source: Path, tmp_path: Path) -> None:
    import medassay

    cfg = medassay.compose(*SMALL, *CHEST, f"model.transfer.weights={source}")
    data, task = medassay.build(cfg.data), medassay.build(cfg.model)
    settings = medassay.TrainerSettings(gpus=0, limit_batches=1)
    with pytest.raises(ConfigError, match=r"call medassay\.load_pretrained"):
        medassay.fit(task, data, directory=tmp_path / "a", max_epochs=1, settings=settings, log_to="none")
    transfer = medassay.load_pretrained(task, data.classes)
    assert transfer is not None
    assert transfer["new"] == ["head"]
    medassay.fit(task, data, directory=tmp_path / "b", max_epochs=1, settings=settings, log_to="none")


@pytest.mark.parametrize("content", [b"no weights", None], ids=["no weights", "another file's"])
def test_a_damaged_or_foreign_file_of_imagenet_is_one_line(
    content: bytes | None, command: Command, tmp_path: Path, monkeypatch: Any
) -> None:
    from torchvision.models import get_model, get_model_weights

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / Path(get_model_weights("resnet18").DEFAULT.url).name
    file.parent.mkdir(parents=True)
    if content is None:
        torch.save(get_model("resnet18").state_dict(), file)
    else:
        file.write_bytes(content)
    result = command("train", "trainer.gpus=0", *CHEST, "model/net=resnet", "model.transfer.weights=imagenet",
                     f"hydra.run.dir={tmp_path / 'run'}")  # fmt: skip
    assert result.code == 2
    assert str(file.parent) in result.err
    assert len(result.err.strip().splitlines()) == 1


def test_without_a_network_imagenet_is_one_line(command: Command, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    result = command("train", "trainer.gpus=0", *CHEST, "model/net=resnet", "model.transfer.weights=imagenet",
                     f"hydra.run.dir={tmp_path / 'run'}")  # fmt: skip
    assert result.code == 2
    assert "could not be fetched" in result.err
    assert str(tmp_path / "hub") in result.err
    assert len(result.err.strip().splitlines()) == 1


def test_downloaded_weights_of_imagenet_are_taken(command: Command, tmp_path: Path, monkeypatch: Any) -> None:
    from torchvision.models import get_model, get_model_weights

    chosen = get_model_weights("resnet18").DEFAULT
    made: Callable[[], Any] = lambda: get_model("resnet18").state_dict()  # noqa: E731
    file = tmp_path / "hub" / "checkpoints" / Path(chosen.url).name
    file.parent.mkdir(parents=True)
    file.write_bytes(b"")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    digest = Path(chosen.url).stem.rpartition("-")[2] + "0" * 56
    monkeypatch.setattr("medassay.runs.transfer.hash_file", lambda path: digest)
    monkeypatch.setattr(type(chosen), "get_state_dict", lambda self, **options: made())
    result = command("train", "trainer.gpus=0", "trainer.max_epochs=1", "trainer.limit_batches=1", "data.batch_size=4",
                     "logger=none", *CHEST, "model/net=resnet", "model.net.small_images=false",
                     "model.transfer.weights=imagenet", f"hydra.run.dir={tmp_path / 'run'}")  # fmt: skip
    assert result.code == 0, result.err
    assert "1 adapted to the image channels (body.conv1), 1 new (head)" in result.out
