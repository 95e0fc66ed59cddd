"""How a command ends: its exit code, and the line on standard error."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from medassay.cli import entry
from medassay.core.errors import CheckpointError, ConfigError, Interrupted
from medassay.core.files import write_json
from medassay.evaluation import evaluate as evaluation
from medassay.runs.directory import RunDirectory
from tests.helpers import Command

SAVED = Path(__file__).parents[1] / "fixtures" / "runs"


def end_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(argv: list[str]) -> int:
        raise error

    monkeypatch.setattr(entry, "run_evaluate", fail)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (Interrupted(signal.SIGINT), 130, "interrupted"),
        (Interrupted(signal.SIGTERM), 143, "interrupted"),
        (
            Interrupted(signal.SIGTERM, Path("a_run")),
            143,
            "interrupted; continue with: python train.py resume=a_run",
        ),
        (ConfigError("seed=-1: expected\nan integer"), 2, "seed=-1: expected an integer"),
        (ZeroDivisionError("no such thing"), 1, "unexpected ZeroDivisionError: no such thing"),
    ],
    ids=["Ctrl-C", "SIGINT", "SIGTERM", "SIGTERM in a training", "the user's error", "an error of ours"],
)
def test_an_ending_has_its_exit_code_and_one_line(
    error: BaseException, code: int, line: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    end_with(error, monkeypatch)
    assert command("evaluate") == (code, "", f"medassay: {line}\n")


@pytest.mark.parametrize(
    ("error", "argv", "is_logged"),
    [
        (ZeroDivisionError("no such thing"), [], True),
        (ConfigError("a wrong key"), [], False),
        (ConfigError("a wrong key"), ["hydra.verbose=true"], True),
    ],
    ids=["an error of ours", "the user's error", "the user's error, asked for"],
)
def test_the_traceback_of_an_error_of_ours_is_logged_and_of_the_users_where_it_is_asked_for(
    error: Exception,
    argv: list[str],
    is_logged: bool,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    end_with(error, monkeypatch)
    command("evaluate", *argv)
    logged = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert logged == ([error] if is_logged else [])


def test_a_reader_who_has_read_enough_ends_the_command_as_the_signal_does_and_nothing_more_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    end_with(BrokenPipeError(), monkeypatch)
    with (tmp_path / "pipe").open("w") as pipe, monkeypatch.context() as changed:
        changed.setattr(sys, "stdout", pipe)
        assert entry.main("evaluate", []) == 141
        assert os.path.samestat(os.fstat(pipe.fileno()), Path(os.devnull).stat())
    assert capsys.readouterr().err == ""


def test_an_evaluation_of_several_runs_of_which_one_fails_says_which_and_ends_with_1(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    good, bad = (Path(shutil.copytree(SAVED / "cnn", tmp_path / name)) for name in ("good", "bad"))

    def evaluate(path: str, protocol: dict[str, Any], *_: Any, **__: Any) -> Path:
        if path == str(bad):
            raise CheckpointError(f"{path} has no checkpoints/best.ckpt")
        directory = RunDirectory(path).new_evaluation(protocol["name"])
        write_json(directory / "metrics.json", {"run": path, "protocol": protocol, "test": {"accuracy": 0.5}})
        return directory

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    result = command("evaluate", f"run=[{good},{bad}]")
    assert (result.code, result.err) == (1, f"medassay: {bad} failed: has no checkpoints/best.ckpt\n")
    assert command("evaluate", f"run=[{good},{good}]").code == 0
