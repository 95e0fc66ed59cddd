"""Tables as text."""

from __future__ import annotations

import csv
import io
import math

import numpy as np

from medassay.reporting.tables import format_csv, format_markdown, format_records_as_csv


def test_numbers_are_written_in_full_and_those_that_there_are_not_are_empty() -> None:
    text = format_csv(["a", "b", "c", "d"], [[0.1 + 0.2, None, math.nan, 3], [1e-20, "", math.inf, -1]])
    assert text == "a,b,c,d\n0.30000000000000004,,,3\n1e-20,,inf,-1\n"


def test_every_number_is_read_back_as_it_was() -> None:
    numbers = np.random.default_rng(0).normal(size=20).tolist()
    (_, line) = csv.reader(io.StringIO(format_csv(list(map(str, range(20))), [numbers])))
    assert list(map(float, line)) == numbers


def test_text_with_commas_quotes_and_line_ends_is_read_back_as_it_was() -> None:
    row = ['a, "b"', "two\nlines", "κ"]
    assert list(csv.reader(io.StringIO(format_csv(["x", "y", "z"], [row])))) == [["x", "y", "z"], row]


def test_a_table_without_rows_is_its_header() -> None:
    assert format_csv(["a", "b"], []) == "a,b\n"
    assert format_records_as_csv([]) == "\n"


def test_records_have_a_column_for_each_name_that_any_has_in_the_order_of_their_coming() -> None:
    assert format_records_as_csv([{"b": 1, "a": 2.5}, {"c": "x", "a": None}]) == "b,a,c\n1,2.5,\n,,x\n"


def test_a_markdown_table_is_aligned_as_asked_and_to_the_left_where_nothing_is() -> None:
    assert format_markdown(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
    assert format_markdown(["a", "b"], [], ["---", "---:"]) == "| a | b |\n| --- | ---: |"


def test_bars_and_line_ends_in_a_cell_do_not_end_it() -> None:
    assert format_markdown(["a|b"], [["two\nlines"]]).splitlines() == ["| a\\|b |", "| --- |", "| two lines |"]
