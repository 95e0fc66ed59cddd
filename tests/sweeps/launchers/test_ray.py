"""Jobs through Ray: one that the launcher starts and ends, and one that it joins."""

from __future__ import annotations

import importlib.util
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from medassay.core.errors import ConfigError
from medassay.sweeps.launchers.ray import RayLauncher, choose_gpus, find_lacking, refuse_silent

from .cluster_job import DIES, FAILS, FINISHED_BEFORE, GOES_WELL, TAKES_LONG, interrupt_once, run_of, start


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path, str]]:
    """The home and the sweep of a command with a Ray of its own, and what it said. Temporary files are in ``home/tmp``."""
    directory = tmp_path_factory.mktemp("own") / "sweep"
    with tempfile.TemporaryDirectory(dir="/tmp") as short:  # sockets have no room for pytest's long names
        home, temporary = Path(short) / "home", Path(short) / "tmp"
        home.mkdir()
        temporary.mkdir()
        seeds = (GOES_WELL, FAILS, DIES, FINISHED_BEFORE)
        command = start(directory, seeds, "hydra/launcher=ray", HOME=str(home), TMPDIR=str(temporary))
        said, _ = command.communicate()
        yield Path(short), directory, said


def test_a_job_that_goes_well_says_its_result(own: tuple[Path, Path, str]) -> None:
    assert re.search(r"done in \d+ s, 0\.0000$", own[2], re.MULTILINE)


def test_ray_itself_says_nothing(own: tuple[Path, Path, str]) -> None:
    assert [line for line in own[2].splitlines() if not line.startswith(("[", "1 of 4 jobs were finished"))] == []


def test_a_job_has_the_threads_that_are_its_cores(own: tuple[Path, Path, str]) -> None:
    assert run_of(own[1], GOES_WELL)["threads"] == "1"


def test_a_job_that_raises_is_failed_with_its_reason(own: tuple[Path, Path, str]) -> None:
    assert run_of(own[1], FAILS)["reason"] == "ValueError: no such luck"


def test_a_job_that_is_killed_is_failed_and_names_its_log(own: tuple[Path, Path, str]) -> None:
    record = run_of(own[1], DIES)
    assert record["status"] == "failed"
    assert "its process ended with signal 9; see" in record["reason"]


def test_a_finished_job_is_not_started(own: tuple[Path, Path, str]) -> None:
    assert run_of(own[1], FINISHED_BEFORE) == {}


def test_nothing_is_left_in_the_home_directory(own: tuple[Path, Path, str]) -> None:
    assert list((own[0] / "home").rglob("*")) == []


def test_nothing_is_left_among_the_temporary_files(own: tuple[Path, Path, str]) -> None:
    assert list((own[0] / "tmp").iterdir()) == []


# --- a Ray that is there ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a Ray with one core."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        head = subprocess.Popen(
            [
                *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}"),
                *("--num-cpus=1", "--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={short}"),
            ],
            env={**os.environ, "HOME": short},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert head.stdout is not None
        assert any("Ray runtime started" in line for line in head.stdout)
        yield f"127.0.0.1:{port}"
        head.terminate()
        head.communicate()


@pytest.fixture(scope="module")
def joined(address: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a sweep on that Ray, interrupted while its last job ran."""
    directory = tmp_path_factory.mktemp("joined")
    joining = ("hydra/launcher=ray", f"hydra.launcher.address='{address}'", "hydra.launcher.cpus_per_job=0.5")
    command = start(directory, [GOES_WELL, FAILS, TAKES_LONG], *joining, HOME=str(directory))
    interrupt_once(command, directory, (GOES_WELL, "done"), (FAILS, "failed"), (TAKES_LONG, "running"))
    return directory


@pytest.mark.long
def test_jobs_run_on_a_ray_that_is_joined(joined: Path) -> None:
    assert run_of(joined, GOES_WELL)["status"] == "done"


@pytest.mark.long
def test_an_interrupted_sweep_leaves_interrupted_jobs(joined: Path) -> None:
    record = run_of(joined, TAKES_LONG)
    assert record["status"] == "interrupted", [record, *(file.read_text() for file in joined.glob("*/*.log"))]


# --- room ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("present", "asked", "gpus"),
    [({"CPU": 4.0}, None, 0.0), ({"CPU": 4.0, "GPU": 2.0}, None, 1.0), ({"CPU": 4.0, "GPU": 2.0}, 0.25, 0.25)],
)
def test_a_job_gets_one_gpu_where_there_are_any_unless_told(
    present: dict[str, float], asked: float | None, gpus: float
) -> None:
    assert choose_gpus(present, asked) == gpus


def test_more_than_there_is_is_named() -> None:
    assert find_lacking({"CPU": 4.0}, 1, 1.0) == "hydra.launcher.gpus_per_job=1: this Ray has 0"
    assert find_lacking({"CPU": 4.0}, 8, 0.0) == "hydra.launcher.cpus_per_job=8: this Ray has 4"


def test_what_there_is_is_enough() -> None:
    assert find_lacking({"CPU": 4.0, "GPU": 1.0}, 4, 0.25) is None


# --- errors ----------------------------------------------------------------------------------------------------------


def set_up(launcher: Any) -> None:
    launcher.setup(hydra_context=None, task_function=None, config=None)


def test_without_ray_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs ray: pip install 'medassay\[ray\]'"):
        set_up(RayLauncher())


def test_an_address_where_nothing_listens_is_refused_at_once() -> None:
    with pytest.raises(OSError, match="refused"):
        refuse_silent("127.0.0.1:1")


@pytest.mark.parametrize(("key", "value"), [("cpus_per_job", 0), ("gpus_per_job", -1), ("gpus_per_job", "half")])
def test_a_wrong_setting_is_named(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"hydra.launcher.{key}={value}: "):
        set_up(RayLauncher(**{key: value}))
