"""Numbers as text: the one place that formats them."""

from __future__ import annotations

import math
from typing import TypeGuard

from medassay.core.estimate import Estimate

DASH = "–"
_SPACE = "\N{NO-BREAK SPACE}"


def is_known(value: float | None) -> TypeGuard[float]:
    """Whether there is a number: not None, NaN or infinite."""
    return value is not None and math.isfinite(value)


def format_fixed(value: float | None, places: int = 3) -> str:
    """A number with so many decimals; a dash where there is none."""
    if not is_known(value):
        return DASH
    text = f"{value:.{places}f}"
    if not text.strip("-0."):
        text = text.lstrip("-")  # no minus zero
    return text.replace("-", "−")


def format_percent(share: float | None) -> str:
    """A share as whole percent; a dash where there is none."""
    return f"{format_fixed(100 * share, 0)} %" if is_known(share) else DASH


def count_decimals(value: float | None, digits: int = 3) -> int:
    """The decimals that show so many significant digits of ``value``, from 0 to 6."""
    if not is_known(value) or value == 0:
        return digits - 1
    return min(6, max(0, digits - 1 - math.floor(math.log10(abs(value)))))


def format_significant(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits, for what has no natural scale."""
    return format_fixed(value, count_decimals(value, digits))


def format_spread(estimate: Estimate, places: int | None = 3) -> str:
    """``value ± sd``, or the value alone where no deviation is known; None for three significant digits of the value."""
    places = count_decimals(estimate.value) if places is None else places
    text = format_fixed(estimate.value, places)
    return f"{text} ±{_SPACE}{format_fixed(estimate.sd, places)}" if estimate.known and is_known(estimate.sd) else text


def format_compact(value: float | None) -> str:
    """A number with four decimals, or four significant digits from 10 on: configurations often differ in the third decimal."""
    return DASH if not is_known(value) else f"{value:.4f}" if abs(value) < 10 else f"{value:.4g}"


def format_compact_spread(estimate: Estimate) -> str:
    """``value ± sd`` of :func:`format_compact` numbers, or the value alone."""
    return format_compact(estimate.value) + ("" if estimate.sd is None else f" ± {format_compact(estimate.sd)}")


def format_bounds(estimate: Estimate, places: int = 3) -> str:
    """``[low, high]`` of the interval, or nothing."""
    low, high = estimate.low, estimate.high
    return (
        f"[{format_fixed(low, places)},{_SPACE}{format_fixed(high, places)}]"
        if is_known(low) and is_known(high)
        else ""
    )


def format_with_bounds(estimate: Estimate, places: int = 3) -> str:
    """``value [low, high]``, or the value alone."""
    return f"{format_fixed(estimate.value, places)} {format_bounds(estimate, places)}".strip()


def format_percent_bounds(estimate: Estimate) -> str:
    """``[low %, high %]`` of a share's interval, or nothing; beside :func:`format_percent` of its value."""
    low, high = estimate.low, estimate.high
    return f"[{format_percent(low)},{_SPACE}{format_percent(high)}]" if is_known(low) and is_known(high) else ""


def keep_together(text: str) -> str:
    """The text with its numbers and their percent signs on one line."""
    return text.replace(" %", f"{_SPACE}%")
