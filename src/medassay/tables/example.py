"""A laboratory report as a German spreadsheet leaves it: 23 invented values, some of them turned into dates or words."""

from __future__ import annotations

HEADINGS = ("Bezeichnung", "Einheit", "Normalbereich", "Messwert")
ROWS = [
    ("Leukozyten", "Tsd/µl", "4 - 10", "33.4"),
    ("Erythrozyten", "Mio/µl", "3.1-5.2", "05. Jul"),
    ("Hämoglobin", "g/dl", "12.0-16.0", "20. Mrz"),
    ("Hämatokrit", "%", "36-46", "45.3"),
    ("MCV", "fl", "80-96", "87.3"),
    ("MCH", "pg", "27-33", "31.9"),
    ("MCHC", "g/dl", "32-36", "33.1"),
    ("Thrombozyten", "Tsd/µl", "150-400", "zu groß"),
    ("NaN", "mmol/l", "135-145", "141.0"),
    ("Kalium", "mmol/l", "3.5-5.1", "04. Jul"),
    ("Chlorid", "mmol/l", "98-107", "103.0"),
    ("Calcium", "mmol/l", "2.1-2.6", "Feb 43"),
    ("Phosphat", "mmol/l", "0.8-1.5", "0.93"),
    ("Albumin", "g/dl", "3.5-5.2", "Apr 28"),
    ("Harnsäure", "mg/dl", "2.0-5.7", "02. Aug"),
    ("Harnstoff", "mg/dl", "17-43", "38.5"),
    ("Kreatinin", "mg/dl", "0.5-0.9", "0.7"),
    ("Glukose", "mmol/l", "3.9-5.5", "04. Sep"),
    ("CRP", "mg/l", "< 5", "0.3"),
    ("Cholesterin", "mg/dl", "bis 200", "186.4"),
    ("HDL", "mg/dl", "> 60", "64.2"),
    ("Bilirubin", "mg/dl", "bis 1,1", "ok"),
    ("TSH", "mU/l", "0,4 - 4,0", "0.85"),
]
STRAY = (9, "Befund vom 12.03.2023;;;")  # a line that is no measurement, and the number of rows before it


def make_example() -> bytes:
    """The report in Latin-1, with semicolons and a stray line."""
    lines = [";".join(row) for row in ROWS]
    lines.insert(*STRAY)
    return "\r\n".join([";".join(HEADINGS), *lines, ""]).encode("latin-1")
