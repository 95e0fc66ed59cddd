"""A laboratory report of 23 values as a German spreadsheet leaves it, and what each value was."""

from __future__ import annotations

from medassay.tables.example import HEADINGS, make_example
from medassay.tables.example import ROWS as SPOILT_ROWS
from medassay.tables.example import STRAY as STRAY_LINE

HEADER = ";".join(HEADINGS)
STRAY = STRAY_LINE[1]
OUTCOMES = {  # by name: what the value was (None: missing), and what is done
    "Erythrozyten": ("5.07", "repaired"),
    "Hämoglobin": ("20.3", "ambiguous"),
    "Thrombozyten": (None, "emptied"),
    "Kalium": ("4.7", "ambiguous"),
    "Calcium": ("2.43", "repaired"),
    "Albumin": ("4.28", "repaired"),
    "Harnsäure": ("2.8", "ambiguous"),
    "Glukose": ("4.9", "ambiguous"),
    "Bilirubin": (None, "emptied"),
}
# name, unit, normal range, value, what it was, what is done
ROWS = [(*row, *OUTCOMES.get(row[0], (row[3], None))) for row in SPOILT_ROWS]


def write_report(values: list[str], stray: bool = True, end: str = "\r\n") -> str:
    """The report with ``values`` in its last column, the stray line after the ninth row."""
    lines = [";".join([*row[:3], value]) for row, value in zip(ROWS, values, strict=True)]
    if stray:
        lines.insert(9, STRAY)
    return end.join([HEADER, *lines, ""])


SPOILT = make_example()
