"""What a sweep says while it runs."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medassay.core.files import file_lock, write_json
from medassay.runs.directory import RunDirectory
from medassay.sweeps.launchers.progress import Progress


def run(path: Path, rows: int = 0, **record: Any) -> RunDirectory:
    """A run with this record and a history of so many epochs."""
    if record:
        write_json(path / "run.json", record)
    (path / ".hydra").mkdir(parents=True)
    node = "{_target_: x}"
    text = f"data: {node}\nmodel: {node}\nrecipe: {{name: x}}\ntrainer: {{_target_: x, max_epochs: 8}}\n"
    (path / ".hydra" / "config.yaml").write_text(text)
    epochs = [{"epoch": n + 1, "val/auroc": 0.5 + n / 100, "train/loss": float("nan")} for n in range(rows)]
    write_json(path / "history.json", {"rows": epochs})
    return RunDirectory(path)


@pytest.mark.parametrize(
    ("record", "value", "line"),
    [
        ({"status": "done", "seconds": 61.4}, 0.98765, "[1/3] a: done in 61 s, 0.9877"),
        ({"status": "done", "seconds": 2.0}, None, "[1/3] a: done in 2 s"),
        ({"status": "failed", "seconds": 2.0, "reason": "no such file"}, None, "[1/3] a: failed in 2 s: no such file"),
        ({"status": "failed", "reason": "no such file"}, None, "[1/3] a: failed: no such file"),
        (
            {"status": "pruned", "seconds": 9.0, "reason": "worse than the median"},
            0.5,
            "[1/3] a: pruned in 9 s, 0.5000: worse than the median",
        ),
        ({"status": "running"}, None, "[1/3] a: ended without saying why (killed, or the disk is full?)"),
        ({}, None, "[1/3] a: ended without saying why (killed, or the disk is full?)"),
    ],
)
def test_a_job_that_ended_is_one_line(
    record: dict[str, Any], value: float | None, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress(3) as progress:
        progress.report_ended("a", run(tmp_path / "a", **record), value)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == (f"{line}\n", "")


def test_where_there_is_no_terminal_a_running_job_says_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress(3) as progress:
        progress.report_running("a", run(tmp_path / "a", rows=2, status="running"))
    assert "".join(capsys.readouterr()) == ""


def test_jobs_of_earlier_batches_and_commands_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(40, before=10, skipped=2) as progress:
        progress.report_ended("a", run(tmp_path / "a", status="done"), None)
    assert capsys.readouterr().out.splitlines() == ["2 of 40 jobs were finished before", "[13/40] a: done"]


# --- on a terminal ---------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def progress(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Progress]:
    """Progress as shown on a terminal."""

    def make(total: int) -> Progress:
        monkeypatch.setattr(sys, "stderr", Terminal())
        return Progress(total)

    return make


def test_on_a_terminal_every_running_job_has_a_bar_with_its_epochs_and_numbers(
    tmp_path: Path, progress: Callable[[int], Progress]
) -> None:
    runs = {name: run(tmp_path / name, rows, status="running") for name, rows in (("a", 2), ("b", 5))}
    with progress(3) as live:
        for name, one in runs.items():
            live.report_running(name, one)
        places = dict(live.places)
        shown = {name: str(bar) for name, bar in live.bars.items()}
    assert sorted(places.values()) == [1, 2]
    assert "2/8" in shown["a"]
    assert "val/auroc=0.51" in shown["a"]
    assert "5/8" in shown["b"]
    assert "sweep" in sys.stderr.getvalue()  # type: ignore[attr-defined]


def test_a_job_in_a_queue_has_no_bar(tmp_path: Path, progress: Callable[[int], Progress]) -> None:
    with progress(3) as live:
        live.report_running("a", RunDirectory(tmp_path / "a"))
        assert live.bars == {}


def test_the_next_job_gets_the_line_of_the_one_that_ended(
    tmp_path: Path, progress: Callable[[int], Progress], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress(3) as live:
        for name in "ab":
            live.report_running(name, run(tmp_path / name, status="running"))
        write_json(tmp_path / "a" / "run.json", {"status": "failed", "reason": "no such file"})
        live.report_ended("a", RunDirectory(tmp_path / "a"), None)
        live.report_running("c", run(tmp_path / "c", status="running"))
        assert live.places == {"b": 2, "c": 1}
        assert "failed=1" in str(live.bar)
    assert "[1/3] a: failed: no such file" in capsys.readouterr().out


def test_a_run_held_by_another_process_is_said_to_be_running(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = run(tmp_path / "a", status="running")
    with file_lock(one.lock), Progress(1) as progress:
        progress.report_ended("a", one, None)
    assert capsys.readouterr().out == "[1/1] a: running\n"
