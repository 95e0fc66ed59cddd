"""A run's directory: created once, its record kept up to date however the work ends, read back with clear errors."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from medassay.core.errors import CheckpointError, ConfigError, Interrupted, OutputError
from medassay.core.files import file_lock
from medassay.core.interrupts import interrupt
from medassay.runs import directory as module
from medassay.runs.directory import RunDirectory, describe_code_version
from tests.helpers import close_folder, flip_byte

CONFIG: dict[str, Any] = {
    "seed": 3,
    "data": {"_target_": "x", "name": "chest_phantom", "classes": ["normal", "pneumonia"], "subset": None},
    "recipe": {"name": "pneumonia_cnn"},
    "model": {"_target_": "x", "optimizer": {"lr": 3e-4, "betas": [0.9, 0.999]}},
    "trainer": {"_target_": "x", "max_epochs": 1},
}


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run that has just been created."""
    run = RunDirectory(tmp_path / "outputs" / "run")
    run.create(CONFIG, ["seed=3"])
    return run


def record(run: RunDirectory) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((run.path / "run.json").read_text(encoding="utf-8"))
    return values


# --- writing ---------------------------------------------------------------------------------------------------------


def test_a_new_run_keeps_its_configuration_and_overrides(run: RunDirectory) -> None:
    saved = OmegaConf.to_container(OmegaConf.load(run.path / ".hydra" / "config.yaml"))
    assert saved == CONFIG
    assert OmegaConf.to_container(OmegaConf.load(run.path / ".hydra" / "overrides.yaml")) == ["seed=3"]
    assert run.config() == CONFIG


def test_a_new_runs_record_says_what_it_runs_on(run: RunDirectory) -> None:
    values = record(run)
    assert (values["status"], values["seed"], values["overrides"]) == ("running", 3, ["seed=3"])
    assert values["packages"]["torch"] == metadata.version("torch")
    assert values["packages"]["hydra-core"] == metadata.version("hydra-core")
    assert values["threads"] == torch.get_num_threads()
    assert values["hardware"]["gpus"] == torch.cuda.device_count()
    assert datetime.fromisoformat(values["started"]).tzinfo is not None


def test_a_directory_with_a_run_in_it_is_not_created_again(run: RunDirectory) -> None:
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    with pytest.raises(OutputError, match=r"already holds a run: .*resume="):
        run.create({**CONFIG, "seed": 4}, ["seed=4"])
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


def test_a_directory_with_other_files_in_it_may_become_a_run(tmp_path: Path) -> None:
    (tmp_path / "train.log").write_text("Hydra's log is there first")
    RunDirectory(tmp_path).create(CONFIG, [])
    assert (tmp_path / "train.log").exists()


def test_an_update_adds_fields_and_keeps_the_others(run: RunDirectory) -> None:
    before = record(run)
    run.update(parameters=18218, seed=5)
    assert record(run) == {**before, "parameters": 18218, "seed": 5}


# --- how the work ended ----------------------------------------------------------------------------------------------


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def work(run: RunDirectory, error: BaseException | None = None) -> None:
    """Does some work in the run, which ends with ``error``."""
    with run.record_ending():
        assert record(run)["status"] == "running"
        if error is not None:
            raise error


def test_work_that_succeeds_is_recorded_as_done(run: RunDirectory) -> None:
    work(run)
    values = record(run)
    assert (values["status"], values["reason"]) == ("done", None)
    assert datetime.fromisoformat(values["ended"]) >= datetime.fromisoformat(values["started"])


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConfigError("trainer.gpus=9: this machine has none"), "trainer.gpus=9: this machine has none"),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
    ],
)
def test_work_that_fails_is_recorded_with_its_reason_and_the_error_goes_on(
    error: Exception, reason: str, run: RunDirectory
) -> None:
    with pytest.raises(type(error)) as raised:
        work(run, error)
    assert raised.value is error
    assert (record(run)["status"], record(run)["reason"]) == ("failed", reason)


@pytest.mark.parametrize(
    ("error", "signum", "name"),
    [
        (KeyboardInterrupt(), signal.SIGINT, "Ctrl-C"),
        (Interrupted(signal.SIGINT), signal.SIGINT, "Ctrl-C"),
        (Interrupted(signal.SIGTERM), signal.SIGTERM, "SIGTERM"),
    ],
    ids=["plain Ctrl-C", "Ctrl-C", "SIGTERM"],
)
def test_interrupted_work_is_recorded_and_the_interruption_names_signal_and_run(
    error: KeyboardInterrupt, signum: int, name: str, run: RunDirectory
) -> None:
    with pytest.raises(Interrupted) as raised:
        work(run, error)
    assert (raised.value.signum, raised.value.run) == (signum, run.path)
    assert record(run)["status"] == "interrupted"
    assert record(run)["reason"] == f"{name}; continue with resume={run.path}"


def test_an_interruption_just_after_the_record_says_running_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory(tmp_path)
    run.update(overrides=[])
    update = RunDirectory.update

    def interrupted_update(self: RunDirectory, **fields: Any) -> None:
        update(self, **fields)
        if fields.get("status") == "running":
            raise Interrupted(signal.SIGTERM)

    monkeypatch.setattr(RunDirectory, "update", interrupted_update)
    with pytest.raises(Interrupted), run.record_ending():
        raise AssertionError("no work begins")
    assert run.record()["status"] == "interrupted"
    assert run.record()["reason"].startswith("SIGTERM")


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_does_not_spoil_the_record_of_the_first(
    second: signal.Signals, run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = RunDirectory.update

    def interrupted_update(self: RunDirectory, **fields: Any) -> None:
        if fields.get("status") == "interrupted":
            os.kill(os.getpid(), second)
        update(self, **fields)

    monkeypatch.setattr(RunDirectory, "update", interrupted_update)
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        with pytest.raises(Interrupted), run.record_ending():
            raise Interrupted(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is interrupt
    finally:
        signal.signal(signal.SIGTERM, before)
    assert run.record()["status"] == "interrupted"


def test_a_resumed_run_forgets_why_it_stopped(run: RunDirectory) -> None:
    with pytest.raises(Interrupted):
        work(run, KeyboardInterrupt())
    work(run)
    assert (record(run)["status"], record(run)["reason"]) == ("done", None)


def test_the_seconds_of_all_attempts_are_added_up(run: RunDirectory, clock: Clock) -> None:
    def attempt(seconds: float, error: BaseException | None) -> None:
        with run.record_ending():
            clock.now += seconds
            if error is not None:
                raise error

    with pytest.raises(Interrupted):
        attempt(10, KeyboardInterrupt())
    assert record(run)["seconds"] == 10
    clock.now += 3600  # what passes between them does not count
    with pytest.raises(ValueError, match="bad"):
        attempt(5.25, ValueError("bad"))
    attempt(1.5, None)
    assert record(run)["seconds"] == pytest.approx(16.75, abs=0.1)


def test_work_that_was_given_up_is_recorded_as_pruned_with_its_reason(run: RunDirectory) -> None:
    with run.record_ending() as ending:
        ending.status, ending.reason = "pruned", "worse than the median"
    assert (record(run)["status"], record(run)["reason"]) == ("pruned", "worse than the median")


def test_a_run_is_recorded_by_one_process_at_a_time(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "file_lock", lambda path: file_lock(path, wait=0.1))  # seconds
    here = re.escape(f"is being trained by process {os.getpid()} on ")
    with run.record_ending():
        with pytest.raises(OutputError, match=here), RunDirectory(run.path).record_ending():
            pytest.fail("two at once")
        assert record(run)["status"] == "running"  # the refused one has written nothing
    assert record(run)["status"] == "done"


def test_the_process_on_record_is_the_one_at_work(run: RunDirectory) -> None:
    with run.record_ending():
        assert record(run)["process"] == {"pid": os.getpid(), "host": platform.node()}


def full_disk(*arguments: Any, **named: Any) -> None:
    raise OutputError("no space left")


def test_on_a_full_disk_the_first_reason_still_comes_out(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        with run.record_ending():
            monkeypatch.setattr(module, "write_json", full_disk)
            raise ConfigError("the first reason")

    with pytest.raises(ConfigError, match="the first reason"):
        fail()


SECOND_FAULTS = [
    PermissionError(errno.EACCES, "Permission denied", "last.ckpt"),
    CheckpointError("run.json cannot be read"),
    OutputError("no space left"),
]


@pytest.mark.parametrize("second", SECOND_FAULTS, ids=["system", "record", "write"])
@pytest.mark.parametrize("first", [KeyboardInterrupt(), ConfigError("the first reason"), ZeroDivisionError("a bug")])
def test_a_second_fault_while_the_ending_is_recorded_hides_nothing(
    first: BaseException, second: Exception, run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise second

    def spoil() -> None:
        with run.record_ending():
            run.best.parent.mkdir()
            run.best.touch()
            monkeypatch.setattr(module, "sha256", fail)
            raise first

    with pytest.raises(Interrupted if isinstance(first, KeyboardInterrupt) else type(first)) as raised:
        spoil()
    assert raised.value is first or raised.value.__cause__ is first


class SmallDisk:
    """A disk that is full while the reserve is there: only what is written after its removal succeeds."""

    def __init__(self, run: RunDirectory) -> None:
        self.run, self.write = run, module.write_json

    def __call__(self, path: Path, values: Any) -> None:
        if self.run.reserve.exists():
            raise OutputError("no space left", "full")
        self.write(path, values)


def test_the_reserve_makes_room_for_the_ending_on_a_full_disk(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        with run.record_ending():
            assert run.reserve.stat().st_size >= 16 * 1024
            monkeypatch.setattr(module, "write_json", SmallDisk(run))
            raise OSError(errno.ENOSPC, "No space left on device", "last.ckpt")

    with pytest.raises(OutputError):
        fail()
    assert record(run)["status"] == "failed"
    assert "no space left" in record(run)["reason"]
    assert f"resume={run.path}" in record(run)["reason"]
    assert not run.reserve.exists()


@pytest.mark.parametrize("error", [None, ConfigError("a mistake"), Interrupted(signal.SIGINT)])
def test_however_a_run_ends_it_keeps_no_reserve(error: BaseException | None, run: RunDirectory) -> None:
    with contextlib.suppress(ConfigError, Interrupted), run.record_ending():
        if error is not None:
            raise error
    assert not run.reserve.exists()


def test_a_directory_deleted_during_the_work_is_not_made_again(run: RunDirectory) -> None:
    def work() -> None:
        with run.record_ending():
            shutil.rmtree(run.path)

    with pytest.raises(OutputError, match="was deleted"):
        work()
    assert not run.path.exists()


def test_a_finished_run_knows_the_digests_of_its_checkpoints_and_a_running_one_none(run: RunDirectory) -> None:
    run.best.parent.mkdir()
    run.best.write_bytes(b"weights")
    with run.record_ending():
        pass
    assert record(run)["sha256"] == {"best.ckpt": hashlib.sha256(b"weights").hexdigest()}
    run.refuse_damaged(run.best)
    run.refuse_damaged(run.last)  # there is none
    with run.record_ending():
        assert record(run)["sha256"] is None
    run.best.write_bytes(b"weight5")
    with pytest.raises(CheckpointError, match=r"best\.ckpt is damaged .*restore it from a copy, or train anew: python"):
        run.refuse_damaged(run.best)


def test_a_copy_elsewhere_is_no_damaged_checkpoint_whatever_its_name(run: RunDirectory) -> None:
    run.last.parent.mkdir()
    torch.save({"weights": torch.zeros(3)}, run.last)
    with run.record_ending():
        pass
    backup = run.path.parent / "backup" / "last.ckpt"
    backup.parent.mkdir()
    torch.save({"weights": torch.ones(3)}, backup)  # of an earlier epoch
    run.refuse_damaged(backup)
    flip_byte(backup)
    with pytest.raises(CheckpointError, match=r"backup/last\.ckpt is damaged"):
        run.refuse_damaged(backup)
    torch.save({"weights": torch.ones(3)}, run.last)
    with pytest.raises(CheckpointError, match="not the file that training left"):
        run.refuse_damaged(run.last)


def test_on_a_full_disk_an_interruption_is_still_one(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        with run.record_ending():
            monkeypatch.setattr(module, "write_json", full_disk)
            raise Interrupted(signal.SIGTERM)

    with pytest.raises(Interrupted) as raised:
        interrupt()
    assert (raised.value.signum, raised.value.run) == (signal.SIGTERM, run.path)


# --- the state -------------------------------------------------------------------------------------------------------


def test_a_run_is_running_while_it_is_recorded_and_cannot_be_started_again(run: RunDirectory) -> None:
    with run.record_ending():
        assert RunDirectory(run.path).state() == "running"
        with pytest.raises(OutputError, match="is being trained by"):
            RunDirectory(run.path).refuse_if_alive()
    assert run.state() == "done"
    run.refuse_if_alive()


@pytest.mark.parametrize("status", ["done", "failed", "interrupted", "pruned"])
def test_the_state_of_a_run_that_ended_is_what_its_record_says(status: str, run: RunDirectory) -> None:
    run.update(status=status)
    assert run.state() == status


def test_a_run_whose_process_is_gone_is_interrupted_whatever_number_it_had(run: RunDirectory) -> None:
    run.update(status="running", process={"pid": os.getpid(), "host": platform.node()})  # a number given out again
    assert run.state() == "interrupted"
    run.refuse_if_alive()


def test_without_a_record_a_run_is_waiting(tmp_path: Path) -> None:
    assert RunDirectory(tmp_path / "none").state() == "waiting"
    assert list(tmp_path.iterdir()) == []  # and asking leaves nothing behind


WORK = """
import sys, time
from medassay.runs.directory import RunDirectory
with RunDirectory(sys.argv[1]).record_ending():
    print("at work", flush=True)
    time.sleep(100)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")
def test_a_run_whose_process_was_killed_is_interrupted_at_once_and_can_go_on(run: RunDirectory) -> None:
    with subprocess.Popen([sys.executable, "-c", WORK, str(run.path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "at work\n"
        assert run.state() == "running"
        process.kill()
        process.wait()
    assert record(run)["status"] == "running"  # it had no time to say otherwise
    assert run.state() == "interrupted"
    work(run)
    assert run.state() == "done"


# --- reading ---------------------------------------------------------------------------------------------------------


def test_a_run_that_may_not_be_looked_at_is_one_line_of_reading(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    close_folder(run.path, monkeypatch)
    with pytest.raises(CheckpointError, match=r"^cannot read .*config\.yaml \(Permission denied\)"):
        run.config()
    with pytest.raises(CheckpointError, match=r"^cannot read .*best\.ckpt \(Permission denied\)"):
        run.refuse_damaged(run.best)


def test_what_is_no_run_directory_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match=r"none is no run directory \(it does not exist\): "):
        RunDirectory(tmp_path / "none").config()
    with pytest.raises(CheckpointError, match=r"no run directory \(it has no \.hydra/config\.yaml\): "):
        RunDirectory(tmp_path).config()
    with pytest.raises(CheckpointError, match="file is no run directory"):
        RunDirectory(tmp_path / "file").config()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"data: [1,\nmodel: }", "cannot be read"),
        (b"\xff\xfe\x00data: 1", "cannot be read"),
        (b"a:\n\tb: 1", "cannot be read"),
        (b"just words", "config.yaml"),
        (b"", "no configuration of a run"),
        (b"- data\n- model\n- trainer\n", "no configuration of a run"),
        (b"data: {}\nmodel: {}\n", "no configuration of a run: it lacks data, model or trainer"),
    ],
    ids=["broken", "other encoding", "tabs", "text", "empty", "list", "without trainer"],
)
def test_a_damaged_configuration_is_one_line(text: bytes, message: str, run: RunDirectory) -> None:
    (run.path / ".hydra" / "config.yaml").write_bytes(text)
    with pytest.raises(CheckpointError, match=message) as error:
        run.config()
    assert str(run.path / ".hydra" / "config.yaml") in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    [b"{", b"", b'{"a": 1} {', b"\xff\xfe", b"[1, 2]", b"null"],
    ids=["cut", "empty", "two", "bytes", "list", "null"],
)
@pytest.mark.parametrize("name", ["run.json", "metrics.json"])
def test_a_damaged_record_is_one_line(name: str, text: bytes, run: RunDirectory) -> None:
    (run.path / name).write_bytes(text)
    with pytest.raises(CheckpointError, match=f"{name} cannot be read .*restore or delete it") as error:
        _ = run.record() if name == "run.json" else run.metrics()
    assert "\n" not in str(error.value)


def test_a_run_without_records_has_empty_ones(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "none", tmp_path / "file"):
        assert RunDirectory(path).record() == {}
        assert RunDirectory(path).metrics() == {}
        assert RunDirectory(path).history() == []


def test_the_history_of_a_run_is_its_rows(tmp_path: Path) -> None:
    rows = [{"epoch": 1, "val/auroc": 0.5}, {"epoch": 2, "val/auroc": 0.75}]
    (tmp_path / "history.json").write_text(json.dumps({"rows": rows}))
    assert RunDirectory(tmp_path).history() == rows


def test_checkpoints_and_figures_have_their_places(tmp_path: Path) -> None:
    run = RunDirectory(str(tmp_path))
    assert run.best == tmp_path / "checkpoints" / "best.ckpt"
    assert run.last == tmp_path / "checkpoints" / "last.ckpt"
    assert run.figures == tmp_path / "figures"


# --- the code --------------------------------------------------------------------------------------------------------


def test_the_codes_version_is_the_packages_and_the_commit_where_there_is_one() -> None:
    git = ["git", "-C", str(Path(__file__).parents[2]), "rev-parse", "HEAD"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is no clone, or git is not there")
    found = describe_code_version().removesuffix("+changes")
    assert found == f"{metadata.version('medassay')} commit {commit[:12]}"


def test_without_git_the_version_alone_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert describe_code_version.__wrapped__() == metadata.version("medassay")
