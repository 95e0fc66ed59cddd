"""A search space in the words of the command line, against Optuna's own distributions."""

from __future__ import annotations

from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from medassay.core.errors import ConfigError
from medassay.sweeps.sweepers.search_space import read_search_space


@pytest.mark.parametrize(
    ("values", "distribution"),
    [
        ("choice(a, b c, 1, 1.5, true)", CategoricalDistribution(["a", "b c", 1, 1.5, True])),
        ("3,1,2", CategoricalDistribution([3, 1, 2])),
        ("sort(3,1,2)", CategoricalDistribution([1, 2, 3])),
        ("null,1", CategoricalDistribution(["null", 1])),
        ("'x, y','z'", CategoricalDistribution(["'x, y'", "'z'"])),
        ("[1,2],[3]", CategoricalDistribution(["[1,2]", "[3]"])),
        ("range(0, 10, 3)", IntDistribution(0, 9, step=3)),
        ("range(5)", IntDistribution(0, 4)),
        ("range(10, 0, -3)", IntDistribution(1, 10, step=3)),
        ("range(0, 1, 0.1)", FloatDistribution(0.0, 0.9, step=0.1)),
        ("range(1.0, 0, -0.25)", FloatDistribution(0.25, 1.0, step=0.25)),
        ("float(range(1, 3))", CategoricalDistribution([1.0, 2.0])),
        ("interval(1, 2.5)", FloatDistribution(1.0, 2.5)),
        ("int(interval(1, 4))", IntDistribution(1, 4)),
        ("tag(log, interval(1e-4, 1e-2))", FloatDistribution(1e-4, 1e-2, log=True)),
        ("tag(log, int(interval(1, 64)))", IntDistribution(1, 64, log=True)),
    ],
)
def test_every_form_of_values_is_one_distribution(values: str, distribution: Any) -> None:
    space = read_search_space([f"x={values}"])
    assert (space.distributions, space.fixed, space.deletions) == ({"x": distribution}, {}, [])


def test_a_shuffled_range_is_a_choice_among_its_numbers() -> None:
    drawn = read_search_space(["x=shuffle(range(1, 4))"]).distributions["x"]
    assert isinstance(drawn, CategoricalDistribution)
    assert sorted(drawn.choices) == [1, 2, 3]  # type: ignore[type-var]


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("x=interval(2, 1)", "low"),
        ("x=tag(log, interval(0, 1))", "log"),
        ("x=range(3, 3)", "the range is empty"),
        ("x=range(1, 5, 0)", "must not be 0"),
        ("x=glob(*)", r"cannot be drawn from; expected choice\(…\)"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line_with_its_override(override: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as raised:
        read_search_space([override])
    assert str(raised.value).startswith(f"hydra.sweeper.params: {override}: ")
    assert "\n" not in str(raised.value)


def test_a_single_value_is_fixed_wherever_it_stands() -> None:
    space = read_search_space(["x=interval(0, 1)", "y=a,b", "x=0.5", "+z='a, b'", "~w"])
    assert set(space.distributions) == {"y"}
    assert space.list_overrides({"y": "a"}) == ["y=a", "x=0.5", "+z='a, b'", "~w"]
