"""A protocol in a package outside ours works by its ``_target_`` alone: the module, template and yaml of docs/protocol.md."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from medassay import cli

DOCUMENT = Path(__file__).parents[2] / "docs" / "protocol.md"
MODULE, TEMPLATE, YAML = re.findall(
    r"```(?:python|jinja|yaml)\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL
)
TINY = ["data.train=48", "data.val=32", "data.test=32", "data.batch_size=16", "debug=fast", "trainer.gpus=0"]


@pytest.fixture
def their_conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package ``their_audits`` that can be imported and is trusted, and the folder of its yaml."""
    package, conf = tmp_path / "their_audits", tmp_path / "their_conf"
    for folder in (package, conf / "protocol"):
        folder.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "brightness.py").write_text(MODULE)
    (package / "brightness.html.j2").write_text(TEMPLATE)
    (conf / "protocol" / "brightness.yaml").write_text(YAML)
    for name in ("their_audits", "their_audits.brightness"):
        monkeypatch.delitem(sys.modules, name, raising=False)  # that of another test, whose folder is gone
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("MEDASSAY_TRUSTED_PACKAGES", "their_audits")
    return conf


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small classifier's run; tests evaluate copies of it."""
    directory = tmp_path_factory.mktemp("trained") / "run"
    assert cli.main("train", ["data=chest_phantom", "model.net.width=2", *TINY, f"hydra.run.dir={directory}"]) == 0
    return directory


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_it_is_forty_lines() -> None:
    code = [line for line in MODULE.splitlines() if line.strip() and not line.startswith(("from ", "import "))]
    assert len(code) <= 40


def test_it_leaves_numbers_pictures_events_and_a_page(
    their_conf: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [f"run={run}", "protocol=brightness", "protocol.n=32", "--config-dir", str(their_conf)]
    assert cli.main("evaluate", argv) == 0, capsys.readouterr().err
    (left,) = (run / "eval").glob("brightness_*")
    results = json.loads((left / "brightness.json").read_text())
    normal = results["brightness"]["normal"]
    assert normal["low"] <= normal["mean"] <= normal["high"]
    assert results["protocol"]["n"] == 32
    assert results["model"] == "pneumonia_cnn"
    assert json.loads((left / "metrics.json").read_text())["brightness"]["normal"] == normal["mean"]
    assert (left / "figures" / "bars.png").stat().st_size > 0
    (events,) = (left / "tensorboard").glob("events.*")
    tags = {value.tag for event in EventFileLoader(str(events)).Load() for value in event.summary.value}
    assert {"brightness/normal", "figures/bars"} <= tags
    page = (left / "report.html").read_text()
    for fact in ("Brightness of chest_phantom", "<svg", "rendered phantoms", "python evaluate.py run=", "Provenance"):
        assert fact in page
    assert "brightest: " in capsys.readouterr().out


def test_its_settings_are_checked_and_it_stands_in_a_table_of_several_runs(
    their_conf: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["protocol=brightness", "--config-dir", str(their_conf), f"outputs={tmp_path / 'outputs'}"]
    assert cli.main("evaluate", [f"run={run}", *argv, "protocol.n=0"]) == 2
    assert "protocol.n=0: expected an integer >= 1" in capsys.readouterr().err
    assert cli.main("evaluate", [f"run=[{run},{run}]", *argv]) == 0, capsys.readouterr().err
    (table,) = (tmp_path / "outputs" / "eval").iterdir()
    assert "brightness/normal" in (table / "summary.csv").read_text()


def test_without_trust_it_is_refused_in_one_line(
    their_conf: Path, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MEDASSAY_TRUSTED_PACKAGES")
    assert cli.main("evaluate", [f"run={run}", "protocol=brightness", "--config-dir", str(their_conf)]) == 2
    assert "MEDASSAY_TRUSTED_PACKAGES" in capsys.readouterr().err
