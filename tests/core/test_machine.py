"""What this process may use of the machine: the memory that it keeps."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from medassay.core.machine import keep_freed_memory

COUNT_FAULTS = """
import resource
import torch
from medassay.core.machine import keep_freed_memory

torch.set_num_threads(1)
if {keep}:
    keep_freed_memory()
step = lambda: [torch.ones(400_000 + 1000 * i) for i in range(40)]  # 67 MB, all given back
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def count_faults(keep: bool) -> int:
    """Pages that the system handed out while blocks were allocated and freed over and over, in a fresh process."""
    command = [sys.executable, "-c", COUNT_FAULTS.format(keep=keep)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.long
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is told")
def test_freed_memory_is_kept_for_the_next_step() -> None:
    pages_of_a_step = 67e6 / 4096
    assert count_faults(keep=True) < pages_of_a_step / 10
    assert count_faults(keep=False) > pages_of_a_step


def test_a_system_without_that_allocator_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr("ctypes.CDLL", lambda *_: pytest.fail("nothing is to be called"))
    keep_freed_memory()
