"""Which rows of a laboratory table are measurements, and what each one's value is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from medassay.tables.dates import MONTHS, SERIALS, Reading, read_date, read_serial
from medassay.tables.numbers import NormalRange, Number, parse_number, parse_range, uses_comma
from medassay.tables.sheet import Row, Sheet

Kind = Literal["number", "bound", "missing", "words", "unreadable", "date", "doubtful"]
NOTHING = {"", "-", "--", "–", "—", "/", ".", "nan", "n/a", "na", "n.a.", "k.a.", "n.d.", "null", "none"}
SERIAL_EXCESS = 100  # times the upper normal bound: a whole number above it may be a spreadsheet's count of days
_NAMES_A_DAY = re.compile(
    r"datum|date|befund|abnahme|entnahme|eingang|geburt|geb\.|birth|collected|received|reported|printed", re.IGNORECASE
)


@dataclass(frozen=True)
class Value:
    """A row of measurements.

    Attributes:
        place: Place of the row in the sheet.
        row: The row.
        text: The value as written.
        kind: What the value is.
        number: The number, if it is one.
        decimals: Decimals of the number, or of the only reading of a date; None where they are not known.
        readings: Numbers that may have become the date.
        normal: The normal range; None where there is none that can be read.
        doubt: Why the row is not as the others; empty where it is.
    """

    place: int
    row: Row
    text: str
    kind: Kind
    number: float | None
    decimals: int | None
    readings: tuple[Reading, ...]
    normal: NormalRange | None
    doubt: str = ""


def find_comma(sheet: Sheet) -> bool:
    """Whether the table writes decimal commas: as most of its values do, or, if none has decimals, its normal ranges."""
    values, ranges = (
        [text for row in sheet.rows if read_date(text := sheet.get(row, role)) is None] for role in ("value", "range")
    )  # a date's points are none of a number
    return uses_comma(values if re.search(r"\d[.,]\d", "\n".join(values)) else ranges)


def list_values(sheet: Sheet, comma: bool, drop_names: bool = True) -> tuple[list[Value], list[tuple[Row, str]]]:
    """The rows of measurements, and those that are none, each with the reason why it is left out.

    Args:
        sheet: The table.
        comma: Whether it writes decimal commas.
        drop_names: Whether a name without unit, normal range and value is a heading; in a repaired table, whose values may have
            been emptied, it is a missing value.
    """
    values, dropped = [], []
    for place, row in enumerate(sheet.rows):
        if place == sheet.header or (not "".join(row.raw).strip() and len(row.raw) == 1):
            continue  # an empty line is no row, and stays
        reason = _find_stray(sheet, place, drop_names)
        if reason is None:
            values.append(_read_value(sheet, place, comma))
        else:
            dropped.append((row, reason))
    return values, dropped


def _find_stray(sheet: Sheet, place: int, drop_names: bool) -> str | None:
    """Why a line is no row of measurements; None for one that is."""
    row = sheet.rows[place]
    cells = row.cells
    name, unit, normal, value = (sheet.get(row, role) for role in ("name", "unit", "range", "value"))
    if sheet.header is not None:
        header = sheet.rows[sheet.header].cells
        if place < sheet.header:
            return "it stands above the headings"
        if cells == header:
            return "the headings once more"
    if not any(cells):
        return "it is empty"
    if not value and (doubt := _find_doubt(sheet, row)):
        return doubt
    has_more = "unit" in sheet.columns or "range" in sheet.columns
    if not (unit or normal or value) and (len(cells) == 1 or (drop_names and has_more)):
        return "a name alone, without unit, normal range and value: a heading or a remark"
    is_day = read_date(value) is not None and re.search(r"\d{4}", value)
    if not (unit or normal) and is_day and _NAMES_A_DAY.search(name):
        return "a day with its year, without unit and normal range: no measurement"
    return None


def _find_doubt(sheet: Sheet, row: Row) -> str:
    """What keeps a row from being one like the others; empty for nothing."""
    if sheet.header is not None:
        columns = len(sheet.rows[sheet.header].cells)
        if any(row.cells[columns:]):
            return f"{len(row.cells)} cells, and the table has {columns} columns"
    return "" if sheet.get(row, "name") else "it has no name"


def _read_value(sheet: Sheet, place: int, comma: bool) -> Value:
    row = sheet.rows[place]
    text = sheet.get(row, "value")
    normal = parse_range(sheet.get(row, "range"), comma)
    if doubt := _find_doubt(sheet, row):
        return Value(place, row, text, "doubtful", None, None, (), normal, doubt[0].upper() + doubt[1:])
    number = parse_number(text, comma)
    readings = read_date(text) if number is None else _read_disguised(text, number, normal)
    if number is not None and readings:
        number = None
    kind: Kind
    if number is not None:
        kind = "number"
    elif text.casefold() in NOTHING:
        kind = "missing"
    elif readings is not None:
        kind = "date" if readings else "unreadable"
    elif re.fullmatch(r"[<>≤≥]=?\s*\d.*", text):
        kind = "bound"
    else:
        # a spreadsheet's own words are #WERT!, #REF! and, in a narrow column, ####
        is_word = re.search(r"[^\W\d_]", text) and not re.search(r"\d|^#", text)
        kind = "words" if is_word and text.strip(". ").casefold() not in MONTHS else "unreadable"
    decimals = number.decimals if number else readings[0].decimals if readings and len(readings) == 1 else None
    return Value(place, row, text, kind, number.value if number else None, decimals, tuple(readings or ()), normal)


def _read_disguised(text: str, number: Number, normal: NormalRange | None) -> list[Reading] | None:
    """Readings of a date that looks like a number: ``05.07``, or a spreadsheet's count of days; None for a sound number."""
    if re.fullmatch(r"0\d\.\d{2}", text):
        return read_date(f"{text}.")
    if number.decimals or int(number.value) not in SERIALS or normal is None:
        return None
    return read_serial(int(number.value)) if number.value > SERIAL_EXCESS * normal.high else None
