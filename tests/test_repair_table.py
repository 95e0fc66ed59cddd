"""scripts/repair_table.py: the command around the repair of laboratory tables."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers import Result, assert_one_line, load_script
from tests.tables.laboratory import SPOILT

Command = Callable[..., Result]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the script in this process."""

    def run(*argv: object) -> Result:
        monkeypatch.setattr("sys.argv", ["repair_table.py", *map(str, argv)])
        code = load_script("repair_table").main()
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "report.csv"
    path.write_bytes(SPOILT)
    return path


def test_the_report_lists_every_change_and_the_table_itself_is_left_alone(table: Path, command: Command) -> None:
    repaired = table.with_name("repaired.csv")
    result = command(table, repaired)
    assert result.code == 0
    assert result.out.splitlines()[0] == (
        "report.csv: latin-1, semicolons, 23 rows: repaired 3, left empty for a person 4, words left out 2, "
        "stray rows dropped 1"
    )
    assert table.read_bytes() == SPOILT
    assert b"Erythrozyten;Mio/\xb5l;3.1-5.2;5.07\r\n" in repaired.read_bytes()
    with repaired.with_name("repaired_report.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 10
    assert [row["name"] for row in rows if row["flagged"] == "True"] == ["Hämoglobin", "Kalium", "Harnsäure", "Glukose"]
    page = repaired.with_name("repaired_report.html").read_text(encoding="utf-8")
    assert page.index("For a person") < page.index("20. Mrz") < page.index("Changed") < page.index("05. Jul")
    assert "http" not in page
    assert result.out.count("to decide: ") == 4


def test_nothing_is_overwritten_unless_it_is_asked_for(table: Path, command: Command) -> None:
    repaired = table.with_name("repaired.csv")
    assert_one_line(command(table, table), "is the table itself")
    assert_one_line(command(table, table, "--force"), "is the table itself")
    repaired.write_text("mine")
    assert_one_line(command(table, repaired), "--force")
    assert repaired.read_text() == "mine"
    assert command(table, repaired, "--force", "--accept-likely").code == 0
    assert b"H\xe4moglobin;g/dl;12.0-16.0;20.3\r\n" in repaired.read_bytes()


def test_a_column_that_is_not_there_is_one_line(table: Path, command: Command) -> None:
    result = command(table, table.with_name("out.csv"), "--value", "Meswert")
    assert_one_line(result, "--value Meswert", "'Messwert'")
    assert not table.with_name("out.csv").exists()


def test_the_example_is_written_once_and_can_be_repaired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script, table = load_script("repair_table"), tmp_path / "new" / "table.csv"
    monkeypatch.setattr("sys.argv", ["repair_table.py", "--example", str(table)])
    assert script.main() == 0
    assert script.main() == 2
    assert "is there already" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["repair_table.py", str(table), str(tmp_path / "repaired.csv")])
    assert script.main() == 0
    assert "repaired 3" in capsys.readouterr().out
