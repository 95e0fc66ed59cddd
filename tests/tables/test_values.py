"""Numbers, ranges and tables as data frames."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest

from medassay.tables import read_values
from medassay.tables.numbers import parse_number, parse_range
from tests.tables.laboratory import ROWS, SPOILT, write_report


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("3.1–5.2", 3.1, 5.2),
        ("3,1-5,2", 3.1, 5.2),
        ("4 - 10", 4, 10),
        ("4 bis 10 mmol/l", 4, 10),
        ("[4.0 — 10.0]", 4, 10),
        ("-2 - +3", -2, 3),
        ("-2--1", -2, -1),
        ("< 5", -math.inf, 5),
        ("bis 5", -math.inf, 5),
        ("≤5,0", -math.inf, 5),
        ("> 60", 60, math.inf),
        ("0,270-4,200", 0.27, 4.2),
        ("> 0,400", 0.4, math.inf),
        ("> 60 ml/min/1,73 m²", 60, math.inf),
        ("ab 60", 60, math.inf),
    ],
)
def test_normal_ranges(text: str, low: float, high: float) -> None:
    parsed = parse_range(text, comma=False)
    assert parsed is not None
    assert (parsed.low, parsed.high) == (low, high)


@pytest.mark.parametrize("text", ["", "5", "negativ", "5-3", "m: 3-5 w: 2-4", "04. Okt", "3-5-7", "3-5 m, 2-4 w"])
def test_what_is_no_normal_range(text: str) -> None:
    assert parse_range(text, comma=False) is None


def test_bounds_are_normal_unless_they_are_strict() -> None:
    between, below, until = (parse_range(text, comma=False) for text in ("3-5", "< 5", "bis 5"))
    assert between is not None
    assert below is not None
    assert until is not None
    assert [one.contains(5.0) for one in (between, below, until)] == [True, False, True]
    assert not between.contains(math.nan)


@pytest.mark.parametrize(
    ("text", "comma", "value", "decimals"),
    [
        ("4.28", False, 4.28, 2),
        ("4,28", False, 4.28, 2),
        ("245.000", True, 245000, 0),
        ("245.000", False, 245, 3),
        ("1,234.5", False, 1234.5, 1),
        ("1.234.567", False, 1234567, 0),
        ("- 2", False, -2, 0),
        ("151 H", False, 151, 0),
        ("4,4*", True, 4.4, 1),
        ("1.234,5", False, 1234.5, 1),
        ("1,234.5", True, 1234.5, 1),
        ("0.850", True, 0.85, 3),
        ("5.3 +", False, 5.3, 1),
    ],
)
def test_numbers(text: str, comma: bool, value: float, decimals: int) -> None:
    assert parse_number(text, comma) == (value, decimals)


def test_a_repaired_report_is_a_frame_whose_missing_values_stay_missing(tmp_path: Path) -> None:
    table = tmp_path / "report.csv"
    table.write_bytes(write_report([row[4] or "" for row in ROWS], stray=False).encode("latin-1"))
    frame = read_values(table)
    assert list(frame.columns) == ["name", "unit", "low", "high", "value", "inside", "note"]
    assert frame["name"].tolist() == [row[0] for row in ROWS]
    assert frame["name"].isna().sum() == 0  # NaN is sodium
    assert frame.loc[8, ["unit", "value", "inside"]].tolist() == ["mmol/l", 141.0, True]
    missing = frame[frame["value"].isna()]
    assert missing["name"].tolist() == ["Thrombozyten", "Bilirubin"]
    assert missing["inside"].isna().all()
    outside = frame[(frame["inside"] == False).fillna(False)]  # noqa: E712
    assert outside["name"].tolist() == ["Leukozyten", "Hämoglobin"]


def test_a_spoilt_report_has_its_dates_missing_and_says_so(tmp_path: Path) -> None:
    table = tmp_path / "report.csv"
    table.write_bytes(SPOILT)
    frame = read_values(table).set_index("name")
    assert len(frame) == 24  # a name alone may be a value that was emptied: only the repair drops it as a heading
    assert pd.isna(frame.loc["Kalium", "value"])
    assert frame.loc[["Kalium", "Thrombozyten", "NaN"], "note"].tolist() == [
        "a date: repair the table first",
        "words, no number",
        "",
    ]
