"""What all launchers share: jobs listed in the sweep's directory, finished ones skipped, failures kept from the others.

A launcher says how jobs are run (:meth:`SweepLauncher.run`). What became of each is in its directory, so that nothing
depends on the launcher, or on the process that started it, still being there.
"""

from __future__ import annotations

import shutil
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from medassay import config as configuration
from medassay.core.errors import CheckpointError, ConfigError
from medassay.runs.directory import RunDirectory
from medassay.sweeps.directory import Job, SweepDirectory
from medassay.sweeps.launchers.progress import Progress


@dataclass(frozen=True)
class Task:
    """A job to run.

    Attributes:
        name: of its directory.
        directory: of the run.
        config: composed, with the ``hydra`` node.
        overrides: that it differs by.
    """

    name: str
    directory: Path
    config: DictConfig
    overrides: list[str]


class SweepLauncher(Launcher):
    """Hydra's launcher with sweeps that can be continued; see the sub-classes for where jobs run."""

    config: DictConfig
    hydra_context: HydraContext
    task_function: TaskFunction

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config, self.hydra_context, self.task_function = config, hydra_context, task_function
        self.redone: set[Path] = set()

    @abstractmethod
    def run(self, tasks: Sequence[Task], progress: Progress) -> Iterator[tuple[Task, Any]]:
        """Runs ``tasks`` and yields each with what it returned as soon as it has ended; None where it failed."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs the jobs that are not finished yet; Hydra's sweeper calls it.

        A failed job returns None instead of raising in the sweeper, which would print lines of its own and stop.
        """
        setup_globals()
        self._configure_log()
        swept = self._swept(job_overrides)
        tasks = [self._task(list(overrides), initial_job_idx + i, swept) for i, overrides in enumerate(job_overrides)]
        sweep = SweepDirectory(str(self.config.hydra.sweep.dir))
        sweep.add([Job(task.directory, task.overrides) for task in tasks])
        drawn = str(self.config.hydra.sweeper._target_).endswith("StudySweeper")
        planned = int(self.config.hydra.sweeper.n_trials) if drawn else 0
        results = self._results({task.directory: task for task in tasks}, initial_job_idx, planned)
        self._configure_log()  # a job in this process has sent messages to its own file
        return [_returned(task, results[task.directory]) for task in tasks]

    def _results(self, tasks: dict[Path, Task], before: int, planned: int) -> dict[Path, Any]:
        """What each job returned, those finished earlier included.

        Args:
            tasks: by directory.
            before: jobs launched earlier by the same sweeper.
            planned: jobs that it will launch in all, if it says so.
        """
        finished = getattr(self.task_function, "finished", None)
        force = bool(OmegaConf.select(self.config, "sweep.force", default=False))
        results: dict[Path, Any] = {}
        for directory, task in tasks.items():
            if force and directory not in self.redone and RunDirectory(directory).state() != "running":
                shutil.rmtree(directory, ignore_errors=True)
                self.redone.add(directory)
            elif finished is not None:
                with suppress(CheckpointError):  # of a damaged record: the job runs into it, alone
                    if finished(task.config, directory):
                        results[directory] = self.task_function.value(task.config, directory)  # type: ignore[attr-defined]
        waiting = [task for directory, task in tasks.items() if directory not in results]
        with Progress(max(planned, before + len(tasks)), before, skipped=len(results)) as progress:
            for task, value in self.run(waiting, progress):
                results[task.directory] = value
                progress.ended(task.name, RunDirectory(task.directory), value)
        return results

    def _configure_log(self) -> None:
        hydra = self.config.hydra
        configure_log(hydra.hydra_logging, hydra.verbose, execution_whitelist=self.hydra_context.execution_whitelist)

    def _swept(self, job_overrides: Sequence[Sequence[str]]) -> set[str]:
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
            name = _name(top, str(config.hydra.sweep.subdir), [o for o in overrides if o.partition("=")[0] in swept])
            config.hydra.sweep.subdir = name  # decided here: where the job runs, the code may have changed since
        return Task(name, top / name, config, overrides)


def _name(top: Path, usual: str, swept: Sequence[str]) -> str:
    """The job's directory: the one that its hash is in already, else a name of the swept values and that hash."""
    digest = usual.rpartition("_")[2]
    present = sorted(top.glob(f"*_{digest}"))
    pairs = [override.partition("=") for override in swept]
    values = [f"{key.lstrip('+~').rpartition('.')[2]}-{_short(value)}" for key, _, value in pairs]
    return present[0].name if present else f"{configuration.slug('_'.join(values))}_{digest}" if swept else usual


def _short(value: str) -> str:
    """A drawn number with four significant digits: the hash tells two that look alike apart."""
    try:
        return value if len(value) < 8 else f"{float(value):.4g}"
    except ValueError:
        return value


def _returned(task: Task, value: Any) -> JobReturn:
    returned = JobReturn(overrides=task.overrides, cfg=task.config, status=JobStatus.COMPLETED)
    returned.return_value = value
    return returned


def record_end(task: Task, reason: str) -> None:
    """Says why a job ended that had no time to say so itself: while it trained, or while a generator was being judged."""
    run = RunDirectory(task.directory)
    state = run.state()
    if state in ("interrupted", "waiting"):
        run.update(status="failed", reason=reason, overrides=task.overrides)
    elif state == "done" and OmegaConf.select(task.config, "assay", default="none") != "none":
        run.update(assay_failed=reason)


def positive(name: str, value: Any) -> int:
    """``value`` of ``hydra.launcher.<name>``; raises :class:`ConfigError` unless it is a whole number above 0."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"hydra.launcher.{name}={value}: expected a whole number of 1 or more, or null")
    return value
