"""What an evaluation leaves where it is interrupted: no ``metrics.json``, by which others know a whole one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medassay.evaluation import writer
from medassay.evaluation.about import About
from medassay.evaluation.protocol import Page, Report
from medassay.runs.directory import RunDirectory

STUB = Path(__file__).parents[1] / "fixtures" / "stub.html.j2"
ABOUT = About("a_run", "a_model", 0, {"name": "bloodmnist"}, False, ["a", "b"], {})
RECORD = {"run": "a_run", "protocol": {"name": "stub"}, "overrides": {}, "status": "done"}
FOUND = Report({"number": 1}, "test", metrics={"test": {"accuracy": 0.5}}, files={"own.txt": "x"}, page=Page(STUB))


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "run")


def test_an_evaluation_counts_once_all_of_it_is_written(run: RunDirectory) -> None:
    directory = run.new_evaluation("stub")
    writer.write_report(FOUND, ABOUT, RECORD, directory)
    assert {path.name for path in directory.iterdir()} == {
        *("stub.json", "own.txt", "tensorboard", "report.html", "metrics.json")
    }
    assert run.evaluations() == [directory]


@pytest.mark.parametrize("step", ["_write_file", "_add_events", "_render_page"])
def test_an_evaluation_that_is_interrupted_while_it_is_written_does_not_count(
    step: str, run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(writer, step, interrupt)
    directory = run.new_evaluation("stub")
    with pytest.raises(KeyboardInterrupt):
        writer.write_report(FOUND, ABOUT, RECORD, directory)
    assert (directory / "stub.json").exists()
    assert not (directory / "metrics.json").exists()
    assert run.evaluations() == []
