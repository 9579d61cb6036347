"""Files that mean harm, or are broken in the worst way: refused in a sentence, in bounded memory, nothing left."""

import gzip
import io
import json
import random
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.artifacts import ArtifactStore
from storage.errors import InvalidInputError, StudioError, TooLargeError
from storage.settings import Settings
from storage.tables.limits import Limits
from storage.tables.parse import parse_upload
from storage.tables.table import StoredTable
from tests.reading import read
from tests.test_parse import parquet_bytes
from tests.test_read_archives import zip_bytes
from tests.test_read_xlsx import workbook_bytes

ROWS = [{"text": f"some text of row {number}", "label": f"class {number % 3}"} for number in range(200)]


def upload(settings: Settings, store: ArtifactStore, path: Path, limits: Limits | None = None) -> StoredTable:
    return parse_upload([(path.name, path)], store, folder=settings.home / "uploads", limits=limits)


def is_clean(settings: Settings, store: ArtifactStore) -> bool:
    return not list((settings.home / "uploads").iterdir()) and not list(store.hashes())


@pytest.mark.parametrize("seed", range(6))
def test_a_flipped_bit_is_found_by_the_checksum_or_in_the_footer(
    tmp_path: Path, settings: Settings, store: ArtifactStore, seed: int
) -> None:
    data = bytearray(parquet_bytes(pa.Table.from_pylist(ROWS), write_page_checksum=True, compression="none"))
    generator = random.Random(seed)
    for _ in range(3):
        data[generator.randrange(4, len(data) - 4)] ^= 1 << generator.randrange(8)
    path = tmp_path / "t.parquet"
    path.write_bytes(data)
    try:
        table = upload(settings, store, path)
    except StudioError:
        assert is_clean(settings, store)
        return
    # What is no data may change: the names of its writer, statistics that nobody reads.
    assert pq.read_table(store.path(table.blobs["train"])).num_rows == 200


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("t.jsonl", b'{"a": "' + b"x" * 20_000_000 + b'"}\n', "longer than 8,000,000 characters"),
        ("t.json", b'[{"a": "' + b"x" * 20_000_000 + b'"}]', "longer than 8,000,000 characters"),
        ("t.csv", b"text,label\n" + b"x" * 20_000_000 + b",y\n", "longer than 8,000,000 characters"),
        ("t.csv.gz", gzip.compress(b"text,label\n" + b"a,b\n" * 40_000_000, 1), "unpacks to more than"),
        ("t.zip", zip_bytes({"t.csv": b"text,label\n" + b"a,b\n" * 40_000_000}), "unpacks to more than 64 MB"),
        (
            "t.xlsx",
            zip_bytes({"xl/workbook.xml": b"", "xl/sharedStrings.xml": b" " * 150_000_000}),
            "unpacks to 150 MB",
        ),
    ],
)
def test_a_bomb_is_refused_under_the_usual_caps(
    tmp_path: Path, settings: Settings, store: ArtifactStore, name: str, data: bytes, sentence: str
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(TooLargeError, match=sentence):
        upload(settings, store, path, Limits(memory_bytes=600_000_000))
    assert is_clean(settings, store)


@pytest.mark.parametrize("data", [b"[" * 100_000, b'{"a":' * 100_000, b'[{"a":' * 50_000])
def test_json_nested_without_end_is_refused(
    tmp_path: Path, settings: Settings, store: ArtifactStore, data: bytes
) -> None:
    path = tmp_path / "t.json"
    path.write_bytes(data)
    with pytest.raises(InvalidInputError, match="nested too deep"):
        upload(settings, store, path)


def test_entities_that_swell_are_no_workbook(tmp_path: Path) -> None:
    laughs = b'<!DOCTYPE lolz [<!ENTITY a "lol">' + b"".join(
        b'<!ENTITY %c "%s">' % (letter, b"&%c;" % (letter - 1) * 10) for letter in range(ord("b"), ord("k"))
    )
    source = io.BytesIO(workbook_bytes({"Data": [["text", "label"], ["a", "x"]]}))
    sink = io.BytesIO()
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(sink, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("sheet1.xml"):
                content = laughs + b"]>" + content.replace(b">a<", b">&j;<")
            new.writestr(name, content)
    with pytest.raises(InvalidInputError, match="declares a document type"):
        read(tmp_path, {"t.xlsx": sink.getvalue()})


@pytest.mark.parametrize("odd", ["", 'say "no"'])
def test_a_table_is_read_in_less_memory_than_it_has(
    tmp_path: Path, settings: Settings, store: ArtifactStore, odd: str
) -> None:
    """Both readers: a quote inside a field needs the careful one."""
    path = tmp_path / "t.csv"
    row = f"some text that is long enough {odd},label\n".encode()
    count = (120_000_000 if not odd else 24_000_000) // len(row)
    with path.open("wb") as file:
        file.write(b"text,label\n")
        for _ in range(100):
            file.write(row * (count // 100))
    table = upload(settings, store, path, Limits(memory_bytes=500_000_000))
    assert table.num_rows == {"train": count // 100 * 100}


def test_cells_that_programs_like_to_change_stay(tmp_path: Path) -> None:
    cells = ["NA", "null", "None", "007", "1e5", "nan", "TRUE", "1,000", "#N/A", "", " ", "=1+1", "2026-01-02"]
    rows = [{"text": cell, "label": "x"} for cell in cells]
    csv = "text,label\n" + "".join(f'"{row["text"]}",x\n' for row in rows)
    lines = "\n".join(map(json.dumps, rows))
    for name, data in (("t.csv", csv.encode()), ("t.jsonl", lines.encode()), ("t.csv", csv.encode("utf-16"))):
        assert [row["text"] for row in read(tmp_path, {name: data})[1]["train"]] == cells
