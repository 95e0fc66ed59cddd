"""Numbers as text."""

from __future__ import annotations

import math

import pytest

from medassay.core.estimate import Estimate
from medassay.reporting import numbers

SPACE = "\N{NO-BREAK SPACE}"


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_a_number_that_there_is_not_is_a_dash(value: float | None) -> None:
    assert numbers.format_fixed(value) == "–"
    assert numbers.format_significant(value) == "–"
    assert numbers.format_compact(value) == "–"
    assert numbers.format_percent(value) == "–"
    assert numbers.format_spread(Estimate.from_json({"mean": value, "sd": 0.1})) == "–"
    assert numbers.format_with_bounds(Estimate.from_json({"mean": value, "low": None, "high": None})) == "–"
    assert numbers.format_bounds(Estimate(0.5, low=value, high=1.0)) == ""
    assert numbers.format_bounds(Estimate(0.5, low=0.0, high=value)) == ""
    assert not numbers.is_known(value)


def test_a_share_is_rounded_to_whole_percent() -> None:
    assert [numbers.format_percent(share) for share in (0.0, 0.126, 1.0)] == ["0 %", "13 %", "100 %"]


def test_negative_numbers_have_a_minus_sign_and_zero_has_none() -> None:
    assert numbers.format_fixed(-0.25, 2) == "−0.25"
    assert numbers.format_fixed(-0.0001, 3) == "0.000"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234.5, "1234"),
        (28.0779, "28.1"),
        (0.35510, "0.355"),
        (-0.08134, "−0.0813"),
        (1.5e-9, "0.000000"),
        (0.0, "0.00"),
    ],
)
def test_numbers_without_a_scale_have_three_significant_digits_and_at_most_six_decimals(
    value: float, text: str
) -> None:
    assert numbers.format_significant(value) == text


def test_a_deviation_has_the_decimals_of_its_mean() -> None:
    assert numbers.format_spread(Estimate(0.5, sd=0.0123)) == f"0.500 ±{SPACE}0.012"
    assert numbers.format_spread(Estimate(28.0779, sd=0.702), None) == f"28.1 ±{SPACE}0.7"


@pytest.mark.parametrize("sd", [None, math.nan])
def test_a_mean_without_deviation_stands_alone(sd: float | None) -> None:
    assert numbers.format_spread(Estimate(0.5, sd=sd)) == "0.500"


def test_bounds_stand_in_brackets_behind_their_number() -> None:
    assert numbers.format_bounds(Estimate(0.5, -0.25, 0.75), 2) == f"[−0.25,{SPACE}0.75]"
    assert numbers.format_with_bounds(Estimate(0.5, 0.25, 0.75)) == f"0.500 [0.250,{SPACE}0.750]"
    assert numbers.format_with_bounds(Estimate(0.5)) == "0.500"


@pytest.mark.parametrize(
    ("value", "text"), [(0.12345, "0.1235"), (-0.5, "-0.5000"), (12.3456, "12.35"), (0.0, "0.0000")]
)
def test_a_compact_number_has_four_decimals_and_from_10_on_four_significant_digits(value: float, text: str) -> None:
    assert numbers.format_compact(value) == text


def test_a_compact_deviation_stands_behind_its_mean_where_there_is_one() -> None:
    assert numbers.format_compact_spread(Estimate(0.5, sd=0.01)) == "0.5000 ± 0.0100"
    assert numbers.format_compact_spread(Estimate(0.5)) == "0.5000"


def test_a_percent_sign_stays_on_the_line_of_its_number() -> None:
    assert numbers.keep_together("80 % of them") == f"80{SPACE}% of them"


def test_bounds_in_percent_stand_behind_a_share_in_percent() -> None:
    assert numbers.format_percent_bounds(Estimate(0.716, 0.57, 0.849)) == f"[57 %,{SPACE}85 %]"
    assert numbers.format_percent_bounds(Estimate(0.7)) == ""
