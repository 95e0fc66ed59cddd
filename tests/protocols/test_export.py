"""A classifier as an ONNX file: what it computes, what it says of itself, and the script that uses it."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import medassay
from medassay.core.errors import ConfigError
from medassay.protocols.export import model_file
from tests.helpers import Command, assert_one_line

SAVED = Path(__file__).parents[1] / "fixtures" / "runs"
CPU = ("trainer.gpus=0", "trainer.threads=1")


@pytest.fixture
def cnn(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SAVED / "cnn", tmp_path / "cnn", ignore=shutil.ignore_patterns("eval")))


def left_by(run: Path, protocol: str) -> Path:
    (directory,) = (run / "eval").glob(f"{protocol}_*")
    return directory


@pytest.mark.parametrize("package", model_file.PACKAGES)
def test_a_missing_extra_is_one_line_that_names_it(
    package: str, cnn: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in model_file.PACKAGES:
        monkeypatch.setitem(sys.modules, name, pytest)  # anything with a version
    monkeypatch.setitem(sys.modules, package, None)
    result = command("evaluate", f"run={cnn}", "protocol=export", *CPU)
    assert_one_line(result, f"the package {package} is missing", "pip install 'medassay[onnx]'")


def test_an_extra_that_is_there_and_broken_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(package: str) -> None:
        raise ImportError("libonnx.so: cannot open shared object file")

    monkeypatch.setattr(model_file.importlib, "import_module", broken)
    with pytest.raises(ConfigError, match=r"the package onnx cannot be imported \(libonnx\.so") as raised:
        model_file.require_packages()
    assert "pip install" not in str(raised.value)


def test_a_generator_is_refused_in_one_line(command: Command) -> None:
    assert_one_line(command("evaluate", f"run={SAVED / 'cgan'}", "protocol=export", *CPU), "is a generator's run")


def test_the_file_computes_what_the_net_does_with_its_normalisation_for_any_number_of_images(
    cnn: Path, command: Command
) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    result = command("evaluate", f"run={cnn}", "protocol=export", "protocol.split=val", *CPU)
    assert result.code == 0, result.err
    directory = left_by(cnn, "export")
    session = runtime.InferenceSession(directory / "model.onnx")
    net = medassay.load_run(cnn, trainer_gpus=0).task.net
    assert isinstance(net, torch.nn.Module)
    for n in (1, 5):
        images = torch.rand(n, 1, 28, 28, generator=torch.Generator().manual_seed(n))
        (logits,) = session.run(["logits"], {"images": images.numpy()})
        np.testing.assert_allclose(logits, net(images).detach().numpy(), atol=1e-5)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == ["normal", "pneumonia"]
    assert (metadata["model"], metadata["torch"], metadata["checkpoint"]) == (
        "pneumonia_cnn",
        torch.__version__,
        "best",
    )
    results = json.loads((directory / "export.json").read_text())
    assert results["largest_difference"] < 1e-5
    assert results["same_decisions"] == results["n"] > 0
    assert "python classify.py image.png" in (directory / "report.html").read_text()


def test_the_script_beside_it_gives_the_probabilities_of_protocol_predict(
    cnn: Path, tmp_path: Path, command: Command
) -> None:
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for name, shape in (("wide colour.png", (40, 61, 3)), ("grey.png", (28, 28))):
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(tmp_path / "images" / name)
    for protocol in (["protocol=export"], ["protocol=predict", f"protocol.images={tmp_path / 'images'}"]):
        assert command("evaluate", f"run={cnn}", *protocol, *CPU).code == 0
    with (left_by(cnn, "predict") / "predictions.csv").open() as stream:
        expected = {line["image"]: float(line["pneumonia"]) for line in csv.DictReader(stream)}
    files = sorted(map(str, (tmp_path / "images").iterdir()))
    script = [sys.executable, str(left_by(cnn, "export") / "classify.py"), *files]
    written = subprocess.run(script, capture_output=True, text=True, check=True).stdout
    rows = [line.split("\t") for line in written.splitlines()]
    assert {Path(row[0]).name: float(row[2].removeprefix("pneumonia: ")) for row in rows} == pytest.approx(
        expected, abs=1e-4
    )


def test_a_file_that_computes_something_else_is_not_written(
    cnn: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medassay.protocols.export.protocol.require_packages", dict)
    monkeypatch.setattr("medassay.protocols.export.protocol.write_model", lambda *_: b"")
    monkeypatch.setattr(
        "medassay.protocols.export.protocol.run_model", lambda _, images: (None, torch.full((len(images), 2), 0.5))
    )
    result = command("evaluate", f"run={cnn}", "protocol=export", *CPU)
    assert_one_line(result, "differs by", "protocol.tolerance=")
    assert not list((cnn / "eval").glob("export_*"))
    advice = result.err.partition("protocol.tolerance=")[2].partition(",")[0]
    assert command("evaluate", f"run={cnn}", "protocol=export", f"protocol.tolerance={advice}", *CPU).code == 0


def test_the_script_is_twenty_lines_and_needs_no_torch() -> None:
    code = (Path(model_file.__file__).with_name("classify.py.txt")).read_text()
    assert code.count("\n") <= 20
    assert "torch" not in code
    assert "medassay" not in code
