"""Workbooks of Excel: cells as they are seen, the right sheet, and none that harms."""

import datetime
import io
import zipfile
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from storage.errors import InvalidInputError, TooLargeError
from storage.tables.limits import Limits, ReadOptions
from tests.reading import read, rows_of

Sheets = dict[str, list[list[Any]]]


def workbook_bytes(sheets: Sheets, merged: str = "", hidden: str = "") -> bytes:
    workbook = openpyxl.Workbook()
    workbook.remove(workbook.active)
    for name, rows in sheets.items():
        sheet = workbook.create_sheet(name)
        for row in rows:
            sheet.append(row)
        if name == hidden:
            sheet.sheet_state = "hidden"
    if merged:
        workbook.worksheets[0].merge_cells(merged)
    sink = io.BytesIO()
    workbook.save(sink)
    return sink.getvalue()


def changed(data: bytes, member: str, old: bytes, new: bytes) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            content = source.read(name)
            target.writestr(name, content.replace(old, new) if name == member else content)
    return sink.getvalue()


TABLE = [["text", "label"], ["a", "x"], ["b", "y"]]


def test_a_workbook_gives_the_rows_of_its_sheet(tmp_path: Path) -> None:
    result, parts = read(tmp_path, {"t.xlsx": workbook_bytes({"Data": TABLE})})
    assert parts["train"] == [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]
    assert (result["detected"]["format"], result["detected"]["sheet"]) == ("xlsx", "Data")


def test_cells_are_read_as_they_are_seen(tmp_path: Path) -> None:
    values = [
        1,
        2.0,
        0.1 + 0.2,
        True,
        datetime.datetime(2026, 3, 1),
        datetime.datetime(2026, 3, 1, 9, 30),
        "007",
        " a ",
    ]
    rows = [["value", "label"], *([value, "x"] for value in values)]
    seen = [row["value"] for row in rows_of(tmp_path, "t.xlsx", workbook_bytes({"Data": rows}))]
    assert seen == ["1", "2", "0.3", "TRUE", "2026-03-01", "2026-03-01T09:30:00", "007", " a "]


def test_numbers_filled_up_with_zeros_keep_them(tmp_path: Path) -> None:
    workbook = openpyxl.Workbook()
    workbook.active.append(["code", "label"])
    workbook.active.append([7, "x"])
    workbook.active["A2"].number_format = "00000"
    sink = io.BytesIO()
    workbook.save(sink)
    assert rows_of(tmp_path, "t.xlsx", sink.getvalue())[0]["code"] == "00007"


def test_the_first_visible_sheet_with_a_table_is_taken_and_another_may_be_told(tmp_path: Path) -> None:
    sheets: Sheets = {"Old": TABLE, "About": [["made by me"]], "Data": TABLE, "More": [["q", "a"], ["1", "2"]]}
    data = workbook_bytes(sheets, hidden="Old")
    detected = read(tmp_path, {"t.xlsx": data})[0]["detected"]
    assert (detected["sheet"], detected["choices"]["sheet"]) == ("Data", ["Old", "About", "Data", "More"])
    assert rows_of(tmp_path, "t.xlsx", data, ReadOptions(sheet="More")) == [{"q": "1", "a": "2"}]
    with pytest.raises(InvalidInputError, match="no sheet “Nope”; it has Old, About"):
        read(tmp_path, {"t.xlsx": data}, ReadOptions(sheet="Nope"))


def test_merged_cells_all_have_their_value_and_empty_rows_are_none(tmp_path: Path) -> None:
    rows = [["topic", "text"], ["food", "soup"], [None, "bread"], [None, None], ["wine", "red"]]
    data = workbook_bytes({"Data": rows}, merged="A2:A3")
    assert [row["topic"] for row in rows_of(tmp_path, "t.xlsx", data)] == ["food", "food", "wine"]


def test_a_title_above_the_table_is_skipped_and_noted(tmp_path: Path) -> None:
    rows = [["Answers of spring", None, None], [None, None, None], [None, *TABLE[0]], [None, *TABLE[1]], [None, "c"]]
    result, parts = read(tmp_path, {"t.xlsx": workbook_bytes({"Data": rows}, merged="A1:C1")})
    assert parts["train"] == [{"text": "a", "label": "x"}, {"text": "c", "label": ""}]
    assert result["detected"]["notes"] == ["Skipped above the table: Answers of spring."]


def test_formulas_without_a_result_are_noted(tmp_path: Path) -> None:
    rows = [*TABLE, ["c", "=1+1"]]
    result, parts = read(tmp_path, {"t.xlsx": workbook_bytes({"Data": rows})})
    assert parts["train"][2] == {"text": "c", "label": ""}
    assert result["detected"]["notes"][0].startswith("1 cell holds a formula without a result")


def test_a_size_that_a_sheet_declares_of_itself_is_not_believed(tmp_path: Path) -> None:
    data = changed(workbook_bytes({"Data": TABLE}), "xl/worksheets/sheet1.xml", b"A1:B3", b"A1:XFD1048576")
    assert len(rows_of(tmp_path, "t.xlsx", data)) == 2


def test_a_workbook_that_swells_is_refused(tmp_path: Path) -> None:
    data = workbook_bytes({"Data": [*TABLE, ["x" * 30_000, "z"]]})
    with pytest.raises(TooLargeError, match="far more than a workbook of its size"):
        read(tmp_path, {"t.xlsx": data}, limits=Limits(max_unpacked_bytes=20_000))


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (workbook_bytes({"Data": TABLE})[:2000], "t.xlsx is a workbook that cannot be read"),
        (changed(workbook_bytes({"Data": TABLE}), "xl/worksheets/sheet1.xml", b"</row>", b""), "damaged or unusual"),
        (
            changed(workbook_bytes({"Data": TABLE}), "xl/workbook.xml", b"<workbook", b"<!DOCTYPE a []><workbook"),
            "document type",
        ),
        (workbook_bytes({"Data": []}), "“Data” of t.xlsx is empty"),
        (workbook_bytes({"Data": [["a", "a"], ["1", "2"], ["3", "4"]]}), "both called “a”"),
    ],
)
def test_a_bad_workbook_is_refused_in_a_sentence(tmp_path: Path, data: bytes, sentence: str) -> None:
    with pytest.raises(InvalidInputError, match=sentence):
        read(tmp_path, {"t.xlsx": data})


@pytest.mark.parametrize(
    ("above", "header", "first_row"),
    [([], None, 2), ([], False, 1), ([["My survey"], []], None, 4), ([[], []], None, 4)],
)
def test_the_row_of_the_sheet_is_told_from_which_rows_are_counted(
    tmp_path: Path, above: list[list[Any]], header: bool | None, first_row: int
) -> None:
    data = workbook_bytes({"Data": [*above, *TABLE, ["c", "x"]]})
    result, _ = read(tmp_path, {"t.xlsx": data}, ReadOptions(header=header))
    assert result["detected"]["first_row"] == first_row
