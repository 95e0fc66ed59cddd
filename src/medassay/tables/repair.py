"""Laboratory tables whose values a spreadsheet turned into dates: what each value was, with reason and confidence."""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from medassay.tables.dates import Reading, read_date
from medassay.tables.numbers import NormalRange
from medassay.tables.rows import Value, find_comma, list_values
from medassay.tables.sheet import Row, Sheet

Action = Literal["repaired", "likely", "ambiguous", "emptied", "unreadable", "kept", "dropped"]
Confidence = Literal["high", "medium", "low"]
FLAGGED: tuple[Action, ...] = ("ambiguous", "likely", "unreadable", "kept")
NEIGHBOURS = 2  # readable values above and below whose decimals are counted


@dataclass(frozen=True)
class Change:
    """What was done with a value or a row, and why.

    Attributes:
        line: Line of the file, from 1.
        name: What the row is called.
        range: Normal range as written.
        before: The value as it was; of a dropped row, the row.
        after: The value now; empty for a missing one.
        action: ``repaired``; ``ambiguous`` (left empty) or ``likely`` (the likelier reading taken), both for a person to
            decide; ``emptied``: words are no number; ``unreadable`` (left empty, for a person); ``kept``: a row that holds a
            value and is not as the others, left as it is for a person; ``dropped``: a stray row.
        confidence: ``high``: one reading; ``medium``: the only reading that is normal, or one that a spreadsheet would have
            shown otherwise; ``low``: a guess, or none.
        readings: All numbers that the value may have been.
        likelier: The likelier of them where that is a guess.
        reason: One sentence.
    """

    line: int
    name: str
    range: str
    before: str
    after: str
    action: Action
    confidence: Confidence
    readings: tuple[str, ...]
    likelier: str
    reason: str

    @property
    def is_flagged(self) -> bool:
        """Whether a person has to decide."""
        return self.action in FLAGGED


@dataclass(frozen=True)
class Repair:
    """A repaired table.

    Attributes:
        content: Bytes of the file; those of the original where there is nothing to repair.
        changes: What was done, line by line.
        rows: Number of rows with a value or a place for one, dropped ones left out.
        notes: Normal ranges that could not be read, or do not seem to fit their values, one sentence each.
    """

    content: bytes
    changes: tuple[Change, ...]
    rows: int
    notes: tuple[str, ...]


def repair_sheet(sheet: Sheet, accept_likely: bool = False) -> Repair:
    """The table with its values repaired; ambiguous ones are left empty, or with ``accept_likely`` the likelier reading."""
    comma = find_comma(sheet)
    values, dropped = list_values(sheet, comma)
    known = [place for place, value in enumerate(values) if value.decimals is not None]
    changes = [_drop(sheet, row, reason) for row, reason in dropped]
    changed: dict[int, str | None] = {}
    lines = {row.line: place for place, row in enumerate(sheet.rows)}
    for index, value in enumerate(values):
        if value.kind in ("words", "unreadable"):
            change = _empty(sheet, value)
        elif value.kind == "doubtful":
            reason = f"{value.doubt}: the row stays as it is until a person decides."
            change = _change(sheet, value, value.text, "kept", "low", "", reason)
        elif value.kind == "date":
            change = _repair_date(sheet, values, known, index, comma, accept_likely)
        else:
            continue
        changes.append(change)
    changes.sort(key=lambda change: change.line)
    for change in changes:
        if change.action != "kept":
            changed[lines[change.line]] = None if change.action == "dropped" else change.after
    return Repair(sheet.encode(changed), tuple(changes), len(values), tuple(_note_ranges(sheet, values)))


def _drop(sheet: Sheet, row: Row, reason: str) -> Change:
    before = sheet.separator.join(row.raw)
    return Change(row.line, sheet.get(row, "name"), "", before, "", "dropped", "high", (), "", f"Stray row: {reason}.")


def _empty(sheet: Sheet, value: Value) -> Change:
    """The change of a value that is no number and no date that a number becomes."""
    if value.kind == "words":
        reason, action, confidence = f"'{value.text}' is a judgement in words, no number: missing.", "emptied", "high"
    else:
        reason = f"'{value.text}' is neither a number nor a date that a number becomes: missing until a person decides."
        action, confidence = "unreadable", "low"
    return _change(sheet, value, "", action, confidence, "", reason)  # type: ignore[arg-type]


def _repair_date(
    sheet: Sheet, values: Sequence[Value], known: Sequence[int], index: int, comma: bool, accept_likely: bool
) -> Change:
    value = values[index]
    is_count = value.text.isdecimal()  # of days; it may as well be a number in another unit, so a person decides
    if len(value.readings) == 1 and not is_count:
        return _take_only_reading(sheet, value, comma)
    inside = [reading for reading in value.readings if value.normal and value.normal.contains(reading.value)]
    texts = " or ".join(_write(reading.text, comma) for reading in value.readings)
    if len(inside) == 1 and not is_count:
        text = _write(inside[0].text, comma)
        reason = f"{inside[0].reason.capitalize()} of {texts}: only {text} lies inside the normal range."
        return _change(sheet, value, text, "repaired", "medium", "", reason)
    place = (
        "there is no normal range that can be read" if value.normal is None
        else "none lies inside the normal range" if not inside
        else "only one lies inside the normal range" if len(inside) == 1
        else f"{len(inside)} lie inside the normal range"
    )  # fmt: skip
    likelier, why = choose_likelier(inside or value.readings, values, known, index)
    text = _write(likelier.text, comma)
    reason = f"{texts}: {place}. Likelier {text}: {why}."
    if is_count:
        reason = f"{value.text} is how a spreadsheet counts a day, or a number in another unit. {reason}"
    if accept_likely:
        return _change(sheet, value, text, "likely", "low", text, reason)
    return _change(sheet, value, "", "ambiguous", "low", text, reason)


def _take_only_reading(sheet: Sheet, value: Value, comma: bool) -> Change:
    """The change of a date that only one number becomes, whether it is normal or not."""
    (reading,) = value.readings
    text = _write(reading.text, comma)
    normal = value.normal
    place = (
        "no normal range to compare it with" if normal is None
        else "inside the normal range" if normal.contains(reading.value)
        else "outside the normal range, but there is no other reading"
    )  # fmt: skip
    confidence: Confidence = "high"
    sentence = f"{reading.reason.capitalize()} of {text}, the only reading; {place}."
    if reading.reason == "month and year" and int(reading.text.partition(".")[2]) in range(1, 13):
        confidence = "medium"
        sentence += " A spreadsheet would rather have taken it for a day and a month."
    return _change(sheet, value, text, "repaired", confidence, "", sentence)


def choose_likelier(
    readings: Sequence[Reading], values: Sequence[Value], known: Sequence[int], index: int
) -> tuple[Reading, str]:
    """The reading whose decimals are most like those of its neighbours, and why.

    Neighbours are the two nearest values above and below whose decimals are ``known``, a list of their places. In a tie, or
    without neighbours, the reading with fewer decimals: nearly every number with one decimal looks like a day and a month, of
    those with two only one in eight.
    """
    at = bisect(known, index)
    decimals = [values[place].decimals or 0 for place in known[max(0, at - NEIGHBOURS) : at + NEIGHBOURS]]
    if not decimals:
        return min(
            readings, key=lambda reading: reading.decimals
        ), "fewer decimals, and there are no neighbours to compare"
    mean = sum(decimals) / len(decimals)
    chosen = min(readings, key=lambda reading: (abs(reading.decimals - mean), reading.decimals))
    counts = ", ".join(map(str, decimals))
    return chosen, f"its neighbours have {counts} decimals"


def _change(
    sheet: Sheet, value: Value, after: str, action: Action, confidence: Confidence, likelier: str, reason: str
) -> Change:
    row = value.row
    readings = tuple(reading.text for reading in value.readings)
    name, normal = sheet.get(row, "name"), sheet.get(row, "range")
    return Change(row.line, name, normal, value.text, after, action, confidence, readings, likelier, reason)


def _write(text: str, comma: bool) -> str:
    return text.replace(".", ",") if comma else text


def _note_ranges(sheet: Sheet, values: Sequence[Value]) -> list[str]:
    """A sentence for each normal range that is there and cannot be read, or is a thousand times as high or low as its value."""
    notes = []
    for value in values:
        text = sheet.get(value.row, "range")
        if text and value.normal is None:
            name = sheet.get(value.row, "name")
            date = ", which looks like a date itself" if read_date(text) is not None else ""
            notes.append(f"Line {value.row.line}, {name}: the normal range '{text}'{date} cannot be read.")
        elif value.number is not None and value.normal is not None and _differs_by_thousand(value.number, value.normal):
            name = sheet.get(value.row, "name")
            notes.append(
                f"Line {value.row.line}, {name}: the value '{value.text}' and the normal range '{text}' differ by a factor of "
                "1000: does a comma or point in one of them separate thousands, and in the other decimals?"
            )
    if "range" not in sheet.columns:
        notes.append("The table has no column of normal ranges: no reading can be preferred by them.")
    return notes


def _differs_by_thousand(number: float, normal: NormalRange) -> bool:
    """Whether ``number`` would be normal a thousand times as large or small, in a range with two bounds."""
    if normal.contains(number) or not (math.isfinite(normal.low) and math.isfinite(normal.high)):
        return False
    return normal.contains(1000 * number) or normal.contains(number / 1000)
