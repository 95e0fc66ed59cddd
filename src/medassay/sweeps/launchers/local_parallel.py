"""Several jobs at a time on this machine, a fresh process each, its cores and GPUs divided among them."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medassay.core.errors import ConfigError
from medassay.core.machine import count_cores
from medassay.core.processes import make_environment, run_in_places
from medassay.sweeps.launchers.base import SweepLauncher, Task
from medassay.sweeps.launchers.process import make_payload, read_result, start_job
from medassay.sweeps.launchers.progress import Progress


@dataclass(frozen=True)
class Slot:
    """A place for one job at a time.

    Attributes:
        threads: of the job.
        gpu: the one it sees; None leaves the choice to the job, an empty text hides all.
    """

    threads: int
    gpu: str | None


class LocalParallelLauncher(SweepLauncher):
    """Runs jobs in processes of their own.

    Args:
        jobs: at a time; None for one per GPU place where there are GPUs, else one per core.
        threads: of each job; None for the cores divided among the jobs.
        gpus: which GPUs to use, by number; None for all there are, an empty list for none.
        jobs_per_gpu: how many jobs share one.
    """

    def __init__(
        self,
        jobs: int | None = None,
        threads: int | None = None,
        gpus: Sequence[int] | None = None,
        jobs_per_gpu: int = 1,
    ) -> None:
        self.jobs = None if jobs is None else _positive("jobs", jobs)
        self.threads = None if threads is None else _positive("threads", threads)
        self.gpus = None if gpus is None else list(gpus)
        self.jobs_per_gpu = _positive("jobs_per_gpu", jobs_per_gpu)

    def run(self, tasks: Sequence[Task], progress: Progress) -> Iterator[tuple[Task, Any]]:
        """See :class:`SweepLauncher`."""
        places = slots(visible_gpus(), count_cores(), self.jobs, self.threads, self.gpus, self.jobs_per_gpu)
        with tempfile.TemporaryDirectory(prefix="medassay-") as folder:

            def start(task: Task, slot: Slot) -> subprocess.Popen[bytes]:
                given = make_payload(self.hydra_context, self.task_function, task)
                environment = make_environment(slot.threads, slot.gpu)
                return start_job(given, task.directory, environment, Path(folder) / task.name)

            for task, code in run_in_places(
                tasks, places, start, lambda task: progress.report_running(task.name, task.run)
            ):
                result = Path(folder) / task.name
                yield task, read_result(task, code, result.read_bytes() if result.exists() else b"")


def _positive(name: str, value: Any) -> int:
    """``value`` of ``hydra.launcher.<name>``; raises :class:`ConfigError` unless it is a whole number above 0."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"hydra.launcher.{name}={value}: expected a whole number of 1 or more, or null")
    return value


# --- the machine -----------------------------------------------------------------------------------------------------


def slots(
    present: Sequence[str], cores: int, jobs: int | None, threads: int | None, gpus: Sequence[int] | None, per_gpu: int
) -> list[Slot]:
    """The places for jobs on a machine with these GPUs and so many cores.

    With GPUs the first jobs go to different ones; ``jobs`` beyond their places is refused, since such jobs would fight.

    Raises:
        ConfigError: a GPU that there is not, or more jobs than GPU places.
    """
    chosen = list(present) if gpus is None else [_named(gpu, present) for gpu in gpus]
    places: list[str | None] = [gpu for _ in range(per_gpu) for gpu in chosen]
    if places and jobs is not None and jobs > len(places):
        raise ConfigError(
            f"hydra.launcher.jobs={jobs}: {len(chosen)} GPUs with {per_gpu} jobs each have {len(places)} places; raise "
            "hydra.launcher.jobs_per_gpu, or hydra.launcher.gpus=[] trains on the CPU"
        )
    hidden = "" if gpus is not None else None  # gpus: [] hides what there is
    places = places[:jobs] if places else [hidden] * (jobs or cores)
    return [Slot(threads or max(1, cores // len(places)), gpu) for gpu in places]


def _named(gpu: int, present: Sequence[str]) -> str:
    if not 0 <= gpu < len(present):
        have = f"GPUs 0 to {len(present) - 1}" if present else "no GPU"
        raise ConfigError(f"hydra.launcher.gpus: there is no GPU {gpu}, this machine has {have}")
    return present[gpu]


def visible_gpus() -> list[str]:
    """Names of the GPUs as ``CUDA_VISIBLE_DEVICES`` takes them; without torch, which this process does not need."""
    if (given := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in given.split(",") if name.strip() not in ("", "-1", "NoDevFiles")]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(
        ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, check=False
    )
    return listed.stdout.split() if listed.returncode == 0 else []
