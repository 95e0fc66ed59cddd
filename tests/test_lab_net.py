"""scripts/lab_net.py: the course's net on laboratory phantoms, asked about a patient."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import Result, assert_one_line, load_script
from tests.tables.laboratory import ROWS, write_report


def ask(*tables: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Result:
    monkeypatch.setattr("sys.argv", ["lab_net.py", *map(str, tables)])
    script = load_script("lab_net")
    script.TRAIN, script.TEST, script.EPOCHS = 1200, 400, 12
    code = script.main()
    captured = capsys.readouterr()
    return Result(code, captured.out, captured.err)


def test_the_net_tells_a_patient_with_extreme_values_from_one_with_normal_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ill, healthy = tmp_path / "ill.csv", tmp_path / "healthy.csv"
    ill.write_text(write_report([row[4] or "" for row in ROWS], stray=False))
    normal = [
        7,
        4.1,
        14,
        41,
        88,
        30,
        34,
        275,
        140,
        4.3,
        102,
        2.35,
        1.15,
        4.3,
        3.8,
        30,
        0.7,
        4.7,
        2.5,
        100,
        98,
        0.55,
        2.2,
    ]
    healthy.write_text(write_report([str(value) for value in normal], stray=False))
    result = ask(ill, healthy, monkeypatch=monkeypatch, capsys=capsys)
    assert result.code == 0
    relu, linear, step = (float(value) for value in re.findall(r"accuracy (0\.\d+)", result.out))
    assert relu > 0.65
    assert linear < 0.57  # one linear map: values are moved up as often as down
    assert 0.5 < step < relu
    assert re.search(r"ill.csv: ill, probability of ill (0\.9|1\.0)", result.out)
    assert "middle of the normal range: Thrombozyten, Bilirubin\n" in result.out
    assert "Leukozyten +17.2 sd" in result.out  # (33.4 - 7) / (6 / 3.92)
    assert "anything the net has learnt from: Leukozyten\n" in result.out
    assert "healthy.csv: healthy" in result.out


def test_patients_whose_rows_differ_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "a.csv", tmp_path / "b.csv"
    first.write_text("name;range;value\nA;1-2;1\n")
    second.write_text("name;range;value\nB;1-2;1\n")
    assert_one_line(ask(first, second, monkeypatch=monkeypatch, capsys=capsys), "b.csv", "a.csv")
    first.write_text("name;value\nA;1\n")
    assert_one_line(ask(first, monkeypatch=monkeypatch, capsys=capsys), "no normal range")


def test_a_missing_value_is_the_middle_of_its_normal_range() -> None:
    inputs = load_script("lab_net").impute(np.array([[np.nan, 1.5]]))
    assert inputs.tolist() == [[0.0, 1.5]]
