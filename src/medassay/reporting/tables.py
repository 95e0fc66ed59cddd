"""Tables as text."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


def format_csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Comma-separated values; None and NaN are empty, other numbers are written in full."""
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_to_plain(value) for value in row] for row in rows)
    return written.getvalue()


def format_records_as_csv(records: Sequence[Mapping[str, Any]]) -> str:
    """The same of records by column name; the columns are those that any record has, in the order of their coming."""
    header = list(dict.fromkeys(name for record in records for name in record))
    return format_csv(header, ([record.get(name) for name in header] for record in records))


def format_markdown(header: Sequence[str], rows: Iterable[Sequence[str]], align: Sequence[str] = ()) -> str:
    """A markdown table; ``align`` are the marks below the header, ``---`` where none are given."""
    lines = [header, align or ["---"] * len(header), *rows]
    plain = str.maketrans({"|": "\\|", "\n": " ", "\N{NO-BREAK SPACE}": " "})
    return "\n".join("| " + " | ".join(cell.translate(plain) for cell in line) + " |" for line in lines)


@dataclass(frozen=True)
class Table:
    """A table for a reader: the same in markdown and, by the macro ``table`` of parts.html.j2, in a page."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def to_markdown(self) -> str:
        """The table under its title, its note below."""
        return "\n\n".join(filter(None, [f"## {self.title}", format_markdown(self.header, self.rows), self.note]))

    def to_text(self) -> str:
        """The header and the rows for a terminal: the first column to the left, the others to the right."""
        lines = [self.header, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.header))]
        return "\n".join("  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines)


def _to_plain(value: Any) -> Any:
    return "" if value is None or value != value else repr(value) if isinstance(value, float) else value
