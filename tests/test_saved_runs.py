"""Runs that the version before the rooms were rebuilt left behind: they evaluate, resume and compare for ever.

``tests/fixtures/runs`` holds them as written, but for pictures, logs and event files; ``@RUNS@`` stands for where they lie.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from medassay import cli

SAVED = Path(__file__).parent / "fixtures" / "runs"
PLACE = "@RUNS@"
CPU = ["trainer.gpus=0", "trainer.threads=1"]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A copy of the runs in which paths lead to the copy."""
    top = shutil.copytree(SAVED, tmp_path / "runs")
    for file in top.rglob("*"):
        if file.suffix in (".json", ".yaml", ".csv", ".md"):
            text = file.read_text(encoding="utf-8")
            if PLACE in text:
                file.write_text(text.replace(PLACE, str(top)), encoding="utf-8")
    return top


def read(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values


def list_numbers(values: Any, where: str = "") -> dict[str, Any]:
    """Every number in nested dictionaries and lists, by its path."""
    if not isinstance(values, (dict, list)):
        return {where: values}
    items = values.items() if isinstance(values, dict) else enumerate(values)
    return {path: one for key, value in items for path, one in list_numbers(value, f"{where}/{key}").items()}


def assert_same_numbers(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Counts are equal, and all else is but for what another version of torch changes."""
    numbers, wanted = list_numbers(found), list_numbers(expected)
    assert len(wanted) > 20
    counts = {path for path, value in wanted.items() if isinstance(value, int)}
    assert {path: numbers.get(path) for path in counts} == {path: wanted[path] for path in counts}
    assert numbers == pytest.approx(wanted, abs=1e-3)


def test_the_saved_runs_are_small() -> None:
    assert sum(file.stat().st_size for file in SAVED.rglob("*") if file.is_file()) < 2_000_000


@pytest.mark.parametrize(
    ("run", "argv", "left"),
    [
        ("cnn", [], "report.html"),
        ("tstr", ["protocol.split=val"], "report.html"),
        ("interrupted", [], "report.html"),
        ("cnn", ["protocol=gradcam", "protocol.scores=false", "protocol.n=1"], "gradcam.json"),
        pytest.param(
            "cnn",
            ["protocol=shortcut", "protocol.heat_maps=4", "protocol.shown=1"],
            "shortcut.json",
            marks=pytest.mark.long,
        ),
        pytest.param(
            "cnn",
            ["protocol=domain_shift", "protocol.budget=quick", "protocol.corruptions=[blur]"],
            "domain_shift.json",
            marks=pytest.mark.long,
        ),
        ("cgan", ["protocol=sample", "protocol.n=1"], "samples.npz"),
        ("cvae", ["protocol=sample", "protocol.n=1"], "samples.npz"),
    ],
)
def test_a_saved_run_is_evaluated(
    run: str, argv: list[str], left: str, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = set((saved / run).glob("eval/*"))
    assert cli.main("evaluate", [f"run={saved / run}", *CPU, *argv]) == 0, capsys.readouterr().err
    (new,) = set((saved / run).glob("eval/*")) - before
    assert (new / left).stat().st_size > 0
    if left == "report.html" and run != "interrupted":  # what its training measured, measured again
        split = "val" if "protocol.split=val" in argv else "test"
        assert_same_numbers(read(new / "metrics.json")[split], read(saved / run / "metrics.json")[split])


@pytest.mark.parametrize("run", ["cnn", "cgan", *(pytest.param(r, marks=pytest.mark.long) for r in ("cvae", "tstr"))])
def test_a_finished_saved_run_is_continued_with_more_epochs(
    run: str, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = set(saved.iterdir())
    assert cli.main("train", [f"resume={saved / run}", "trainer.max_epochs=3"]) == 0, capsys.readouterr().err
    (new,) = set(saved.iterdir()) - before
    assert read(new / "run.json")["continues"] == str(saved / run)
    assert read(new / "metrics.json")["epochs"] == 3


def test_an_interrupted_saved_run_is_resumed_in_place(
    saved: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    run = saved / "interrupted"
    epochs = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] + 2
    caplog.set_level("INFO")
    assert cli.main("train", [f"resume={run}", f"trainer.max_epochs={epochs}"]) == 0, capsys.readouterr().err
    assert f"epoch {epochs}/{epochs}: " in caplog.text
    assert "epoch 1/" not in caplog.text
    assert read(run / "run.json")["status"] == "done"
    assert [row["epoch"] for row in read(run / "history.json")["rows"]] == list(range(1, epochs + 1))


def test_a_saved_sweep_is_evaluated_as_one(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [f"run={saved / 'sweep'}", f"outputs={tmp_path / 'outputs'}", *CPU]
    assert cli.main("evaluate", argv) == 0, capsys.readouterr().err
    (directory,) = (tmp_path / "outputs" / "eval").iterdir()
    chosen = read(saved / "sweep" / "sweep.json")["chosen"]
    assert len((directory / "summary.csv").read_text().splitlines()) > len(chosen["seeds"])
