"""Times the metrics part of an assay, with its memory: all metrics of 10,000 samples against 11,959 training images.

usage: python scripts/benchmark.py [--train 11959] [--samples 10000] [--repeats 3]

The images are rendered phantoms, the encoders those of an assay (the classifier untrained: its numbers do not matter here).
Each repeat is a process of its own; the table gives the median and the range over the repeats. Baseline of the memory: the
same process with all images and encoders loaded, before the first metric.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

VALIDATION = 1712


def main() -> int:
    """Prints the table; gives the exit code."""
    parser = argparse.ArgumentParser(description="Time and memory of an assay's metrics.")
    parser.add_argument("--train", type=int, default=11_959, help="training images")
    parser.add_argument("--samples", type=int, default=10_000, help="generated images")
    parser.add_argument("--repeats", type=int, default=3, help="processes, one after another")
    parser.add_argument(
        "--once", action="store_true", help="measure in this process and print JSON (used by the others)"
    )
    arguments = parser.parse_args()
    if arguments.once:
        print(json.dumps(once(arguments.train, arguments.samples)))
        return 0
    command = [sys.executable, __file__, "--once", "--train", str(arguments.train), "--samples", str(arguments.samples)]
    found = []
    for _ in range(arguments.repeats):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(done.stderr, file=sys.stderr)
            return 1
        found.append(json.loads(done.stdout.splitlines()[-1]))
    print(f"{arguments.train} x {arguments.samples}, {found[0]['threads']} threads, {arguments.repeats} repeats")
    print("| | median | range |\n|---|---|---|")
    for name in [key for key in found[0] if key != "threads"]:
        values = [one[name] for one in found]
        print(f"| {name} | {statistics.median(values):.1f} | {min(values):.1f} to {max(values):.1f} |")
    return 0


def once(train: int, samples: int) -> dict[str, float]:
    """Seconds and MB of one measurement."""
    import torch

    from medassay.data.modules import LabelledData
    from medassay.data.phantoms import blood
    from medassay.data.sources import phantom_data
    from medassay.evaluation import encoders
    from medassay.nets.block_cnn import BlockCNN
    from medassay.protocols.assay.measures import Yardstick
    from medassay.protocols.assay.subjects import Real
    from medassay.tasks.classification import Classification

    class FirstClass(torch.nn.Module):
        """Gives every image to the first class: classifying is no part of what is timed."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.eye(len(blood.CLASSES))[:1].expand(len(images), -1)

    def rendered(seed: int, n: int) -> LabelledData:
        return phantom_data(
            "blood_phantom", "blood", list(blood.CLASSES), 3, train=n, val=VALIDATION, test=64, phantom_seed=seed
        )

    real, generated = Real.from_data(rendered(0, train), "test"), rendered(1, samples).splits.train
    task, device = Classification(BlockCNN(3, 8), 8).eval(), torch.device("cpu")
    with tempfile.TemporaryDirectory() as cache:
        found = encoders.make_encoders(["classifier", "random_conv", "pixels"], real.unique, task, device, Path(cache))
        reset_peak()
        baseline = peak_mb()
        begun = time.perf_counter()
        yardstick = Yardstick(real, found, FirstClass(), device)
        _ = yardstick.spaces
        encoded = time.perf_counter()
        yardstick.measure("generator", "phantoms", "generator", [generated])
        ended = time.perf_counter()
    return {
        "encoding the real images, s": encoded - begun,
        "metrics, s": ended - encoded,
        "peak memory above the baseline, MB": peak_mb() - baseline,
        "threads": torch.get_num_threads(),
    }


def reset_peak() -> None:
    """Sets the peak memory back to what is in use now, where the system can (Linux)."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")


def peak_mb() -> float:
    """The largest resident memory since the last reset, in MB."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # macOS counts bytes


if __name__ == "__main__":
    sys.exit(main())
