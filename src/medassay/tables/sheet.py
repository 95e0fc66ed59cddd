"""A table in a text file, cell by cell, that can be written back with nothing changed but what was changed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medassay.core.errors import DataError, suggest_nearest

Role = Literal["name", "unit", "range", "value"]
ROLES: tuple[Role, ...] = ("name", "unit", "range", "value")
SEPARATORS = {";": "semicolons", ",": "commas", "\t": "tabs"}
HEADINGS: dict[Role, str] = {
    "name": "name parameter analyt analyte untersuchung bezeichnung test messgröße laborwert kürzel",
    "unit": "unit units einheit einheiten maßeinheit",
    "range": "range normalrange referencerange reference normalbereich normbereich normwert normwerte normalwert normalwerte "
    "referenz referenzbereich referenzwert referenzwerte norm",
    "value": "value values result results wert werte ergebnis ergebnisse messwert messwerte resultat",
}


@dataclass(frozen=True)
class Row:
    """A line of the file: its cells as written, quotes and blanks included, and the characters that end it.

    Attributes:
        line: Number of the line in the file, from 1.
        raw: The cells as they stand in the file.
        end: Line end; empty for the last line of a file without one.
    """

    line: int
    raw: tuple[str, ...]
    end: str

    @property
    def cells(self) -> list[str]:
        """What the cells say: without quotes, and blanks around them."""
        return [unquote(cell) for cell in self.raw]


@dataclass(frozen=True)
class Sheet:
    """A table read from a file.

    Attributes:
        path: The file.
        encoding: ``utf-8``, ``utf-8-sig`` (with its mark), ``cp1252`` or ``latin-1``.
        separator: Character between cells.
        rows: All lines, the header among them.
        header: Place of the header in ``rows``; None where there is none.
        columns: Places of the columns, by what they hold.
    """

    path: Path
    encoding: str
    separator: str
    rows: tuple[Row, ...]
    header: int | None
    columns: Mapping[Role, int]

    def get(self, row: Row, role: Role) -> str:
        """What ``row`` says in a column; empty where it has none."""
        place = self.columns.get(role)
        return row.cells[place] if place is not None and place < len(row.raw) else ""

    def encode(self, changed: Mapping[int, str | None]) -> bytes:
        """The file's bytes with new values in some lines, by place in ``rows``; None drops a line."""
        written = []
        for place, row in enumerate(self.rows):
            if place not in changed:
                written.append(self.separator.join(row.raw) + row.end)
            elif (value := changed[place]) is not None:
                raw = list(row.raw)
                column = self.columns["value"]
                raw[column] = requote(raw[column], value, self.separator)
                written.append(self.separator.join(raw) + row.end)
        return "".join(written).encode(self.encoding)


def read_sheet(path: str | Path, named: Mapping[Role, str] | None = None) -> Sheet:
    """The table in a file; encoding, separator and, as far as ``named`` does not say, columns are found out.

    Args:
        path: A file of UTF-8 or Western European text, cells separated by semicolons, commas or tabs.
        named: Columns by what they hold, each by its heading or its number from 1.

    Raises:
        DataError: The file cannot be read, is no such table, or columns are not there.
    """
    file = Path(path)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give a table as CSV") from error
    if content.startswith(b"PK\x03\x04"):
        raise DataError(f"{path}: is a workbook, no text; save the sheet as CSV")
    if b"\0" in content or content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path}: is no text in UTF-8 or Latin-1 (UTF-16, perhaps); save it as CSV, UTF-8")
    text, encoding = decode(content)
    if not text.strip():
        raise DataError(f"{path}: is empty; give a table with a row for each value")
    best: tuple[tuple[int, int, int], str, tuple[Row, ...], int | None, dict[Role, int]] | None = None
    for separator in SEPARATORS:
        rows = split_rows(text, separator)
        header, columns = find_header(rows, named or {})
        width = len(rows[header or 0].raw)
        score = (len(columns), sum(len(row.raw) == width for row in rows) * (width > 1), width)
        if best is None or score > best[0]:
            best = score, separator, rows, header, columns
    assert best is not None
    _, separator, rows, header, columns = best
    _refuse_missing(file, rows, columns, named or {}, header)
    return Sheet(file, encoding, separator, rows, header, columns)


def decode(content: bytes) -> tuple[str, str]:
    """The text of a file, and its encoding; encoded again it is the same bytes."""
    if content.startswith(b"\xef\xbb\xbf"):
        try:
            return content.decode("utf-8-sig"), "utf-8-sig"
        except UnicodeDecodeError:
            pass
    for encoding in ("utf-8", "cp1252" if re.search(rb"[\x80-\x9f]", content) else "latin-1"):
        try:
            return content.decode(encoding), encoding
        except UnicodeDecodeError:
            continue
    return content.decode("latin-1"), "latin-1"


def split_rows(text: str, separator: str) -> tuple[Row, ...]:
    """The lines of ``text``; a cell in quotes may hold separators and line ends. A quote that is not closed is a character."""
    mark = re.escape(separator)
    cell = re.compile(rf'( *"(?:[^"]|"")*" *|[^{mark}\r\n]*)({mark}|\r\n|\r|\n|\Z)')
    rows: list[Row] = []
    raw: list[str] = []
    line, start, at = 1, 1, 0
    while at < len(text) or raw:
        match = cell.match(text, at)
        assert match is not None  # the second form of a cell fits whatever there is
        raw.append(match[1])
        line += len(re.findall(r"\r\n|\r|\n", match[0]))
        at = match.end()
        if match[2] != separator:
            rows.append(Row(start, tuple(raw), match[2]))
            raw, start = [], line
    return tuple(rows)


def unquote(raw: str) -> str:
    """What a cell says: without the quotes and the blanks around it."""
    text = raw.strip()
    if len(text) > 1 and text.startswith('"') and text.endswith('"'):
        text = text[1:-1].replace('""', '"')
    return text.replace("\N{NO-BREAK SPACE}", " ").strip()


def requote(raw: str, value: str, separator: str) -> str:
    """A cell with a new value, in quotes where it had them or now needs them, with the blanks that it had around it."""
    text = raw.strip()
    if (len(text) > 1 and text.startswith('"') and text.endswith('"')) or separator in value:
        value = f'"{value}"'
    before, after = raw[: len(raw) - len(raw.lstrip())], raw[len(raw.rstrip()) :] if text else ""
    return before + value + after


def find_header(rows: Sequence[Row], named: Mapping[Role, str]) -> tuple[int | None, dict[Role, int]]:
    """Place of the header, the first line with columns for names and values, and places of the columns, as far as found."""
    numbered = {role: int(name) - 1 for role, name in named.items() if name.isdecimal()}
    for place, row in enumerate(rows):
        columns = _match_headings(row.cells, named, numbered)
        if {"name", "value"} <= columns.keys() and len(columns) > len(numbered):
            return place, columns
        if {"name", "value"} <= numbered.keys() and _match_headings(row.cells, {}, {}).keys() >= {"name", "value"}:
            return place, columns
    return None, numbered


def _match_headings(cells: Sequence[str], named: Mapping[Role, str], numbered: Mapping[Role, int]) -> dict[Role, int]:
    """Places of the columns in a line: numbered ones, named ones, and those whose heading is known; the first of several."""
    matches = {role: _find_matches(cells, role, named.get(role)) for role in ROLES if role not in numbered}
    return {**numbered, **{role: places[0] for role, places in matches.items() if places}}


def _find_matches(cells: Sequence[str], role: Role, name: str | None) -> list[int]:
    """Places of the cells that are a column's ``name`` or, where it has none, one of its known headings."""
    if name is not None:
        return [place for place, cell in enumerate(cells) if cell.casefold() == name.casefold()]
    words = [re.sub(r"\(.*?\)|\[.*?\]|[\W\d_]", "", cell.casefold()) for cell in cells]
    return [place for place, word in enumerate(words) if word in HEADINGS[role].split()]


def _refuse_missing(
    path: Path, rows: Sequence[Row], columns: Mapping[Role, int], named: Mapping[Role, str], header: int | None
) -> None:
    """Raises :class:`DataError` where a column is not there, or it is not clear which one it is."""
    cells = rows[header or 0].cells
    shown = ", ".join(filter(None, cells)) or "nothing"
    for role in sorted(ROLES, key=lambda role: role not in named):
        name = named.get(role)
        if name is not None and name.isdecimal():
            if not 1 <= int(name) <= len(cells):
                raise DataError(f"{path}: --{role} {name}: expected a heading, or a number from 1 to {len(cells)}")
        elif name is not None and not _find_matches(cells, role, name):
            hint = suggest_nearest(name, cells)
            raise DataError(f"{path}: --{role} {name}: there is no such column; the headings are {shown}.{hint}")
        elif role in ("name", "value") and role not in columns:
            raise DataError(
                f"{path}: no heading of a column of {role}s is known among {shown}: give --{role} <heading>, or of a table "
                "without headings the numbers of its columns: --name 1 --unit 2 --range 3 --value 4"
            )
        elif header is not None and len(matches := _find_matches(cells, role, name)) > 1:
            numbers = ", ".join(str(place + 1) for place in matches)
            raise DataError(
                f"{path}: columns {numbers} may all be the {role}s: choose one by its number, --{role} {matches[0] + 1}"
            )
    places = list(columns.values())
    if len(set(places)) < len(places):
        raise DataError(f"{path}: one column cannot be two things: give --name, --unit, --range and --value apart")
