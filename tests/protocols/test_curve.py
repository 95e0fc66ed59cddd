"""A fitted curve by the command line: what a run leaves, its report, several runs, sweeps, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers import Command, assert_one_line

SMALL = ["experiment=qrs", "recipe.max_epochs=4", "callbacks.curve_fits.every_n_epochs=2", "trainer.gpus=0"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from medassay import cli

    path = tmp_path_factory.mktemp("curve") / "run"
    assert cli.main("train", [*SMALL, f"hydra.run.dir={path}"]) == 0
    return path


def test_a_run_leaves_scores_of_all_splits_pictures_and_an_animation(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["chosen_by"] == "val/loss"
    for split, beats in (("train", [1, 2, 3, 4, 5, 6]), ("val", [7, 8]), ("test", [9, 10])):
        scores = metrics[split]
        assert scores["beats"] == beats
        assert scores["error_over_between_beats"] == pytest.approx(scores["loss"] / scores["between_beats"])
    frames = sorted(file.name for file in (run / "figures").glob("curve_epoch_*.png"))
    assert frames == [f"curve_epoch_{epoch:04d}.png" for epoch in (0, 2, 4)]
    with Image.open(run / "figures" / "curve.gif") as animation:
        assert animation.n_frames == 3  # type: ignore[attr-defined]
    assert list((run / "tensorboard").glob("*tfevents*"))
    record = json.loads((run / "run.json").read_text())
    assert record["data"]["phantom"] is True


def test_the_report_is_the_natural_protocol_and_says_what_the_data_are(
    run: Path, command: Command, tmp_path: Path
) -> None:
    result = command("evaluate", f"run={run}", f"eval_dir={tmp_path}")
    assert result.code == 0, result.err
    assert "times their difference from the mean of the training beats" in result.out
    (directory,) = tmp_path.glob("curve_*")
    found = json.loads((directory / "curve.json").read_text())
    metrics = json.loads((run / "metrics.json").read_text())
    assert found["scores"]["loss"] == pytest.approx(metrics["test"]["loss"])
    assert found["truth_rmse"] > 0
    assert "not real beats" in (directory / "report.html").read_text()


@pytest.mark.long
def test_runs_of_several_seeds_make_one_table(run: Path, command: Command, tmp_path: Path) -> None:
    second = tmp_path / "second"
    assert command("train", *SMALL, "seed=1", "logger=none", f"hydra.run.dir={second}").code == 0
    result = command("evaluate", f"run=[{run},{second}]", f"eval_dir={tmp_path / 'eval'}")
    assert result.code == 0, result.err
    assert re.search(r"seeds 0, 1: .*error_over_between_beats", result.out)


def test_a_finished_run_goes_on_with_more_epochs(run: Path, command: Command) -> None:
    result = command("train", f"resume={run}", "trainer.max_epochs=5")
    assert result.code == 0, result.err
    longer = Path(re.findall(r"run directory: (.+)", result.out)[0])
    epochs = [row["epoch"] for row in json.loads((longer / "history.json").read_text())["rows"]]
    assert epochs == [1, 2, 3, 4, 5]
    first = json.loads((run / "history.json").read_text())["rows"]
    assert json.loads((longer / "history.json").read_text())["rows"][:4] == first  # not trained anew


@pytest.mark.long
def test_a_sweep_over_the_number_of_neurons_ranks_them_by_their_error(command: Command, tmp_path: Path) -> None:
    argv = ["-m", "search=qrs_neurons", "debug=fast", "model.net.hidden=[2,2],[4,4]", "seed=0", "logger=none",
            "trainer.gpus=0", f"hydra.sweep.dir={tmp_path}"]  # fmt: skip
    result = command("train", *argv)
    assert result.code == 0, result.err
    table = (tmp_path / "summary.md").read_text()
    assert "error over between beats" in table.replace("_", " ")
    assert re.search(r"\[2, ?2\].*\n.*\[4, ?4\]|\[4, ?4\].*\n.*\[2, ?2\]", table)


@pytest.mark.parametrize(
    ("argv", "facts"),
    [
        (["model=curve", "data=chest_phantom"], ["fits a curve, and data=chest_phantom are images"]),
        (["data=ecg_phantom"], ["data=ecg_phantom is a curve", "choose model=curve"]),
        (["model=unet", "data=ecg_phantom"], ["data=ecg_phantom is a curve"]),
        (["model=curve", "model/net=resnet"], ["model.net=medassay.nets.resnet.ResNet", "model/net=mlp"]),
        (["model=curve", "model.net.outputs=2"], ["model.net.outputs=2", "one number in and one out"]),
        (["model=curve", "data=qrs"], ["data.file: missing"]),
        (["model=curve", "data=qrs", "data.file=none.csv"], ["none.csv", "cannot be read"]),
        (["model=curve", "data.beats=4"], ["of 4 beats none is left"]),
    ],
)
def test_what_does_not_fit_is_one_line(argv: list[str], facts: list[str], command: Command, tmp_path: Path) -> None:
    assert_one_line(command("train", *argv, "trainer.gpus=0", f"hydra.run.dir={tmp_path / 'run'}"), *facts)


@pytest.mark.parametrize("protocol", ["gradcam", "classification", "segmentation", "assay"])
def test_protocols_of_other_models_refuse_the_run(protocol: str, run: Path, command: Command) -> None:
    result = command("evaluate", f"run={run}", f"protocol={protocol}")
    assert_one_line(result, "is a regression's run (model=curve); use protocol=curve or trace")
