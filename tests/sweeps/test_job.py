"""One job of a sweep: started, continued, judged or left as its directory says. Nothing is trained here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from medassay import config as configuration
from medassay.core.errors import CheckpointError, ConfigError, DataError, OutputError
from medassay.core.files import file_lock, write_json
from medassay.evaluation import evaluate as evaluation
from medassay.runs import train as jobs
from medassay.runs.directory import RunDirectory
from medassay.runs.recording import SweepPart, list_hyperparameters
from medassay.runs.table import TRAINER_PLACES
from medassay.sweeps.directory import Job, register_resolvers
from medassay.sweeps.job import TrainJob, find_swept, refuse_several_devices, unrecorded
from medassay.sweeps.launchers.progress import Progress


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "job")


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the job asks for instead of training and judging; each training leaves a finished run."""
    calls: list[tuple[Any, ...]] = []

    def finish(path: Path) -> None:
        run = RunDirectory(path)
        run.update(status="done")
        write_json(path / "metrics.json", {"val": {"auroc": 0.75}})
        run.last.parent.mkdir(exist_ok=True)
        for file in (run.last, run.best):
            file.touch()

    def train(config: dict[str, Any], path: Path, overrides: list[str], part: SweepPart, *, resume: bool) -> None:
        calls.append(("train", path, overrides, config["test"]))
        RunDirectory(path).create(config, overrides)
        finish(path)

    def resume(path: Path, overrides: dict[str, Any], part: SweepPart) -> None:
        calls.append(("resume", path, overrides))
        finish(path)

    monkeypatch.setattr(jobs, "train", train)
    monkeypatch.setattr(jobs, "resume", resume)
    monkeypatch.setattr(
        evaluation, "assay_after_training", lambda path, budget, *, test: calls.append(("assay", path, budget, test))
    )
    return calls


Start = Callable[..., Any]


@pytest.fixture
def start(run: RunDirectory) -> Iterator[Start]:
    """Calls the job as Hydra does."""
    register_resolvers()
    before = HydraConfig.instance().cfg

    def call(*overrides: str) -> Any:
        cfg: DictConfig = configuration.compose_with_hydra("train", ["data=chest_phantom", "test=false", *overrides])
        with open_dict(cfg):
            cfg.hydra.runtime.output_dir = str(run.path)
        HydraConfig.instance().set_config(cfg)
        with open_dict(cfg):
            del cfg["hydra"]
        return TrainJob()(cfg)

    yield call
    HydraConfig.instance().cfg = before


def test_a_new_job_is_trained_with_all_its_overrides_and_gives_its_number(
    run: RunDirectory, start: Start, called: list[tuple[Any, ...]]
) -> None:
    assert start("seed=3") == 0.75
    assert called == [("train", run.path, ["data=chest_phantom", "test=false", "seed=3"], False)]


@pytest.mark.parametrize("status", ["done", "pruned"])
def test_a_finished_job_is_left_as_it_is_and_gives_its_number(
    status: str, run: RunDirectory, start: Start, called: list[tuple[Any, ...]]
) -> None:
    start()
    run.update(status=status)
    called.clear()
    assert start() == 0.75
    assert called == []


@pytest.mark.parametrize("status", ["done", "pruned"])
def test_a_finished_job_whose_numbers_are_gone_is_not_left_out_of_the_ranking(
    status: str, run: RunDirectory, start: Start, called: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    start()
    run.update(status=status)
    (run.path / "metrics.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"metrics\.json cannot be read .*delete it"):
        start()
    (run.path / "metrics.json").unlink()
    called.clear()
    found: list[str] = []
    finish = jobs.resume
    monkeypatch.setattr(jobs, "resume", lambda *others: (found.append(run.state()), finish(*others)))
    assert start() == 0.75
    assert [call[0] for call in called] == ["resume"]
    assert found == [
        "interrupted" if status == "done" else "pruned"
    ]  # of a run that is done, resuming asks for more epochs


@pytest.mark.parametrize("status", ["interrupted", "failed", "running"])
def test_a_job_that_had_begun_continues_where_it_stopped(
    status: str, run: RunDirectory, start: Start, called: list[tuple[Any, ...]]
) -> None:
    start()
    run.update(status=status)
    called.clear()
    assert start() == 0.75
    ((what, path, here),) = called
    assert (what, path) == ("resume", run.path)
    assert here["trainer.threads"] is None  # where it trains is as this command says
    assert set(here) == {f"trainer.{key}" for key in TRAINER_PLACES} | {"data.root"} & set(here)


def test_a_job_killed_while_it_wrote_its_configuration_begins_anew(
    run: RunDirectory, start: Start, called: list[tuple[Any, ...]]
) -> None:
    (run.path / ".hydra").mkdir(parents=True)
    assert start() == 0.75
    assert [call[0] for call in called] == ["train"]


def test_a_job_killed_before_it_kept_a_record_begins_anew(
    run: RunDirectory, start: Start, called: list[tuple[Any, ...]]
) -> None:
    start()
    (run.path / "run.json").unlink()
    called.clear()
    start("seed=3")
    assert [call[0] for call in called] == ["train"]
    assert run.record()["seed"] == 3


def test_a_job_that_cannot_begin_says_why_with_its_overrides_and_begins_when_it_can(
    run: RunDirectory, start: Start, called: list[tuple[Any, ...]]
) -> None:
    with pytest.raises(ConfigError):
        start("model.net.width=0")
    record = run.record()
    assert record["status"] == "failed"
    assert record["reason"].startswith("model.net.width=0: expected an integer >= 1")
    assert record["overrides"] == ["data=chest_phantom", "test=false", "model.net.width=0"]
    assert start() == 0.75  # as after a mend of the code: what is wrong with a configuration stays wrong
    assert (run.record()["status"], run.record().get("reason")) == ("done", None)


def test_a_reason_that_the_run_has_recorded_stays(
    run: RunDirectory, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(config: dict[str, Any], path: Path, overrides: list[str], part: SweepPart, *, resume: bool) -> None:
        run.create(config, overrides)
        with run.record_ending():
            raise DataError("the first reason")

    monkeypatch.setattr(jobs, "train", train)
    with pytest.raises(DataError, match="the first reason"):
        start()
    assert (run.record()["status"], run.record()["reason"]) == ("failed", "the first reason")


def test_a_record_that_was_damaged_meanwhile_hides_no_reason(
    run: RunDirectory, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*_: Any, **__: Any) -> None:
        run.path.mkdir()
        (run.path / "run.json").write_text("{")
        raise DataError("the first reason")

    monkeypatch.setattr(jobs, "train", train)
    with pytest.raises(DataError, match="the first reason"):
        start()
    assert unrecorded.pop(run.path) == "the first reason"


def test_the_record_of_a_run_that_another_process_trains_is_not_touched(
    run: RunDirectory, start: Start, called: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    start()
    monkeypatch.undo()  # the real resume
    run.update(status="running")
    with file_lock(run.lock), pytest.raises(Exception, match="is being trained by"):
        start()
    assert run.record()["status"] == "running"


# --- generators ------------------------------------------------------------------------------------------------------


def test_a_generator_that_is_to_be_judged_is_finished_when_it_has_been(
    run: RunDirectory, start: Start, called: list[tuple[Any, ...]]
) -> None:
    argv = ("model=cgan", "data=blood_phantom", "assay=quick")
    start(*argv)
    assert [call[0] for call in called] == ["train", "assay"]
    called.clear()
    assert start(*argv) is None
    assert called == [("assay", run.path, "quick", False)]  # it was interrupted between training and assay
    assayed(run, "quick", "val")
    called.clear()
    assert start(*argv) == 0.5
    assert called == []


def assayed(run: RunDirectory, budget: str, split: str) -> None:
    directory = run.path / "eval" / "assay_1"
    write_json(directory / "assay.json", {"budget": budget, "split": split})
    numbers = {"assay": {"tstr_balanced_accuracy": 0.5}, "protocol": {"budget": budget, "split": split}}
    write_json(directory / "metrics.json", numbers)


@pytest.mark.parametrize(
    ("budget", "split", "asked", "is_enough"),
    [
        ("quick", "val", "assay=quick", True),
        ("full", "val", "assay=quick", True),
        ("quick", "val", "assay=full", False),
        ("quick", "test", "assay=quick", False),  # its images are to choose nothing
    ],
)
def test_an_assay_of_another_extent_or_on_other_images_is_not_the_one_that_is_asked_for(
    budget: str, split: str, asked: str, is_enough: bool, run: RunDirectory, start: Start, called: list[tuple[Any, ...]]
) -> None:
    start("model=cgan", "data=blood_phantom")
    assayed(run, budget, split)
    called.clear()
    start("model=cgan", "data=blood_phantom", asked)
    assert [call[0] for call in called] == ([] if is_enough else ["assay"])


def test_a_generator_that_was_interrupted_is_judged_when_it_has_been_trained(
    run: RunDirectory, start: Start, called: list[tuple[Any, ...]]
) -> None:
    argv = ("model=cgan", "data=blood_phantom", "assay=quick")
    start(*argv)
    run.update(status="interrupted")
    called.clear()
    start(*argv)
    assert [call[0] for call in called] == ["resume", "assay"]


def test_a_finished_generator_whose_assay_fails_stays_done_and_says_why_until_it_has_been_judged(
    run: RunDirectory, start: Start, called: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, budget: str, *, test: bool) -> None:
        raise DataError("no such images")

    argv = ("model=cgan", "data=blood_phantom", "assay=quick")
    with monkeypatch.context() as changed:
        changed.setattr(evaluation, "assay_after_training", fail)
        with pytest.raises(DataError, match="no such images"):
            start(*argv)
    assert (run.record()["status"], run.record()["assay_failed"]) == ("done", "no such images")
    start(*argv)
    assert run.record().get("assay_failed") is None


# --- checkpoints -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("keep", "last"), [("all", True), ("best", False), ("none", False)])
def test_of_a_finished_jobs_checkpoints_only_those_asked_for_stay(
    keep: str, last: bool, run: RunDirectory, start: Start, called: list[tuple[Any, ...]]
) -> None:
    start(f"sweep.keep={keep}")
    assert run.best.exists()  # none: until the sweep has chosen, and then the chosen configuration's
    assert run.last.exists() == last


# --- devices ---------------------------------------------------------------------------------------------------------


def find_refusal(trainer: dict[str, Any]) -> str:
    try:
        refuse_several_devices({"gpus": None, "devices": None, **trainer})
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("trainer", [{"gpus": 2}, {"gpus": [0, 1]}, {"devices": 2}])
def test_several_devices_in_a_job_are_refused(trainer: dict[str, Any]) -> None:
    assert "several devices in one job" in find_refusal(trainer)


@pytest.mark.parametrize("trainer", [{}, {"gpus": 0}, {"gpus": 1}, {"gpus": [3]}, {"gpus": []}, {"devices": 1}])
def test_one_device_in_a_job_is_accepted(trainer: dict[str, Any]) -> None:
    assert find_refusal(trainer) == ""


# --- what a job shows less of than a single run ----------------------------------------------------------------------


def test_swept_are_the_keys_in_which_jobs_differ_and_those_of_a_search() -> None:
    own = ["data=chest_phantom", "seed=1", "model.net.width=8", "trainer.threads=2", "model.optimizer.lr=0.1"]
    other = ["data=chest_phantom", "seed=2", "model.net.width=4", "trainer.threads=1", "model.optimizer.lr=0.1"]
    both = [Job(Path("one"), own), Job(Path("other"), other)]
    assert find_swept(both, own) == {"seed": "1", "model.net.width": "8"}
    assert find_swept(both[:1], own, ["model.optimizer.lr"]) == {"model.optimizer.lr": "0.1"}


def test_the_table_of_hyperparameters_has_what_jobs_differ_by_alone() -> None:
    register_resolvers()
    config = configuration.resolve(configuration.compose("train", ["data=chest_phantom", "model/optimizer=sgd"]))
    assert "model.net.width" in list_hyperparameters(config, None)
    part = SweepPart(
        {"model/optimizer": "sgd", "data.augment.rotation": "5", "trainer.gradient_clip": "1"}, is_first=True
    )
    found = list_hyperparameters(config, part)
    optimizer = {f"model.optimizer.{key}" for key in ("lr", "momentum", "nesterov", "weight_decay")}
    assert set(found) == {"model.optimizer", *optimizer, "data.augment.rotation", "trainer.gradient_clip"}
    assert found["model.optimizer"] == "sgd"
    assert found["data.augment.rotation"] == 0.0  # as the run's own configuration has it


class FullDisk:
    """``file_lock`` and record of a disk on which nothing can be written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, *_: Any, **__: Any) -> None:
        raise OutputError(f"no space left while writing {self.path}", "full")


def test_on_a_full_disk_a_job_fails_with_its_reason_which_the_sweep_says_in_one_line(
    run: RunDirectory, start: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(jobs, "train", FullDisk(run.path))
    monkeypatch.setattr(RunDirectory, "update", FullDisk(run.path))
    with pytest.raises(OutputError, match="free some space, then start the sweep's command again"):
        start()
    reason = unrecorded.pop(run.path)
    Progress(4).report_ended("job", run, None, reason)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("[1/4] job: failed: no space left while writing ")
    assert line.endswith("free some space, then start the sweep's command again")
