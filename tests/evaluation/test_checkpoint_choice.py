"""``checkpoint=last|best|<file>``: which weights of a run are evaluated, and what the others must not touch."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import medassay
from medassay.core.errors import CheckpointError
from medassay.protocols.assay.leaderboard import find_assays
from medassay.runs.check import check_training
from medassay.runs.compose import compose_training
from medassay.runs.directory import RunDirectory
from medassay.runs.samples import write_run_samples
from medassay.runs.table import read_row
from medassay.sweeps.job import TrainJob
from medassay.tasks.classification import Classification
from tests.helpers import Command, assert_one_line

SAVED = Path(__file__).parents[1] / "fixtures" / "runs"
CPU = ("trainer.gpus=0", "trainer.threads=1")
ALWAYS_SECOND = 50.0  # bias of the second class that no image outweighs


def copy_run(name: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(SAVED / name, tmp_path / name, ignore=shutil.ignore_patterns("eval")))


@pytest.fixture
def cnn(tmp_path: Path) -> Path:
    """A classifier's run whose last weights call every image the second class."""
    run = copy_run("cnn", tmp_path)
    contents = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    contents["state_dict"]["net.head.bias"] = torch.tensor([0.0, ALWAYS_SECOND])
    torch.save(contents, run / "checkpoints" / "last.ckpt")
    shutil.copy(run / "checkpoints" / "last.ckpt", run / "checkpoints" / "kept.ckpt")
    return run


def read_left(run: Path, protocol: str = "classification") -> tuple[Path, dict[str, Any]]:
    (directory,) = (run / "eval").glob(f"{protocol}_*")
    return directory, json.loads((directory / f"{protocol}.json").read_text())


def test_the_last_weights_are_evaluated_and_the_report_says_so(cnn: Path, command: Command) -> None:
    before = read_row(cnn)
    assert command("evaluate", f"run={cnn}", "checkpoint=last", *CPU).code == 0
    directory, results = read_left(cnn)
    recall = json.loads((directory / "metrics.json").read_text())["test"]
    assert (recall["recall"], recall["specificity"]) == (1.0, 0.0)
    last = torch.load(cnn / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] + 1
    assert results["checkpoint"] == "last"
    assert results["weights"] == {"epoch": last, "chosen_by": "checkpoint=last"}
    page = (directory / "report.html").read_text()
    assert f"The weights are those of checkpoint=last (epoch {last}), not the ones that training chose." in page
    assert "checkpoint=last protocol=classification" in page  # the command that repeats it
    assert read_row(cnn) == before  # what training chose stays the run's result


def test_a_name_in_the_run_and_a_path_name_a_file(cnn: Path, tmp_path: Path) -> None:
    elsewhere = shutil.copy(cnn / "checkpoints" / "kept.ckpt", tmp_path / "any.ckpt")
    for checkpoint in ("kept.ckpt", str(elsewhere)):
        run = medassay.load_run(cnn, checkpoint=checkpoint, trainer_gpus=0)
        assert run.task.state_dict()["net.head.bias"].tolist() == [0.0, ALWAYS_SECOND]
    assert medassay.load_run(cnn, trainer_gpus=0).task.state_dict()["net.head.bias"][1] < 1


def test_several_runs_take_the_same_checkpoint_of_each(cnn: Path, tmp_path: Path, command: Command) -> None:
    result = command("evaluate", f"run=[{cnn},{cnn}]", "checkpoint=kept.ckpt", f"outputs={tmp_path / 'outputs'}", *CPU)
    assert result.code == 0, result.err
    (table,) = (tmp_path / "outputs" / "eval").iterdir()
    with (table / "summary.csv").open() as stream:
        assert {line["test/recall"] for line in csv.DictReader(stream) if line["row"] == "run"} == {"1.0"}
    assert "checkpoint=kept.ckpt, not the ones that training chose" in (table / "report.html").read_text()


@pytest.mark.parametrize(
    ("argv", "facts"),
    [
        (["checkpoint=first"], ["checkpoint=first", "best, last or a file", "kept.ckpt"]),
        (["checkpoint=null"], ["checkpoint=null", "text"]),
    ],
)
def test_a_checkpoint_that_there_is_not_is_one_line(
    argv: list[str], facts: list[str], cnn: Path, command: Command
) -> None:
    assert_one_line(command("evaluate", f"run={cnn}", *argv, *CPU), *facts)


def test_images_from_elsewhere_have_no_checkpoint(command: Command) -> None:
    result = command("evaluate", "samples=x.npz", "data=blood_phantom", "checkpoint=last")
    assert_one_line(result, "checkpoint=last", "leave it out")


def test_a_run_without_its_last_checkpoint_says_which_there_are(cnn: Path) -> None:
    (cnn / "checkpoints" / "last.ckpt").unlink()
    with pytest.raises(CheckpointError, match=r"checkpoint=last: .*there are best\.ckpt, kept\.ckpt"):
        medassay.load_run(cnn, checkpoint="last")


def test_the_advice_on_weights_that_a_sweep_removed_is_a_command_that_trains_them_again(tmp_path: Path) -> None:
    job = next(path.parent for path in (SAVED / "sweep").glob("*/run.json"))
    run = RunDirectory(shutil.copytree(job, tmp_path / "job"))
    run.best.unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match="train anew: python train") as caught:
        medassay.load_run(run.path)
    argv = shlex.split(str(caught.value).partition("train anew: python train.py ")[2])
    assert not any(argument.startswith("sweep.") for argument in argv)  # which a single run does not take
    again = check_training(compose_training(argv))
    before = run.config()
    assert [again[key] for key in ("seed", "test")] == [before[key] for key in ("seed", "test")]
    assert again["model"]["optimizer"] == before["model"]["optimizer"]


def test_averaged_weights_answer_whichever_checkpoint_they_come_from(tmp_path: Path) -> None:
    small = ("data=chest_phantom", "data.train=48", "data.val=32", "data.test=32", "model.net.width=2", "debug=fast")
    run = medassay.train_run(*small, "trainer.gpus=0", "model.ema_decay=0.9", "logger=none", directory=tmp_path / "run")
    last = medassay.load_run(tmp_path / "run", checkpoint="last", trainer_gpus=0).task
    assert isinstance(last, Classification)
    best, now = run.task.net.state_dict(), last.net.state_dict()  # the only epoch: both are its average
    assert all(torch.equal(best[name], now[name]) for name in best)


def test_an_evaluation_of_fewer_images_is_not_the_runs_own(cnn: Path, command: Command) -> None:
    assert command("evaluate", f"run={cnn}", "trainer.limit_batches=1", *CPU).code == 0
    (file,) = cnn.glob("eval/*/metrics.json")
    assert json.loads(file.read_text())["changes"] == {"trainer.limit_batches": 1}
    assert RunDirectory(cnn).evaluations() == []


def test_samples_of_other_weights_are_drawn_anew(tmp_path: Path) -> None:
    path = copy_run("cgan", tmp_path)
    contents = torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)
    torch.save({**contents, "marked": 1}, path / "checkpoints" / "last.ckpt")
    files = {
        write_run_samples(medassay.load_run(path, checkpoint=name), tmp_path / "cache", {"train": 8}, 0)
        for name in ("best", "last", "last")
    }
    assert len(files) == 2


@pytest.mark.parametrize(
    ("record", "generator", "named"),
    [
        ({"checkpoint": "last"}, {"checkpoint": "last"}, "checkpoint=last"),
        ({"changes": {"model.guidance": 0.5}}, {"sampling": {"model.guidance": 0.5}}, "model.guidance=0.5"),
    ],
)
def test_an_assay_of_other_weights_or_images_finishes_no_job_and_replaces_none_in_the_leaderboard(
    record: dict[str, Any], generator: dict[str, Any], named: str, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(SAVED / "cgan", tmp_path / "cgan"))
    (assay,) = (run / "eval").glob("assay_*")
    other = Path(shutil.copytree(assay, run / "eval" / "assay_other"))
    for name in ("assay.json", "metrics.json"):
        values = json.loads((other / name).read_text()) | record
        if "generator" in values:
            values["generator"] |= generator
        (other / name).write_text(json.dumps(values))
    sources = sorted(one.source.partition(", ")[2] for one in find_assays([run]))
    assert sources == ["", named]
    shutil.rmtree(assay)
    cfg = medassay.compose("model=cgan", "data=blood_phantom", "assay=quick")
    assert not TrainJob().is_finished(cfg, run)
