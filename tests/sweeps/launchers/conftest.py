"""What tests of launchers share: sweeps of jobs without torch, started through Hydra as ``train -m`` does."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn

from medassay.config.command_line import run_hydra
from medassay.sweeps import directory as directories
from medassay.sweeps.launchers import local_parallel
from medassay.sweeps.launchers.base import Task
from medassay.sweeps.launchers.local_parallel import LocalParallelLauncher
from medassay.sweeps.launchers.progress import Progress
from medassay.sweeps.launchers.serial import SerialLauncher
from medassay.sweeps.sweepers.arguments import ArgumentsSweeper


class Launched(NamedTuple):
    """What one command left.

    Attributes:
        values: what the launcher gave the sweeper for each job.
        lines: on standard output.
        err: on standard error.
        seen: what the jobs' processes have written down so far, in their order.
    """

    values: list[Any]
    lines: list[str]
    err: str
    seen: list[dict[str, Any]]

    def began(self) -> list[str]:
        """The jobs begun, by the name of their directory, as often as they were."""
        return [line["job"] for line in self.seen if line["what"] == "begins"]


Launch = Callable[..., Launched]


@pytest.fixture(scope="session", autouse=True)
def importable_jobs() -> Iterator[None]:
    """The module of the jobs can be imported here, and by the processes that take over ``sys.path``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent)
        yield


@pytest.fixture(scope="session")
def fake_jobs(importable_jobs: None) -> Any:
    """The module ``sweep_jobs``."""
    return importlib.import_module("sweep_jobs")


@pytest.fixture(scope="session")
def launch(fake_jobs: Any) -> Launch:
    """``launch(directory, "seed=0,1", ..., launcher="serial")``: a sweep of jobs without torch."""

    def run(directory: Path, *argv: str, launcher: str = "local_parallel", job: Any = None) -> Launched:
        directories.register_resolvers()
        for plugin in (SerialLauncher, LocalParallelLauncher, ArgumentsSweeper):
            Plugins.instance().register(plugin)
        values: list[Any] = []
        usual = ArgumentsSweeper.sweep

        def sweep(self: ArgumentsSweeper, arguments: list[str]) -> Any:
            returned: Sequence[JobReturn] = usual(self, arguments)
            values.extend(one.return_value for one in returned)
            return returned

        fixed = ["-m", "data=chest_phantom", "hydra/sweeper=arguments", f"hydra/launcher={launcher}"]
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            patch.setattr(ArgumentsSweeper, "sweep", sweep)
            patch.setattr(local_parallel, "PRELOAD", ["json"])  # these jobs need no more
            patch.setattr(local_parallel, "SUMMARY", "json")
            run_hydra("train", job or fake_jobs.FakeJob(), [*fixed, *argv, f"hydra.sweep.dir='{directory}'"])
        witnesses = directory / fake_jobs.WITNESSES
        seen = [json.loads(line) for line in witnesses.read_text().splitlines()] if witnesses.exists() else []
        return Launched(values, out.getvalue().splitlines(), err.getvalue(), seen)

    return run


@pytest.fixture
def handed_over(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[SerialLauncher, list[Task]]]:
    """``handed_over(directory, "seed=0,1")``: a launcher as Hydra sets it up, and the tasks that it was to run."""

    def capture(directory: Path, *argv: str) -> tuple[SerialLauncher, list[Task]]:
        found: list[tuple[SerialLauncher, list[Task]]] = []

        def run(self: SerialLauncher, tasks: Sequence[Task], progress: Progress) -> Iterator[tuple[Task, Any]]:
            found.append((self, list(tasks)))
            yield from ((task, None) for task in tasks)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SerialLauncher, "run", run)
            launch(directory, *argv, launcher="serial")
        return found[0]

    return capture
