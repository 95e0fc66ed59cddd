"""Trains the course's net (a value a unit in, 100 ReLU, 2 softmax) on laboratory phantoms, and asks it about a repaired table.

usage: python scripts/repair_table.py <table.csv> <repaired.csv>
       python scripts/lab_net.py <repaired.csv> [<another patient's.csv> ...]

The phantoms (medassay.tables.lab_phantom) have the values of the first table, around its normal ranges; healthy ones and ill
ones, with a few values moved up or down. The answer says how much a patient's values look like theirs. It is no diagnosis.
The same net with linear units is one linear map, and stays at chance; with step units only its last layer learns.
A missing value is put in the middle of its normal range, in training and in the answer; a second answer gives the span when it
is drawn from phantoms instead.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from medassay.core.errors import DataError, UserError
from medassay.core.progress import track
from medassay.metrics.estimates import estimate_share
from medassay.nets.mlp import MLP, Unit
from medassay.reporting.numbers import format_with_bounds
from medassay.tables import read_values
from medassay.tables.lab_phantom import CLASSES, Floats, draw_signs, render_cohort, standardise

TRAIN, TEST = 4000, 2000  # patients
EPOCHS, BATCH = 40, 64
UNITS: tuple[Unit, ...] = ("relu", "linear", "step")
DRAWS = 500  # of the missing values


def main() -> int:
    """Trains, prints what the net knows and what it answers; gives the exit code."""
    parser = argparse.ArgumentParser(
        description="The course's net on laboratory phantoms, asked about repaired tables."
    )
    parser.add_argument(
        "tables", type=Path, nargs="+", help="repaired tables of one or more patients, with the same rows"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the phantoms and the weights (default: 0)")
    arguments = parser.parse_args()
    try:
        names, patients = read_patients(arguments.tables)
    except UserError as error:
        print(f"lab_net: {error}", file=sys.stderr)
        return 2
    rng = np.random.default_rng(arguments.seed)
    torch.manual_seed(arguments.seed)
    signs = draw_signs(len(names), rng)
    train, test = (render_cohort(signs, n, rng=rng) for n in (TRAIN, TEST))
    counts = torch.from_numpy(test.labels)
    print(f"cohort: {TRAIN} and {TEST} phantoms with {len(names)} values, one in ten missing")
    farthest = np.nanmax(np.abs(train.values))
    nets = {}
    for unit in UNITS:
        net = nets[unit] = train_net(train.values, train.labels, unit)
        right = int((answer(net, test.values).argmax(1) == counts).sum())
        share = format_with_bounds(estimate_share(right, TEST))
        print(f"net {len(names)}-100-2, {unit} units: accuracy {share} on phantoms not seen")
    for path, values in zip(arguments.tables, patients, strict=True):
        print("\n".join(describe_patient(path, names, values, nets["relu"], signs, rng)))
        if unseen := [name for name, value in zip(names, values, strict=True) if abs(value) > farthest]:
            print(f"  farther from normal than anything the net has learnt from: {', '.join(unseen)}")
    return 0


def read_patients(paths: list[Path]) -> tuple[list[str], Floats]:
    """Names of the values, and the patients' values ``(P, F)`` in standard deviations; NaN where missing.

    Raises:
        DataError: A table cannot be read, has other rows than the first, or no normal range at all.
    """
    frames = [read_values(path) for path in paths]
    names = frames[0]["name"].tolist()
    for path, frame in zip(paths, frames, strict=True):
        if frame["name"].tolist() != names:
            raise DataError(
                f"{path}: its rows are not those of {paths[0]}; give tables with the same names in the same order"
            )
        if frame["low"].isna().all():
            raise DataError(
                f"{path}: no normal range can be read, and the values have no other scale; give a column of them"
            )
    rows = [standardise(*(frame[column].to_numpy() for column in ("value", "low", "high"))) for frame in frames]
    return names, np.stack(rows)


def impute(values: Floats) -> Tensor:
    """Inputs of the net: a missing value is 0, the middle of its normal range."""
    return torch.from_numpy(np.nan_to_num(values)).float()


def train_net(values: Floats, labels: np.ndarray, unit: Unit) -> MLP:
    """A net with 100 hidden units of this kind, trained by cross-entropy."""
    inputs, targets = impute(values), torch.from_numpy(labels)
    net = MLP([inputs.shape[1]], 2, [100], unit)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, weight_decay=1e-4)
    for _ in track(range(EPOCHS), "training", "epochs"):
        for batch in torch.randperm(len(inputs)).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(inputs[batch]), targets[batch]).backward()
            optimizer.step()
    return net.eval()


@torch.no_grad()
def answer(net: MLP, values: Floats) -> Tensor:
    """Probabilities of healthy and ill, ``(N, 2)``."""
    probabilities: Tensor = net(impute(values)).softmax(1)
    return probabilities


def describe_patient(
    path: Path, names: list[str], values: Floats, net: MLP, signs: Floats, rng: np.random.Generator
) -> list[str]:
    """What the net answers about a patient, and how far it hangs on missing values, which are drawn of its own population."""
    missing = np.isnan(values)
    ill = float(answer(net, values[None])[0, 1])
    lines = [f"{path.name}: {CLASSES[int(ill > 0.5)]}, probability of ill {ill:.3f}"]
    if missing.any():
        drawn = np.where(missing, render_cohort(signs, DRAWS, missing=0, rng=rng).values, values)
        low, middle, high = np.quantile(answer(net, drawn)[:, 1].numpy(), [0.025, 0.5, 0.975])
        absent = ", ".join(name for name, gone in zip(names, missing, strict=True) if gone)
        lines.append(f"  missing, put in the middle of the normal range: {absent}")
        lines.append(
            f"  drawn from phantoms instead: median {middle:.3f}, 95 of 100 draws from {low:.3f} to {high:.3f}"
        )
    far = sorted(zip(names, values, strict=True), key=lambda pair: -abs(np.nan_to_num(pair[1])))[:3]
    lines.append("  farthest from normal: " + ", ".join(f"{name} {value:+.1f} sd" for name, value in far))
    return lines


if __name__ == "__main__":
    sys.exit(main())
