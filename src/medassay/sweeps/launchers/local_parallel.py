"""Several jobs at a time on this machine, a process each, its cores and GPUs divided among them."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
from collections.abc import Generator, Sequence
from contextlib import closing
from typing import Any

from medassay.core.errors import ConfigError
from medassay.core.machine import count_cores
from medassay.core.processes import FIRST_USED, Place, run_in_processes
from medassay.sweeps.launchers.base import SweepLauncher, Task
from medassay.sweeps.launchers.process import make_call, read_result
from medassay.sweeps.launchers.progress import Progress

# What a job imports sooner or later; its own modules are a few milliseconds more
PRELOAD = ("medassay.runs.train", "medassay.evaluation.evaluate", "medassay.tasks.classification", *FIRST_USED)

SUMMARY = "medassay.sweeps.page"  # what the sweep's own process needs in the end: four seconds of imports


class LocalParallelLauncher(SweepLauncher):
    """Runs jobs in processes of their own.

    Args:
        jobs: Number of jobs that run at the same time; None for as many as the GPUs have places, without GPUs as many as
            there are cores.
        threads: Number of threads of each job; None divides the cores among the jobs.
        gpus: The GPUs to use, by number; None for all there are, an empty list for none.
        jobs_per_gpu: Number of jobs that share a GPU.
        fork: Whether the jobs' processes are forked from one that has imported torch, which saves each about five seconds of a
            core; otherwise, and where the system cannot (macOS, Windows), each is a fresh interpreter.
    """

    def __init__(
        self,
        jobs: int | None = None,
        threads: int | None = None,
        gpus: Sequence[int] | None = None,
        jobs_per_gpu: int = 1,
        fork: bool = True,
    ) -> None:
        self.jobs = None if jobs is None else _check_positive("jobs", jobs)
        self.threads = None if threads is None else _check_positive("threads", threads)
        self.gpus = None if gpus is None else list(gpus)
        self.jobs_per_gpu = _check_positive("jobs_per_gpu", jobs_per_gpu)
        self.fork = fork

    def run(self, tasks: Sequence[Task], progress: Progress) -> Generator[tuple[Task, Any], None, None]:
        """See :class:`SweepLauncher`."""
        places = list_places(list_visible_gpus(), count_cores(), self.jobs, self.threads, self.gpus, self.jobs_per_gpu)
        endings = run_in_processes(
            tasks,
            places,
            lambda task: make_call(self.hydra_context, self.job, task),
            lambda task: progress.report_running(task.name, task.run),
            preload=PRELOAD if self.fork else (),
            meanwhile=lambda: importlib.import_module(SUMMARY),
        )
        with closing(endings):
            for task, ending in endings:
                yield task, read_result(task, ending)


def _check_positive(name: str, value: Any) -> int:
    """``value`` of ``hydra.launcher.<name>``; raises :class:`ConfigError` unless it is a whole number above 0."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"hydra.launcher.{name}={value}: expected a whole number of 1 or more, or null")
    return value


# --- the machine -----------------------------------------------------------------------------------------------------


def list_places(
    present: Sequence[str], cores: int, jobs: int | None, threads: int | None, gpus: Sequence[int] | None, per_gpu: int
) -> list[Place]:
    """The places for jobs on a machine with these GPUs and so many cores.

    With GPUs the first jobs go to different ones; ``jobs`` beyond their places is refused, since such jobs would fight.

    Raises:
        ConfigError: a GPU that there is not, or more jobs than GPU places.
    """
    chosen = list(present) if gpus is None else [_find_gpu(gpu, present) for gpu in gpus]
    places: list[str | None] = [gpu for _ in range(per_gpu) for gpu in chosen]
    if places and jobs is not None and jobs > len(places):
        raise ConfigError(
            f"hydra.launcher.jobs={jobs}: {len(chosen)} GPUs with {per_gpu} jobs each have {len(places)} places; raise "
            "hydra.launcher.jobs_per_gpu, or hydra.launcher.gpus=[] trains on the CPU"
        )
    hidden = "" if gpus is not None else None  # gpus: [] hides what there is
    places = places[:jobs] if places else [hidden] * (jobs or cores)
    return [Place(threads or max(1, cores // len(places)), gpu) for gpu in places]


def _find_gpu(gpu: int, present: Sequence[str]) -> str:
    if not 0 <= gpu < len(present):
        have = f"GPUs 0 to {len(present) - 1}" if present else "no GPU"
        raise ConfigError(f"hydra.launcher.gpus: there is no GPU {gpu}, this machine has {have}")
    return present[gpu]


def list_visible_gpus() -> list[str]:
    """Names of the GPUs as ``CUDA_VISIBLE_DEVICES`` takes them; without torch, which this process does not need."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1", "NoDevFiles")]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(
        ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, check=False
    )
    return listed.stdout.split() if listed.returncode == 0 else []
