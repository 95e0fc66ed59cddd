"""Beats from a CSV file: the first column is the time, each other one a beat; the header gives names and units."""

from __future__ import annotations

import csv
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from medassay.core.errors import DataError
from medassay.data.curves.modules import Axis, CurveSource, Repetitions
from medassay.data.npz import md5

UNITS = ("s", "ms", "us", "µs", "min", "h", "V", "mV", "uV", "µV", "a.u.")  # what a heading may end with
_HEADING = re.compile(rf"(?P<name>.*?)[ _]*[_ (\[](?P<unit>{'|'.join(map(re.escape, UNITS))})[)\]]?")


@dataclass
class BeatsFile(CurveSource):
    """A CSV file of beats measured at the same times.

    Attributes:
        file: The file: a line of headings such as ``time_ms,beat_1_mV,beat_2_mV``, then numbers alone.
    """

    file: str | None

    def read(self) -> Repetitions:
        if self.file is None:
            raise DataError("data.file: missing; give a CSV file, its first column the time, the others beats")
        self.md5 = ""
        headings, rows = read_numbers(Path(self.file))
        if len(headings) < 2:
            raise DataError(
                f"{self.file}: one column alone; expected the time in the first column, beats in the others"
            )
        time, *beats = map(split_heading, headings)
        units = {unit for _, unit in beats}
        if len(units) > 1:
            named = ", ".join(sorted(str(unit) for unit in units))
            raise DataError(f"{self.file}: the beats' headings have several units ({named}); give all beats in one")
        table = torch.tensor(rows, dtype=torch.float64)
        if len(set(table[:, 0].tolist())) < len(table):
            raise DataError(f"{self.file}: a time occurs twice in the first column; give each time one line")
        self.md5 = md5(Path(self.file))
        return Repetitions(table[:, 0], table[:, 1:].T.contiguous(), Axis(*time), Axis("voltage", next(iter(units))))

    def provenance(self) -> dict[str, Any]:
        return {"file": str(self.file), "md5": self.md5, "published": False}


def split_heading(text: str) -> tuple[str, str | None]:
    """A heading as name and unit: ``beat_1_mV`` is ``("beat 1", "mV")``; None where no known unit ends it."""
    match = _HEADING.fullmatch(text.strip())
    name, unit = (match["name"], match["unit"]) if match else (text.strip(), None)
    return name.replace("_", " ").strip(), unit


def read_numbers(path: Path) -> tuple[list[str], list[list[float]]]:
    """The headings of a CSV file and its lines, which are full and hold finite numbers alone.

    Raises:
        DataError: The file is missing, is no text, has no headings or lines, a line is too short or too long, or a cell is no
            number.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = [(number, cells) for number, cells in enumerate(csv.reader(file), 1) if any(map(str.strip, cells))]
    except csv.Error as error:  # a cell that takes up the lines below it, until it is too long
        raise DataError(f"data.file={path}: cannot be read ({error}); close the quote") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no text in UTF-8"
        raise DataError(f"data.file={path}: cannot be read ({reason}); give a CSV file") from error
    if len(lines) < 2:
        raise DataError(f"{path}: no numbers; expected a line of headings, then a line for each time")
    (_, headings), *body = lines
    if len(headings) == 1 and re.search(r"[;\t]", headings[0]):
        raise DataError(
            f"{path}: its cells are separated by semicolons or tabs; save it with commas between cells and points in numbers"
        )
    if all(_is_number(cell) for cell in headings):
        raise DataError(f"{path}: the first line holds numbers; expected headings such as time_ms,beat_1_mV,beat_2_mV")
    for number, cells in body:
        if len(cells) != len(headings):
            raise DataError(f"{path}: line {number} has {len(cells)} cells, and the headings are {len(headings)}")
        for heading, cell in zip(headings, cells, strict=True):
            if not _is_number(cell):
                raise DataError(
                    f"{path}: line {number}, {heading}: '{cell.strip()}' is no number; give one, or remove the line"
                )
    return headings, [[float(cell) for cell in cells] for _, cells in body]


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
