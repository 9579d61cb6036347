"""Tables in gzip and zip: one inside, or one for each part; archives that lie or swell are refused."""

import gzip
import io
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest

from storage.errors import InvalidInputError, TooLargeError
from storage.tables.limits import Limits
from tests.reading import read, rows_of
from tests.test_parse import parquet_bytes
from tests.test_read_xlsx import workbook_bytes

CSV = b"text,label\na,x\nb,y\n"
ROWS = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]


def zip_bytes(members: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return sink.getvalue()


LOCKED = zip_bytes({"t.csv": CSV}).replace(b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("t.zip", zip_bytes({"data/t.csv": CSV})),
        ("t.zip", zip_bytes({"t.csv": CSV, "README.md": b"about", "__MACOSX/._t.csv": b"x", ".DS_Store": b"x"})),
        ("t.zip", zip_bytes({"notes.txt": b"about", "t.csv.gz": gzip.compress(CSV)})),
        ("t.zip", zip_bytes({"t.txt": CSV})),
        ("t.zip", zip_bytes({"t.parquet": parquet_bytes(pa.Table.from_pylist(ROWS))})),
        ("t.zip", zip_bytes({"t.xlsx": workbook_bytes({"Data": [["text", "label"], ["a", "x"], ["b", "y"]]})})),
        ("t.parquet.gz", gzip.compress(parquet_bytes(pa.Table.from_pylist(ROWS)))),
        ("t.xlsx.gz", gzip.compress(workbook_bytes({"Data": [["text", "label"], ["a", "x"], ["b", "y"]]}))),
    ],
)
def test_one_packed_table_is_read(tmp_path: Path, name: str, data: bytes) -> None:
    assert rows_of(tmp_path, name, data) == ROWS


def test_a_zip_of_parts_is_read_as_these(tmp_path: Path) -> None:
    data = zip_bytes({"x/train.csv": CSV, "x/dev.csv": CSV, "x/test.csv": CSV})
    result, _ = read(tmp_path, {"t.zip": data})
    assert result["num_rows"] == {"train": 2, "validation": 2, "test": 2}
    assert result["detected"]["compression"] == "zip"
    assert [file["name"] for file in result["detected"]["files"]] == ["train.csv", "dev.csv", "test.csv"]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (zip_bytes({"a.csv": CSV, "b.csv": CSV}), r"holds 2 tables \(a.csv, b.csv\); expected one"),
        (zip_bytes({"photo.png": b"x"}), r"holds no table \(it has photo.png\)"),
        (zip_bytes({}), r"holds no table \(it has nothing\)"),
        (zip_bytes({"inner.csv": zip_bytes({"t.csv": CSV})}), "holds another zip"),
        (zip_bytes({"mimetype": b"application/vnd.oasis.opendocument.spreadsheet"}), "document of an office program"),
        (zip_bytes({"t.csv": CSV * 50})[:60], "is a zip that cannot be read"),
        (LOCKED, "locked with a password"),
    ],
    # A zip holds the time at which it was made, and processes that share the tests have to name them alike.
    ids=["two tables", "no table", "nothing", "a zip", "an office document", "cut off", "locked"],
)
def test_a_zip_without_one_table_is_refused(tmp_path: Path, data: bytes, sentence: str) -> None:
    with pytest.raises(InvalidInputError, match=sentence):
        read(tmp_path, {"t.zip": data})


def test_a_zip_that_swells_is_refused_by_what_comes_out(tmp_path: Path) -> None:
    data = zip_bytes({"t.csv": b"text,label\n" + b"a,b\n" * 100_000})
    with pytest.raises(TooLargeError, match="unpacks to more than"):
        read(tmp_path, {"t.zip": data}, limits=Limits(max_unpacked_bytes=100_000))


def test_no_path_of_a_zip_is_followed(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    data = zip_bytes({"../../escaped.csv": CSV})
    assert rows_of(tmp_path / "work", "t.zip", data) == ROWS
    assert not list(tmp_path.parent.glob("escaped*")) + list(tmp_path.glob("escaped*"))
