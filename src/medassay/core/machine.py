"""What this process may use of the machine."""

from __future__ import annotations

import os


def count_cores() -> int:
    """CPU cores for this process: those it may run on, and no more than a launcher has given it in ``MEDASSAY_CORES``."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = os.environ.get("MEDASSAY_CORES", "")
    return min(allowed, int(given)) if given.isdecimal() and int(given) > 0 else allowed
