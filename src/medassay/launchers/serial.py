"""Jobs one after the other in this process: the default."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from hydra.core.utils import JobStatus, run_job

from medassay.launchers.base import SweepLauncher, Task
from medassay.launchers.progress import Progress


class SerialLauncher(SweepLauncher):
    """One job after the other, in this process."""

    def run(self, tasks: Sequence[Task], progress: Progress) -> Iterator[tuple[Task, Any]]:
        """See :class:`SweepLauncher`."""
        for task in tasks:
            returned = run_job(
                hydra_context=self.hydra_context,
                task_function=self.task_function,
                config=task.config,
                job_dir_key="hydra.sweep.dir",
                job_subdir_key="hydra.sweep.subdir",
            )
            yield task, returned.return_value if returned.status == JobStatus.COMPLETED else None
