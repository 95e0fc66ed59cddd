"""The sweep benchmark's script: its command and its table. Its numbers are for docs/results.md, not for a test."""

from __future__ import annotations

from types import ModuleType

import pytest

from medassay import config as configuration
from tests.helpers import load_script


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return load_script("sweep_benchmark")


@pytest.mark.parametrize("launcher", ["serial", "local_parallel"])
def test_both_commands_differ_in_their_launcher_alone(benchmark: ModuleType, launcher: str) -> None:
    command = benchmark.command_line(launcher, 3, 2, "somewhere")
    assert command[-2] == "seed=0,1,2"
    overrides = [argument for argument in command[3:] if not argument.startswith("seed=")]
    cfg = configuration.compose_with_hydra("train", overrides)
    assert cfg.hydra.launcher._target_.startswith(f"medassay.sweeps.launchers.{launcher}.")
    assert (cfg.trainer.max_epochs, cfg.test) == (2, False)


def test_the_ratio_is_taken_pair_by_pair(benchmark: ModuleType) -> None:
    text = benchmark.table({"serial": [100.0, 120.0, 90.0], "local_parallel": [50.0, 80.0, 50.0]}, jobs=4, epochs=12)
    assert "| serial | 100 (90 to 120) | 144 |" in text
    assert "1.80 times as fast (1.50 to 2.00)" in text
