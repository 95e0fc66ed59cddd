"""What a launcher does with jobs before and after they run: directories and their names, skipping, retrying, redoing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medassay.core.files import file_lock, write_json
from medassay.sweeps import directory as directories

Launch = Callable[..., Any]


@pytest.fixture
def serially(tmp_path: Path, launch: Launch) -> Callable[..., Any]:
    """``serially("seed=0,1")``: the sweep in ``tmp_path / "sweep"``, in this process."""
    return lambda *argv: launch(tmp_path / "sweep", *argv, launcher="serial")


def names(sweep: Path) -> list[str]:
    return sorted(path.name for path in sweep.iterdir() if path.is_dir())


# --- skipped, retried, redone ----------------------------------------------------------------------------------------


def test_a_finished_job_is_not_run_again_but_its_number_is_given(serially: Launch) -> None:
    first = serially("seed=0,1")
    again = serially("seed=0,1")
    assert again.seen == first.seen
    assert again.values == first.values
    assert again.lines == ["2 of 2 jobs were finished before"]


def test_a_wider_grid_runs_only_what_is_new(serially: Launch) -> None:
    first = serially("seed=0,1", "model.net.width=2")
    wider = serially("seed=0,1,2", "model.net.width=2,3")
    assert wider.began()[: len(first.began())] == first.began()
    assert len(wider.began()) == len(set(wider.began())) == 6


def test_a_finished_job_keeps_its_directory_when_other_keys_are_swept(serially: Launch, tmp_path: Path) -> None:
    serially("seed=0,1", "model.net.width=2")
    before = names(tmp_path / "sweep")
    serially("seed=0", "model.net.width=2,3")
    assert set(before) < set(names(tmp_path / "sweep"))
    assert len(names(tmp_path / "sweep")) == 3


def test_a_failed_job_is_tried_again_and_its_reason_goes(serially: Launch, tmp_path: Path) -> None:
    assert serially("+do=fail_once").values == [None]
    again = serially("+do=fail_once")
    assert isinstance(again.values[0], float)
    assert len(again.began()) == 2
    (file,) = (tmp_path / "sweep").glob("*/run.json")
    record = json.loads(file.read_text())
    assert (record["status"], record["reason"]) == ("done", None)


def test_by_force_a_finished_job_is_done_from_the_start(serially: Launch, tmp_path: Path) -> None:
    first = serially("seed=0", "+epochs=2")
    (run,) = (path for path in (tmp_path / "sweep").iterdir() if path.is_dir())
    (run / "of the first time").touch()
    again = serially("seed=0", "+epochs=2", "sweep.force=true")
    assert again.values == first.values
    assert not (run / "of the first time").exists()
    assert (run / "trained.txt").read_text() == "1\n2\n"


def test_force_leaves_a_run_alone_that_another_process_is_training(
    handed_over: Callable[..., Any], tmp_path: Path
) -> None:
    _, (task,) = handed_over(tmp_path / "sweep", "seed=0")
    write_json(task.directory / "run.json", {"status": "running"})
    with file_lock(task.directory / ".lock") as mine:
        assert mine
        handed_over(tmp_path / "sweep", "seed=0", "sweep.force=true")
    assert (task.directory / "run.json").exists()


def test_force_leaves_other_files_of_the_sweep_alone(handed_over: Callable[..., Any], tmp_path: Path) -> None:
    handed_over(tmp_path / "sweep", "seed=0,1")
    (tmp_path / "sweep" / "another_00000000").mkdir()
    handed_over(tmp_path / "sweep", "seed=0", "sweep.force=true")
    assert (tmp_path / "sweep" / "another_00000000").is_dir()


def test_two_spellings_of_one_configuration_are_one_job(serially: Launch, tmp_path: Path) -> None:
    launched = serially("model.optimizer.lr=1e-3,0.001")
    assert len(names(tmp_path / "sweep")) == 1
    assert len(launched.began()) == 1
    assert launched.values[0] == launched.values[1]


def test_changed_code_begins_anew_in_another_directory(
    serially: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serially("seed=0,1")
    before = names(tmp_path / "sweep")
    monkeypatch.setattr(directories, "code_hash", lambda: "0" * 16)
    assert len(serially("seed=0,1").began()) == 4
    assert len(set(before) | set(names(tmp_path / "sweep"))) == 4


def test_places_and_threads_may_change_between_two_commands(serially: Launch) -> None:
    serially("seed=3")
    places = ["logger=none", "trainer.threads=1", "trainer.progress=false", "sweep.keep=best"]
    assert len(serially("seed=3", *places).began()) == 1


# --- names -----------------------------------------------------------------------------------------------------------


Names = Callable[..., list[str]]


@pytest.fixture
def named(handed_over: Callable[..., Any], tmp_path: Path) -> Names:
    """``named("seed=0,1")``: the directories that the jobs would have."""
    return lambda *argv: [task.name for task in handed_over(tmp_path / "sweep", *argv)[1]]


def test_a_directory_is_named_after_the_swept_values_and_a_hash(named: Names) -> None:
    found = [
        re.fullmatch(r"(.*)_[0-9a-f]{8}", name)
        for name in named("model.optimizer.lr=0.1", "model.net.width=2,3", "+a=b,c")
    ]
    assert [match and match[1] for match in found] == ["width-2_a-b", "width-2_a-c", "width-3_a-b", "width-3_a-c"]


def test_what_a_search_sweeps_is_in_the_name_even_where_one_value_is_left(named: Names) -> None:
    assert re.fullmatch(r"seed-1_[0-9a-f]{8}", *named("+hydra.sweeper.params.seed='0,1'", "seed=1"))


@pytest.mark.parametrize(
    "overrides",
    [
        ["+note='a b/ü=(x)*?','..'"],
        [f"+note='{'x' * 300}','{'y' * 300}'"],
        ["+note='[1,2]','{a: 1}'"],
        ["seed=0", f"+note='{'long ' * 40}'"],
        ["seed=0"],
    ],
    ids=["signs", "long", "brackets", "one long job", "one job"],
)
def test_a_directorys_name_is_short_and_of_harmless_characters(overrides: list[str], named: Names) -> None:
    for name in named(*overrides):
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,79}", name)


# --- on record -------------------------------------------------------------------------------------------------------


def test_the_sweep_lists_its_jobs_with_what_to_type_for_each(serially: Launch, tmp_path: Path) -> None:
    serially("model.net.width=2,3", "+do=succeed")
    jobs = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["jobs"]
    assert [job["overrides"] for job in jobs] == [
        ["data=chest_phantom", f"model.net.width={width}", "+do=succeed"] for width in (2, 3)
    ]
    assert [job["directory"] for job in jobs] == names(tmp_path / "sweep")


def test_a_task_knows_its_directory_and_its_number(handed_over: Callable[..., Any], tmp_path: Path) -> None:
    launcher, tasks = handed_over(tmp_path / "sweep", "seed=5,6")
    assert [task.directory for task in tasks] == [tmp_path / "sweep" / task.name for task in tasks]
    assert [(task.config.seed, task.config.hydra.job.num) for task in tasks] == [(5, 0), (6, 1)]
    assert str(launcher.config.hydra.sweep.dir) == str(tmp_path / "sweep")
