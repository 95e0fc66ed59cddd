"""What a sweep leaves in its directory: every run as CSV, the ranking as markdown, one page that needs no network."""

from __future__ import annotations

import csv
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from medassay.sweeps import page as sweep_page
from medassay.sweeps.summary import Summary, summarise
from tests.helpers import load_script, make_run_config

LR, OPTIMIZER = "model.optimizer.lr", "model/optimizer"
NOT_BEGUN = "model.net.width=3: expected | at least 4"


def write(file: Path, values: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values))


def job(
    path: Path, seed: int, lr: str, optimizer: str, val: float, status: str = "done", **metrics: Any
) -> dict[str, Any]:
    """A run on disk; gives its entry in ``sweep.json``."""
    config = make_run_config(seed, {"optimizer": {"_target_": optimizer, "lr": float(lr)}})
    (path / ".hydra").mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(config), path / ".hydra" / "config.yaml")
    overrides = [f"{LR}={lr}", f"{OPTIMIZER}={optimizer}", f"seed={seed}"]
    record = {"status": status, "overrides": overrides, "seconds": 90.0, "data": {"phantom": True}}
    write(path / "run.json", record)
    write(path / "metrics.json", {"val": {"auroc": val, "accuracy": val - 0.1}, **metrics})
    rows = [{"epoch": epoch, "val/auroc": val - 0.1 / epoch, "train/loss": 1 / epoch} for epoch in (1, 2)]
    write(path / "history.json", {"rows": rows})
    return {"directory": path.name, "overrides": overrides}


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two configurations of two seeds, one job that failed before it began, a further seed, a picture of others."""
    path = tmp_path_factory.mktemp("sweeps") / "tuning"
    jobs = []
    for seed in (0, 1):
        tested = {"test": {"auroc": 0.7 + seed / 10}}
        jobs.append(job(path / f"a{seed}", seed, "1e-3", "adamw", 0.9 + seed / 100, **tested))
        jobs.append(job(path / f"b{seed}", seed, "1e-2", "sgd", 0.8))
    jobs.append({"directory": "c0", "overrides": [f"{LR}=1e-1", f"{OPTIMIZER}=sgd", "seed=0"]})
    write(path / "c0" / "run.json", {"status": "failed", "reason": NOT_BEGUN, "overrides": jobs[-1]["overrides"]})
    final = [job(path / "a2", 2, "1e-3", "adamw", 0.1, test={"auroc": 0.9})]
    write(
        path / "sweep.json",
        {"name": "tuning", "command": ["search=x", "sweep.name=tuning"], "jobs": jobs, "final_jobs": final},
    )
    return path


@pytest.fixture(scope="module")
def written(top: Path) -> list[Path]:
    return sweep_page.write_summary(summarise(top))


def text(top: Path, name: str) -> str:
    return (top / name).read_text(encoding="utf-8")


def csv_lines(top: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(text(top, "summary.csv").splitlines()))


def test_all_files_are_there(written: list[Path], top: Path) -> None:
    names = {str(file.relative_to(top)) for file in written if file.stat().st_size}
    figures = {"effect_lr", "effect_optimizer", "parallel", "curves_val_auroc", "curves_train_loss"}
    assert names == {"summary.csv", "summary.md", "sweep.html", *(f"figures/{name}.png" for name in figures)}


def test_the_csv_has_a_line_per_run_with_all_its_numbers(written: list[Path], top: Path) -> None:
    lines = [line for line in csv_lines(top) if line["row"] == "run"]
    assert [line["directory"] for line in lines] == ["a0", "b0", "a1", "b1", "c0", "a2"]
    first, failed, final = lines[0], lines[4], lines[5]
    assert first == {
        "row": "run", "group": "1", "part": "sweep", "status": "done", "model": "cnn", "data": "chest_phantom", "seed": "0",
        LR: "1e-3", OPTIMIZER: "adamw", "val/auroc": "0.9", "val/accuracy": "0.8", "test/auroc": "0.7", "seconds": "90.0",
        "directory": "a0", "reason": "",
    }  # fmt: skip
    assert [line["group"] for line in lines[:5]] == ["1", "2", "1", "2", "3"]
    assert (failed["status"], failed["val/auroc"], failed["reason"]) == ("failed", "", NOT_BEGUN)
    assert (final["part"], final["group"]) == ("final", "")


def test_the_csv_begins_with_what_a_run_was_and_the_number_that_ranks(written: list[Path], top: Path) -> None:
    heads = text(top, "summary.csv").partition("\n")[0].split(",")
    assert heads == [
        "row", "group", "part", "status", "model", "data", "seed", LR, OPTIMIZER,
        "val/auroc", "val/accuracy", "test/auroc", "seconds", "directory", "reason",
    ]  # fmt: skip


def test_the_csv_has_each_configurations_mean_and_deviation_over_its_own_seeds(written: list[Path], top: Path) -> None:
    first, deviation, second, *_ = lines = [line for line in csv_lines(top) if line["row"] != "run"]
    assert [(line["row"], line["group"]) for line in lines] == [
        ("mean", "1"), ("sd", "1"), ("mean", "2"), ("sd", "2"), ("mean", "3"), ("sd", "3"),
    ]  # fmt: skip
    assert (first["seed"], first[LR], first["model"], first["status"], first["directory"]) == (
        "0 1", "1e-3", "cnn", "", "",
    )  # fmt: skip
    assert float(first["val/auroc"]) == pytest.approx(0.905)
    assert float(deviation["val/auroc"]) == pytest.approx(0.01 / math.sqrt(2))
    assert float(second["val/auroc"]) == pytest.approx(0.8)
    assert {line["test/auroc"] for line in lines} == {""}  # which rank no configuration
    assert [line["val/auroc"] for line in lines[4:]] == ["", ""]  # nothing of it has finished


def test_the_markdown_begins_with_the_best_and_its_test(written: list[Path], top: Path) -> None:
    title, best, test = [line for line in text(top, "summary.md").splitlines() if line][:3]
    assert title == "# Sweep tuning"
    assert best == "best: model.optimizer.lr=1e-3 model/optimizer=adamw: val/auroc 0.9050 ± 0.0071, seeds 0, 1 (2 runs)"
    assert test == "test: auroc 0.8000 ± 0.1000 (3 seeds)"


def test_the_markdown_ranks_the_configurations_and_names_what_failed(written: list[Path], top: Path) -> None:
    markdown = text(top, "summary.md")
    assert "| 1 | 0.001 | adamw | 0.9050 ± 0.0071 | seeds 0, 1 (2 runs) | 0.8050 ± 0.0071 |" in markdown
    assert "| 2 | 0.01 | sgd | 0.8000 ± 0.0000 | seeds 0, 1 (2 runs) | 0.7000 ± 0.0000 |" in markdown
    assert "| sgd | 0.8000 ± 0.0000 | 2 |" in markdown
    assert "| c0 | " + NOT_BEGUN.replace("|", "\\|") + " |" in markdown


def test_the_page_asks_for_nothing_from_outside(written: list[Path], top: Path) -> None:
    page = text(top, "sweep.html").replace("http://www.w3.org", "")
    assert "http" not in page
    assert "<script" not in page
    assert not re.search(r'(src|href)="(?!data:|#|[\w-]+/")', page)


def test_the_page_marks_the_best_and_says_what_was_chosen_on_what(written: list[Path], top: Path) -> None:
    page = " ".join(text(top, "sweep.html").split())
    (best,) = re.findall(r'<tr class="best">(.*?)</tr>', page)
    assert "0.9050 ± 0.0071" in best
    assert "mean of val/auroc over the seeds (higher is better), on validation images alone" in page
    assert "The data are rendered phantoms" in page
    assert "python train.py -m search=x sweep.name=tuning" in page
    assert NOT_BEGUN in page


def test_where_the_chosen_one_alone_was_tested_the_page_says_so(written: list[Path], top: Path) -> None:
    page = text(top, "sweep.html")
    assert "The test images were looked at afterwards, for the chosen configuration only." in page
    assert "test images, 3 seeds" in page
    assert '<th scope="col">test/auroc</th>' not in page


def test_where_every_configuration_was_tested_the_page_says_so_and_the_ranking_has_their_test_numbers(
    tmp_path: Path,
) -> None:
    jobs = [
        job(tmp_path / f"{lr}_{seed}", seed, lr, "adamw", val, test={"auroc": test + seed / 10, "n": 32})
        for lr, val, test in (("1e-3", 0.9, 0.6), ("1e-2", 0.8, 0.7))
        for seed in (0, 1)
    ]
    summary = sweep_of(tmp_path, *jobs)
    sweep_page.write_summary(summary)
    page = text(tmp_path, "sweep.html")
    assert "Every configuration was tested; do not choose by these numbers." in page
    assert "for the chosen configuration only" not in page
    ranking = sweep_page.make_ranking(summary)
    shown = [dict(zip(ranking.header, row, strict=True)) for row in ranking.rows]
    assert [row["test/auroc"] for row in shown] == ["0.6500 ± 0.0707", "0.7500 ± 0.0707"]
    assert [row["val/accuracy"] for row in shown] == ["0.8000 ± 0.0000", "0.7000 ± 0.0000"]
    lines = {(line["row"], line["group"]): line["test/auroc"] for line in csv_lines(tmp_path)}
    assert float(lines["mean", "2"]) == pytest.approx(0.75)
    assert float(lines["sd", "2"]) == pytest.approx(0.1 / math.sqrt(2))


def test_where_some_configurations_were_tested_the_page_says_how_many(tmp_path: Path) -> None:
    for lr, metrics in (("1e-3", {"test": {"auroc": 0.6}}), ("1e-2", {"test": {"auroc": 0.7}}), ("1e-1", {})):
        job(tmp_path / lr, 0, lr, "adamw", 0.9, **metrics)
    sweep_page.write_summary(summarise(tmp_path))
    assert "2 of 3 configurations were tested; do not choose by these numbers." in text(tmp_path, "sweep.html")


def test_the_page_has_every_chart_inside(written: list[Path], top: Path) -> None:
    page = text(top, "sweep.html")
    assert page.count("<svg") == 5
    assert "var(--series-1" in page


def test_further_pictures_stand_in_the_page_with_their_titles(written: list[Path], top: Path, tmp_path: Path) -> None:
    summary = summarise(top)
    page = sweep_page.make_page(
        summary, {}, [("Importance of settings", top / "figures" / "parallel.png"), ("x", tmp_path / "no.png")]
    )
    assert "<h2>Importance of settings</h2>" in page
    assert page.count("data:image/png;base64,") == 1


def sweep_of(path: Path, *jobs: dict[str, Any]) -> Summary:
    write(path / "sweep.json", {"name": "s", "jobs": list(jobs), "final_jobs": []})
    return summarise(path)


def test_a_sweep_in_which_all_failed_still_has_its_report(tmp_path: Path) -> None:
    write(tmp_path / "a" / "run.json", {"status": "failed", "reason": "no data"})
    found = sweep_page.write_summary(sweep_of(tmp_path, {"directory": "a", "overrides": ["model.net.width=8"]}))
    assert [file.name for file in found] == ["summary.csv", "summary.md", "sweep.html"]
    assert "no data" in text(tmp_path, "sweep.html")


def test_a_sweep_in_which_nothing_has_begun_still_has_its_report(tmp_path: Path) -> None:
    sweep_page.write_summary(sweep_of(tmp_path, {"directory": "a", "overrides": ["seed=0"]}))
    assert "no best configuration yet" in text(tmp_path, "sweep.html")


def test_a_sweep_over_the_seed_alone_without_history_has_its_report(tmp_path: Path) -> None:
    jobs = [job(tmp_path / f"a{seed}", seed, "1e-3", "adamw", 0.9) for seed in (0, 1)]
    for seed in (0, 1):
        (tmp_path / f"a{seed}" / "history.json").unlink()
    found = sweep_page.write_summary(sweep_of(tmp_path, *jobs))
    assert [file.name for file in found] == ["summary.csv", "summary.md", "sweep.html"]


# --- from the directories alone --------------------------------------------------------------------------------------


def leaderboard(monkeypatch: pytest.MonkeyPatch, *argv: object) -> int:
    monkeypatch.setattr(sys, "argv", ["leaderboard.py", *map(str, argv)])
    code: int = load_script("leaderboard").main()
    return code


@pytest.mark.parametrize("listed", [True, False])
def test_the_leaderboard_writes_a_sweeps_summary_anew(
    listed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = [job(tmp_path / "s" / f"a{seed}", seed, "1e-3", "adamw", 0.9) for seed in (0, 1)]
    if listed:
        write(tmp_path / "s" / "sweep.json", {"name": "s", "jobs": jobs, "final_jobs": []})
    assert leaderboard(monkeypatch, tmp_path / "s", "--output", tmp_path / "board") == 0
    assert "val/auroc 0.9000 ± 0.0000" in capsys.readouterr().out
    assert {"summary.csv", "summary.md", "sweep.html"} <= {file.name for file in (tmp_path / "s").iterdir()}
    assert not (tmp_path / "board").exists()


def test_the_leaderboard_keeps_pictures_that_others_have_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job(tmp_path / "a0", 0, "1e-3", "adamw", 0.9)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "optimization_history.png").write_bytes(b"x")
    assert leaderboard(monkeypatch, tmp_path) == 0
    assert "<h2>Optimization history</h2>" in text(tmp_path, "sweep.html")


def test_a_test_number_as_metric_is_one_line_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job(tmp_path / "a0", 0, "1e-3", "adamw", 0.9)
    assert leaderboard(monkeypatch, tmp_path, "--metric", "test/auroc") == 2
    assert capsys.readouterr().err.count("\n") == 1
