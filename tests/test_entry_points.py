"""``train.py`` and ``evaluate.py`` as processes of their own: what they write where, how they end, how SIGTERM ends them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.font_manager  # noqa: F401  builds the fonts' cache here: on a new machine that is said on stderr
import pytest
import torch

from medassay import cli

ROOT = Path(__file__).parents[1]
TINY = [
    "data=chest_phantom",
    "data.train=48",
    "data.val=32",
    "data.test=32",
    "data.batch_size=16",
    "trainer.gpus=0",
    "trainer.threads=1",
]
LIMIT = 120  # seconds: far beyond what any of these takes, so that a hang is a failure


class Result(NamedTuple):
    """How a process ended, and what it wrote to the terminal."""

    code: int
    out: str
    err: str


def environment(**changes: str) -> dict[str, str]:
    """This process's, but for where outputs go: that is left to the default."""
    return {k: v for k, v in os.environ.items() if k != "MEDASSAY_OUTPUTS"} | {"PYTHONUNBUFFERED": "1", **changes}


def command(script: str, *argv: str, cwd: Path, env: Mapping[str, str] | None = None) -> Result:
    """Runs ``python <repository>/<script>`` in ``cwd``."""
    line = [sys.executable, str(ROOT / script), *argv]
    done = subprocess.run(line, cwd=cwd, env=env or environment(), capture_output=True, text=True, timeout=LIMIT)
    return Result(done.returncode, done.stdout, done.stderr)


def read(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values


def weights(run: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return state


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory that is not the repository."""
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def trained(elsewhere: Path) -> Result:
    """``train.py`` started from ``elsewhere``."""
    return command("train.py", "debug=fast", *TINY, cwd=elsewhere)


@pytest.fixture(scope="module")
def run(trained: Result, elsewhere: Path) -> Path:
    """The directory of that run, under the working directory's own ``outputs``."""
    assert trained.code == 0, trained.err
    (directory,) = (elsewhere / "outputs" / "pneumonia_cnn").iterdir()
    return directory


def test_training_from_another_directory_leaves_a_whole_run_there(run: Path, elsewhere: Path) -> None:
    assert read(run / "run.json")["status"] == "done"
    assert read(run / "metrics.json")["test"]["n"] == 32
    for name in ("model.txt", "train.log", ".hydra/config.yaml", "checkpoints/best.ckpt", "checkpoints/last.ckpt"):
        assert (run / name).stat().st_size > 0
    for split in ("val", "test"):
        assert len(list((run / "figures").glob(f"{split}_*.png"))) == 3
    assert list((run / "tensorboard").glob("events.out.tfevents.*"))
    assert [path.name for path in elsewhere.iterdir()] == ["outputs"]


def test_training_says_little_and_names_the_run_directory(trained: Result, run: Path) -> None:
    assert trained.err == ""  # no warning, and no progress bar where there is no terminal
    lines = trained.out.splitlines()
    assert len(lines) <= 20
    assert f"run directory: {run}" in lines
    assert f"look at it:    tensorboard --logdir {run}" in lines
    assert f"next:          python evaluate.py run={run}" in lines


@pytest.mark.long
def test_evaluating_a_run_named_relative_to_the_working_directory_adds_to_that_run(run: Path, elsewhere: Path) -> None:
    result = command("evaluate.py", f"run={run.relative_to(elsewhere)}", cwd=elsewhere)
    assert (result.code, result.err) == (0, "")
    (directory,) = (run / "eval").iterdir()
    lines = result.out.splitlines()
    assert len(lines) <= 5
    assert lines[-1].startswith("results: ")
    assert (elsewhere / lines[-1].removeprefix("results: ")).samefile(directory)
    assert read(directory / "metrics.json")["test"] == read(run / "metrics.json")["test"]
    charts = {"confusion_matrix", "roc", "precision_recall", "calibration"}
    assert charts <= {path.stem.removeprefix("test_") for path in directory.rglob("test_*.png")}
    assert (directory / "report.html").stat().st_size > 0
    assert [path.name for path in elsewhere.iterdir()] == ["outputs"]


def test_a_wrong_key_is_one_line_on_stderr_and_exit_code_2(tmp_path: Path) -> None:
    result = command("train.py", "modle=x", cwd=tmp_path)
    assert result.code == 2
    assert result.out == ""
    assert result.err.count("\n") == 1
    assert "Did you mean 'model'" in result.err
    assert list(tmp_path.iterdir()) == []


def terminated_after_an_epoch(directory: Path, *argv: str) -> Result:
    """Trains into ``directory`` in a process of its own, and sends it SIGTERM once it has a checkpoint."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *argv, f"hydra.run.dir={directory}"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + LIMIT
        while not (directory / "checkpoints" / "last.ckpt").exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "no checkpoint yet"
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
        process.wait()
    return Result(process.returncode, out, err)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process on SIGTERM without asking it")
def test_a_run_ended_by_sigterm_is_resumed_to_the_weights_of_an_uninterrupted_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    options = [*TINY, "model.net.dropout=0.3", "data.augment.horizontal_flip=0.5", "callbacks.early_stopping=null"]
    options += ["logger=none", "test=false", "seed=5"]
    cut, straight = tmp_path / "cut", tmp_path / "straight"

    ended = terminated_after_an_epoch(cut, *options, "trainer.max_epochs=200")
    assert ended.code == 143, ended.err
    assert ended.err == f"medassay: interrupted; continue with: python train.py resume={cut}\n"
    record = read(cut / "run.json")
    assert record["status"] == "interrupted"
    assert record["reason"] == f"SIGTERM; continue with resume={cut}"
    assert sorted(path.name for path in (cut / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]

    epochs = torch.load(cut / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] + 3
    caplog.set_level("INFO")
    assert cli.main("train", [f"resume={cut}", f"trainer.max_epochs={epochs}"]) == 0, capsys.readouterr().err
    assert f"epoch {epochs}/{epochs}: " in caplog.text
    assert "epoch 1/" not in caplog.text
    assert read(cut / "run.json")["status"] == "done"
    assert read(cut / "metrics.json")["epochs"] == epochs

    argv = [*options, f"trainer.max_epochs={epochs}", f"hydra.run.dir={straight}"]
    assert cli.main("train", argv) == 0, capsys.readouterr().err
    expected, found = weights(straight), weights(cut)
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
