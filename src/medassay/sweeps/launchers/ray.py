"""Jobs on a Ray cluster, or on this machine through a Ray of its own: each job in a fresh process.

Ray's workers only hold the cores and GPUs of a job. The job itself runs in a process that the worker starts, as in
:mod:`medassay.sweeps.launchers.local_parallel`: CUDA starts anew, a killed job takes no worker along, output goes to the job.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import time
import weakref
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

from medassay.core.errors import ConfigError
from medassay.core.machine import count_cores
from medassay.core.processes import PATIENCE, Call, Ending, Place, run_in_processes
from medassay.core.types import NonNegative, Positive
from medassay.sweeps.launchers.base import SweepLauncher, Task
from medassay.sweeps.launchers.process import make_call, read_result
from medassay.sweeps.launchers.progress import Progress

_log = logging.getLogger(__name__)


class RayLauncher(SweepLauncher):
    """Runs jobs where Ray finds room for them.

    Args:
        address: Address of a running cluster, ``auto`` for the one that this machine belongs to; None starts a Ray on this
            machine and ends it after the sweep.
        cpus_per_job: Number of cores of a job, and of its threads; a fraction of a core is one thread.
        gpus_per_job: Number of GPUs of a job; 0.25 lets four jobs share one; None for one where the cluster has any.
        dashboard: Whether the Ray started here has its web page.
    """

    needs = ("ray", "ray")

    def __init__(
        self,
        address: str | None = None,
        cpus_per_job: Positive = 1,
        gpus_per_job: NonNegative | None = None,
        dashboard: bool = False,
    ) -> None:
        self.address, self.dashboard = address, dashboard
        self.cpus_per_job, self.gpus_per_job = cpus_per_job, gpus_per_job
        self.close: weakref.finalize[..., RayLauncher] | None = None

    def run(self, tasks: Sequence[Task], progress: Progress) -> Generator[tuple[Task, Any], None, None]:
        """See :class:`SweepLauncher`."""
        import ray

        self._connect()
        present: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        gpus = choose_gpus(present, self.gpus_per_job)
        if lacking := find_lacking(present, self.cpus_per_job, gpus):
            if self.address is None:
                raise ConfigError(f"{lacking}; ask for less")
            _log.warning(f"{lacking}; the jobs wait until it has more")  # a cluster may grow
        start = ray.remote(num_cpus=self.cpus_per_job, num_gpus=gpus, max_retries=0)(run_call)
        environment = {name: value for name, value in os.environ.items() if name.startswith("MEDASSAY_")}
        # Ray hides no GPU from who asked for none
        environment |= Place(max(1, int(self.cpus_per_job)), gpu=None if gpus > 0 else "").environment()
        options = {"environment": environment, "directory": Path.cwd()}
        pending: dict[Any, Task] = {}
        for task in tasks:
            call = make_call(self.hydra_context, self.job, task, **options)
            pending[start.remote(call)] = task
        try:
            while pending:
                ended, _ = ray.wait(list(pending), timeout=1.0)
                for reference in ended:
                    task = pending.pop(reference)
                    yield task, _take_result(task, reference)
                for task in pending.values():
                    progress.report_running(task.name, task.run)
        except BaseException:
            _cancel(pending)
            if self.close is not None:
                self.close()
            raise

    def _connect(self) -> None:
        """Joins the cluster, or starts one, unless this process belongs to one already."""
        import ray

        if ray.is_initialized():
            return
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        on_term = signal.getsignal(signal.SIGTERM)
        try:
            if self.address is None:
                folder = _make_folder()
                self.close = weakref.finalize(self, _end, folder, _prepare_environment())
                ray.init(
                    address="local", num_cpus=count_cores(), include_dashboard=self.dashboard, _temp_dir=folder, **quiet
                )
            else:
                refuse_silent(self.address)
                self.close = weakref.finalize(self, _end, None, {})
                ray.init(address=self.address, **quiet)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            where = "here" if self.address is None else f"at hydra.launcher.address={self.address}"
            first = str(error).strip().splitlines()[0]
            raise ConfigError(f"hydra/launcher=ray: no Ray {where} ({first})") from error
        finally:
            if on_term is not None:
                signal.signal(signal.SIGTERM, on_term)  # Ray's own would leave without a word


def choose_gpus(present: Mapping[str, float], asked: float | None) -> float:
    """GPUs of a job, where ``asked`` is None: one if the cluster has any."""
    return min(1.0, present.get("GPU", 0.0)) if asked is None else float(asked)


def find_lacking(present: Mapping[str, float], cpus: float, gpus: float) -> str | None:
    """What a cluster with the resources ``present`` has too little of for one job; None if nothing."""
    for name, key, asked in (("cpus_per_job", "CPU", cpus), ("gpus_per_job", "GPU", gpus)):
        if asked > present.get(key, 0.0):
            return f"hydra.launcher.{name}={asked:g}: this Ray has {present.get(key, 0.0):g}"
    return None


def run_call(call: Call) -> Ending:
    """Runs a job in a fresh process, started by this worker of Ray.

    Interrupted, as Ray does to cancel, it interrupts the job and waits until that has recorded it.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in a Ray started in a shell's background; Ray cancels by it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with closing(run_in_processes([call], [Place()], lambda call: call)) as endings:
        ((_, ending),) = endings
    return ending


def _take_result(task: Task, reference: Any) -> Any:
    """What a job that has ended returned; None where it failed or was killed."""
    import ray

    try:
        return read_result(task, ray.get(reference))
    except ray.exceptions.RayError as error:  # its worker or node is gone
        reason = str(error).strip().splitlines()[0]
        task.record_failure(f"Ray lost it: {reason}; see {task.log}")
        return None


def _cancel(pending: Mapping[Any, Task]) -> None:
    """Interrupts the jobs that still run and waits until each has recorded it."""
    import ray

    for reference in pending:
        ray.cancel(reference, force=False)
    if pending:
        ray.wait(list(pending), num_returns=len(pending), timeout=PATIENCE)
    last = time.monotonic() + PATIENCE  # Ray calls a task cancelled before its worker has stopped the job
    while any(task.run.state() == "running" for task in pending.values()) and time.monotonic() < last:
        time.sleep(0.1)


def refuse_silent(address: str) -> None:
    """Raises :class:`OSError` where nothing listens at ``host:port``: Ray itself tries for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "://" not in address:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


# --- a Ray of our own ------------------------------------------------------------------------------------------------


def _make_folder() -> str:
    """For Ray's sockets and logs; short, since a socket's name may have 107 characters and Ray adds 66."""
    usual = tempfile.gettempdir()
    return tempfile.mkdtemp(prefix="ray-", dir=usual if len(usual) < 25 else "/tmp")


@cache
def _make_token() -> str:
    """What only this process and its Ray know. One for the life of the process, since Ray reads it once."""
    return secrets.token_hex(32)


def _prepare_environment() -> dict[str, str | None]:
    """Sets what a Ray started here needs and gives what was there before.

    Ray listens on the network and therefore wants a token, which it would write into the home directory.
    """
    before = {name: os.environ.get(name) for name in ("RAY_USAGE_STATS_ENABLED", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_AUTH_TOKEN", _make_token())  # Ray itself sets RAY_AUTH_MODE, unless the user has
    return before


def _end(folder: str | None, before: dict[str, str | None]) -> None:
    """Leaves Ray, and ends it where it was started here, in ``folder``."""
    import ray

    ray.shutdown()
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
