"""A callback in a package outside ours joins the default ones: the module and the yaml of docs/callbacks.md."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from medassay.runs.check import check_training
from medassay.runs.compose import compose_training
from tests.helpers import Command, assert_one_line

DOCUMENT = Path(__file__).parents[2] / "docs" / "callbacks.md"
MODULE, YAML = re.findall(r"```(?:python|yaml)\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
SMALL = ("data=chest_phantom", "data.train=48", "data.val=32", "data.test=32", "model.net.width=2", "debug=fast")
CPU = ("trainer.gpus=0", "logger=none", "test=false")
DEFAULT = {
    "early_stopping",
    "sample_grid",
    "reconstructions",
    "segmentations",
    "curve_fits",
    "tstr_selection",
    "pruning",
}


@pytest.fixture
def their_conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module ``their_callbacks`` that can be imported and is trusted, and the folder of its yaml."""
    (tmp_path / "their_callbacks.py").write_text(MODULE + "\n\ndef nothing() -> str:\n    return 'no callback'\n")
    conf = tmp_path / "their_conf"
    (conf / "callbacks").mkdir(parents=True)
    (conf / "callbacks" / "gradient_norm.yaml").write_text(YAML)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "their_callbacks", raising=False)
    monkeypatch.setenv("MEDASSAY_TRUSTED_PACKAGES", "their_callbacks")
    return conf


def test_the_example_logs_beside_the_default_ones(their_conf: Path, tmp_path: Path, command: Command) -> None:
    run = tmp_path / "run"
    own = (
        "callbacks=[default,gradient_norm]",
        "callbacks.gradient_norm.every_n_steps=1",
        "--config-dir",
        str(their_conf),
    )
    result = command("train", *SMALL, *CPU, *own, f"hydra.run.dir={run}")
    assert result.code == 0, result.err
    (row,) = json.loads((run / "history.json").read_text())["rows"]
    assert row["train/gradient_norm"] > 0


def test_a_sweep_takes_it_too(their_conf: Path, tmp_path: Path, command: Command) -> None:
    own = (
        "callbacks=[default,gradient_norm]",
        "callbacks.gradient_norm.every_n_steps=1",
        "--config-dir",
        str(their_conf),
    )
    result = command("train", "-m", *SMALL, *CPU, *own, "seed=0", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert result.code == 0, result.err
    (history,) = (tmp_path / "sweep").glob("*/history.json")
    assert "train/gradient_norm" in json.loads(history.read_text())["rows"][0]


@pytest.mark.parametrize(
    "added",
    [
        ["callbacks=[default,gradient_norm]"],
        ["+callbacks.gradient_norm._target_=their_callbacks.GradientNorm"],
        ["callbacks=with_default"],
    ],
    ids=["composed", "on the command line", "a yaml with the default ones"],
)
def test_it_joins_the_default_ones(added: list[str], their_conf: Path) -> None:
    (their_conf / "callbacks" / "with_default.yaml").write_text(f"defaults: [default, _self_]\n{YAML}")
    search = f"hydra.searchpath=['file://{their_conf}']"
    callbacks = check_training(compose_training(["data=chest_phantom", search, *added]))["callbacks"]
    assert set(callbacks) == {*DEFAULT, "gradient_norm"}
    assert callbacks["gradient_norm"]["_target_"] == "their_callbacks.GradientNorm"


def test_its_arguments_are_checked(their_conf: Path, command: Command) -> None:
    own = (
        "callbacks=[default,gradient_norm]",
        "callbacks.gradient_norm.every_n_steps=0",
        "--config-dir",
        str(their_conf),
    )
    assert_one_line(command("train", *SMALL, *own), "callbacks.gradient_norm.every_n_steps=0", ">= 1")


def test_what_is_no_callback_is_one_line(their_conf: Path, tmp_path: Path, command: Command) -> None:
    own = ("+callbacks.mine._target_=their_callbacks.nothing", f"hydra.run.dir={tmp_path / 'run'}")
    assert_one_line(
        command("train", *SMALL, *CPU, *own), "callbacks.mine._target_=their_callbacks.nothing", "no Lightning"
    )


def test_without_trust_it_is_one_line_that_names_the_variable(
    their_conf: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MEDASSAY_TRUSTED_PACKAGES")
    own = ("callbacks=[default,gradient_norm]", "--config-dir", str(their_conf))
    assert_one_line(command("train", *SMALL, *own), "their_callbacks.GradientNorm", "MEDASSAY_TRUSTED_PACKAGES")
