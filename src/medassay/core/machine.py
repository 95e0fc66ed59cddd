"""What this process may use of the machine."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from contextlib import suppress
from pathlib import Path

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # numbers of glibc's malloc.h
_LARGEST_MMAP_THRESHOLD = 32 * 2**20  # glibc accepts no more on 64 bits


def count_cores() -> int:
    """CPU cores for this process: those it may run on, and no more than a launcher has given it in ``MEDASSAY_CORES``."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = os.environ.get("MEDASSAY_CORES", "")
    return min(allowed, int(given)) if given.isdecimal() and int(given) > 0 else allowed


def name_processor() -> str:
    """What the processor calls itself, e.g. ``AMD EPYC``; where the system does not tell, its kind."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def keep_freed_memory() -> None:
    """Lets this process keep the memory that it frees, up to a gigabyte, instead of giving it back to the system each time.

    A training step frees all that it allocated. Where the C library hands that back, as glibc does with large blocks, the next
    step pays for every page anew: 12 to 20 % of a small net's epoch on the CPU. Without glibc nothing is changed.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        mallopt(_TRIM_THRESHOLD, 2**30)
