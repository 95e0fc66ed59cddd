"""Numbers as text: the one place that formats them."""

from __future__ import annotations

import math
from typing import TypeGuard

from medassay.core.estimate import Estimate

DASH = "–"
_SPACE = "\N{NO-BREAK SPACE}"


def known(value: float | None) -> TypeGuard[float]:
    """Whether there is a number: not None, NaN or infinite."""
    return value is not None and math.isfinite(value)


def fixed(value: float | None, places: int = 3) -> str:
    """A number with so many decimals; a dash where there is none."""
    if not known(value):
        return DASH
    text = f"{value:.{places}f}"
    if not text.strip("-0."):
        text = text.lstrip("-")  # no minus zero
    return text.replace("-", "−")


def decimals(value: float | None, digits: int = 3) -> int:
    """The decimals that show so many significant digits of ``value``, from 0 to 6."""
    if not known(value) or value == 0:
        return digits - 1
    return min(6, max(0, digits - 1 - math.floor(math.log10(abs(value)))))


def significant(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits, for what has no natural scale."""
    return fixed(value, decimals(value, digits))


def spread(estimate: Estimate, places: int | None = 3) -> str:
    """``value ± sd``, or the value alone where no deviation is known; None for three significant digits of the value."""
    places = decimals(estimate.value) if places is None else places
    text = fixed(estimate.value, places)
    return f"{text} ±{_SPACE}{fixed(estimate.sd, places)}" if estimate.known and known(estimate.sd) else text


def compact(value: float | None) -> str:
    """A number with four decimals, or four significant digits from 10 on: configurations often differ in the third decimal."""
    return DASH if not known(value) else f"{value:.4f}" if abs(value) < 10 else f"{value:.4g}"


def compact_spread(estimate: Estimate) -> str:
    """``value ± sd`` of :func:`compact` numbers, or the value alone."""
    return compact(estimate.value) + ("" if estimate.sd is None else f" ± {compact(estimate.sd)}")


def bounds(estimate: Estimate, places: int = 3) -> str:
    """``[low, high]`` of the interval, or nothing."""
    low, high = estimate.low, estimate.high
    return f"[{fixed(low, places)},{_SPACE}{fixed(high, places)}]" if known(low) and known(high) else ""


def with_bounds(estimate: Estimate, places: int = 3) -> str:
    """``value [low, high]``, or the value alone."""
    return f"{fixed(estimate.value, places)} {bounds(estimate, places)}".strip()


def unbroken(text: str) -> str:
    """The text with its numbers and their percent signs on one line."""
    return text.replace(" %", f"{_SPACE}%")
