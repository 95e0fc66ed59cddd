"""A sweep over the command line's values alone."""

from __future__ import annotations

from typing import Any

import pytest
from hydra.core.plugins import Plugins

from medassay.sweeps.sweepers.arguments import ArgumentsSweeper


class Launcher:
    """Remembers what it is to launch."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[list[str]], int]] = []

    def launch(self, job_overrides: list[list[str]], initial_job_idx: int) -> str:
        self.asked.append((job_overrides, initial_job_idx))
        return "returned"


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> Launcher:
    launcher = Launcher()
    monkeypatch.setattr(Plugins.instance(), "instantiate_launcher", lambda **_: launcher)
    return launcher


def sweep(*arguments: str, **of_another: Any) -> Any:
    sweeper = ArgumentsSweeper(**of_another)
    sweeper.setup(hydra_context=None, task_function=None, config=None)  # type: ignore[arg-type]
    return sweeper.sweep(list(arguments))


def test_all_combinations_are_launched_at_once(launcher: Launcher) -> None:
    assert sweep("seed=0,1", "model.net.width=2,3", "test=false") == "returned"
    jobs = [[f"seed={seed}", f"model.net.width={width}", "test=false"] for seed in (0, 1) for width in (2, 3)]
    assert launcher.asked == [(jobs, 0)]


def test_without_lists_there_is_one_job(launcher: Launcher) -> None:
    sweep("seed=5")
    assert launcher.asked == [([["seed=5"]], 0)]


def test_what_a_search_would_sweep_over_is_not_swept(launcher: Launcher) -> None:
    sweep("seed=1,2", params={"model.net.width": "8,16"}, n_trials=40, storage="sqlite:///study.db")
    assert launcher.asked == [([["seed=1"], ["seed=2"]], 0)]


@pytest.mark.parametrize(
    ("argument", "jobs"),
    [
        ("data.path='a b,c'", ["data.path='a b,c'"]),
        ("+note='x=1','y,z'", ["+note='x=1'", "+note='y,z'"]),
        ("seed=range(0,3)", ["seed=0", "seed=1", "seed=2"]),
        ("model.net.betas=[0.5,0.9]", ["model.net.betas=[0.5,0.9]"]),
        ("~callbacks.early_stopping", ["~callbacks.early_stopping"]),
        ("model=cgan,cvae", ["model=cgan", "model=cvae"]),
    ],
)
def test_every_form_of_a_value_reaches_the_jobs(argument: str, jobs: list[str], launcher: Launcher) -> None:
    sweep(argument)
    assert launcher.asked == [([[job] for job in jobs], 0)]
