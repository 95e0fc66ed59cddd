"""The table of runs as comma-separated values."""

from __future__ import annotations

import csv
import io
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medassay.core.estimate import Estimate
from medassay.runs.csv_view import format_runs_as_csv
from medassay.runs.groups import group_over_seeds
from medassay.runs.table import RunRow


def row_of(path: str, seed: int, lr: str = "1e-3", status: str = "done", **values: float) -> RunRow:
    """A run with numbers of validation images."""
    return RunRow(
        Path("sweep") / path,
        status,
        "pneumonia_cnn",
        "pneumoniamnist",
        seed,
        lr,
        {f"val/{name}": value for name, value in values.items()},
        {"model.lr": lr, "seed": str(seed)},
        seconds=1.5,
    )


ROWS = [
    row_of("a", 0, loss=0.5, accuracy=0.75),
    row_of("b", 1, loss=0.25, accuracy=0.5),
    row_of("c", 0, lr="1e-2", loss=1.0, accuracy=math.inf),
]
KEYS = ["model.lr"]


def lines_of(rows: Sequence[RunRow], **options: Any) -> list[dict[str, str]]:
    """The lines by column, of the rows grouped over their seeds."""
    text = format_runs_as_csv(group_over_seeds(rows, options.get("keys", ())), rows, **options)
    return list(csv.DictReader(io.StringIO(text)))


def test_the_columns_are_what_a_run_is_its_settings_its_numbers_and_what_became_of_it() -> None:
    about = ["row", "group", "part", "status", "model", "data", "seed"]
    numbers = ["val/loss", "val/accuracy"]
    ending = ["seconds", "directory", "reason"]
    assert list(lines_of(ROWS)[0]) == [*about, *numbers, *ending]
    assert list(lines_of(ROWS, keys=KEYS, metric="val/accuracy")[0]) == [*about, *KEYS, *reversed(numbers), *ending]


def test_tags_and_notes_have_columns_where_a_run_has_some() -> None:
    tagged = replace(ROWS[1], tags=("thesis", "b"), notes="wider, same data")
    lines = lines_of([ROWS[0], tagged])
    assert [(line["tags"], line["notes"]) for line in lines[:2]] == [("", ""), ("thesis b", "wider, same data")]


def test_there_is_a_line_per_run_and_then_the_mean_and_the_deviation_of_each_group() -> None:
    lines = lines_of(ROWS)
    assert [(line["row"], line["group"], line["seed"]) for line in lines] == [
        ("run", "1", "0"),
        ("run", "1", "1"),
        ("run", "2", "0"),
        ("mean", "1", "0 1"),
        ("sd", "1", "0 1"),
        ("mean", "2", "0"),
        ("sd", "2", "0"),
    ]
    assert [line["val/loss"] for line in lines[:3]] == ["0.5", "0.25", "1.0"]
    assert float(lines[3]["val/loss"]) == 0.375
    assert float(lines[4]["val/loss"]) == pytest.approx(math.sqrt(2) / 8)
    assert {(line["model"], line["data"]) for line in lines} == {("pneumonia_cnn", "pneumoniamnist")}
    assert [line["directory"] for line in lines] == [*(str(row.path) for row in ROWS), "", "", "", ""]


def test_the_deviation_of_a_single_seed_and_a_number_that_is_not_finite_are_empty() -> None:
    mean, deviation = lines_of(ROWS)[-2:]
    assert deviation["val/loss"] == ""
    assert mean["val/accuracy"] == ""
    assert lines_of(ROWS)[2]["val/accuracy"] == ""


def test_settings_stand_in_the_lines_of_runs_and_of_groups() -> None:
    settings = [line["model.lr"] for line in lines_of(ROWS, keys=KEYS)]
    assert settings == ["1e-3", "1e-3", "1e-2", "1e-3", "1e-3", "1e-2", "1e-2"]


def test_a_setting_that_is_called_as_a_column_has_no_second_one() -> None:
    rows = [RunRow(Path(name), "waiting", seed=0, overrides={"model": name}) for name in ("cgan", "cvae")]
    text = format_runs_as_csv(group_over_seeds(rows, ["model"]), rows, keys=["model"])
    assert text.partition("\n")[0].split(",").count("model") == 1
    assert [line["model"] for line in csv.DictReader(io.StringIO(text)) if line["row"] == "run"] == ["cgan", "cvae"]


def test_a_run_that_failed_is_listed_with_its_reason_and_is_no_part_of_the_mean() -> None:
    failed = RunRow(Path("sweep/d"), "failed", seed=2, overrides={"model.lr": "1e-3"}, reason="no memory, at all")
    lines = lines_of([*ROWS, failed], keys=KEYS)
    assert (lines[3]["status"], lines[3]["reason"], lines[3]["group"]) == ("failed", "no memory, at all", "1")
    assert (lines[3]["val/loss"], lines[3]["seconds"]) == ("", "")
    assert (lines[4]["row"], lines[4]["seed"], lines[4]["val/loss"]) == ("mean", "0 1", "0.375")


def test_a_run_in_no_group_is_listed_with_what_it_was_made_for() -> None:
    text = format_runs_as_csv(group_over_seeds(ROWS[:2]), ROWS, parts={ROWS[0].path: "sweep", ROWS[2].path: "final"})
    runs = [line for line in csv.DictReader(io.StringIO(text)) if line["row"] == "run"]
    assert [(run["group"], run["part"]) for run in runs] == [("1", "sweep"), ("1", ""), ("", "final")]


def test_directories_below_the_top_are_given_relative_to_it_and_others_as_they_are() -> None:
    elsewhere = RunRow(Path("other/e"), "waiting")
    lines = lines_of([ROWS[0], elsewhere], top=Path("sweep"))
    assert [line["directory"] for line in lines[:2]] == ["a", str(Path("other/e"))]


def test_what_a_group_has_beside_its_mean_follows_it_with_both_bounds_and_numbers_of_its_own() -> None:
    ensemble = {"val/loss": Estimate(0.125, 0.0625, 0.25), "val/own": Estimate(3.0)}
    lines = [line for line in lines_of(ROWS, further=[{"ensemble": ensemble}, {}]) if line["row"] != "run"]
    assert [(line["row"], line["group"], line["seed"]) for line in lines] == [
        ("mean", "1", "0 1"),
        ("sd", "1", "0 1"),
        ("ensemble", "1", "0 1"),
        ("ensemble low", "1", "0 1"),
        ("ensemble high", "1", "0 1"),
        ("mean", "2", "0"),
        ("sd", "2", "0"),
    ]
    assert [line["val/loss"] for line in lines[2:5]] == ["0.125", "0.0625", "0.25"]
    assert [line["val/own"] for line in lines] == ["", "", "3.0", "", "", "", ""]


def test_the_table_needs_no_torch() -> None:
    code = "import sys, medassay.runs.csv_view; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
