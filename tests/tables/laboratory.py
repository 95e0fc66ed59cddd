"""A laboratory report of 23 values as a German spreadsheet leaves it, and what each value was."""

from __future__ import annotations

HEADER = "Bezeichnung;Einheit;Normalbereich;Messwert"
STRAY = "Befund vom 12.03.2023;;;"
ROWS = [  # name, unit, normal range, value, what it was (None: missing), what is done
    ("Leukozyten", "Tsd/µl", "4 - 10", "33.4", "33.4", None),
    ("Erythrozyten", "Mio/µl", "3.1-5.2", "05. Jul", "5.07", "repaired"),
    ("Hämoglobin", "g/dl", "12.0-16.0", "20. Mrz", "20.3", "ambiguous"),
    ("Hämatokrit", "%", "36-46", "45.3", "45.3", None),
    ("MCV", "fl", "80-96", "87.3", "87.3", None),
    ("MCH", "pg", "27-33", "31.9", "31.9", None),
    ("MCHC", "g/dl", "32-36", "33.1", "33.1", None),
    ("Thrombozyten", "Tsd/µl", "150-400", "zu groß", None, "emptied"),
    ("NaN", "mmol/l", "135-145", "141.0", "141.0", None),
    ("Kalium", "mmol/l", "3.5-5.1", "04. Jul", "4.7", "ambiguous"),
    ("Chlorid", "mmol/l", "98-107", "103.0", "103.0", None),
    ("Calcium", "mmol/l", "2.1-2.6", "Feb 43", "2.43", "repaired"),
    ("Phosphat", "mmol/l", "0.8-1.5", "0.93", "0.93", None),
    ("Albumin", "g/dl", "3.5-5.2", "Apr 28", "4.28", "repaired"),
    ("Harnsäure", "mg/dl", "2.0-5.7", "02. Aug", "2.8", "ambiguous"),
    ("Harnstoff", "mg/dl", "17-43", "38.5", "38.5", None),
    ("Kreatinin", "mg/dl", "0.5-0.9", "0.7", "0.7", None),
    ("Glukose", "mmol/l", "3.9-5.5", "04. Sep", "4.9", "ambiguous"),
    ("CRP", "mg/l", "< 5", "0.3", "0.3", None),
    ("Cholesterin", "mg/dl", "bis 200", "186.4", "186.4", None),
    ("HDL", "mg/dl", "> 60", "64.2", "64.2", None),
    ("Bilirubin", "mg/dl", "bis 1,1", "ok", None, "emptied"),
    ("TSH", "mU/l", "0,4 - 4,0", "0.85", "0.85", None),
]


def write_report(values: list[str], stray: bool = True, end: str = "\r\n") -> str:
    """The report with ``values`` in its last column, the stray line after the ninth row."""
    lines = [";".join([*row[:3], value]) for row, value in zip(ROWS, values, strict=True)]
    if stray:
        lines.insert(9, STRAY)
    return end.join([HEADER, *lines, ""])


SPOILT = write_report([row[3] for row in ROWS]).encode("latin-1")
