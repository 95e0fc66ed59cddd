"""The benchmark's script: what it measures, on a small scale. Its numbers are for docs/results.md, not for a test."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.helpers import load_script


@pytest.fixture
def benchmark() -> ModuleType:
    return load_script("benchmark")


def test_a_measurement_has_times_and_memory(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "VALIDATION", 80)
    found = benchmark.once(200, 100)
    assert found["threads"] == torch.get_num_threads()
    assert all(found[name] > 0 for name in found if name.endswith(", s"))
    assert found["peak memory above the baseline, MB"] > -5  # the system counts pages in batches


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux can reset the peak")
def test_the_peak_is_that_since_the_last_reset(benchmark: ModuleType) -> None:
    benchmark.reset_peak()
    before = benchmark.peak_mb()
    large = torch.ones(50_000_000)  # 200 MB
    del large
    assert benchmark.peak_mb() - before == pytest.approx(200, abs=20)
    benchmark.reset_peak()
    assert benchmark.peak_mb() - before < 100


def test_help_says_what_is_measured(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        benchmark.main()
    assert ended.value.code == 0
    assert "memory" in capsys.readouterr().out
