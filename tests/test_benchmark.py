"""The benchmark's script: what it measures, on a small scale. Its numbers are for docs/results.md, not for a test."""

from __future__ import annotations

import json
import mmap
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from medassay import config as configuration
from tests.helpers import load_script

SMALL = {"chest": 130, "chest_val": 40, "blood": 400, "blood_val": 80, "samples": 100, "drawn": 16, "epochs": 2}
SMALL |= {
    "drawn_by_diffusion": 2,
    "generator_steps": 4,
    "generator_warm_up": 1,
    "steps": 3,
    "width": 2,
    "gan_epochs": 1,
}


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    script = load_script("benchmark")
    script.SIZES.update(SMALL)
    monkeypatch.setenv("MEDASSAY_BENCHMARK_DEVICE", "cpu")
    return script


@pytest.fixture
def measure(benchmark: ModuleType) -> Any:
    return lambda part, variant: benchmark.VARIANTS[part][variant]()


def test_a_variant_is_found_by_its_name_alone(benchmark: ModuleType) -> None:
    names = [name for variants in benchmark.VARIANTS.values() for name in variants]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("lacking", [True, False])
def test_variants_in_bfloat16_are_left_out_aloud_where_it_would_be_emulated(
    benchmark: ModuleType, lacking: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("medassay.training.trainer.lacks_bfloat16", lambda _: lacking)
    chosen = benchmark.choose_variants("gan", "cpu")
    assert chosen == ["textbook loop, float32", "ours, float32", *(() if lacking else ("ours, bfloat16",))]
    assert (
        "left out, as this CPU has no instructions for bfloat16: ours, bfloat16\n" in capsys.readouterr().out
    ) is lacking
    assert benchmark.choose_variants("gan", "cuda") == list(benchmark.VARIANTS["gan"])


@pytest.mark.long
def test_all_variants_of_a_part_are_measured_in_the_same_unit(measure: Any, benchmark: ModuleType) -> None:
    skipped = ("with 2 workers", "seed 1", "seed 2")
    for part, unit in (
        ("cnn", "seconds an epoch"),
        ("gan", "ms a step"),
        ("generators", "ms a step"),
        ("precision", "Fréchet distance"),
    ):
        for variant in benchmark.choose_variants(part, "cpu"):
            if not variant.endswith(skipped):
                values = measure(part, variant)
                assert next(iter(values)) == unit
                assert all(value > 0 for value in values.values())


def test_drawing_and_metrics_have_times_rates_and_memory(measure: Any) -> None:
    for model in ("cgan", "cvae", "diffusion of its experiment"):
        drawn = measure("draw", model)
        assert drawn["images a second"] == pytest.approx(1000 / drawn["ms an image"])
    found = measure("metrics", "10,000 samples against 11,959 images")
    assert found["seconds"] > 0
    assert found["memory above the images, MB"] > -5  # the system counts pages in batches


def test_the_first_batch_is_the_first_with_several_images(benchmark: ModuleType, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, time, torch\nnet = torch.nn.Linear(2, 2)\nnet(torch.ones(1, 2))\nprint(sys.argv, flush=True)\n"
        f"open({str(tmp_path / 'reached')!r}, 'w')\nnet(torch.ones(3, 2))\nopen({str(tmp_path / 'passed')!r}, 'w')\n"
    )
    assert benchmark.time_first_batch(str(script))["seconds"] > 0
    assert (tmp_path / "reached").exists()
    assert not (tmp_path / "passed").exists()


@pytest.mark.parametrize("launcher", ["serial", "local_parallel"])
def test_both_sweeps_differ_in_their_launcher_alone(benchmark: ModuleType, launcher: str) -> None:
    command = benchmark.make_sweep_command(launcher, 1, "somewhere")
    assert "seed=0,1,2,3" in command
    overrides = [argument for argument in command[3:] if not argument.startswith("seed=")]
    cfg = configuration.compose_with_hydra("train", overrides)
    assert cfg.hydra.launcher._target_.startswith(f"medassay.sweeps.launchers.{launcher}.")
    assert (cfg.trainer.max_epochs, cfg.trainer.threads, cfg.test) == (20, 1, False)


def test_ratios_are_taken_turn_by_turn(benchmark: ModuleType) -> None:
    found = {
        "plain": [{"seconds": 100.0}, {"seconds": 120.0}, {"seconds": 90.0}],
        "fast": [{"seconds": 50.0, "MB": 1.0}, {"seconds": 80.0, "MB": 3.0}, {"seconds": 50.0, "MB": 9.0}],
    }
    lines = benchmark.make_table(found).splitlines()
    assert lines[0] == "| | seconds | times as fast | MB |"
    assert lines[2] == "| plain | 100 (90 to 120) | 1 (1 to 1) |  |"
    assert lines[3] == "| fast | 50 (50 to 80) | 1.8 (1.5 to 2) | 3 |"


def test_a_run_prints_the_machine_and_keeps_every_measurement(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(
        sys, "argv", ["benchmark.py", "start", "--repeats", "1", "--json", str(tmp_path / "found.json")]
    )
    helps = {name: run for name, run in benchmark.VARIANTS["start"].items() if "help" in name}
    monkeypatch.setitem(benchmark.VARIANTS, "start", helps)
    assert benchmark.main() == 0
    shown = capsys.readouterr().out
    assert f"torch {torch.__version__.partition('+')[0]}" in shown
    assert "threads" in shown
    kept = json.loads((tmp_path / "found.json").read_text())
    assert list(kept["parts"]["start"]) == list(helps)
    assert all(one[0]["peak memory, MB"] > 10 for one in kept["parts"]["start"].values())


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux can reset the peak")
def test_the_peak_is_that_since_the_last_reset(benchmark: ModuleType) -> None:
    benchmark.reset_peak()
    before = benchmark.read_peak()
    with mmap.mmap(-1, 200_000_000) as block:  # a tensor might lie in memory that this process has kept
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1
    assert benchmark.read_peak() - before == pytest.approx(200, abs=20)
    benchmark.reset_peak()
    assert benchmark.read_peak() - before < 100


@pytest.mark.parametrize(("argument", "code", "said"), [("--help", 0, "sweep"), ("cpu", 2, "no such part: cpu")])
def test_help_and_a_wrong_part_are_answered(
    argument: str,
    code: int,
    said: str,
    benchmark: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark.py", argument])
    with pytest.raises(SystemExit) as ended:
        benchmark.main()
    assert ended.value.code == code
    assert said in "".join(capsys.readouterr())
