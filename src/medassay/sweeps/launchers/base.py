"""What all launchers share: jobs listed in the sweep's directory, finished ones skipped, failures kept from the others.

A launcher says how jobs are run (:meth:`SweepLauncher.run`). What became of each is in its directory, so that nothing
depends on the launcher, or on the process that started it, still being there.
"""

from __future__ import annotations

import importlib.util
import inspect
import shutil
from abc import abstractmethod
from collections.abc import Generator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, cast

from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from medassay import config as configuration
from medassay.core.errors import CheckpointError, ConfigError
from medassay.runs.directory import RunDirectory
from medassay.sweeps.directory import Job, SweepDirectory
from medassay.sweeps.job import record_failure, unrecorded
from medassay.sweeps.launchers.progress import Progress


@dataclass(frozen=True)
class Task:
    """A job to run.

    Attributes:
        name: The name of its directory.
        directory: The run directory.
        config: The composed configuration, with its ``hydra`` node.
        overrides: The overrides that the sweeper gave it.
    """

    name: str
    directory: Path
    config: DictConfig
    overrides: list[str]

    @property
    def run(self) -> RunDirectory:
        return RunDirectory(self.directory)

    @property
    def log(self) -> Path:
        """The file that gets what the job's own process prints."""
        return self.directory / "output.log"

    def record_failure(self, reason: str) -> None:
        """Says why the job ended, where it had no time to say so itself."""
        record_failure(self.run, self.config, self.overrides, reason)


class SweepJob(Protocol):
    """What a launcher of sweeps is given to run, for all jobs of a sweep alike; it must be importable in other processes."""

    def __call__(self, cfg: DictConfig, /) -> Any:
        """Runs a job; gives the number that ranks it, None where there is none."""

    def is_finished(self, cfg: DictConfig, directory: Path) -> bool:
        """Whether the job in ``directory`` needs nothing more."""

    def read_value(self, cfg: DictConfig, directory: Path) -> float | None:
        """The number that ranks the finished job in ``directory``."""


class SweepLauncher(Launcher):
    """Hydra's launcher with sweeps that can be continued; see the sub-classes for where jobs run.

    Every such launcher lists its jobs in the sweep's directory, and skips those that are finished.

    Attributes:
        needs: A package that must be installed, and the extra of ours that names it; None where there is none.
        planned: Number of jobs that the sweeper will launch in all; 0 where it launches all at once.
        job: What runs a job.
    """

    needs: ClassVar[tuple[str, str] | None] = None
    planned: int = 0
    config: DictConfig
    hydra_context: HydraContext
    job: SweepJob

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        settings = {name: vars(self)[name] for name in inspect.signature(type(self)).parameters if name in vars(self)}
        configuration.check_arguments(settings, type(self), "hydra.launcher")
        if self.needs is not None and importlib.util.find_spec(self.needs[0]) is None:
            package, extra = self.needs
            raise ConfigError(f"hydra/launcher={extra} needs {package}: pip install 'medassay[{extra}]'")
        self.config, self.hydra_context, self.job = config, hydra_context, cast(SweepJob, task_function)
        self.redone: set[Path] = set()

    @abstractmethod
    def run(self, tasks: Sequence[Task], progress: Progress) -> Generator[tuple[Task, Any], None, None]:
        """Runs ``tasks`` and yields each with what it returned as soon as it has ended; None where it failed.

        Closed early, or interrupted, it stops the jobs that still run and waits until each has recorded it.
        """

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs the jobs that are not finished yet; the sweeper calls it.

        A failed job returns None instead of raising in the sweeper, which would print lines of its own and stop.
        """
        setup_globals()
        self._configure_log()
        swept = self._list_swept(job_overrides)
        tasks = [self._task(list(overrides), initial_job_idx + i, swept) for i, overrides in enumerate(job_overrides)]
        sweep = SweepDirectory(str(self.config.hydra.sweep.dir))
        sweep.add([Job(task.directory, task.overrides) for task in tasks])
        results = self._results({task.directory: task for task in tasks}, initial_job_idx)
        self._configure_log()  # a job in this process has sent messages to its own file
        return [_make_job_return(task, results[task.directory]) for task in tasks]

    def _results(self, tasks: dict[Path, Task], before: int) -> dict[Path, Any]:
        """Runs what is not finished of ``tasks`` (by directory) and gives what each returned, now or earlier.

        Args:
            tasks: The jobs.
            before: Number of jobs that the same sweeper has launched before.
        """
        force = bool(OmegaConf.select(self.config, "sweep.force", default=False))
        results: dict[Path, Any] = {}
        for directory, task in tasks.items():
            if force and directory not in self.redone and not _is_running(task.run):
                shutil.rmtree(directory, ignore_errors=True)
                self.redone.add(directory)
                continue
            with suppress(CheckpointError):  # of a damaged record: the job runs into it, alone
                if self.job.is_finished(task.config, directory):
                    results[directory] = self.job.read_value(task.config, directory)
        waiting = [task for directory, task in tasks.items() if directory not in results]
        with Progress(max(self.planned, before + len(tasks)), before, skipped=len(results)) as progress:
            if waiting:
                with closing(
                    self.run(waiting, progress)
                ) as ended:  # interrupted between two of its jobs it stops the rest
                    for task, value in ended:
                        results[task.directory] = value
                        progress.report_ended(task.name, task.run, value, unrecorded.pop(task.directory, None))
        return results

    def _configure_log(self) -> None:
        hydra = self.config.hydra
        configure_log(hydra.hydra_logging, hydra.verbose, execution_whitelist=self.hydra_context.execution_whitelist)

    def _list_swept(self, job_overrides: Sequence[Sequence[str]]) -> set[str]:
        """The keys that the sweep's jobs differ by: those worth having in the name of a directory."""
        earlier = [job.overrides for job in SweepDirectory(str(self.config.hydra.sweep.dir)).jobs()]
        jobs = [
            dict(override.partition("=")[::2] for override in overrides) for overrides in (*earlier, *job_overrides)
        ]
        differing = {key for job in jobs for key in job if any(other.get(key) != job[key] for other in jobs)}
        return differing | set(OmegaConf.select(self.config, "hydra.sweeper.params", default=None) or {})

    def _task(self, overrides: list[str], number: int, swept: set[str]) -> Task:
        config = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        top = Path(str(config.hydra.sweep.dir)).absolute()
        with open_dict(config):
            config.hydra.job.id = str(number)
            config.hydra.job.num = number
            config.hydra.sweep.dir = str(top)
            name = _name_directory(
                top, str(config.hydra.sweep.subdir), [o for o in overrides if o.partition("=")[0] in swept]
            )
            config.hydra.sweep.subdir = name  # decided here: where the job runs, the code may have changed since
        return Task(name, top / name, config, overrides)


def _is_running(run: RunDirectory) -> bool:
    """Whether a process is at the run; none is known to be where its record is damaged."""
    try:
        return run.state() == "running"
    except CheckpointError:
        return False


def _name_directory(top: Path, usual: str, swept: Sequence[str]) -> str:
    """The job's directory: the one that its hash is in already, else a name of the swept values and that hash."""
    digest = usual.rpartition("_")[2]
    present = sorted(top.glob(f"*_{digest}"))
    pairs = [override.partition("=") for override in swept]
    values = [f"{key.lstrip('+~').rpartition('.')[2]}-{_shorten(value)}" for key, _, value in pairs]
    return present[0].name if present else f"{configuration.make_slug('_'.join(values))}_{digest}" if swept else usual


def _shorten(value: str) -> str:
    """A drawn number with four significant digits: the hash tells two that look alike apart."""
    try:
        return value if len(value) < 8 else f"{float(value):.4g}"
    except ValueError:
        return value


def _make_job_return(task: Task, value: Any) -> JobReturn:
    returned = JobReturn(overrides=task.overrides, cfg=task.config, status=JobStatus.COMPLETED)
    returned.return_value, returned.working_dir = value, str(task.directory)
    return returned
