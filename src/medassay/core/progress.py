"""Progress of long work: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

logger = logging.getLogger(__name__)
T = TypeVar("T")

SECONDS = 30.0  # between two lines, and before the first: short work says nothing


class Progress:
    """Counts what is done, as a context: of nothing, or without a title, nothing is shown.

    Args:
        total: How much there is to do.
        title: What is being done, such as ``sampling``; None shows nothing.
        unit: What is counted, in the plural.
    """

    def __init__(self, total: int, title: str | None, unit: str) -> None:
        self.total, self.title, self.unit = total, title, unit
        self.done = 0
        self._began = self._said = time.monotonic()
        self._bar: Any = None
        if title and total and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, desc=title, unit=f" {unit}", leave=False)

    def advance(self, n: int = 1, doing: str = "") -> None:
        """``n`` more are done; ``doing`` stands beside a bar."""
        self.done += n
        if self._bar is not None:
            if doing:
                self._bar.set_postfix_str(doing)
            self._bar.update(n)
        elif self.title and self.done < self.total and time.monotonic() - self._said >= SECONDS:
            self._said = time.monotonic()
            passed = self._said - self._began
            logger.info("%s: %s of %s %s, %.0f s", self.title, f"{self.done:,}", f"{self.total:,}", self.unit, passed)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()


def track(items: Sequence[T], title: str | None, unit: str) -> Iterator[T]:
    """The items one by one, each counted when the next is asked for."""
    with Progress(len(items), title, unit) as progress:
        for item in items:
            yield item
            progress.advance()
