"""An assay's results survive being written and read, also those that older versions wrote."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medassay.core.files import write_json
from medassay.core.results import from_json, to_json
from medassay.protocols.assay.results import AssayResults

FIXTURE = Path(__file__).parents[1] / "fixtures" / "runs" / "cgan"


def saved() -> dict[str, Any]:
    """An ``assay.json`` as it was before results had types."""
    (file,) = FIXTURE.glob("eval/assay_*/assay.json")
    values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return values


def leaves(values: Any, key: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else None
    if not items:
        yield key, values
        return
    for name, value in items:
        yield from leaves(value, (*key, name))


def test_an_older_assay_is_read_with_all_its_numbers() -> None:
    values = saved()
    results: AssayResults = from_json(AssayResults, values)
    assert (results.name, results.split, results.m, results.headline) == ("cgan, seed 0", "test", 40, "classifier")
    assert (results.judged.kind, results.floor.kind) == ("generator", "floor")
    assert results.judged.encoders["pixels"].frechet.value == 202.17718864650482
    assert results.judged.class_consistency.kind == "sets"
    assert results.performance.tstr.balanced_accuracy.kind == "seeds"
    assert results.performance.tstr.balanced_accuracy.values == (0.15,)
    assert "TR+STR" not in results.performance.arms
    assert results.verdict[0].fault == "fidelity"


def test_what_an_older_assay_says_is_written_again_under_the_same_keys() -> None:
    command = ("run", "status", "protocol", "overrides")  # the writer's
    values = {key: value for key, value in saved().items() if key not in command}
    again = dict(leaves(to_json(from_json(AssayResults, values))))
    for key, value in leaves(values):
        assert again[key] == value or (value is None and math.isnan(again[key])), key


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    results = from_json(AssayResults, saved())
    write_json(tmp_path / "assay.json", to_json(results))
    written = json.loads((tmp_path / "assay.json").read_text(encoding="utf-8"))
    write_json(tmp_path / "again.json", to_json(from_json(AssayResults, written)))
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "assay.json").read_bytes()
