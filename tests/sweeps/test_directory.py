"""A sweep's directory: the lock, the list of jobs, and names that equal jobs share."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from medassay import config as configuration
from medassay.core.errors import CheckpointError, DataError, OutputError
from medassay.sweeps import directory as module
from medassay.sweeps.directory import Job, SweepDirectory, code_hash, job_name, register_resolvers


@pytest.fixture
def sweep(tmp_path: Path) -> SweepDirectory:
    return SweepDirectory(tmp_path / "sweep")


def begin(sweep: SweepDirectory) -> None:
    sweep.begin(name="sweep", command=["seed=0,1"], metric=None, mode=None)


def job(sweep: SweepDirectory, name: str, *overrides: str) -> Job:
    return Job(sweep.path / name, list(overrides))


# --- the lock --------------------------------------------------------------------------------------------------------


def test_a_second_command_is_refused_in_one_line_that_names_the_first(sweep: SweepDirectory) -> None:
    def second() -> None:
        with SweepDirectory(sweep.path).lock():
            pytest.fail("two commands hold one directory")

    with sweep.lock(), pytest.raises(OutputError, match=rf"being run by process {os.getpid()} on .*sweep\.name"):
        second()


def test_the_lock_is_free_after_a_command_however_it_ended(sweep: SweepDirectory) -> None:
    def fail() -> None:
        with sweep.lock():
            raise ValueError("of the command")

    with pytest.raises(ValueError, match="of the command"):
        fail()
    with sweep.lock():
        pass


HOLD = """
import sys, time
from medassay.sweeps.directory import SweepDirectory
with SweepDirectory(sys.argv[1]).lock():
    print("held", flush=True)
    time.sleep(100)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")
def test_a_killed_command_holds_the_directory_no_longer(sweep: SweepDirectory) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(sweep.path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(OutputError, match=f"process {process.pid}"), sweep.lock():
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
    with sweep.lock():
        assert sweep.record()["process"]["pid"] == os.getpid()


# --- the record ------------------------------------------------------------------------------------------------------


def test_a_sweep_begins_with_its_command_and_no_jobs(sweep: SweepDirectory) -> None:
    begin(sweep)
    record = sweep.record()
    assert (record["name"], record["command"], record["code"]) == ("sweep", ["seed=0,1"], code_hash())
    assert (sweep.jobs(), sweep.jobs(final=True), record["ended"]) == ([], [], None)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", record["started"])


def test_a_continued_sweep_keeps_its_beginning_and_lists_its_jobs_anew(
    sweep: SweepDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(sweep)
    sweep.add([job(sweep, "a", "seed=0")])
    sweep.choose(configuration="abc")
    sweep.update(ended="later")
    before = sweep.record()
    monkeypatch.setattr(module, "now", lambda: "much later")
    begin(sweep)
    assert (sweep.record()["started"], sweep.record()["ended"]) == (before["started"], None)
    assert sweep.jobs() == [job(sweep, "a", "seed=0")]  # until there are others: a command that fails first loses none
    sweep.add([job(sweep, "b", "seed=1")])
    assert sweep.jobs() == [job(sweep, "b", "seed=1")]
    assert sweep.record()["chosen"] is None


def test_each_directory_is_listed_once_in_the_order_of_the_jobs(sweep: SweepDirectory) -> None:
    begin(sweep)
    sweep.add([job(sweep, "b", "x=1"), job(sweep, "a", "x=2")])
    sweep.add([job(sweep, "a", "x=2"), job(sweep, "c", "x=3")])
    assert sweep.jobs() == [job(sweep, "b", "x=1"), job(sweep, "a", "x=2"), job(sweep, "c", "x=3")]


def test_jobs_added_after_the_choice_are_apart_from_those_that_were_chosen_from(sweep: SweepDirectory) -> None:
    begin(sweep)
    sweep.add([job(sweep, "a", "seed=0")])
    sweep.choose(configuration="abc", mean=0.9)
    sweep.add([job(sweep, "a", "seed=0"), job(sweep, "b", "seed=1")])
    assert sweep.jobs() == [job(sweep, "a", "seed=0")]
    assert sweep.jobs(final=True) == [job(sweep, "b", "seed=1")]
    assert sweep.record()["chosen"] == {"configuration": "abc", "mean": 0.9}


def test_a_directory_without_a_sweep_has_an_empty_record(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "none", tmp_path / "file"):
        assert SweepDirectory(path).record() == {}
        assert SweepDirectory(path).jobs() == []


@pytest.mark.parametrize("text", [b"{", b"", b"\xff\xfe"], ids=["cut", "empty", "bytes"])
def test_a_damaged_record_is_one_line(text: bytes, sweep: SweepDirectory) -> None:
    sweep.path.mkdir()
    (sweep.path / "sweep.json").write_bytes(text)
    with pytest.raises(CheckpointError, match=r"sweep\.json cannot be read .*restore or delete it") as error:
        sweep.record()
    assert "\n" not in str(error.value)


# --- the code --------------------------------------------------------------------------------------------------------


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands where conf/ does."""
    folder = tmp_path / "conf"
    folder.mkdir()
    (folder / "train.yaml").write_text("seed: 0\n")
    monkeypatch.setattr(configuration, "find_conf_directory", lambda: folder)
    return folder


def test_a_changed_configuration_file_is_other_code(conf: Path) -> None:
    before = code_hash.__wrapped__()
    assert re.fullmatch("[0-9a-f]{16}", before)
    assert code_hash.__wrapped__() == before
    (conf / "train.yaml").write_text("seed: 1\n")
    assert code_hash.__wrapped__() != before


def test_a_renamed_configuration_file_is_other_code_and_a_note_beside_it_is_not(conf: Path) -> None:
    before = code_hash.__wrapped__()
    (conf / "notes.txt").write_text("nothing that computes")
    assert code_hash.__wrapped__() == before
    (conf / "train.yaml").rename(conf / "other.yaml")
    assert code_hash.__wrapped__() != before


# --- names -----------------------------------------------------------------------------------------------------------


def composed(*overrides: str) -> DictConfig:
    register_resolvers()
    return configuration.compose_with_hydra("train", ["data=chest_phantom", *overrides])


def digest(*overrides: str) -> str:
    return job_name("", composed(*overrides)).rpartition("_")[2]


@pytest.fixture(scope="module")
def usual() -> str:
    return digest()


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.optimizer.lr=1e-3", "seed=0"],
        ["outputs=elsewhere", "logger=none", "trainer.threads=1", "trainer.gpus=0"],
        ["tags=[first,2]", "notes='what for'"],
        ["sweep.name=x", "sweep.force=true", "sweep.keep=best", "hydra/launcher=local_parallel"],
    ],
    ids=["spelled out", "places", "purpose", "of the sweep"],
)
def test_what_computes_the_same_has_the_same_hash(overrides: list[str], usual: str) -> None:
    assert digest(*overrides) == usual


@pytest.mark.parametrize(
    "override",
    ["seed=1", "model.net.width=3", "data.batch_size=7", "trainer.max_epochs=9", "model/optimizer=sgd", "+note=x"],
)
def test_what_computes_something_else_has_another_hash(override: str, usual: str) -> None:
    assert digest(override) != usual


def test_other_code_has_another_hash(usual: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "code_hash", lambda: "0" * 16)
    assert digest() != usual


def test_a_job_whose_configuration_cannot_be_resolved_has_a_name_by_its_overrides() -> None:
    cfg = composed("outputs='${nowhere}'")
    names = [job_name(text, cfg) for text in ("width-2", "width-3")]
    assert [re.fullmatch(r"(width-\d)_[0-9a-f]{8}", name) is not None for name in names] == [True, True]
    assert names[0][-8:] != names[1][-8:]


def test_a_job_whose_data_are_not_there_has_a_name_by_its_overrides_and_the_sweep_goes_on(tmp_path: Path) -> None:
    typo = composed("data=samples", f"data.generator={tmp_path / 'typo'}")
    (tmp_path / "one_class_only" / "train" / "a").mkdir(parents=True)
    one_class = composed("data=folder", f"data.path={tmp_path / 'one_class_only'}")
    for cfg, error in ((typo, CheckpointError), (one_class, DataError)):
        with pytest.raises(error):
            configuration.resolve(cfg)
        assert re.fullmatch(r"width-2_[0-9a-f]{8}", job_name("width-2", cfg))


def test_two_unnamed_sweeps_started_in_the_same_second_have_directories_of_their_own() -> None:
    found = {str(composed().hydra.sweep.dir) for _ in range(3)}
    assert len(found) == 3


def test_a_named_sweep_has_the_directory_of_that_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDASSAY_OUTPUTS", "there")
    assert composed("sweep.name=first").hydra.sweep.dir == "there/sweeps/first"


def test_the_names_of_a_job_are_written_as_json_reads_them(sweep: SweepDirectory) -> None:
    begin(sweep)
    sweep.add([job(sweep, "a", "data.path='ü b'")])
    written: dict[str, Any] = json.loads((sweep.path / "sweep.json").read_text(encoding="utf-8"))
    assert written["jobs"] == [{"directory": "a", "overrides": ["data.path='ü b'"]}]
