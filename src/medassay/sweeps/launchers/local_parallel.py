"""Several jobs at a time on this machine, a fresh process each, its cores and GPUs divided among them."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medassay.core.errors import ConfigError
from medassay.core.machine import cores
from medassay.runs.directory import RunDirectory
from medassay.sweeps.launchers.base import SweepLauncher, Task, positive, record_end
from medassay.sweeps.launchers.process import payload
from medassay.sweeps.launchers.progress import Progress

PATIENCE = 30.0  # seconds that an interrupted job has to record that it was


@dataclass(frozen=True)
class Slot:
    """A place for one job at a time.

    Attributes:
        threads: of the job.
        gpu: the one it sees; None leaves the choice to the job, an empty text hides all.
    """

    threads: int
    gpu: str | None


@dataclass
class Running:
    """A job in its process."""

    task: Task
    slot: Slot
    process: subprocess.Popen[bytes]
    result: Path


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
        self.jobs = None if jobs is None else positive("jobs", jobs)
        self.threads = None if threads is None else positive("threads", threads)
        self.gpus = None if gpus is None else list(gpus)
        self.jobs_per_gpu = positive("jobs_per_gpu", jobs_per_gpu)

    def run(self, tasks: Sequence[Task], progress: Progress) -> Iterator[tuple[Task, Any]]:
        """See :class:`SweepLauncher`."""
        if not tasks:
            return
        waiting, running = list(tasks), list[Running]()
        free = slots(visible_gpus(), cores(), self.jobs, self.threads, self.gpus, self.jobs_per_gpu)
        with tempfile.TemporaryDirectory(prefix="medassay-") as folder:
            try:
                while waiting or running:
                    while waiting and free:
                        running.append(self._start(waiting.pop(0), free.pop(0), Path(folder)))
                    for job in [job for job in running if job.process.poll() is not None]:
                        running.remove(job)
                        free.append(job.slot)
                        yield job.task, _result(job)
                    for job in running:
                        progress.at_work(job.task.name, RunDirectory(job.task.directory))
                    time.sleep(0.1)
            finally:
                _stop(running)

    def _start(self, task: Task, slot: Slot, folder: Path) -> Running:
        given, result = folder / f"{task.name}.job", folder / f"{task.name}.result"
        given.write_bytes(payload(self.hydra_context, self.task_function, task))
        task.directory.mkdir(parents=True, exist_ok=True)
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "MEDASSAY_CORES"), str(slot.threads))
        environment = {**os.environ, **threads}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        if slot.gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = slot.gpu
        with (task.directory / "output.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "medassay.sweeps.launchers.process", str(given), str(result)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches it through this process alone, once
            )
        return Running(task, slot, process, result)


def _result(job: Running) -> Any:
    """What a job that has ended returned; None where it failed or was killed."""
    if job.process.stdin is not None:
        job.process.stdin.close()
    code = job.process.returncode
    if code == 0 and job.result.exists():
        return pickle.loads(job.result.read_bytes())
    if not job.result.exists():  # a job that fails leaves None there
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        record_end(job.task, f"its process ended with {how}; see {job.task.directory / 'output.log'}")
    return None


def _stop(running: Sequence[Running]) -> None:
    """Interrupts the jobs that still run and waits until each has recorded it."""
    for job in running:
        job.process.send_signal(signal.SIGTERM)
    last = time.monotonic() + PATIENCE
    for job in running:
        try:
            job.process.wait(max(0.0, last - time.monotonic()))
        except subprocess.TimeoutExpired:
            job.process.kill()
            job.process.wait()
        if job.process.stdin is not None:
            job.process.stdin.close()


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
