"""Many assays in one table: which can be compared, in which order, and how far the encoders agree."""

from __future__ import annotations

import csv
import json
import os
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from medassay.core.errors import CheckpointError
from medassay.core.results import from_json
from medassay.protocols.assay.leaderboard import find_assays, group_comparable, measure_rank_agreement
from medassay.protocols.assay.results import Metrics, Row
from tests.helpers import load_script

ENCODERS = {"classifier": "32 features", "pixels": "64 principal components"}
METRICS = [field.name for field in fields(Metrics)]


def row(kind: str, *, frechet: float = 1.0, pixels: float = 1.0, sd: float | None = None) -> dict[str, Any]:
    def values(value: float) -> dict[str, Any]:
        return {name: {"mean": value, "sd": sd} for name in METRICS}

    return {
        "key": kind,
        "kind": kind,
        "name": kind,
        "m": 100,
        "sets": 1 if sd is None else 2,
        "encoders": {"classifier": values(frechet), "pixels": values(pixels)},
        "class_consistency": {"mean": 0.9, "sd": sd},
        "exact_copies": {"mean": 0.0, "sd": sd},
        "per_class": {name: [0.5, 0.5] for name in ("coverage", "authenticity", "frechet", "class_consistency")},
        "curves": {"alpha": [0.0, 1.0], "beta": [0.0, 1.0]},
    }


def assay(
    directory: Path, source: Path | str, *, tstr: float, m: int = 100, digest: str = "d", **numbers: float
) -> Path:
    """Writes an assay as evaluate.py leaves it, of a run directory or of a file of samples."""

    def arm(mean: float) -> dict[str, Any]:
        interval = {"mean": mean, "sd": 0.004, "low": mean - 0.01, "high": mean + 0.01, "values": [mean] * 3}
        return {
            **dict.fromkeys(("accuracy", "balanced_accuracy", "auroc"), interval),
            "recall": [mean] * 2,
            "images": 80,
        }

    ratio = {k: v / 0.9 for k, v in arm(tstr)["accuracy"].items() if k != "values"}
    results = {
        "name": f"cgan, {directory.parent.parent.name}",
        "generator": {"run": str(source), "epochs": 5} if isinstance(source, Path) else {"samples": source},
        "data": {"name": "blood_phantom"},
        "classes": ["round", "long"],
        "budget": "full",
        "real": {"digest": digest, "train": 80, "unique": 80, "val": 100, "test": 40},
        "split": "test",
        "m": m,
        "large": None,
        "encoders": ENCODERS,
        "verdict": [],
        "faults": ["missing_class"],
        "rows": [row("generator", sd=0.1, **numbers), row("floor", frechet=0.01)],
        "performance": {
            "steps": 40,
            "seeds": [0, 1, 2],
            "n": 80,
            "test": 40,
            "arms": {"TSTR": arm(tstr), "TRTR": arm(0.9)},
            "ratio": {"accuracy": ratio, "balanced_accuracy": ratio},
        },
        "seconds": {"metrics": 1.0},
        "peak_memory_mb": 100.0,
        "precision": "float64",
    }
    directory.mkdir(parents=True)
    (directory / "assay.json").write_text(json.dumps(results))
    return directory


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """Three generators' assays: two runs and a file of samples."""
    for name, tstr, frechet in (("a", 0.5, 3.0), ("b", 0.7, 2.0)):
        run = tmp_path / "cgan" / name
        run.mkdir(parents=True)
        (run / "run.json").write_text("{}")
        assay(run / "eval" / "assay_1", run, tstr=tstr, frechet=frechet, pixels=frechet)
    assay(tmp_path / "eval" / "assay_2", "samples.npz", tstr=0.6, frechet=1.0, pixels=4.0)
    return tmp_path


def test_the_best_tstr_comes_first(outputs: Path) -> None:
    (table,) = group_comparable(find_assays([outputs]))
    tstr = [a.results.performance.tstr.balanced_accuracy.value for a in table.assays]
    assert tstr == [0.7, 0.6, 0.5]


def test_images_from_elsewhere_stand_in_the_table_by_their_file(outputs: Path) -> None:
    (table,) = group_comparable(find_assays([outputs]))
    assert table.assays[1].source == "samples.npz"


def test_of_several_assays_of_a_generator_the_latest_counts(outputs: Path) -> None:
    run = outputs / "cgan" / "a"
    later = assay(run / "eval" / "assay_9", run, tstr=0.9)
    os.utime(later / "assay.json", (2e9, 2e9))
    (table,) = group_comparable(find_assays([outputs]))
    assert len(table.assays) == 3
    assert table.assays[0].path == later


def test_a_moved_run_is_still_the_same_generator(outputs: Path) -> None:
    run = outputs / "cgan" / "a"
    assay(run / "eval" / "assay_9", outputs / "where" / "it" / "was", tstr=0.9)
    assert len(find_assays([outputs])) == 3


def test_assays_of_several_runs_in_a_folder_of_their_own_stay_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ``evaluate.py 'run=[a,b]' eval_dir=judged`` leaves them."""
    for place, name in enumerate("abc"):
        assay(tmp_path / "judged" / f"assay_{place}", tmp_path / "runs" / name, tstr=0.5)
    assert sorted(one.source[-1] for one in find_assays([tmp_path / "judged"])) == ["a", "b", "c"]
    monkeypatch.chdir(tmp_path / "judged")
    assert len(find_assays(["."])) == 3


@pytest.mark.parametrize("change", [{"m": 50}, {"digest": "other images"}])
def test_assays_that_cannot_be_compared_stand_in_tables_of_their_own(outputs: Path, change: dict[str, Any]) -> None:
    run = outputs / "cgan" / "c"
    assay(run / "eval" / "assay_1", run, tstr=0.99, **change)
    assert [len(table.assays) for table in group_comparable(find_assays([outputs]))] == [3, 1]


def test_kendalls_tau_counts_pairs_ranked_alike(outputs: Path) -> None:
    # classifier: b 2, samples 1, a 3; pixels: b 2, samples 4, a 3: of three pairs one is ranked alike
    (table,) = group_comparable(find_assays([outputs]))
    assert table.agreement["frechet"] == {"classifier, pixels": pytest.approx((1 - 2) / 3)}


def test_a_single_generator_has_no_agreement() -> None:
    assert measure_rank_agreement([from_json(Row, row("generator"))]) == {}


def test_no_assay_is_one_line_with_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no assay in .*evaluate\.py run="):
        find_assays([tmp_path])


def test_a_path_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="missing does not exist"):
        find_assays([tmp_path / "missing"])


def test_an_unreadable_assay_is_named(outputs: Path) -> None:
    file = outputs / "eval" / "assay_2" / "assay.json"
    file.write_text("{}")
    with pytest.raises(CheckpointError, match="assay_2"):
        find_assays([outputs])


# --- the script ------------------------------------------------------------------------------------------------------


def leaderboard(monkeypatch: pytest.MonkeyPatch, *argv: object) -> int:
    monkeypatch.setattr(sys, "argv", ["leaderboard.py", *map(str, argv)])
    code: int = load_script("leaderboard").main()
    return code


def test_the_leaderboard_is_written_as_html_csv_and_markdown(
    outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert leaderboard(monkeypatch, outputs, "--output", tmp_path / "board") == 0
    printed = capsys.readouterr().out
    markdown = (tmp_path / "board" / "leaderboard.md").read_text()
    html = (tmp_path / "board" / "leaderboard.html").read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert markdown.strip() == printed.strip()
    assert "0.700 [0.690, 0.710]" in markdown
    assert "missing class" in markdown
    assert "Copies were not looked for in turned forms: cgan, " in markdown
    assert "0.700 [0.690, 0.710]" in html
    assert "−0.33" in html
    assert "http" not in html.replace("http://www.w3.org", "")
    with (tmp_path / "board" / "leaderboard.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert [(line["generator"], line["encoder"], line["frechet"]) for line in lines[:2]] == [
        ("cgan, b", "classifier", "2.0"),
        ("cgan, b", "pixels", "2.0"),
    ]
    assert lines[0]["frechet_sd"] == "0.1"


def test_nothing_is_said_of_turned_forms_where_all_assays_looked_at_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = assay(tmp_path / "a" / "eval" / "assay_1", tmp_path / "a", tstr=0.7) / "assay.json"
    results = json.loads(file.read_text())
    results["rows"][0]["exact_copies_turned"] = {"mean": 0.0, "sd": None}
    file.write_text(json.dumps(results))
    assert leaderboard(monkeypatch, tmp_path, "--output", tmp_path) == 0
    assert "turned forms" not in capsys.readouterr().out


def test_a_leaderboard_of_nothing_is_one_line_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert leaderboard(monkeypatch, tmp_path, "--output", tmp_path) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.glob("leaderboard.*"))
