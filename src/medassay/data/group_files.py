"""Groups of images from files: a CSV table beside any data set, or arrays in its ``.npz``.

The table's first line names its columns. Those that say which image a row is of are ``file`` for class folders (the path
below ``data.path``, e.g. ``train/normal/7.png``), and ``split`` and ``index`` for everything else (``train``, ``val`` or
``test``; from 0, in the order of the file). Every other column is an attribute, its values the groups' names. An ``.npz`` has
``<split>_groups``, ``(N,)`` for one attribute or ``(N, A)`` for several, text or integers, and ``group_names``, ``(A,)`` text.
Either way a split has a group of every attribute for every image, or no groups at all.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medassay.core.errors import DataError
from medassay.core.groups import make_groups, sort_levels
from medassay.core.types import Splits
from medassay.data import npz

MOST_LEVELS = 32  # groups of an attribute; a column with more is an age or a number of a patient
FILE, SPLIT, INDEX = "file", "split", "index"
NAMES = "group_names"
ARRAYS = tuple(f"{split}_groups" for split in Splits._fields)
LAYOUT = (
    "expected a column 'file' (class folders) or 'split' and 'index' (anything else), and one column for each attribute"
)

Key = str | tuple[str, int]  # a file's name, or split and index


@dataclass(frozen=True)
class GroupTable:
    """A CSV table of groups.

    Attributes:
        path: The file.
        md5: Its md5.
        attributes: Names of the attributes, in the order of the columns.
        rows: By image, the names of its groups; the image is a file's name, or a split and an index.
        lines: By image, the number of its line, from 1.
    """

    path: Path
    md5: str
    attributes: list[str]
    rows: dict[Key, list[str]]
    lines: dict[Key, int]

    @property
    def by_file(self) -> bool:
        return isinstance(next(iter(self.rows)), str)

    def refuse(self, problem: str) -> DataError:
        """The error that says what is wrong with the table."""
        return DataError(f"data.groups={self.path}: {problem}")


def read_group_table(path: str | Path) -> GroupTable:
    """The table in a CSV file, separated by commas or semicolons, UTF-8.

    Raises:
        DataError: The file cannot be read, columns are missing, or a row is incomplete or of an image that another row is of.
    """
    file = Path(path)
    try:
        content = file.read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"data.groups={path}: cannot be read ({error.strerror}); give a CSV file") from error
    except UnicodeDecodeError as error:
        raise DataError(f"data.groups={path}: is no text in UTF-8; save the table as CSV, UTF-8") from error
    table = GroupTable(file, hashlib.md5(content, usedforsecurity=False).hexdigest(), [], {}, {})
    rows = _iterate_rows(table, text)
    _, header = next(rows, (0, []))
    _check_header(table, header)
    by_file = FILE in header
    places = [header.index(name) for name in ([FILE] if by_file else [SPLIT, INDEX])]
    table.attributes.extend(name for place, name in enumerate(header) if place not in places)
    for line, row in rows:
        if not any(row):
            continue
        _check_row(table, header, row, line)
        key = _read_file_name(row[places[0]]) if by_file else _read_place(table, row[places[0]], row[places[1]], line)
        if key in table.rows:
            raise table.refuse(f"line {line} is of {name_image(key)}, and so is line {table.lines[key]}; leave one out")
        table.rows[key] = [cell for place, cell in enumerate(row) if place not in places]
        table.lines[key] = line
    if not table.rows:
        raise table.refuse("has no rows; give one for each image")
    return table


def _iterate_rows(table: GroupTable, text: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of the table's text, each with the number of its last line."""
    heading = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=";" if ";" in heading and "," not in heading else ",")
    before = 0
    try:
        for cells in reader:
            before = reader.line_num
            yield before, [cell.strip() for cell in cells]
    except csv.Error as error:  # a cell that takes up the lines below it, until it is too long
        raise table.refuse(f"line {before + 1} cannot be read ({error}); close the quote") from error


def attach_groups(splits: Splits, table: GroupTable, files: Mapping[str, Sequence[str]]) -> Splits:
    """The splits with the groups of ``table``.

    Args:
        splits: The images, all of them and in the order in which they lie in the file.
        table: The table.
        files: By split, the name of each image's file; empty where images are no files of their own.

    Raises:
        DataError: A row is of no image, an image has no row, the table is for the other kind of data, or an attribute has too
            many groups.
    """
    if table.by_file != bool(files):
        here = "the images are files: give a column 'file', the path below data.path" if files else (
            "the images are no files: give the columns 'split' and 'index' instead of 'file'"
        )  # fmt: skip
        raise table.refuse(here)
    keys: dict[str, list[Key]] = {
        name: list(files[name]) if files else [(name, index) for index in range(len(split))]
        for name, split in zip(Splits._fields, splits, strict=True)
    }
    known = {key for part in keys.values() for key in part}
    if (stray := next((key for key in table.rows if key not in known), None)) is not None:
        raise table.refuse(f"line {table.lines[stray]} is of {name_image(stray)}, which the data do not have")
    for name, part in keys.items():
        absent = [key for key in part if key not in table.rows]
        if absent and len(absent) < len(part):
            raise table.refuse(
                f"{len(absent)} of {len(part)} {name} images have no row, e.g. {name_image(absent[0])}; a split has a row for "
                "every image, or none at all"
            )
    with_rows = {name: part for name, part in keys.items() if part and part[0] in table.rows}
    values = {
        name: {attribute: [table.rows[key][place] for key in part] for place, attribute in enumerate(table.attributes)}
        for name, part in with_rows.items()
    }
    return _attach(splits, values, f"data.groups={table.path}")


def read_npz_groups(path: Path, splits: Splits) -> Splits:
    """The splits with the groups that the ``.npz`` file they come from has; unchanged where it has none.

    Raises:
        DataError: An array has another shape or type, names are missing, or an attribute has too many groups.
    """
    with npz.open_archive(path) as archive:
        present = [key for key in ARRAYS if key in archive.files]
        if not present:
            return splits
        arrays = {key: npz.read_array(path, key, archive) for key in present if npz.read_header(path, key, archive)}
        names = npz.read_array(path, NAMES, archive) if NAMES in archive.files else None
    values: dict[str, dict[str, list[str]]] = {}
    for key, array in arrays.items():
        part = key.removesuffix("_groups")
        n = len(getattr(splits, part))
        columns = array[:, None] if array.ndim == 1 else array
        if columns.ndim != 2 or len(columns) != n or columns.dtype.kind not in "iuU":
            raise DataError(
                f"{path}: '{key}' is {array.dtype} of shape {array.shape}, expected text or integers of shape ({n},) or "
                f"({n}, A), a column for each attribute"
            )
        attributes = _name_attributes(path, names, columns.shape[1], key)
        values[part] = {
            name: [str(value) for value in column] for name, column in zip(attributes, columns.T.tolist(), strict=True)
        }
    return _attach(splits, values, str(path))


def _name_attributes(path: Path, names: Any, wanted: int, key: str) -> list[str]:
    if names is None and wanted == 1:
        return ["group"]
    texts = [] if names is None else [str(name) for name in np.atleast_1d(names).tolist()]
    if len(texts) != wanted or len(set(texts)) != wanted or not all(texts):
        raise DataError(
            f"{path}: '{key}' has {wanted} {'column' if wanted == 1 else 'columns'} and '{NAMES}' names "
            f"{', '.join(texts) or 'none'}; save '{NAMES}' with a name for each"
        )
    return texts


def _attach(splits: Splits, values: Mapping[str, Mapping[str, Sequence[str]]], where: str) -> Splits:
    """The splits with the groups whose names ``values`` gives by split and attribute; levels are those of all splits."""
    levels: dict[str, tuple[str, ...]] = {}
    for attribute in next(iter(values.values())):
        levels[attribute] = sort_levels([name for part in values.values() for name in part[attribute]])
        if len(levels[attribute]) > MOST_LEVELS:
            raise DataError(
                f"{where}: '{attribute}' has {len(levels[attribute])} different values, at most {MOST_LEVELS} can be compared "
                "as groups; put them into bins (ages: 0-39, 40-64, 65+), or leave the column out"
            )
    parts = {
        name: dataclasses.replace(getattr(splits, name), groups=make_groups(part, levels))
        for name, part in values.items()
    }
    return splits._replace(**parts)


# --- what is refused in a table --------------------------------------------------------------------------------------


def _check_header(table: GroupTable, header: Sequence[str]) -> None:
    shown = ", ".join(header) or "nothing"
    has_place = SPLIT in header or INDEX in header
    if (FILE in header) == has_place or (has_place and not {SPLIT, INDEX} <= set(header)):
        raise table.refuse(f"its columns are {shown}: {LAYOUT}")
    if len(header) <= (1 if FILE in header else 2):
        raise table.refuse(f"its columns are {shown}: there is no attribute; {LAYOUT}")
    if "" in header:
        raise table.refuse(f"column {header.index('') + 1} has no name: give it one, or leave it out")
    if twice := next((name for name in header if header.count(name) > 1), None):
        raise table.refuse(f"two columns are called '{twice}': leave one out")


def _check_row(table: GroupTable, header: Sequence[str], row: Sequence[str], line: int) -> None:
    if len(row) != len(header):
        raise table.refuse(f"line {line} has {len(row)} values for {len(header)} columns")
    if "" in row:
        empty = header[row.index("")]
        raise table.refuse(
            f"line {line} has no {empty}: where a group is not known, write unknown, a group like any other"
        )


def _read_file_name(text: str) -> str:
    return text.replace("\\", "/").removeprefix("./")


def _read_place(table: GroupTable, split: str, index: str, line: int) -> tuple[str, int]:
    if split not in Splits._fields:
        raise table.refuse(f"line {line} has split '{split}': expected {', '.join(Splits._fields)}")
    if not (index.isascii() and index.isdigit()):
        raise table.refuse(f"line {line} has index '{index}': expected a whole number from 0")
    return split, int(index)


def name_image(key: Key) -> str:
    """An image of a table in words."""
    return f"file '{key}'" if isinstance(key, str) else f"image {key[1]} of {key[0]}"
