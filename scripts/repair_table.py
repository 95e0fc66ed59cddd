"""Repairs a laboratory table whose values a spreadsheet turned into dates: ``05. Jul`` is 5.7 or 5.07, ``Feb 43`` is 2.43.

usage: python scripts/repair_table.py <table.csv> <repaired.csv>
       python scripts/repair_table.py <table.csv> <repaired.csv> --value Ergebnis --range Referenz

The table is text: UTF-8 or Latin-1, cells separated by semicolons, commas or tabs, a row for each value. The repaired table
differs from it in the repaired cells and dropped rows alone; a table without faults comes back byte for byte. Beside it lie
<repaired>_report.html and <repaired>_report.csv, with every change and its reason. The exit code is 0 also where a
person has to decide.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from medassay.core.errors import OutputError, UserError
from medassay.core.files import atomic_write, write_text
from medassay.reporting import html
from medassay.reporting.tables import format_records_as_csv
from medassay.tables.example import make_example
from medassay.tables.repair import Change, Repair, repair_sheet
from medassay.tables.sheet import ROLES, SEPARATORS, Sheet, read_sheet

DONE = {  # what the summary calls changes of one kind
    "repaired": "repaired",
    "likely": "set to the likelier reading, to be checked",
    "ambiguous": "left empty for a person",
    "unreadable": "unreadable and left empty for a person",
    "kept": "rows that are not as the others and stay as they are, for a person",
    "emptied": "words left out",
    "dropped": "stray rows dropped",
}


def main() -> int:
    """Writes the repaired table and its report; gives the exit code."""
    parser = argparse.ArgumentParser(
        description="Repairs a laboratory table whose values a spreadsheet turned into dates."
    )
    parser.add_argument("table", type=Path, nargs="?", help="the table, as CSV; it stays as it is")
    parser.add_argument("repaired", type=Path, nargs="?", help="the file to write")
    parser.add_argument("--example", type=Path, metavar="FILE", help="write a table to practise on, and end")
    for role in ROLES:
        parser.add_argument(
            f"--{role}",
            metavar="COLUMN",
            help=f"heading (or number, from 1) of the column of {role}s; unset: found by its heading",
        )
    parser.add_argument(
        "--accept-likely",
        action="store_true",
        help="write the likelier reading of ambiguous values instead of leaving them empty",
    )
    parser.add_argument("--force", action="store_true", help="overwrite files that are there already")
    arguments = parser.parse_args()
    if arguments.example is None and arguments.repaired is None:
        parser.error("give the table and the file to write: repair_table.py table.csv repaired.csv")
    try:
        if arguments.example is not None:
            write_example(arguments.example, arguments.force)
            print(f"table: {arguments.example}")
            return 0
        report = arguments.repaired.with_name(f"{arguments.repaired.stem}_report.html")
        named = {role: getattr(arguments, role) for role in ROLES if getattr(arguments, role) is not None}
        refuse_overwriting(arguments.table, [arguments.repaired, report, report.with_suffix(".csv")], arguments.force)
        sheet = read_sheet(arguments.table, named)
        repair = repair_sheet(sheet, arguments.accept_likely)
        with atomic_write(arguments.repaired) as partial:
            partial.write_bytes(repair.content)
        write_text(report.with_suffix(".csv"), format_records_as_csv([record(change) for change in repair.changes]))
        write_text(report, render(sheet, repair, arguments.repaired))
    except UserError as error:
        print(f"repair_table: {error}", file=sys.stderr)
        return 2
    print("\n".join(summarise(sheet, repair)))
    print(f"table: {arguments.repaired}\nreport: {report}")
    return 0


def write_example(path: Path, force: bool) -> None:
    """Writes the example of a spoilt table; raises :class:`OutputError` where that cannot be."""
    refuse_existing(path, force)
    with atomic_write(path) as partial:
        partial.write_bytes(make_example())


def refuse_overwriting(table: Path, outputs: Sequence[Path], force: bool) -> None:
    """Raises :class:`OutputError` where a file to write is the table, or is there already."""
    for path in outputs:
        if path.resolve() == table.resolve() or (path.exists() and table.exists() and path.samefile(table)):
            raise OutputError(f"{path}: is the table itself, which stays as it is; give another file to write")
        refuse_existing(path, force)


def refuse_existing(path: Path, force: bool) -> None:
    """Raises :class:`OutputError` where there is such a file, unless by ``force``."""
    if path.exists() and not force:
        raise OutputError(f"{path}: is there already; choose another name, or overwrite it with --force")


def record(change: Change) -> dict[str, object]:
    """A change as a row of the report's CSV."""
    return {
        "line": change.line,
        "name": change.name,
        "normal_range": change.range,
        "before": change.before,
        "after": change.after,
        "action": change.action,
        "confidence": change.confidence,
        "flagged": change.is_flagged,
        "readings": " | ".join(change.readings),
        "likelier": change.likelier,
        "reason": change.reason,
    }


def describe_file(sheet: Sheet, repair: Repair) -> str:
    """``report.csv: latin-1, semicolons, 23 values``."""
    return f"{sheet.path.name}: {sheet.encoding}, {SEPARATORS[sheet.separator]}, {repair.rows} rows"


def summarise(sheet: Sheet, repair: Repair) -> list[str]:
    """What was done, in a line for each kind of change, and each value that a person has to decide."""
    counts = Counter(change.action for change in repair.changes)
    done = ", ".join(f"{text} {counts[action]}" for action, text in DONE.items() if counts[action])
    lines = [f"{describe_file(sheet, repair)}: {done or 'nothing to repair'}"]
    lines += [
        f"to decide: line {change.line}, {change.name}: {change.reason}"
        for change in repair.changes
        if change.is_flagged
    ]
    return [*lines, *(f"note: {note}" for note in repair.notes)]


def render(sheet: Sheet, repair: Repair, repaired: Path) -> str:
    """The report's page."""
    groups = {
        "For a person to decide": [change for change in repair.changes if change.is_flagged],
        "Changed": [change for change in repair.changes if change.action in ("repaired", "emptied")],
        "Dropped rows": [change for change in repair.changes if change.action == "dropped"],
    }
    return html.render_page(
        Path(__file__).with_name("repair_table.html.j2").absolute(),
        name=sheet.path.name,
        summary=describe_file(sheet, repair),
        counts={text: sum(one.action == action for one in repair.changes) for action, text in DONE.items()},
        groups=groups,
        notes=repair.notes,
        columns={role: sheet.columns[role] + 1 for role in ROLES if role in sheet.columns},
        repaired=repaired.name,
    )


if __name__ == "__main__":
    sys.exit(main())
