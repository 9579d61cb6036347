"""What was detected of a file is told with what else could be chosen, and each choice can be made."""

from pathlib import Path

import pytest

from storage.tables.limits import ReadOptions
from tests.reading import read, rows_of

CSV = b"text;label\na, b;x\nc, d;y\n"


def test_a_text_tells_its_encoding_separator_and_header(tmp_path: Path) -> None:
    detected = read(tmp_path, {"t.csv": CSV})[0]["detected"]
    assert (detected["delimiter"], detected["encoding"], detected["header"]) == (";", "utf-8", True)
    choices = detected["choices"]
    assert choices["header"] == [True, False]
    assert {",", "\t", ";", "|"} <= set(choices["delimiter"])
    assert {"utf-8", "utf-16", "cp1252", "latin-1", "mac_roman"} <= set(choices["encoding"])
    assert detected["description"] == "CSV separated by semicolon in UTF-8"


def test_every_choice_of_an_encoding_can_be_made(tmp_path: Path) -> None:
    detected = read(tmp_path, {"t.csv": CSV})[0]["detected"]
    for encoding in detected["choices"]["encoding"]:
        ReadOptions(encoding=encoding)


@pytest.mark.parametrize(
    ("options", "row"),
    [
        (ReadOptions(delimiter=","), {"text;label": "a", "column_2": "b;x"}),
        (ReadOptions(header=False), {"column_1": "text", "column_2": "label"}),
        (ReadOptions(format="csv"), {"text": "a, b", "label": "x"}),
    ],
)
def test_a_choice_is_followed(tmp_path: Path, options: ReadOptions, row: dict[str, str]) -> None:
    data = CSV if options.delimiter is None else b"text;label,\na, b;x\n"
    assert {name: cell.strip() for name, cell in rows_of(tmp_path, "t.csv", data, options)[0].items()} == row


def test_text_that_looks_like_json_can_be_read_as_csv(tmp_path: Path) -> None:
    data = b'[{"a": 1}],x\n[{"a": 2}],y\n'
    options = ReadOptions(format="csv", header=False)
    assert rows_of(tmp_path, "t.txt", data, options)[0] == {"column_1": '[{"a": 1}]', "column_2": "x"}


@pytest.mark.parametrize("delimiter", ["^", "~", "\x1f", "#", ":"])
def test_a_rare_separator_is_found_where_it_cuts_every_line_alike(tmp_path: Path, delimiter: str) -> None:
    data = delimiter.join(["text", "label"]) + "\n" + "".join(f"row {n}{delimiter}{n % 2}\n" for n in range(5))
    assert rows_of(tmp_path, "t.txt", data)[0] == {"text": "row 0", "label": "0"}
