"""Numbers and normal ranges of laboratory reports, as German and English ones write them."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

_NUMBER = r"[+\-−]?\s?\d+(?:[.,]\d+)*"
_MARKS = r"\s*[+\-*!HL↑↓]*"  # behind a value that lies outside its range
_DASH = r"(?:-|–|—|−|\.\.\.|…|bis|to)"
_UNIT = rf"(?:\s*(?:%|[^\W\d_])(?!.*\d\s*{_DASH}\s*\d)[^<>≤≥]*)?"  # anything but a second range: ml/min/1,73 m²
_BETWEEN = re.compile(rf"(?:von\s+|from\s+)?({_NUMBER})\s*{_DASH}\s*({_NUMBER}){_UNIT}", re.IGNORECASE)
_ABOVE = re.compile(rf"(>=|≥|>|ab|über|mindestens|above|over)\s*({_NUMBER}){_UNIT}", re.IGNORECASE)
_BELOW = re.compile(rf"(<=|≤|<|bis\s+zu|bis|unter|höchstens|up\s+to|below|under)\s*({_NUMBER}){_UNIT}", re.IGNORECASE)
_STRICT = ("<", ">", "unter", "über", "below", "under", "above", "over")


class Number(NamedTuple):
    """A number and how many decimals it was written with."""

    value: float
    decimals: int


class NormalRange(NamedTuple):
    """A normal range; a side that is open is infinite.

    Attributes:
        low: Lowest normal value.
        high: Highest normal value.
        is_strict: Whether the bounds themselves are not normal, as in ``< 5``.
    """

    low: float
    high: float
    is_strict: bool = False

    def contains(self, value: float) -> bool:
        """Whether ``value`` is normal; NaN never is."""
        return self.low < value < self.high if self.is_strict else self.low <= value <= self.high


def uses_comma(texts: list[str]) -> bool:
    """Whether the numbers in ``texts`` are written with a decimal comma more often than with a point."""
    joined = "\n".join(texts)
    return len(re.findall(r"\d,\d", joined)) > len(re.findall(r"\d\.\d", joined))


def parse_number(text: str, comma: bool) -> Number | None:
    """The number that all of ``text`` is; None where it is none.

    Args:
        text: ``4.28``, ``4,28``, ``-2``, ``1.234,5``, ``151 H`` (marked as too high).
        comma: Whether the table writes decimals with a comma: a point before three digits then separates thousands, and the
            other way round. Where both are there, the last one separates the decimals; no number of thousands begins with 0.
    """
    match = re.fullmatch(rf"({_NUMBER}){_MARKS}", text.strip())
    if match is None or re.fullmatch(r"\d\s*[+-]+", text.strip()):  # 2+ is a degree, as of protein in urine
        return None
    digits = match[1].replace("−", "-").replace(" ", "")
    if "," in digits and "." in digits:  # the last of both separates the decimals, whatever the table's others do
        comma = digits.rindex(",") > digits.rindex(".")
    decimal, thousands = (",", ".") if comma else (".", ",")
    if re.fullmatch(rf"[+-]?[1-9]\d{{0,2}}(?:\{thousands}\d{{3}})+(?:\{decimal}\d+)?", digits):
        digits = digits.replace(thousands, "")
    elif re.fullmatch(r"[+-]?[1-9]\d{0,2}(?:\.\d{3}){2,}|[+-]?[1-9]\d{0,2}(?:,\d{3}){2,}", digits):
        digits = re.sub(r"[.,]", "", digits)
    digits = digits.replace(",", ".")
    if digits.count(".") > 1:
        return None
    return Number(float(digits), len(digits.partition(".")[2]))


def parse_range(text: str, comma: bool) -> NormalRange | None:
    """The normal range in ``text``: ``3.1–5.2``, ``3,1-5,2``, ``4 - 10``, ``< 5``, ``> 60``, ``bis 5``; None for anything else.

    A unit behind the numbers is passed over. Ranges that are empty, or several (for men and women), are none.
    """
    text = text.strip().strip("()[]").strip()
    if match := re.search(r"(?<!\d)0([.,])\d", text):  # 0,270-4,200: no thousands, in either bound
        comma = match[1] == ","
    if match := _BETWEEN.fullmatch(text):
        low, high = (parse_number(part, comma) for part in match.groups())
        return NormalRange(low.value, high.value) if low and high and low.value < high.value else None
    for pattern, is_upper in ((_BELOW, True), (_ABOVE, False)):
        if match := pattern.fullmatch(text):
            bound = parse_number(match[2], comma)
            if bound is None:
                return None
            sides = (-math.inf, bound.value) if is_upper else (bound.value, math.inf)
            return NormalRange(*sides, is_strict=match[1].casefold() in _STRICT)
    return None
