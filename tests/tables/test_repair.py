"""Laboratory tables turned into dates: every value of a report, every kind of ambiguity, encodings, untouched bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from medassay.core.errors import DataError
from medassay.tables import read_values
from medassay.tables.repair import Change, Repair, repair_sheet
from medassay.tables.rows import find_comma
from medassay.tables.sheet import read_sheet
from tests.tables.laboratory import ROWS, SPOILT, STRAY, write_report


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return tmp_path / "table.csv"


def repair(table: Path, content: str | bytes, accept_likely: bool = False, encoding: str = "utf-8") -> Repair:
    table.write_bytes(content.encode(encoding) if isinstance(content, str) else content)
    return repair_sheet(read_sheet(table), accept_likely)


def repair_value(table: Path, value: str, normal: str = "", **options: bool) -> Change:
    """The change of one value with a normal range, alone in its table."""
    (change,) = repair(table, f"name;unit;normal range;value\nA;g;{normal};{value}\n", **options).changes
    return change


# --- a whole report --------------------------------------------------------------------------------------------------


def test_every_row_of_a_report_is_what_it_was_or_is_left_to_a_person(table: Path) -> None:
    result = repair(table, SPOILT)
    expected = [("" if row[5] == "ambiguous" else row[4]) or "" for row in ROWS]
    assert result.content == write_report(expected, stray=False).encode("latin-1")
    assert result.rows == 23
    actions = {change.name: change.action for change in result.changes}
    stray = {STRAY.partition(";")[0]: "dropped"}
    assert actions == {row[0]: row[5] for row in ROWS if row[5]} | stray


def test_the_likelier_readings_are_those_with_the_neighbours_decimals(table: Path) -> None:
    result = repair(table, SPOILT, accept_likely=True)
    assert result.content == write_report([row[4] or "" for row in ROWS], stray=False).encode("latin-1")
    likely = {change.name: (change.before, change.after) for change in result.changes if change.is_flagged}
    assert likely == {
        "Hämoglobin": ("20. Mrz", "20.3"),
        "Kalium": ("04. Jul", "4.7"),
        "Harnsäure": ("02. Aug", "2.8"),
        "Glukose": ("04. Sep", "4.9"),
    }


def test_every_change_has_its_line_reason_and_confidence(table: Path) -> None:
    changes = {change.name: change for change in repair(table, SPOILT).changes}
    red = changes["Erythrozyten"]
    assert (red.line, red.readings, red.confidence) == (3, ("5.7", "5.07"), "medium")
    assert red.reason == "Day and month of 5.7 or 5.07: only 5.07 lies inside the normal range."
    assert (changes["Calcium"].line, changes["Calcium"].confidence) == (14, "high")  # the stray line is line 11
    assert "none lies inside" in changes["Hämoglobin"].reason
    assert "1, 1, 1 decimals" in changes["Hämoglobin"].reason  # 33.4, 45.3, 87.3
    assert "2 lie inside" in changes["Kalium"].reason
    assert changes["Befund vom 12.03.2023"].before == STRAY
    assert "name alone" in changes["Befund vom 12.03.2023"].reason


# --- one value -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("normal", "action", "after", "likelier"),
    [
        ("3.1-5.2", "repaired", "5.07", ""),
        ("5.5-6.5", "repaired", "5.7", ""),
        ("5.07-5.7", "ambiguous", "", "5.7"),  # bounds are normal
        ("1-2", "ambiguous", "", "5.7"),
        ("", "ambiguous", "", "5.7"),
        ("< 5.7", "repaired", "5.07", ""),
        ("> 5.07", "repaired", "5.7", ""),
        ("bis 5,1", "repaired", "5,07", ""),  # the only number with decimals: they are written with commas
        ("m: 1-2, w: 1-3", "ambiguous", "", "5.7"),
    ],
)
def test_a_day_and_month_is_the_reading_that_is_normal(
    table: Path, normal: str, action: str, after: str, likelier: str
) -> None:
    change = repair_value(table, "05. Jul", normal)
    assert (change.action, change.after, change.likelier) == (action, after, likelier)


@pytest.mark.parametrize(
    ("value", "readings"),
    [
        ("Feb 43", ("2.43",)),
        ("Februar 1943", ("2.43",)),
        ("Feb-43", ("2.43",)),
        ("Mar 05", ("3.05",)),
        ("Mär 78", ("3.78",)),
        ("März 78", ("3.78",)),
        ("Mrz. 78", ("3.78",)),
        ("Jan 00", ("1.00",)),
        ("20. Mrz", ("20.3", "20.03")),
        ("20. Mrz.", ("20.3", "20.03")),
        ("5-Jul", ("5.7", "5.07")),
        ("Jul 5", ("5.7", "5.07")),
        ("10. Okt", ("10.10",)),
        ("10-Oct", ("10.10",)),
        ("12. Dez 2023", ("12.12",)),
        ("31 December", ("31.12",)),
        ("05.07.2023", ("5.7", "5.07")),
        ("05.07.", ("5.7", "5.07")),
        ("2023-07-05", ("5.7", "5.07")),
        ("2023-07-05 00:00:00", ("5.7", "5.07")),
        ("01.02.1943", ("2.43",)),  # in 1943 there was no spreadsheet to type 1.2 into
        ("01.02.2023", ("1.2", "1.02", "2.23")),
        ("01.02.2005", ("1.2", "1.02")),  # 2.05 would have been 2 May
        ("05/07/2023", ("5.7", "5.07", "7.5", "7.05")),
        ("13/07/2023", ("13.7", "13.07")),
        ("1. Mai", ("1.5", "1.05")),
        ("1-May", ("1.5", "1.05")),
    ],
)
def test_dates_in_german_and_english_have_the_readings_worked_out_by_hand(
    table: Path, value: str, readings: tuple[str, ...]
) -> None:
    assert repair_value(table, value).readings == readings


@pytest.mark.parametrize(
    "value", ["31. Sep", "45. Mrz", "05.13.2023", "Feb 1899", "5.7.1960", "Jul", "3 Stück", "1.2.3.4"]
)
def test_what_no_number_becomes_is_flagged_and_empty(table: Path, value: str) -> None:
    change = repair_value(table, value, "1-9")
    assert (change.action, change.after, change.is_flagged) == ("unreadable", "", True)


@pytest.mark.parametrize("dates", [("04.07.2023", "05.07.2023"), ("04. Jul", "05. Jul")])
def test_points_of_dates_do_not_decide_what_a_comma_means(table: Path, dates: tuple[str, str]) -> None:
    """However they are written: one value has become 1000 times as large, and repaired ones points, when they did."""
    rows = [
        ("Dichte", "", "1,005-1,030", "1,015"),
        ("Natrium", "mmol/l", "135-145", "141,2"),
        ("Leukozyten", "/nl", "4-10", "7,3"),
        ("Kalium", "mmol/l", "3,5-5,1", dates[0]),
        ("Erythrozyten", "/pl", "3,1-5,2", dates[1]),
    ]
    content = "\n".join(";".join(row) for row in [("Name", "Einheit", "Normbereich", "Wert"), *rows]) + "\n"
    written = repair(table, content).content.decode()
    assert find_comma(read_sheet(table))
    assert "Erythrozyten;/pl;3,1-5,2;5,07\n" in written


def test_a_date_with_one_reading_is_taken_outside_the_normal_range_and_says_so(table: Path) -> None:
    change = repair_value(table, "Feb 43", "3.1-5.2")
    assert (change.action, change.after, change.confidence) == ("repaired", "2.43", "high")
    assert "outside the normal range" in change.reason
    assert repair_value(table, "Mar 05", "3.0-3.1").confidence == "medium"  # 3.05 would have been 3 May


@pytest.mark.parametrize(("above", "likelier"), [("1.11", "20.03"), ("1.1", "20.3"), ("1", "20.3"), ("n.d.", "20.3")])
def test_decimals_are_those_of_the_neighbours_or_fewer(table: Path, above: str, likelier: str) -> None:
    (change,) = repair(table, f"name;value\nA;{above}\nB;20. Mrz\n").changes
    assert change.likelier == likelier


def test_decimal_commas_are_respected_and_quoted_where_they_separate_cells(table: Path) -> None:
    text = 'name,range,value\nA,"3,1-5,2","05. Jul"\nB,"2,1-2,6",Feb 43\nC,,"4,4"\n'
    expected = 'name,range,value\nA,"3,1-5,2","5,07"\nB,"2,1-2,6","2,43"\nC,,"4,4"\n'
    assert repair(table, text).content.decode() == expected


# --- rows ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (";;;", "empty"),
        (";g;1-2;", "no name"),
        ("Chemistry", "name alone"),
        ("name;unit;normal range;value", "headings once more"),
        ("A;g;1-2;;5", "5 cells"),
        ("Date;;;12.03.2023", "no measurement"),
        ("Befund vom;;;2023-03-12", "no measurement"),
    ],
)
def test_a_stray_row_is_dropped_with_its_reason(table: Path, row: str, reason: str) -> None:
    head, tail = "name;unit;normal range;value\nA;g;1-2;1.5\n", "B;g;1-2;1.6\n"
    result = repair(table, f"{head}{row}\n{tail}")
    assert result.content.decode() == head + tail
    (change,) = result.changes
    assert (change.line, change.action, change.before) == (3, "dropped", row)
    assert reason in change.reason


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("Kalium;mmol/l;3.5-5.1;4.1;checked", "5 cells, and the table has 4 columns"),
        ("Kalium;mmol/l;3.5-5.1;05. Jul;checked", "5 cells"),
        (";mmol/l;2.1-2.6;2.43", "It has no name"),
    ],
)
def test_a_measurement_in_a_row_unlike_the_others_stays_for_a_person(table: Path, row: str, reason: str) -> None:
    text = f"name;unit;normal range;value\nA;g;1-2;1.5\n{row}\nB;g;1-2;1.6\n"
    result = repair(table, text)
    assert result.content.decode() == text
    (change,) = result.changes
    assert (change.line, change.action, change.is_flagged) == (3, "kept", True)
    assert change.reason.startswith(reason)
    frame = read_values(table)
    assert frame["value"].isna().tolist() == [False, True, False]
    assert "for a person" in frame["note"][1]


@pytest.mark.parametrize(
    ("row", "readings"),
    [
        ("pH;;;Jul 1935", ("7.35",)),  # a day and a year, and yet a measurement
        ("INR;;;01.02.1943", ("2.43",)),
        ("A;g;3.1-5.2;05.07", ("5.7", "5.07")),
        ("A;g;1.1-1.3;01.02.2043", ("2.43",)),  # a year to come: nobody typed it yet
        ("A;g;1.1-1.3;Feb 2043", ("2.43",)),
    ],
)
def test_dates_in_other_guises_are_repaired(table: Path, row: str, readings: tuple[str, ...]) -> None:
    (change,) = repair(table, f"name;unit;normal range;value\nX;g;1-2;1.5\n{row}\n").changes
    assert change.readings == readings
    assert change.action == "repaired"


def test_a_count_of_days_may_be_a_number_in_another_unit_and_is_for_a_person(table: Path) -> None:
    change = repair_value(table, "45112", "3.1-5.2")  # 5 July 2023 in a spreadsheet's count
    assert (change.action, change.after, change.readings, change.likelier) == ("ambiguous", "", ("5.7", "5.07"), "5.07")
    assert "another unit" in change.reason
    assert repair(table, "name;range;value\nA;150-400;245\nB;20000-50000;45112\n").changes == ()


def test_a_table_without_units_and_ranges_keeps_its_dates_for_repair(table: Path) -> None:
    result = repair(table, "Name;Wert\nCalcium;1943-02-01\nNatrium;141\nCRP;Februar 1943\n")
    assert result.content.decode() == "Name;Wert\nCalcium;2.43\nNatrium;141\nCRP;2.43\n"


@pytest.mark.parametrize("value", ["######", "#WERT!", "#REF!", "?", "+", "2+", "1:40", "ca. 5"])
def test_what_a_person_has_to_look_at_is_not_taken_for_a_word(table: Path, value: str) -> None:
    change = repair_value(table, value, "1-9")
    assert (change.action, change.after) == ("unreadable", "")


def test_a_quote_that_is_not_closed_takes_no_other_lines_along(table: Path) -> None:
    text = 'name;range;value\nK;3-5;4.1\n"Na;135-145;141\nCa;2.1-2.6;Feb 43\nMg;0.7-1.0;"0.8"\n'
    assert repair(table, text).content.decode() == text.replace("Feb 43", "2.43")
    assert read_values(table)["value"].tolist()[:2] == [4.1, 141.0]


def test_a_value_a_thousand_times_its_range_is_noted(table: Path) -> None:
    (note,) = repair(table, "name;range;value\nDensity;1,005-1,030;1.015\nA;1-2;1.5\n").notes
    assert note.startswith(
        "Line 2, Density: the value '1.015' and the normal range '1,005-1,030' differ by a factor of 1000"
    )


def test_a_value_that_was_emptied_keeps_its_row_without_unit_and_range(table: Path) -> None:
    result = repair(table, "name;unit;range;value\nA;g;1-2;1.5\nB;;;ok\n")
    table.write_bytes(result.content)
    assert read_values(table)["name"].tolist() == ["A", "B"]
    assert repair(table, "name;value\nA;ok\nB;1\n").content == b"name;value\nA;\nB;1\n"
    assert repair(table, "name;value\nA;\nB;1\n").changes == ()


def test_lines_above_the_headings_are_dropped(table: Path) -> None:
    result = repair(table, "sep=;\nReport\nname;value\nA;Feb 43\n")
    assert result.content.decode() == "name;value\nA;2.43\n"


def test_ranges_that_are_dates_or_several_are_noted(table: Path) -> None:
    result = repair(table, "name;range;value\nA;04. Okt;5\nB;m: 1-2 w: 2-3;1\n")
    assert result.changes == ()
    assert [note.partition(":")[0] for note in result.notes] == ["Line 2, A", "Line 3, B"]
    assert "looks like a date" in result.notes[0]


# --- bytes -----------------------------------------------------------------------------------------------------------

SOUND = {
    "latin-1": "Bezeichnung;Einheit;Normalbereich;Wert\r\nEiweiß;µg;3,1-5,2;4,4\r\n".encode("latin-1"),
    "cp1252": "Bezeichnung;Einheit;Normalbereich;Wert\nEiweiß;‰;3.1–5.2;4.4 *\n".encode("cp1252"),
    "utf-8": 'name,unit,range,value\n "a ""b""", µg ,"3,1 – 5,2",4.4\n\n\nB,g,,\n"two\nlines",g,,<0.5'.encode(),
    "utf-8-sig": "name\tunit\trange\tvalue\rA\tµg\t4 - 10\t-\rB\tg\t\tNaN\r".encode("utf-8-sig"),
}


@pytest.mark.parametrize("encoding", SOUND)
def test_a_table_without_faults_comes_back_byte_for_byte(table: Path, encoding: str) -> None:
    result = repair(table, SOUND[encoding])
    assert read_sheet(table).encoding == encoding
    assert (result.content, result.changes) == (SOUND[encoding], ())


def test_only_changed_cells_differ_whatever_quotes_blanks_and_line_ends_there_are(table: Path) -> None:
    text = '"Name" ; Wert;Normal range;x\r\n"a;b"; "05. Jul" ;"3,1–5.2"; "q""q"\nÖ;  Feb 43;;\rC;4.4;;'
    expected = '"Name" ; Wert;Normal range;x\r\n"a;b"; "5.07" ;"3,1–5.2"; "q""q"\nÖ;  2.43;;\rC;4.4;;'
    assert repair(table, text, encoding="cp1252").content == expected.encode("cp1252")


# --- columns and files -----------------------------------------------------------------------------------------------


def test_columns_are_named_by_heading_or_by_number(table: Path) -> None:
    table.write_text("what;how much;old\nA;Feb 43;1\n")
    sheet = read_sheet(table, {"name": "what", "value": "How much"})
    assert repair_sheet(sheet).content == b"what;how much;old\nA;2.43;1\n"
    table.write_text("A;g;2-3;Feb 43\n")
    sheet = read_sheet(table, {"name": "1", "unit": "2", "range": "3", "value": "4"})
    assert repair_sheet(sheet).content == b"A;g;2-3;2.43\n"


@pytest.mark.parametrize(
    ("text", "named", "says"),
    [
        ("a;b\n1;2\n", {}, "--name"),
        ("name;wert\nA;2\n", {"value": "wrt"}, "'wert'"),
        ("name;wert\nA;2\n", {"value": "9"}, "1 to 2"),
        ("name;wert;ergebnis\nA;2;3\n", {}, "columns 2, 3"),
        ("name;wert\nA;2\n", {"value": "name"}, "two things"),
        ("", {}, "empty"),
        ("n\0", {}, "UTF-16"),
        ("PK\x03\x04", {}, "workbook"),
    ],
)
def test_a_table_that_cannot_be_read_is_one_line(table: Path, text: str, named: dict[str, str], says: str) -> None:
    table.write_text(text)
    with pytest.raises(DataError, match=says):
        read_sheet(table, named)  # type: ignore[arg-type]


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_sheet(tmp_path / "none.csv")
