"""The fast reader of delimited text gives what the careful one gives, or gives way to it."""

import io
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from storage.errors import StudioError
from storage.tables import child, plain_csv
from storage.tables.limits import Limits, ReadOptions
from storage.tables.plain_csv import NotPlainError, PlainText
from storage.tables.sources import SourceFile
from tests.reading import read

CELLS = st.text(st.sampled_from('ab, ;"\r\n\té\u2028\ufeff\x85'), max_size=5)
BYTES = st.lists(
    st.sampled_from([b'"', b",", b"\n", b"\r\n", b"\r", b" ", b"a", "é".encode(), b"\xff", b"\0"]), max_size=25
)
OPTIONS = ReadOptions(delimiter=",", header=True)


def outcome(folder: Path, data: bytes, *, is_quick: bool) -> Any:
    path = folder / "t.csv"
    path.write_bytes(data)
    source = SourceFile(path, "t.csv", Limits())
    try:
        result = child._read({"train": [source]}, OPTIONS, folder, is_quick=is_quick)
    except StudioError as error:
        return error.message, error.row
    del result["blobs"]  # the same rows, packed in another way
    return result, pq.read_table(folder / "train.parquet").to_pylist()


def agrees(folder: Path, data: bytes) -> bool:
    """Whether the fast reader gives what the careful one gives; it may also decline."""
    try:
        found = outcome(folder, data, is_quick=True)
    except NotPlainError:
        return True
    return bool(found == outcome(folder, data, is_quick=False))


def written(rows: list[list[str]], ends: str) -> bytes:
    quoted = (
        ",".join('"' + cell.replace('"', '""') + '"' if set(cell) & set('",\r\n') else cell for cell in row)
        for row in rows
    )
    return ("text,label" + ends + "".join(row + ends for row in quoted)).encode()


@settings(max_examples=300, deadline=None)
@given(rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=6), ends=st.sampled_from(["\n", "\r\n"]))
def test_both_readers_agree_on_tables_as_programs_write_them(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], ends: str
) -> None:
    folder = tmp_path_factory.mktemp("t")
    assert agrees(folder, written([list(row) for row in rows], ends))


@settings(max_examples=500, deadline=None)
@given(pieces=BYTES)
@example([b'"', b"a", b'"', b'"', b",", b"a", b"\n"])
@example([b"a", b'"', b",", b'"', b"a", b"\n"])
@example([b'"', b"a", b",", b"a", b"\n"])
@example([b'"', b"a", b'"', b" ", b",", b"a", b"\n"])
@example([b"a", b",", b"a", b"\r", b"a", b",", b"a"])
@example([b",", b"\n", b"a", b",", b"a"])
@example([b"a", b",", b'"', b"\n", b'"', b"\n", b"\n", b"a", b",", b"a", b"\r\n"])
def test_both_readers_agree_on_any_text(tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes]) -> None:
    assert agrees(tmp_path_factory.mktemp("t"), b"text,label\nx,y\n" + b"".join(pieces))


def test_the_fast_reader_takes_what_spreadsheets_write(tmp_path: Path) -> None:
    data = written([["a, b", 'say "yes"'], ["two\nlines", "é"], ["", " "]], "\r\n")
    for start in (b"", b"\xef\xbb\xbf"):
        result, rows = outcome(tmp_path, start + data, is_quick=True)
        assert rows[1] == {"text": "two\nlines", "label": "é"}
        assert (result, rows) == outcome(tmp_path, start + data, is_quick=False)


@pytest.mark.parametrize(
    "data",
    [
        b"text,label\na,x\nb\n",
        b'text,label\na"b,x\n',
        b'text,label\n"a"b,x\n',
        b'text,label\n"a,x\n',
        b"text,label\na,x\rb,y\n",
        b"text,label\na,x\r",
        b"text,label\na,x\0\n",
        b"text,label\n" + b"a,x\n" * 300_000 + b"a,\xff\n",
    ],
)
def test_the_fast_reader_gives_way_where_care_is_needed(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(NotPlainError):
        outcome(tmp_path, data, is_quick=True)


def test_a_quote_in_tabs_needs_care(tmp_path: Path) -> None:
    data = b'text\tlabel\nsay "yes"\tx\nb\ty\n'
    assert read(tmp_path, {"t.tsv": data})[1]["train"][0]["text"] == 'say "yes"'


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_pieces_of_any_size_are_looked_at_alike(size: int) -> None:
    good = b'a,"b ""c"" d","",e\r\n"x\r\ny",""""\n'
    assert read_in_pieces(good, size) == good
    for bad in (b'a,"b"c\n', b'a,b"c"\n', b'a,"b\n', b"a\rb\n", b"a\0\n", b"a\r"):
        with pytest.raises(NotPlainError):
            read_in_pieces(bad, size)


def read_in_pieces(data: bytes, size: int) -> bytes:
    text = PlainText(io.BytesIO(data), ",", may_quote=True)
    pieces = []
    while piece := text.read(size):
        pieces.append(piece)
    return b"".join(pieces)


def test_a_table_of_many_blocks_is_read_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_csv, "BLOCK_BYTES", 2000)
    rows = [[f'row {number}, "{"x" * (number % 90)}"\n', str(number % 7)] for number in range(500)]
    data = written(rows, "\n")
    quick = outcome(tmp_path, data, is_quick=True)
    assert quick == outcome(tmp_path, data, is_quick=False)
    assert quick[1][499]["text"] == rows[499][0]
