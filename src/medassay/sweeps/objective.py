"""What ranks the configurations of a sweep: one number of a finished run, of validation data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from medassay.runs.table import read_row

TSTR = "assay/tstr_balanced_accuracy"  # what a generator is ranked by


@dataclass(frozen=True)
class Objective:
    """A number by its name in the table of runs (``val/auroc``), and whether more or less of it is better."""

    name: str
    mode: Literal["max", "min"]


def choose_objective(
    config: dict[str, Any], metric: str | None = None, mode: Literal["max", "min"] | None = None
) -> Objective:
    """What ranks a run of ``config``: ``metric`` if given, else what chooses the model's epoch, else a generator's TSTR."""
    if metric is not None:
        return Objective(metric, mode or "max")
    recipe = config["recipe"]
    return Objective(recipe["monitor"], recipe["mode"]) if recipe.get("monitor") else Objective(TSTR, "max")


def read_value(path: Path, name: str) -> float | None:
    """The number ``name`` (``<group>/<name>``) of the run in ``path``, as the table of runs has it."""
    return read_row(path).values.get(name)
