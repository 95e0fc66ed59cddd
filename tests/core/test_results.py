"""Numbers with their uncertainty, and results as JSON and back."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest

from medassay.core.errors import CheckpointError
from medassay.core.estimate import Estimate, Kind, mean_over
from medassay.core.files import write_json
from medassay.core.results import UNWRITTEN, from_json, read_result, to_json

# --- estimates -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("bootstrap", {"low", "high", "n"}),
        ("exact", {"low", "high", "n"}),
        ("seeds", {"sd", "low", "high", "n"}),
        ("sets", {"sd", "n"}),
        ("runs", {"sd", "n"}),
        ("draws", {"sd", "n"}),
    ],
)
def test_each_kind_of_estimate_is_written_with_what_it_has_and_undefined_numbers_too(
    kind: Kind, names: set[str]
) -> None:
    full = Estimate(0.5, 0.25, 0.75, 0.125, 4, kind)
    assert full.to_json() == {
        "mean": 0.5,
        "kind": kind,
        **{name: value for name, value in (("low", 0.25), ("high", 0.75), ("sd", 0.125), ("n", 4)) if name in names},
    }
    assert Estimate(0.5, kind=kind).to_json() == {"mean": 0.5, "kind": kind, **dict.fromkeys(names)}


def test_the_values_behind_a_mean_are_written_where_there_are_some() -> None:
    assert mean_over("seeds", [1.0, 2.0]).to_json().get("values") is None
    assert Estimate(1.5, kind="seeds", values=(1.0, 2.0)).to_json()["values"] == [1.0, 2.0]


@pytest.mark.parametrize(
    "estimate",
    [
        Estimate(0.5),
        Estimate(0.5, 0.25, 0.75, n=30),
        Estimate(0.5, 0.25, 0.75, n=30, kind="exact"),
        Estimate(0.5, 0.25, 0.75, 0.125, 3, "seeds", (0.25, 0.5, 0.75)),
        Estimate(0.5, sd=0.125, n=3, kind="sets"),
        Estimate(0.5, sd=None, n=1, kind="runs"),
    ],
    ids=lambda estimate: estimate.kind,
)
def test_an_estimate_is_read_back_as_it_was_written(estimate: Estimate) -> None:
    assert Estimate.from_json(json.loads(json.dumps(estimate.to_json()))) == estimate


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"mean": 0.5, "low": 0.25, "high": 0.75}, "bootstrap"),
        ({"mean": 0.5, "sd": 0.125}, "sets"),
        ({"mean": 0.5, "sd": 0.125, "low": 0.25, "high": 0.75, "n": 3}, "seeds"),
    ],
)
def test_an_estimate_without_a_kind_tells_it_by_what_it_has(values: dict[str, Any], kind: Kind) -> None:
    found = Estimate.from_json(values)
    assert found == Estimate(0.5, *(values.get(name) for name in ("low", "high", "sd", "n")), kind=kind)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_not_known_and_null_is_nan(value: float, tmp_path: Path) -> None:
    assert Estimate(0.0).known
    assert not Estimate(value).known
    write_json(tmp_path / "x.json", Estimate(value).to_json())
    found = json.loads((tmp_path / "x.json").read_text())
    assert found["mean"] is None
    assert math.isnan(Estimate.from_json(found).value)


def test_a_mean_over_several_has_their_sample_standard_deviation_and_of_one_none() -> None:
    values = [0.5, 0.75, 0.875]
    assert mean_over("runs", values) == Estimate(
        statistics.fmean(values), sd=statistics.stdev(values), n=3, kind="runs"
    )
    assert mean_over("sets", [0.5]) == Estimate(0.5, sd=None, n=1, kind="sets")


@pytest.mark.parametrize("undefined", [math.nan, math.inf])
def test_a_mean_over_an_undefined_number_has_no_deviation(undefined: float) -> None:
    found = mean_over("sets", [0.5, undefined])
    assert not found.known
    assert found.sd is None


# --- results ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """A result within another."""

    class_name: str = field(metadata={"name": "class"})
    share: Estimate
    note: str | None = None


@dataclass(frozen=True)
class Found:
    """A result of every sort of field."""

    n: int
    loss: float
    rule: Literal["a", "b"]
    parts: list[Part]
    by_name: dict[str, list[Estimate]]
    by_class: Mapping[str, Part]
    pair: tuple[float, ...]
    best: Part | None = None
    drawn: list[int] = field(default_factory=list, metadata=UNWRITTEN)


PART = Part("a", Estimate(0.5, 0.25, 0.75, n=3), "x")
FOUND = Found(
    3, 0.25, "b", [PART, Part("b", Estimate(1.0))], {"f1": [Estimate(0.5)]}, {"k": PART}, (1.0, 2.0), PART, [1]
)


def written(result: Any, path: Path) -> Any:
    """What a file holds of a result."""
    write_json(path, to_json(result))
    return json.loads(path.read_text())


def test_a_result_is_written_by_its_fields_under_their_names_in_json(tmp_path: Path) -> None:
    part = {"class": "a", "share": PART.share.to_json(), "note": "x"}
    assert written(FOUND, tmp_path / "x.json") == {
        "n": 3,
        "loss": 0.25,
        "rule": "b",
        "parts": [part, {"class": "b", "share": Estimate(1.0).to_json(), "note": None}],
        "by_name": {"f1": [Estimate(0.5).to_json()]},
        "by_class": {"k": part},
        "pair": [1.0, 2.0],
        "best": part,
    }


def test_a_result_is_read_back_as_it_was_written_but_for_what_is_only_drawn(tmp_path: Path) -> None:
    found = from_json(Found, written(FOUND, tmp_path / "x.json"))
    assert found == Found(**{**vars(FOUND), "drawn": []})
    assert isinstance(found.pair, tuple)


def test_null_is_none_where_that_is_allowed_and_nan_where_a_number_is_expected(tmp_path: Path) -> None:
    values = written(FOUND, tmp_path / "x.json") | {"loss": None, "pair": [None, 1.0], "best": None}
    found = from_json(Found, values)
    assert math.isnan(found.loss)
    assert math.isnan(found.pair[0])
    assert found.best is None


def test_a_field_that_an_earlier_version_did_not_write_has_its_default(tmp_path: Path) -> None:
    values = written(FOUND, tmp_path / "x.json")
    del values["best"], values["parts"][0]["note"]
    found = from_json(Found, values)
    assert found.best is None
    assert found.parts[0] == Part("a", PART.share)


def test_a_result_that_lacks_a_field_without_default_is_refused_by_its_name(tmp_path: Path) -> None:
    values = written(FOUND, tmp_path / "x.json")
    del values["parts"][0]["class"]
    with pytest.raises(KeyError, match="class"):
        from_json(Found, values)


@dataclass(frozen=True)
class Nothing:
    """Why there is no part."""

    none: str


@dataclass(frozen=True)
class Either:
    """A result of one of several types."""

    part: Part | Nothing | None


@pytest.mark.parametrize("result", [Either(PART), Either(Nothing("too few images")), Either(None)], ids=repr)
def test_a_field_of_several_types_is_read_as_the_first_that_fits(result: Either, tmp_path: Path) -> None:
    assert from_json(Either, written(result, tmp_path / "x.json")) == result


class Named(NamedTuple):
    """A tuple with names, written as it likes."""

    name: str

    def to_json(self) -> dict[str, str]:
        return self._asdict()


def test_paths_keys_and_what_knows_how_to_write_itself_become_plain_values() -> None:
    values = {1: Path("a") / "b", "t": (1, "x"), "n": [Named("y")]}
    assert to_json(values) == {"1": str(Path("a") / "b"), "t": [1, "x"], "n": [{"name": "y"}]}


@dataclass(frozen=True)
class Count:
    name: str
    n: int


def test_a_result_is_read_from_its_file_with_present_values_in_the_place_of_kept_ones(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", to_json(Count("old", 3)))
    assert read_result(Count, tmp_path / "x.json", "delete it") == Count("old", 3)
    assert read_result(Count, tmp_path / "x.json", "delete it", {"name": "new"}) == Count("new", 3)


@pytest.mark.parametrize("text", ["{", "[1]", '{"name": "x"}'])
def test_a_file_that_holds_no_such_result_is_one_line_with_advice(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"x\.json cannot be read \(.*\): delete it$"):
        read_result(Count, tmp_path / "x.json", "delete it")
