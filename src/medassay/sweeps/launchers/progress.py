"""What a sweep says while it runs: a line for each job that ended and one for the sweep; bars on a terminal."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import Any

from tqdm import tqdm

from medassay.core.errors import CheckpointError
from medassay.runs.directory import RunDirectory


class Progress:
    """Counts the jobs of a sweep.

    Args:
        total: Number of jobs, finished ones included.
        before: Number of jobs that the same command has run already.
        skipped: Number of the other jobs that an earlier command finished.
    """

    def __init__(self, total: int, before: int = 0, skipped: int = 0) -> None:
        self.total, self.count, self.failed = total, before + skipped, 0
        self.live = sys.stderr.isatty()
        self.bars: dict[str, tqdm[Any]] = {}
        self.places: dict[str, int] = {}
        self.shown: dict[str, float] = {}  # when, by the clock
        self.bar: tqdm[Any] | None = None
        if skipped:
            self._say(f"{skipped} of {total} jobs were finished before")

    def __enter__(self) -> Progress:
        if self.live:
            self.bar = tqdm(total=self.total, initial=self.count, desc="sweep", unit="job", position=0, leave=False)
        return self

    def __exit__(self, *_: object) -> None:
        for bar in self.bars.values():
            bar.close()
        if self.bar is not None:
            self.bar.close()
            sys.stderr.flush()

    def report_running(self, name: str, run: RunDirectory) -> None:
        """Shows how far a running job is, where somebody can see it; called as often as it likes."""
        if not self.live or time.monotonic() < self.shown.get(name, 0.0) + 1.0:
            return
        self.shown[name] = time.monotonic()
        status = None
        with suppress(CheckpointError):
            status = run.record().get("status")
        if status != "running":  # it waits in a queue
            return
        if name not in self.bars:
            self.places[name] = min({*range(1, len(self.places) + 2)} - {*self.places.values()})
            self.bars[name] = tqdm(desc=name[:60], unit="epoch", position=self.places[name], leave=False)
        bar, rows = self.bars[name], run.history()
        if len(rows) != bar.n:
            bar.total = run.config()["trainer"]["max_epochs"]
            bar.n = len(rows)
            bar.set_postfix(
                {key: f"{value:.4g}" for key, value in rows[-1].items() if key != "epoch" and value is not None}
            )
        bar.refresh()

    def report_ended(self, name: str, run: RunDirectory, value: Any, unrecorded: str | None = None) -> None:
        """Says what became of a job; ``unrecorded`` is why it failed where its record could not be written."""
        if name in self.bars:
            self.bars.pop(name).close()
            del self.places[name]
        self.count += 1
        try:
            record, status = run.record(), run.state()
        except CheckpointError as error:  # damaged: this job's matter, not that of the sweep's others
            record, status = {"reason": str(error)}, "failed"
        seconds, cause = record.get("seconds"), record.get("reason")
        if unrecorded is not None:
            status, cause = "failed", unrecorded
        if judged := record.get("assay_failed"):
            status, cause = "failed", f"its assay failed: {judged}"
        self.failed += status in ("failed", "interrupted", "waiting")
        silent = "ended without saying why (killed, or the disk is full?)"
        outcome = silent if status in ("interrupted", "waiting") else status
        reason = f": {cause}" if cause and status != "interrupted" else ""
        number = f", {value:.4f}" if isinstance(value, float) else ""
        duration = f" in {seconds:.0f} s" if seconds is not None else ""
        self._say(f"[{self.count}/{self.total}] {name}: {outcome}{duration}{number}{reason}")
        if self.bar is not None:
            self.bar.update(1)
            self.bar.set_postfix({"failed": self.failed})

    def _say(self, line: str) -> None:
        if self.live:
            tqdm.write(line, file=sys.stdout)
        else:
            print(line, flush=True)
