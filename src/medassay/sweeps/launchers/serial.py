"""Jobs one after the other in this process: the default."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from medassay.sweeps.launchers.base import SweepLauncher, Task
from medassay.sweeps.launchers.process import run_here
from medassay.sweeps.launchers.progress import Progress


class SerialLauncher(SweepLauncher):
    """One job after the other, in this process."""

    def run(self, tasks: Sequence[Task], progress: Progress) -> Generator[tuple[Task, Any], None, None]:
        """See :class:`SweepLauncher`."""
        for task in tasks:
            yield task, run_here(self.hydra_context, self.job, task.config)
