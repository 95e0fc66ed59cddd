"""Times a sweep: the same jobs one after the other in one process, and side by side, a process each with its share of cores.

usage: python scripts/sweep_benchmark.py [--jobs 4] [--epochs 20] [--repeats 3] [--threads 1]

The jobs are pneumonia CNNs on rendered chest X-rays that differ in their seed. Repeats of both are interleaved; the table gives
the median and the range of the whole command's time, start-up and summary included. Baseline: `hydra/launcher=serial` with one
thread, which is what gives the same weights, bit for bit; `--threads 0` gives it all cores.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from medassay.core.machine import count_cores

TRAIN = Path(__file__).parents[1] / "train.py"
LAUNCHERS = ("serial", "local_parallel")


def main() -> int:
    """Prints the table; gives the exit code."""
    parser = argparse.ArgumentParser(description="Time of a sweep, its jobs one after the other and side by side.")
    parser.add_argument("--jobs", type=int, default=4, help="jobs of the sweep")
    parser.add_argument("--epochs", type=int, default=20, help="of each job")
    parser.add_argument("--threads", type=int, default=1, help="of the jobs one after the other; 0: all cores")
    parser.add_argument("--repeats", type=int, default=3, help="of both, interleaved")
    arguments = parser.parse_args()
    seconds: dict[str, list[float]] = {launcher: [] for launcher in LAUNCHERS}
    for _ in range(arguments.repeats):
        for launcher in LAUNCHERS:
            with tempfile.TemporaryDirectory() as outputs:
                command = command_line(launcher, arguments.jobs, arguments.epochs, outputs)
                if launcher == "serial" and arguments.threads:
                    command.append(f"trainer.threads={arguments.threads}")
                begun = time.monotonic()
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                seconds[launcher].append(time.monotonic() - begun)
            if done.returncode:
                print(done.stderr, file=sys.stderr)
                return 1
    print(f"threads of the jobs one after the other: {arguments.threads or 'all cores'}")
    print(table(seconds, arguments.jobs, arguments.epochs))
    return 0


def command_line(launcher: str, jobs: int, epochs: int, outputs: str) -> list[str]:
    """The sweep's command."""
    seeds = ",".join(map(str, range(jobs)))
    return [
        sys.executable,
        str(TRAIN),
        "-m",
        f"hydra/launcher={launcher}",
        "data=chest_phantom",
        f"trainer.max_epochs={epochs}",
        "callbacks.early_stopping=null",
        "test=false",
        f"seed={seeds}",
        f"outputs={outputs}",
    ]


def table(seconds: dict[str, list[float]], jobs: int, epochs: int) -> str:
    """Median and range for each launcher, and how many times as fast the second is, pair by pair."""
    lines = [
        f"{jobs} jobs of {epochs} epochs, {count_cores()} cores, {len(seconds['serial'])} interleaved repeats",
        "| launcher | seconds | jobs an hour |",
        "|---|---|---|",
    ]
    for launcher, values in seconds.items():
        median = statistics.median(values)
        lines.append(
            f"| {launcher} | {median:.0f} ({min(values):.0f} to {max(values):.0f}) | {3600 * jobs / median:.0f} |"
        )
    ratios = [a / b for a, b in zip(seconds["serial"], seconds["local_parallel"], strict=True)]
    lines.append(
        f"side by side: {statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f})"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
