"""A job in a fresh process: what it takes over, what it gives back, and that it ends with its parent."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medassay.sweeps.launchers.base import Task
from medassay.sweeps.launchers.process import make_payload, run_payload

HandedOver = Callable[..., Any]
LIMIT = 60  # seconds: far beyond what any of these takes


def started(launcher: Any, task: Task, job: Any, folder: Path) -> tuple[subprocess.Popen[bytes], Path]:
    """The process of a job, as the launcher starts it, and the file of its result."""
    given, result = folder / "job", folder / "result"
    given.write_bytes(make_payload(launcher.hydra_context, job, task))
    function = "medassay.sweeps.launchers.process:answer_payload"
    line = [sys.executable, "-m", "medassay.core.worker", function, str(given), str(result)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(line, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment), result


def record(task: Task) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((task.directory / "run.json").read_text())
    return values


def test_a_job_handed_over_runs_where_it_is_opened(handed_over: HandedOver, fake_jobs: Any, tmp_path: Path) -> None:
    launcher, (task,) = handed_over(tmp_path / "sweep", "seed=3")
    number = run_payload(make_payload(launcher.hydra_context, fake_jobs.FakeJob(), task))
    assert number == json.loads((task.directory / "metrics.json").read_text())["val"]["auroc"]


def test_a_job_that_fails_gives_nothing(handed_over: HandedOver, fake_jobs: Any, tmp_path: Path) -> None:
    launcher, (task,) = handed_over(tmp_path / "sweep", "+do=fail")
    assert run_payload(make_payload(launcher.hydra_context, fake_jobs.FakeJob(), task)) is None
    assert record(task)["status"] == "failed"


def test_the_directory_is_the_one_decided_where_the_job_was_handed_over(
    handed_over: HandedOver, fake_jobs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher, (task,) = handed_over(tmp_path / "sweep", "seed=3")
    given = make_payload(launcher.hydra_context, fake_jobs.FakeJob(), task)
    monkeypatch.setattr("medassay.sweeps.directory.code_hash", lambda: "another")  # somebody is editing
    monkeypatch.chdir(tmp_path)
    run_payload(given)
    assert [path.name for path in (tmp_path / "sweep").iterdir() if path.is_dir()] == [task.name]


def test_a_process_leaves_its_jobs_number_and_ends_with_0(
    handed_over: HandedOver, fake_jobs: Any, tmp_path: Path
) -> None:
    launcher, (task,) = handed_over(tmp_path / "sweep", "seed=3")
    process, result = started(launcher, task, fake_jobs.FakeJob(), tmp_path)
    with process:
        assert process.wait(LIMIT) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert pickle.loads(result.read_bytes()) == fake_jobs.FakeJob().read_value(task.config, task.directory)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process on SIGTERM without asking it")
@pytest.mark.parametrize("how", ["pipe closed", "SIGTERM"])
def test_a_process_whose_parent_goes_or_that_is_stopped_records_that_its_job_was_interrupted(
    how: str, handed_over: HandedOver, fake_jobs: Any, tmp_path: Path
) -> None:
    launcher, (task,) = handed_over(tmp_path / "sweep", "+epochs=1000", "+pause=0.05")
    process, result = started(launcher, task, fake_jobs.FakeJob(), tmp_path)
    with process:
        deadline = time.monotonic() + LIMIT
        while not (task.directory / "checkpoint.json").exists():
            assert time.monotonic() < deadline, "no checkpoint yet"
            time.sleep(0.02)
        if how == "SIGTERM":
            process.send_signal(signal.SIGTERM)
        else:
            assert process.stdin is not None
            process.stdin.close()
        assert process.wait(LIMIT) == 143
    assert record(task)["status"] == "interrupted"
    assert not result.exists()
