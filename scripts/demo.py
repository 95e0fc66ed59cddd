"""The main job, offline: a pneumonia CNN, a conditional GAN, a TSTR classifier and the GAN's assay on phantoms, in minutes.

usage: python scripts/demo.py [--outputs DIRECTORY]
"""

from __future__ import annotations

import argparse
import sys
import time
from datetime import datetime
from pathlib import Path

from medassay import cli
from medassay.core.files import read_json

CHANCE = 1 / 8  # balanced accuracy of guessing among eight cell types


def main() -> int:
    """Runs the steps one after another; gives the first exit code that is not 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--outputs", default="outputs", help="where the runs go (default: outputs)")
    outputs = Path(parser.parse_args().outputs)
    name = datetime.now().strftime("%Y-%m-%d_%H-%M-%S") + "_phantom"
    runs = {model: outputs / "demo" / name / model for model in ("pneumonia_cnn", "cgan", "tstr")}
    steps = [
        (
            "Pneumonia CNN on rendered chest X-rays",
            "train",
            [
                "model=pneumonia_cnn",
                "data=chest_phantom",
                "trainer.max_epochs=10",
                f"hydra.run.dir='{runs['pneumonia_cnn']}'",
            ],
        ),
        (
            "Conditional GAN on rendered blood cells",
            "train",
            ["experiment=demo", f"hydra.run.dir='{runs['cgan']}'"],
        ),
        (
            "TSTR: a classifier trained on the GAN's images, tested on the rendered ones",
            "train",
            ["model=tstr", f"data.generator='{runs['cgan']}'", f"hydra.run.dir='{runs['tstr']}'"],
        ),
        (
            "Assay: are the GAN's images any good? (the quick one; the full one trains 15 classifiers)",
            "evaluate",
            [f"run='{runs['cgan']}'", "protocol.budget=quick"],
        ),
    ]
    for number, (title, command, arguments) in enumerate(steps, 1):
        print(f"\n=== {number}/{len(steps)}  {title}\n    python {command}.py {' '.join(arguments)}", flush=True)
        begun = time.monotonic()
        if code := cli.main(command, [*arguments, f"outputs='{outputs}'"]):
            return code
        print(f"    {time.monotonic() - begun:.0f} s", flush=True)
    _report(outputs / "demo" / name, runs)
    return 0


def _report(directory: Path, runs: dict[str, Path]) -> None:
    """Says what came out and where it lies."""
    numbers = {model: read_json(run / "metrics.json") for model, run in runs.items()}
    cnn, tstr = numbers["pneumonia_cnn"]["test"], numbers["tstr"]["test"]
    (assay,) = (runs["cgan"] / "eval").glob("assay_*")
    faults = read_json(assay / "assay.json")["faults"]
    grids = sorted((runs["cgan"] / "figures").glob("samples_*.png"))
    print(f"\n=== Results (on phantoms: rendered images, not patients) in {directory}")
    print(f"    pneumonia CNN   accuracy {cnn['accuracy']:.3f}, AUROC {cnn['auroc']:.3f} on {cnn['n']} test images")
    print(
        f"    TSTR            balanced accuracy {tstr['balanced_accuracy']:.3f} on {tstr['n']} test images "
        f"({tstr['balanced_accuracy'] / CHANCE:.1f} times chance)"
    )
    print(f"    assay           faults found: {', '.join(faults).replace('_', ' ') or 'none'}")
    print(f"    report          {assay / 'report.html'}  (open it in a browser)")
    print(f"    pictures        {runs['pneumonia_cnn'] / 'figures'}\n                    {grids[-1]}")
    print(f"    TensorBoard     {Path(sys.executable).parent / 'tensorboard'} --logdir {directory}")


if __name__ == "__main__":
    sys.exit(main())
