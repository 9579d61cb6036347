"""A look at the beginning of a file says what all of it will say, in the same time whatever its size."""

import gzip
import json
import time
from pathlib import Path

import pyarrow as pa
import pytest

from storage.errors import InvalidInputError, TooLargeError
from storage.settings import Settings
from storage.tables.limits import Limits, ReadOptions
from storage.tables.parse import preview_upload
from storage.tables.peek import HEAD_BYTES, peek_files
from tests.reading import read
from tests.test_parse import parquet_bytes
from tests.test_read_archives import zip_bytes
from tests.test_read_chats import TURNS
from tests.test_read_xlsx import workbook_bytes

LONG = "x" * 100
ROWS = [{"text": f'{number}, "{LONG}"\n', "label": str(number % 3)} for number in range(4 * HEAD_BYTES // 100)]
CSV = "text,label\r\n" + "".join('"' + row["text"].replace('"', '""') + f'",{row["label"]}\r\n' for row in ROWS)
LINES = "\n".join(map(json.dumps, ROWS))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("t.csv", CSV.encode()),
        ("t.csv", CSV.encode("utf-16")),
        ("t.csv", CSV.encode("utf-16-le")),
        ("t.csv", CSV.replace(",\r\n", ",\r").encode()),
        ("t.csv.gz", gzip.compress(CSV.encode())),
        ("t.zip", zip_bytes({"t.csv": CSV.encode()})),
        ("t.jsonl", LINES.encode()),
        ("t.json", json.dumps(ROWS).encode()),
        ("t.json", json.dumps(ROWS, indent=2).encode()),
        ("t.parquet", parquet_bytes(pa.Table.from_pylist(ROWS))),
        ("t.xlsx", workbook_bytes({"Data": [["text", "label"], *([r["text"], r["label"]] for r in ROWS[:50])]})),
    ],
)
def test_the_first_rows_are_those_of_the_whole_file(tmp_path: Path, name: str, data: bytes) -> None:
    path = tmp_path / "upload"
    path.write_bytes(data)
    request = {
        "files": [{"name": name, "path": str(path)}],
        "limits": Limits().to_dict(),
        "options": ReadOptions().to_dict(),
    }
    found = peek_files(request, tmp_path)
    whole, parts = read(tmp_path, {name: data})
    assert found["columns"] == whole["columns"]
    assert [dict(zip(found["columns"], cells, strict=True)) for cells in found["rows"]] == parts["train"][:20]
    assert found["detected"]["format"] == whole["detected"]["format"]
    assert found["detected"].get("encoding") == whole["detected"].get("encoding")


def test_conversations_are_seen_as_such(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(json.dumps({"messages": TURNS}) for _ in range(HEAD_BYTES // 40)))
    found = preview_upload([("t.jsonl", path)], folder=tmp_path / "work")
    assert found["columns"] == ["messages"]
    assert json.loads(found["rows"][0][0]) == TURNS
    assert len(found["rows"]) == 20


def test_a_large_file_is_looked_at_within_a_second_and_leaves_nothing(tmp_path: Path, settings: Settings) -> None:
    path = tmp_path / "large.csv"
    with path.open("wb") as file:
        file.write(b"text,label\n")
        file.truncate(900_000_000)
        file.seek(11)
        file.write(b"some text,a\n" * 50_000)
    times = []
    for _ in range(3):
        began = time.monotonic()
        assert preview_upload([("large.csv", path)], folder=settings.home / "uploads")["columns"] == ["text", "label"]
        times.append(time.monotonic() - began)
    assert min(times) < 5.0  # about 0.4 s where the machine is not shared
    assert not list((settings.home / "uploads").iterdir())


def test_what_cannot_be_read_is_refused_as_for_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"%PDF-1.4")
    with pytest.raises(InvalidInputError, match="is a PDF"):
        preview_upload([("t.csv", path)], folder=tmp_path / "work")
    with pytest.raises(TooLargeError, match="expected at most"):
        preview_upload([("t.csv", path)], folder=tmp_path / "work", limits=Limits(max_file_bytes=2))
