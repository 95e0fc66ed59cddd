"""scripts/runs.py: all runs in one table, as a page that sorts, CSV and markdown."""

from __future__ import annotations

import csv
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.helpers import load_script

SAVED = Path(__file__).parent / "fixtures" / "runs"


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """A classifier's run with tags and a report, a generator's, and one that cannot be read."""
    top = tmp_path / "outputs"
    for name in ("cnn", "cgan", "interrupted"):
        shutil.copytree(SAVED / name, top / name, ignore=shutil.ignore_patterns("checkpoints"))
    record = json.loads((top / "cnn" / "run.json").read_text())
    record |= {"tags": ["thesis", "final"], "notes": "<b>wide</b>", "started": "2030-01-02T03:04:05+00:00"}
    (top / "cnn" / "run.json").write_text(json.dumps(record))
    (top / "cnn" / "eval" / "classification_9a8e89" / "report.html").touch()
    (top / "interrupted" / "metrics.json").write_text("{")
    (top / "interrupted" / "eval" / "classification_1").mkdir(parents=True)
    (top / "interrupted" / "eval" / "classification_1" / "metrics.json").write_text("{")
    return top


@pytest.fixture
def tables(outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    directory = tmp_path / "tables"
    monkeypatch.setattr("sys.argv", ["runs.py", str(outputs), "--output", str(directory)])
    assert load_script("runs").main() == 0
    said = capsys.readouterr().out
    assert "3 runs: 2 done, 1 failed" in said
    assert str(directory / "runs.html") in said
    return directory


class Page(HTMLParser):
    """The table's headings, and of each row the texts, the values to sort by and the links."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.rows: list[list[dict[str, str]]] = []
        self.cell: dict[str, str] = {}
        self.button = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.button = tag == "button"
        if tag == "tr":
            self.rows.append([])
        elif tag == "td":
            self.cell = {"text": "", "value": values.get("data-value", "")}
            self.rows[-1].append(self.cell)
        elif tag == "a":
            self.cell["link"] = values["href"]

    def handle_data(self, data: str) -> None:
        if self.button:
            self.headings.append(data)
            self.button = False
        elif self.rows and self.rows[-1]:
            self.cell["text"] += data.strip()


def test_the_page_has_every_run_the_latest_first_with_values_to_sort_by(tables: Path, outputs: Path) -> None:
    page = Page((tables / "runs.html").read_text())
    rows = [dict(zip(page.headings, row, strict=True)) for row in page.rows if row]
    assert Path(rows[0]["run"]["text"]).name == "cnn"
    by_name = {Path(row["run"]["text"]).name: row for row in rows}
    classifier, generator, damaged = by_name["cnn"], by_name["cgan"], by_name["interrupted"]
    auroc = json.loads((outputs / "cnn" / "metrics.json").read_text())["test"]["auroc"]
    assert (float(classifier["test AUROC"]["value"]), classifier["test AUROC"]["text"]) == (auroc, f"{auroc:.3f}")
    assert (generator["test AUROC"]["value"], generator["test AUROC"]["text"]) == ("", "–")
    assert float(generator["TSTR balanced accuracy"]["value"]) > 0
    assert (damaged["status"]["text"], "metrics.json" in damaged["reason"]["text"]) == ("failed", True)
    assert classifier["tags"]["text"] == "thesis, final"
    assert classifier["started (UTC)"]["text"] == "2030-01-02 03:04"
    assert "data.train=64" in classifier["settings"]["text"]
    assert (tables / classifier["run"]["link"]).resolve().is_file()  # the run's latest report


def test_the_page_needs_nothing_from_outside_and_notes_are_text(tables: Path) -> None:
    text = (tables / "runs.html").read_text()
    assert re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", text) == []
    assert "<b>wide</b>" not in text
    assert "&lt;b&gt;wide&lt;/b&gt;" in text


def test_the_csv_has_every_number_and_the_markdown_a_line_per_run(tables: Path, outputs: Path) -> None:
    with (tables / "runs.csv").open() as stream:
        lines = {Path(line["directory"]).name: line for line in csv.DictReader(stream)}
    assert lines["cnn"]["tags"] == "thesis final"
    assert float(lines["cnn"]["test/ece"]) == json.loads((outputs / "cnn" / "metrics.json").read_text())["test"]["ece"]
    assert len((tables / "runs.md").read_text().splitlines()) == 2 + 3


def test_the_summary_tells_settings_apart(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["summary.py", str(SAVED / "sweep"), "--metrics", "val/auroc"])
    assert load_script("summary").main() == 0
    said = capsys.readouterr().out.splitlines()
    head, _, *lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in said]
    assert head == ["model", "data", "settings", "seeds", "val/auroc"]
    assert [line[2:4] for line in lines] == [["lr=0.001", "0, 1"], ["lr=0.01", "0, 1"]]


def test_a_folder_without_runs_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["runs.py", str(tmp_path)])
    assert load_script("runs").main() == 2
    assert capsys.readouterr().err.count("\n") == 1
