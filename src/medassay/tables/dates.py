"""Which numbers a spreadsheet may have turned into a date.

A spreadsheet that expects decimal commas takes a number with a point for a date where it can: day and month if the second
part is a month (5.7 and 5.07 are 5 July: ``05. Jul``), else month and year (2.43 is February 1943: ``Feb 43``). The number of
decimals is lost for days and months up to September; a year always has two digits.
"""

from __future__ import annotations

import re
from datetime import date, timedelta
from typing import NamedTuple

_MONTHS = (
    "jan jän januar jänner january",
    "feb februar february",
    "mrz mär märz maerz mar march",
    "apr april",
    "mai may",
    "jun juni june",
    "jul juli july",
    "aug august",
    "sep sept september",
    "okt oktober oct october",
    "nov november",
    "dez dezember dec december",
)
MONTHS = {name: number for number, names in enumerate(_MONTHS, start=1) for name in names.split()}
_DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_WORD = r"([^\W\d_]+)\.?"
_DAY_MONTH = re.compile(
    rf"(\d{{1,2}})\s*[.\-/]?\s*{_WORD}(?:[\s\-/.]+(\d{{4}}|\d{{2}}))?"
)  # 05. Jul, 5-Jul, 5. Juli 2023
_MONTH_NUMBER = re.compile(rf"{_WORD}\s*[\-/'’]?\s*(\d{{4}}|\d{{1,2}})")  # Feb 43, Feb-43, Februar 1943, Jul 5
_MONTH_DAY_YEAR = re.compile(rf"{_WORD}\s+(\d{{1,2}}),\s*(\d{{4}})")  # Jul 5, 2023
_DOTS = re.compile(r"(\d{1,2})\.(\d{1,2})\.(\d{4}|\d{2})?")  # 05.07.2023, 05.07.
_ISO = re.compile(r"(\d{4})-(\d{1,2})-(\d{1,2})(?:[T ]\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?)?")
_SLASHES = re.compile(r"(\d{1,2})/(\d{1,2})/(\d{4}|\d{2})")  # day first or month first
_TYPED = range(1985, 2030)  # a day and a month get the year in which they were typed
_YEARS = range(1930, 2050)  # two digits of a year mean one of these: up to 2029 or 2049, as the spreadsheet is set up
_EPOCH = date(1899, 12, 30)  # day 0 of a spreadsheet's count
SERIALS = range(10959, 54789)  # days of that count, 1930 to 2049


class Reading(NamedTuple):
    """A number that may have become the date: ``text`` with a point, and why."""

    text: str
    reason: str

    @property
    def value(self) -> float:
        return float(self.text)

    @property
    def decimals(self) -> int:
        return len(self.text.partition(".")[2])


def read_date(text: str) -> list[Reading] | None:
    """The numbers that a spreadsheet shows as the date ``text``, most decimals last; None where it is no date.

    An empty list is a date that no number becomes.
    """
    text = re.sub(r"\s+", " ", text.strip())
    if match := _DAY_MONTH.fullmatch(text):
        day, month, year = int(match[1]), MONTHS.get(match[2].casefold()), match[3]
        return _of_day(day, month, year)
    if match := _MONTH_DAY_YEAR.fullmatch(text):
        return _of_day(int(match[2]), MONTHS.get(match[1].casefold()), match[3])
    if match := _MONTH_NUMBER.fullmatch(text):
        month = MONTHS.get(match[1].casefold())
        if month is None or len(match[2]) == 1:
            return _of_day(int(match[2]), month, None)
        return _of_month(month, match[2])
    if match := _DOTS.fullmatch(text):
        return _of_day(int(match[1]), int(match[2]), match[3])
    if match := _ISO.fullmatch(text):
        return _of_day(int(match[3]), int(match[2]), match[1])
    if match := _SLASHES.fullmatch(text):
        orders = [
            _of_day(int(day), int(month), match[3]) for day, month in ((match[1], match[2]), (match[2], match[1]))
        ]
        found = [reading for readings in orders for reading in readings or []]
        return None if orders == [None, None] else list({reading.text: reading for reading in found}.values())
    return None


def read_serial(days: int) -> list[Reading]:
    """The numbers that a spreadsheet saves as the day ``days`` of its count, one of ``SERIALS``: 45112 is 5 July 2023."""
    day = _EPOCH + timedelta(days=days)
    return _of_day(day.day, day.month, str(day.year)) or []


def _of_day(day: int, month: int | None, year: str | None) -> list[Reading] | None:
    """Readings of a day and a month; of the first of a month, where there is a year, those of month and year, too."""
    if month is None or not 1 <= month <= 12 or not 1 <= day <= _DAYS[month - 1]:
        return None
    reason = "day and month"
    readings = [Reading(f"{day}.{month}", reason)] + [Reading(f"{day}.0{month}", reason)] * (month < 10)
    if year is None:
        return readings
    full = _complete_year(year)
    if full not in _TYPED:
        readings = []
    if day == 1 and full % 100 not in range(1, 13):
        readings += _of_month(month, str(full))
    return readings


def _of_month(month: int, year: str) -> list[Reading]:
    """The reading of a month and a year: one, as the year has two digits."""
    if _complete_year(year) not in _YEARS:
        return []
    return [Reading(f"{month}.{year[-2:]}", "month and year")]


def _complete_year(year: str) -> int:
    """The year that a spreadsheet takes ``year`` for: 30 to 99 are the last century's."""
    number = int(year)
    return number if len(year) == 4 else number + (1900 if number >= 30 else 2000)
