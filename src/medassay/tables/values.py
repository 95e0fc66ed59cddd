"""A laboratory table as a data frame: numbers, normal ranges, and what is missing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from medassay.tables.rows import Kind, find_comma, list_values
from medassay.tables.sheet import Role, read_sheet

if TYPE_CHECKING:
    import pandas as pd

_NOTES: dict[Kind, str] = {
    "number": "",
    "missing": "no value",
    "bound": "a bound, no number",
    "words": "words, no number",
    "unreadable": "unreadable",
    "date": "a date: repair the table first",
    "doubtful": "a row with a cell too many, or without a name: for a person",
}


def read_values(path: str | Path, columns: Mapping[Role, str] | None = None) -> pd.DataFrame:
    """The measurements in a table, in its order; stray rows are left out, but a name alone is a missing value.

    Args:
        path: A table that :func:`medassay.tables.sheet.read_sheet` can read, repaired or without faults.
        columns: Headings (or numbers from 1) of the columns ``name``, ``unit``, ``range`` and ``value``; those that are not
            given are found by their headings.

    Returns:
        A row for each measurement with ``name`` and ``unit`` (text: NaN is sodium here), ``low`` and ``high`` (float64, bounds
        of the normal range; infinite where a side is open, NaN where there is no range), ``value`` (float64, NaN where it is
        missing), ``inside`` (boolean, NA where value or range is missing) and ``note`` (text, why a value is missing).

    Raises:
        DataError: The file is no such table.
    """
    import pandas as pd

    sheet = read_sheet(path, columns)
    values, _ = list_values(sheet, find_comma(sheet), drop_names=False)
    inside = [
        None if value.number is None or value.normal is None else value.normal.contains(value.number)
        for value in values
    ]
    return pd.DataFrame(
        {
            "name": pd.Series([sheet.get(value.row, "name") for value in values], dtype="str"),
            "unit": pd.Series([sheet.get(value.row, "unit") for value in values], dtype="str"),
            "low": pd.Series(
                [math.nan if value.normal is None else value.normal.low for value in values], dtype="float64"
            ),
            "high": pd.Series(
                [math.nan if value.normal is None else value.normal.high for value in values], dtype="float64"
            ),
            "value": pd.Series(
                [math.nan if value.number is None else value.number for value in values], dtype="float64"
            ),
            "inside": pd.Series(inside, dtype="boolean"),
            "note": pd.Series([_NOTES[value.kind] for value in values], dtype="str"),
        }
    )
