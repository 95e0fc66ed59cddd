"""Jobs on a Slurm cluster, queued through submitit: a job array, each job in a process of its own."""

from __future__ import annotations

import io
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medassay.core.errors import ConfigError
from medassay.core.interrupts import interrupt
from medassay.core.processes import PATIENCE, Place
from medassay.core.types import NonNegativeInt, PositiveInt
from medassay.sweeps.launchers.base import SweepLauncher, Task
from medassay.sweeps.launchers.process import make_payload, run_payload
from medassay.sweeps.launchers.progress import Progress

if TYPE_CHECKING:
    import submitit

    Submitted = tuple[Task, submitit.Job[Any]]

ASKING = 60.0  # seconds between questions to sacct: a job that was killed leaves no file that says so
PREEMPTED = 600.0  # seconds after which a preempted job that is not back in the queue has been cancelled


class SlurmLauncher(SweepLauncher):
    """Queues the jobs of a sweep on a Slurm cluster and waits for them.

    A job at its time limit, or preempted, goes back into the queue and continues from its last checkpoint.

    Args:
        cluster: ``slurm``, or ``local`` for processes on this machine, to try the settings out.
        partition: The partition to queue in; None for the cluster's own default, here and below.
        account: The account that is charged.
        qos: The quality of service.
        timeout_min: Time limit of a job, minutes.
        max_timeouts: Number of times that one job may reach that limit and go on.
        cpus_per_task: Number of cores of a job, and of its threads.
        mem_gb: Memory of a job, GB; None for the cluster's own default.
        gpus_per_node: Number of GPUs of a job; 0 trains on the CPU.
        array_parallelism: Number of jobs that run at the same time, at most.
        setup: Shell commands that the job's script begins with; not with ``cluster: local``.
        additional_parameters: Any other option of ``sbatch``, by its name without the dashes.
    """

    needs = ("submitit", "slurm")

    def __init__(
        self,
        cluster: Literal["slurm", "local"] = "slurm",
        partition: str | None = None,
        account: str | None = None,
        qos: str | None = None,
        timeout_min: PositiveInt = 240,
        max_timeouts: PositiveInt = 10,
        cpus_per_task: PositiveInt = 4,
        mem_gb: float | None = None,
        gpus_per_node: NonNegativeInt = 1,
        array_parallelism: PositiveInt = 16,
        setup: Sequence[str] | None = None,
        additional_parameters: Mapping[str, Any] | None = None,
    ) -> None:
        self.cluster, self.max_timeouts, self.gpus_per_node = cluster, max_timeouts, gpus_per_node
        self.timeout_min, self.cpus_per_task, self.array_parallelism = timeout_min, cpus_per_task, array_parallelism
        self.parameters = {
            "timeout_min": timeout_min,
            "cpus_per_task": cpus_per_task,
            "mem_gb": mem_gb,
            "gpus_per_node": gpus_per_node or None,
            "slurm_partition": partition,
            "slurm_account": account,
            "slurm_qos": qos,
            "slurm_array_parallelism": array_parallelism,
            "slurm_setup": None if setup is None else list(setup),
            "slurm_srun_args": [f"--cpus-per-task={cpus_per_task}"],  # since Slurm 22.05 srun gives one core without it
            "slurm_additional_parameters": None if additional_parameters is None else dict(additional_parameters),
        }

    def run(self, tasks: Sequence[Task], progress: Progress) -> Generator[tuple[Task, Any], None, None]:
        """See :class:`SweepLauncher`."""
        executor = self._executor()
        queued: list[Submitted] = []
        waiting, states = list(tasks), _States()
        try:
            while waiting or queued:
                # Slurm itself keeps to array_parallelism; submitit starts all that it is given on this machine
                room = len(waiting) if self.cluster == "slurm" else self.array_parallelism - len(queued)
                if waiting and room:
                    queued += self._submit(executor, waiting[:room])
                    del waiting[:room]
                for task, job in [(task, job) for task, job in queued if states.has_ended(job)]:
                    queued.remove((task, job))
                    yield task, _take_result(task, job)
                for task, _ in queued:
                    progress.report_running(task.name, task.run)
                time.sleep(2.0 if self.cluster == "slurm" else 0.1)
        finally:
            _cancel([job for _, job in queued], self.cluster)

    def _executor(self) -> submitit.AutoExecutor:
        import submitit

        # a folder for each start: on this machine a job is named by its process, and such names come back
        started = f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{secrets.token_hex(2)}"
        sweep = Path(str(self.config.hydra.sweep.dir)).absolute()
        limit = {f"{self.cluster}_max_num_timeout": self.max_timeouts}
        try:
            executor = submitit.AutoExecutor(sweep / ".submitit" / started / "%j", cluster=self.cluster, **limit)
        except RuntimeError as error:
            raise ConfigError(
                "hydra/launcher=slurm: there is no srun here: start the sweep where sbatch works, or try it out with "
                "hydra.launcher.cluster=local"
            ) from error
        executor.update_parameters(name=sweep.name, **self.parameters)
        return executor

    def _submit(self, executor: submitit.AutoExecutor, tasks: Sequence[Task]) -> list[Submitted]:
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        calls = [QueuedJob(make_payload(self.hydra_context, self.job, task)) for task in tasks]
        changes = Place(self.cpus_per_task).environment()
        try:
            with _environment(changes), redirect_stderr(io.StringIO()):  # submitit prints there what the error says too
                jobs = executor.submit_array(calls)
        except (FailedJobError, FailedSubmissionError) as error:
            raise ConfigError(f"hydra/launcher=slurm: sbatch refused the jobs: {error}") from error
        return list(zip(tasks, jobs, strict=True))


class QueuedJob:
    """One job as it lies in the queue: what submitit calls in the process of the job.

    submitit sends USR2 at the time limit and has the job queued again in its handler. Here the training is stopped first,
    in the same good order as by Ctrl-C, and then that handler is called.

    Args:
        payload: What :func:`medassay.sweeps.launchers.process.make_payload` makes.
    """

    def __init__(self, payload: bytes) -> None:
        self.payload = payload

    def __call__(self) -> Any:
        """Runs the job; see :func:`run_payload`."""
        import submitit

        environment = submitit.JobEnvironment()
        limit: signal.Signals = getattr(signal, f"SIG{environment.USR_SIG}")
        requeue: Any = signal.signal(limit, interrupt)
        try:
            return run_payload(self.payload)
        except KeyboardInterrupt as error:
            signal.signal(limit, requeue)
            signum = getattr(error, "signum", signal.SIGINT)
            if signum == limit:
                _requeue(requeue, limit)
            if signum == signal.SIGTERM and environment.cluster == "slurm":
                # Preempted or cancelled: Slurm sends USR2 or kills next. It does not queue a job again that ended by itself.
                time.sleep(PREEMPTED)
            raise

    def checkpoint(self) -> Any:
        """What submitit queues again: the same job, which continues from its last checkpoint."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def _requeue(handler: Any, limit: signal.Signals) -> None:
    """Queues the job again by submitit's handler, which ends this process."""
    try:
        handler(limit, None)
    except subprocess.CalledProcessError as error:
        if error.returncode >= 0:
            raise
        sys.exit(-1)  # scontrol was in time: Slurm ends the job, and scontrol with it, before that can say so


class _States:
    """Asks what became of queued jobs, the cluster itself only now and then."""

    def __init__(self) -> None:
        self.asked = time.monotonic()
        self.preempted: dict[str, float] = {}

    def has_ended(self, job: submitit.Job[Any]) -> bool:
        """Whether the job has ended, in whatever way."""
        now = time.monotonic()
        force = now - self.asked > ASKING
        if force:
            self.asked = now
        if job.done(force_check=force):
            return True
        if job.paths.result_pickle.exists() or not job.state.startswith("PREEMPTED"):
            self.preempted.pop(job.job_id, None)
            return False
        return now - self.preempted.setdefault(job.job_id, now) > PREEMPTED


def _take_result(task: Task, job: submitit.Job[Any]) -> Any:
    """What a job that has ended returned; None where it failed or was killed."""
    state = job.state
    how = f"ended without a result ({state})"
    if job.paths.result_pickle.exists() or state == "COMPLETED":  # the file may take its time across machines
        try:
            return job.result()
        except Exception as error:  # of submitit, or of a result that cannot be read here
            lines = [line.strip() for line in str(error).splitlines() if line.strip(" -")]
            how = next((line for line in lines if "Error: " in line), lines[0] if lines else type(error).__name__)
    task.record_failure(f"its job {job.job_id} {how}; see {job.paths.stderr}")
    return None


def _cancel(jobs: Sequence[submitit.Job[Any]], cluster: str) -> None:
    """Takes the jobs that have not ended out of the queue; those on this machine record that they were interrupted."""
    if cluster == "slurm":
        for job in jobs:
            with suppress(OSError):
                job.cancel(check=False)
        return
    for job in jobs:
        with suppress(ProcessLookupError):
            os.kill(int(job.job_id), signal.SIGTERM)  # which submitit passes on to the job
    last = time.monotonic() + PATIENCE
    while any(not job.done() for job in jobs) and time.monotonic() < last:
        time.sleep(0.1)
    for job in jobs:
        job.cancel()


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """``changes`` for the processes started inside, without what would tie them to the Slurm job that we may be in."""
    before = dict(os.environ)
    if "SLURM_JOB_ID" in before:
        for name in before:
            if name.startswith("SLURM_") and name != "SLURM_CONF":
                del os.environ[name]
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
