"""A run of a fully connected net on digits: each protocol works on it, or says in one line why not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medassay import cli
from tests.helpers import Command, assert_one_line


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A digit classifier of one epoch on scikit-learn's digits."""
    run = tmp_path_factory.mktemp("runs") / "digits"
    argv = ["model=digit_mlp", "data=digits", "model.net.hidden=[32]", "trainer.max_epochs=1", "trainer.gpus=0"]
    argv += ["model.optimizer.lr=1e-2", "augment=none"]
    assert cli.main("train", [*argv, "logger=none", f"hydra.run.dir={run}"]) == 0
    return run


def test_it_has_learnt_something_and_its_classes_are_texts(digits: Path) -> None:
    assert json.loads((digits / "metrics.json").read_text())["test"]["accuracy"] > 0.5
    assert "classes:\n  - '0'\n" in (digits / ".hydra" / "config.yaml").read_text()


def test_a_single_image_is_predicted_without_a_heat_map(digits: Path, tmp_path: Path, command: Command) -> None:
    Image.fromarray(np.full((28, 28), 200, dtype=np.uint8)).save(tmp_path / "one.png")
    result = command("evaluate", f"run={digits}", "protocol=predict", f"protocol.images={tmp_path / 'one.png'}")
    assert result.code == 0, result.err
    (page,) = digits.glob("eval/predict_*/report.html")
    assert "There are no heat maps: the net has no feature maps" in page.read_text()
    assert json.loads(page.with_name("predict.json").read_text())["method"] is None


@pytest.mark.parametrize(
    ("argv", "facts"),
    [
        (["protocol=gradcam"], ["protocol=gradcam: this run's net is a MLP", "no convolution", "model/net=block_cnn"]),
        (["protocol=lesion"], ["this run's net is a MLP", "model/net=resnet"]),
        (["protocol=predict", "protocol.images=x.png", "protocol.method=scorecam"], ["protocol.method=scorecam"]),
    ],
    ids=lambda value: value[0].partition("=")[2],
)
def test_what_needs_convolutions_is_refused_in_one_line(
    digits: Path, argv: list[str], facts: list[str], command: Command
) -> None:
    assert_one_line(command("evaluate", f"run={digits}", *argv), *facts)


def test_the_shortcut_audit_goes_without_heat_maps(digits: Path, command: Command) -> None:
    stamp = ["protocol.stamp.kind=square", "protocol.stamp.label=3"]
    result = command("evaluate", f"run={digits}", "protocol=shortcut", *stamp)
    assert result.code == 0, result.err
    (page,) = digits.glob("eval/shortcut_*/report.html")
    assert "No heat maps: the net has no feature maps" in page.read_text()
    assert json.loads(page.with_name("shortcut.json").read_text())["trials"][0]["heat"] is None
    assert not list(page.parent.glob("figures/heat_*"))


@pytest.mark.long
@pytest.mark.parametrize(
    "argv",
    [
        ["protocol=classification"],
        ["protocol=uncertainty"],
        ["protocol=features"],
        ["protocol=adversarial", "protocol.budget=quick"],
        ["protocol=domain_shift", "protocol.budget=quick"],
        ["protocol=audit", "protocol.budget=quick", "protocol.parts=[classification,gradcam,uncertainty]"],
    ],
    ids=lambda argv: argv[0].partition("=")[2],
)
def test_what_needs_none_works(digits: Path, argv: list[str], command: Command) -> None:
    result = command("evaluate", f"run={digits}", *argv)
    assert result.code == 0, result.err
    if argv[0] == "protocol=audit":
        (written,) = digits.glob("eval/audit_*/audit.json")
        parts = {one["name"]: one["status"] for one in json.loads(written.read_text())["verdicts"]}
        assert parts["gradcam"] == "not applicable"
