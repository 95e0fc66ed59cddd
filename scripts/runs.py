"""All runs in one table: classifiers and generators, what became of them, their key numbers, tags and notes.

Leaves runs.html (one file; a click on a heading sorts), runs.csv (every number) and runs.md.

usage: python scripts/runs.py outputs [more …] [--output DIRECTORY]
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from medassay.core.errors import CheckpointError, UserError
from medassay.core.files import write_text
from medassay.core.paths import expand_home
from medassay.reporting import html
from medassay.reporting.numbers import DASH, format_fixed, format_significant
from medassay.reporting.tables import format_markdown
from medassay.runs.csv_view import format_runs_as_csv
from medassay.runs.directory import RunDirectory
from medassay.runs.groups import is_place
from medassay.runs.table import RunRow, find_runs, read_job

NUMBERS = {  # what is shown of a run; the CSV has all
    "val/auroc": "val AUROC",
    "val/balanced_accuracy": "val balanced accuracy",
    "test/accuracy": "test accuracy",
    "test/balanced_accuracy": "test balanced accuracy",
    "test/auroc": "test AUROC",
    "assay/tstr_balanced_accuracy": "TSTR balanced accuracy",
    "assay/frechet": "Fréchet distance",
    "assay/coverage": "coverage",
}


class Cell(NamedTuple):
    """One cell of the table: its text, what it is sorted by (None: below all others), and where it leads."""

    text: str
    value: str | float | None
    link: str | None = None


def main() -> int:
    """Writes the files and says where they are; gives the exit code."""
    parser = argparse.ArgumentParser(description="All runs in one table: sortable HTML, CSV and markdown.")
    parser.add_argument("paths", nargs="+", help="run directories, or folders that hold some, e.g. outputs")
    parser.add_argument("--output", default=".", help="where runs.html, runs.csv and runs.md go (default: here)")
    arguments = parser.parse_args()
    try:
        rows = read_runs(arguments.paths)
        files = write_runs(rows, Path(arguments.output))
    except UserError as error:
        print(f"runs: {error}", file=sys.stderr)
        return 2
    counts = ", ".join(f"{count} {status}" for status, count in Counter(row.status for row in rows).most_common())
    print(f"{len(rows)} runs: {counts}")
    print(f"table: {', '.join(map(str, files))}")
    return 0


def read_runs(paths: Sequence[str]) -> list[RunRow]:
    """The runs below ``paths``, each once, the latest first; one whose files cannot be read counts as failed.

    Raises:
        CheckpointError: a path that does not exist, or no run below any of them.
    """
    found = {run.resolve(): run for path in paths for run in find_runs(expand_home(path))}
    if not found:
        raise CheckpointError(f"no run in {', '.join(paths)}: give run directories, or folders that hold some")
    return sorted(map(read_job, found.values()), key=lambda row: (when_started(row), str(row.path)), reverse=True)


def when_started(row: RunRow) -> str:
    """Day and time in UTC; empty where that is not recorded."""
    try:
        return str(RunDirectory(row.path).record().get("started") or "")[:16].replace("T", " ")
    except CheckpointError:
        return ""


def write_runs(rows: Sequence[RunRow], output: Path) -> list[Path]:
    """Writes the three files; gives their paths, the page first."""
    shown = {name: title for name, title in NUMBERS.items() if any(name in row.values for row in rows)}
    first = ["run", "status", "model", "data", "seed"]
    headings = [*first, *shown.values(), "tags", "notes", "settings", "started (UTC)", "minutes", "reason"]
    cells = [describe_run(row, list(shown), output) for row in rows]
    title = f"{len(rows)} runs" if len(rows) > 1 else "One run"
    text = "Test numbers compare what was chosen on validation data; do not choose by them."
    texts = {
        "runs.html": html.render_page("sortable.html.j2", title=title, text=text, headings=headings, rows=cells),
        "runs.csv": format_runs_as_csv([], rows),
        "runs.md": format_markdown(headings, ([cell.text for cell in line] for line in cells)) + "\n",
    }
    for name, content in texts.items():
        write_text(output / name, content)
    return [output / name for name in texts]


def describe_run(row: RunRow, names: Sequence[str], output: Path) -> list[Cell]:
    """The cells of one run."""
    reports: list[Path] = []
    with suppress(CheckpointError):  # of a damaged evaluation, which the row names as its reason
        files = [directory / "report.html" for directory in RunDirectory(row.path).evaluations()]
        reports = [file for file in files if file.exists()]
    link = quote(os.path.relpath(reports[-1], output)) if reports else None
    settings = [f"{key}={value}" for key, value in row.overrides.items() if not is_place(key) and key != "model"]
    return [
        Cell(str(row.path), str(row.path), link),
        word(row.status),
        word(row.model),
        word(row.data),
        Cell(DASH if row.seed is None else str(row.seed), row.seed),
        *(number(row.values.get(name), name) for name in names),
        word(", ".join(row.tags)),
        word(row.notes),
        word(" ".join(settings)),
        word(when_started(row)),
        Cell(DASH if row.seconds is None else format_fixed(row.seconds / 60, 1), row.seconds),
        word(row.reason),
    ]


def word(text: str | None) -> Cell:
    """A cell of text."""
    return Cell(text or DASH, text or None)


def number(value: float | None, name: str) -> Cell:
    """A cell of a number; a distance has no natural scale."""
    text = format_significant(value) if name.endswith("frechet") else format_fixed(value)
    return Cell(text, None if text == DASH else value)


if __name__ == "__main__":
    sys.exit(main())
