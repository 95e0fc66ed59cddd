"""Following a net step by step: the sums of the net whose weights are given, large layers, and what is refused."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from medassay.core.types import Curve
from medassay.nets.mlp import MLP
from medassay.protocols.trace import sliders
from medassay.protocols.trace.steps import trace_net
from medassay.protocols.trace.tables import make_table, write_sum
from medassay.reporting.curves import CurveView
from medassay.tasks.regression import Regression
from tests.helpers import Command, assert_one_line

WEIGHTS = [[[3.0]], [[2.0], [1.0]], [[1.0, -5.0]]]
BIASES = [[0.0], [0.0, -5.0], [0.0]]


def hand_net() -> MLP:
    return MLP([1], 1, [1, 2], mean=0.0, std=1.0, weights=WEIGHTS, biases=BIASES)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from medassay import cli

    path = tmp_path_factory.mktemp("hand") / "run"
    assert cli.main("train", ["experiment=hand_net", "trainer.gpus=0", "logger=none", f"hydra.run.dir={path}"]) == 0
    return path


@pytest.mark.parametrize(
    ("x", "sums", "activations"),
    [
        (-1.0, [[-3.0], [0.0, -5.0], [0.0]], [[0.0], [0.0, 0.0], [0.0]]),
        (1.0, [[3.0], [6.0, -2.0], [6.0]], [[3.0], [6.0, 0.0], [6.0]]),
        (2.0, [[6.0], [12.0, 1.0], [7.0]], [[6.0], [12.0, 1.0], [7.0]]),
    ],
)
def test_every_sum_of_the_given_net_is_that_of_the_hand(
    x: float, sums: list[list[float]], activations: list[list[float]]
) -> None:
    layers = trace_net(hand_net(), torch.tensor([[x]]))
    assert [layer.sums for layer in layers] == sums
    assert [layer.activations for layer in layers] == activations
    assert [(layer.name, layer.activation) for layer in layers] == [
        ("hidden 1", "relu"), ("hidden 2", "relu"), ("output", "linear")]  # fmt: skip


def test_a_sum_is_written_out() -> None:
    layers = trace_net(hand_net(), torch.tensor([[2.0]]))
    assert write_sum(layers[1], 1) == "1 · 6 − 5 = 1"
    assert write_sum(layers[2], 0) == "1 · 12 − 5 · 1 + 0 = 7"
    assert write_sum(trace_net(hand_net(), torch.tensor([[-1.0]]))[0], 0) == "3 · (−1) + 0 = −3"


def test_of_a_large_layer_the_most_active_units_are_shown_and_the_others_counted() -> None:
    weights = [[[float(unit)] for unit in range(-10, 10)], [[1.0] * 20]]
    layer = trace_net(MLP([1], 1, [20], mean=0.0, std=1.0, weights=weights), torch.tensor([[1.0]]))[0]
    table = make_table(layer, shown=3)
    assert [row[0] for row in table.rows] == ["unit 18", "unit 19", "unit 20"]  # of weight 7, 8 and 9
    assert table.note.startswith("20 units, of which the 3 most active are shown and 17 are left out; 9 hand on more")


def test_the_trace_of_the_given_net_has_its_answers(run: Path, command: Command, tmp_path: Path) -> None:
    result = command("evaluate", f"run={run}", "protocol=trace", "protocol.inputs=[-1,1,2]",
                     "protocol.interval=[-5,5]", f"eval_dir={tmp_path}")  # fmt: skip
    assert result.code == 0, result.err
    assert "trace: 0 at x = −1, 6 at x = 1, 7 at x = 2" in result.out
    (directory,) = tmp_path.glob("trace_*")
    found = json.loads((directory / "trace.json").read_text())
    assert [one["answer"] for one in found["inputs"]] == [0.0, 6.0, 7.0]
    assert found["inputs"][2]["layers"][1] == {
        "name": "hidden 2", "activation": "relu", "sums": [12.0, 1.0], "activations": [12.0, 1.0]}  # fmt: skip
    assert [layer["weights"] for layer in found["layers"]] == WEIGHTS
    assert len(found["curve"]["x"]) == 50
    assert found["curve"]["y"][-1] == pytest.approx(-20)  # 2·15 − 5·(15 − 5)
    with (directory / "steps.csv").open() as file:
        steps = list(csv.DictReader(file))
    assert len(steps) == 3 * 4
    page = (directory / "report.html").read_text()
    assert "3 · (−1) + 0 = −3" in page
    assert 'href="sliders.html"' in page
    assert "learnt from" not in page  # the weights were written down
    assert {file.stem for file in (directory / "figures").glob("*.png")} == {"curve", "net_1", "net_2", "net_3"}


def test_the_page_with_sliders_is_given_what_the_net_is_made_of() -> None:
    task = Regression(hand_net(), standardise=True)
    for name, value in (("x_mean", 10.0), ("x_sd", 4.0), ("y_mean", 0.5), ("y_sd", 2.0)):
        getattr(task, name).fill_(value)
    x = torch.tensor([[0.0], [1.0], [0.0], [1.0]])
    curve = Curve(x, torch.tensor([[0.0], [2.0], [2.0], [4.0]]), torch.tensor([0, 0, 1, 1]))
    values = sliders.describe_page(task, hand_net(), CurveView(curve, x[:2], x[:2], "x", "y"), [1.0])
    assert values["x"] == {"mean": 10.0, "sd": 4.0}
    assert values["y"] == {"mean": 0.5, "sd": 2.0}
    assert [layer["activation"] for layer in values["layers"]] == ["relu", "relu", "linear"]
    assert values["reach"] == {"weights": 8.0, "biases": 8.0}
    assert values["beats"] == [[[0.0, 0.0], [1.0, 2.0]], [[0.0, 2.0], [1.0, 4.0]]]
    assert values["between"] == 1.0  # each point lies 1 from the mean of the two


def test_the_page_with_sliders_asks_for_nothing_from_outside(run: Path, command: Command, tmp_path: Path) -> None:
    assert command("evaluate", f"run={run}", "protocol=trace", f"eval_dir={tmp_path}").code == 0
    (page,) = tmp_path.glob("trace_*/sliders.html")
    text = page.read_text()
    assert not re.findall(r"(?:src|href)=[\"'](?!report\.html|#)|url\((?!#)|@import|fetch\(", text)
    assert len(re.findall(r'type="range"', text)) == 9


@pytest.mark.long
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no browser to compute in")
def test_the_page_computes_what_the_net_does(run: Path, command: Command, tmp_path: Path) -> None:
    argv = [f"run={run}", "protocol=trace", "protocol.inputs=[-1,1,2]", f"eval_dir={tmp_path}"]
    assert command("evaluate", *argv).code == 0
    (page,) = tmp_path.glob("trace_*/sliders.html")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    shown = subprocess.run(["chromium", *flags, page.as_uri()], capture_output=True, text=True, check=True).stdout
    assert re.findall(r"<output>(→.*?)</output>", shown) == ["→ 0", "→ 6", "→ 7"]
    metrics = json.loads((run / "metrics.json").read_text())
    (error,) = re.findall(r'id="error"[^>]*>(.*?)<', shown)
    assert float(error) == pytest.approx(metrics["train"]["loss"], rel=1e-3)


def test_a_classifiers_images_are_followed_by_index(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "mlp"
    small = ["data=chest_phantom", "data.train=16", "data.val=8", "data.test=8", "debug=fast", "trainer.gpus=0"]
    argv = ["model/net=mlp", "model.net.hidden=[20]", "logger=none", *small, f"hydra.run.dir={path}"]
    assert command("train", *argv).code == 0
    result = command(
        "evaluate", f"run={path}", "protocol=trace", "protocol.inputs=[3]", f"eval_dir={tmp_path / 'eval'}"
    )
    assert result.code == 0, result.err
    assert re.search(r"trace: image 3 is (normal|pneumonia) with 0\.\d+ \(truly (normal|pneumonia)\)", result.out)
    (directory,) = (tmp_path / "eval").glob("trace_*")
    (one,) = json.loads((directory / "trace.json").read_text())["inputs"]
    assert [len(layer["sums"]) for layer in one["layers"]] == [20, 2]
    assert sum(one["probabilities"]) == pytest.approx(1)
    page = (directory / "report.html").read_text()
    assert "20 units, of which the 8 most active are shown and 12 are left out" in page
    assert not (directory / "sliders.html").exists()
    for index in ("8", "0.5"):
        refused = command("evaluate", f"run={path}", "protocol=trace", f"protocol.inputs=[{index}]")
        assert_one_line(refused, f"protocol.inputs={index}", "whole numbers from 0 to 7")


def test_a_net_that_is_no_fully_connected_one_is_refused(command: Command) -> None:
    cnn = Path(__file__).parents[1] / "fixtures" / "runs" / "cnn"
    assert_one_line(command("evaluate", f"run={cnn}", "protocol=trace"), "net is a BlockCNN", "model/net=mlp")


@pytest.mark.parametrize(("setting", "said"), [("inputs=[]", "at least one"), ("interval=[5,-5]", "lower end first"),
                                               ("inputs=[a]", "expected a list"), ("inputs=[nan]", "finite numbers"),
                                               ("interval=[-inf,inf]", "finite numbers")])  # fmt: skip
def test_a_wrong_setting_is_one_line(setting: str, said: str, run: Path, command: Command) -> None:
    assert_one_line(
        command("evaluate", f"run={run}", "protocol=trace", f"protocol.{setting}"), setting.split("=")[0], said
    )
