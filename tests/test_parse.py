"""Files as people have them become tables, cell by cell; the others are refused in sentences, and nothing is left."""

import gzip
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.artifacts import ArtifactStore
from storage.errors import InvalidInputError, TooLargeError
from storage.settings import Settings
from storage.tables.limits import Limits, ReadOptions
from storage.tables.parse import parse_upload
from storage.tables.table import StoredTable
from tests.reading import read, rows_of


def parquet_bytes(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


ROWS = [{"text": "a, b", "label": "x"}, {"text": "c\nd", "label": "y"}]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("t.csv", 'text,label\n"a, b",x\n"c\nd",y\n'),
        ("t.tsv", 'text\tlabel\na, b\tx\n"c\nd"\ty\n'),
        ("t.txt", 'text;label\na, b;x\n"c\nd";y\n'),
        ("t.csv", 'text|label\na, b|x\n"c\nd"|y'),
        ("t.csv", '\ufefftext,label\r\n"a, b",x\r\n\r\n"c\nd",y\r\n'),
        ("t.json", '[{"text": "a, b", "label": "x"},\n {"label": "y", "text": "c\\nd"}]'),
        ("t.json", '{"text": ["a, b", "c\\nd"], "label": ["x", "y"]}'),
        ("t.json", '{"version": 1, "data": [{"text": "a, b", "label": "x"}, {"text": "c\\nd", "label": "y"}]}'),
        ("t.json", '{"text": {"0": "a, b", "1": "c\\nd"}, "label": {"0": "x", "1": "y"}}'),
        ("t.jsonl", '{"text": "a, b", "label": "x"}\n\n{"text": "c\\nd", "label": "y"}'),
        ("t.parquet", parquet_bytes(pa.Table.from_pylist(ROWS))),
    ],
)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str, data: str | bytes) -> None:
    assert rows_of(tmp_path, name, data) == ROWS


def test_gzip_is_unpacked_whatever_the_name(tmp_path: Path) -> None:
    result, parts = read(tmp_path, {"t.csv": gzip.compress(b"text,label\na,x\nb,y\n")})
    assert parts["train"] == [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]
    assert result["detected"]["compression"] == "gzip"


def test_cells_stay_as_they_are(tmp_path: Path) -> None:
    cells = ["NA", "null", "None", "007", "1e5", " spaced ", "nan", "TRUE", "\u202eabc", "👩‍👧", "שלום"]
    data = "text,label\n" + "".join(f"{cell},x\n" for cell in cells)
    assert [row["text"] for row in rows_of(tmp_path, "t.csv", data)] == cells


def test_json_values_keep_their_text_and_null_is_empty(tmp_path: Path) -> None:
    data = (
        '{"a": 2050.0, "b": true, "c": null, "d": [1.50, "é", {"k": null}], "e": 12345678901234567890.10}\n{"a": "NA"}'
    )
    first, second = rows_of(tmp_path, "t.jsonl", data)
    assert first == {
        "a": "2050.0",
        "b": "true",
        "c": "",
        "d": '[1.50, "é", {"k": null}]',
        "e": "12345678901234567890.10",
    }
    assert second == {"a": "NA", "b": "", "c": "", "d": "", "e": ""}


def test_parquet_values_become_text(tmp_path: Path) -> None:
    table = pa.table({"f": [2050.0], "n": pa.array([None], pa.int64()), "s": [{"x": 7, "y": [1, 2]}], "b": [True]})
    assert rows_of(tmp_path, "t.parquet", parquet_bytes(table)) == [
        {"f": "2050.0", "n": "", "s.x": "7", "s.y": "[1, 2]", "b": "true"}
    ]


def test_parquet_times_finer_than_a_microsecond_need_no_pandas(tmp_path: Path, settings: Settings, store: Any) -> None:
    path = tmp_path / "t.parquet"
    times = pa.array([1_600_000_000_123_456_789], pa.timestamp("ns", "UTC"))
    pq.write_table(pa.table({"at": times, "label": ["x"]}), path)
    blob = upload(settings, store, path).blobs["train"]
    assert pq.read_table(store.path(blob)).to_pylist() == [{"at": "2020-09-13T12:26:40.123456+00:00", "label": "x"}]


def test_nested_records_become_dotted_columns(tmp_path: Path) -> None:
    data = '[{"user": {"text": "hi", "age": 3}, "labels": []}, {"user": {"text": "yo", "age": 4}}]'
    assert rows_of(tmp_path, "t.json", data) == [
        {"user.text": "hi", "user.age": "3", "labels": "[]"},
        {"user.text": "yo", "user.age": "4", "labels": ""},
    ]


def test_an_object_with_changing_keys_also_stays_whole(tmp_path: Path) -> None:
    data = '{"text": "a", "slots": {"date": "1 May"}}\n{"text": "b", "slots": {}}\n'
    assert rows_of(tmp_path, "t.jsonl", data) == [
        {"text": "a", "slots": '{"date": "1 May"}', "slots.date": "1 May"},
        {"text": "b", "slots": "{}", "slots.date": ""},
    ]


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("utf-8-sig", "naïve café – “quoted”"),
        ("utf-16", "naïve café"),
        ("utf-16-le", "naïve café"),
        ("cp1252", "naïve café – “quoted” €"),
        ("latin-1", "Grüße, señor"),
        ("mac_roman", "naïve café “quoted”"),
        ("cp1251", "Привет, как дела сегодня"),
        ("cp932", "これは日本語のテキストです"),
    ],
)
def test_encodings_are_found(tmp_path: Path, encoding: str, text: str) -> None:
    data = ("text;label\r\n" + f"{text};x\r\n" * 8).encode(encoding)
    assert rows_of(tmp_path, "t.csv", data)[0] == {"text": text, "label": "x"}


def test_an_encoding_may_be_told(tmp_path: Path) -> None:
    data = "text,label\nŞişli,x\n".encode("cp1254")
    assert rows_of(tmp_path, "t.csv", data, ReadOptions(encoding="cp1254"))[0]["text"] == "Şişli"


def test_cr_alone_ends_a_line(tmp_path: Path) -> None:
    result, parts = read(tmp_path, {"t.csv": b"text,label\ra,x\rb,y\r"})
    assert len(parts["train"]) == 2
    assert result["detected"]["line_ends"] == "CR"


def test_a_table_without_header_gets_numbered_columns(tmp_path: Path) -> None:
    data = "ham\tSee you soon\nspam\tWIN cash now\nham\tok\n"
    assert rows_of(tmp_path, "t.tsv", data)[0] == {"column_1": "ham", "column_2": "See you soon"}


def test_a_header_may_be_told(tmp_path: Path) -> None:
    data = "ham\tSee you\nham\tok\n"
    assert rows_of(tmp_path, "t.tsv", data, ReadOptions(header=True)) == [{"ham": "ham", "See you": "ok"}]


def test_stray_quotes_in_tabs_swallow_no_lines(tmp_path: Path) -> None:
    data = 'label\ttext\nham\t"Hello there\nham\tHi you"\nham\t"Quoted" here\n'
    assert [row["text"] for row in rows_of(tmp_path, "t.tsv", data)] == ['"Hello there', 'Hi you"', '"Quoted" here']


def test_backslash_escapes_are_understood(tmp_path: Path) -> None:
    data = 'text,label\n"she said \\"yes, now\\"",x\nb,y\n'
    assert rows_of(tmp_path, "t.csv", data)[0]["text"] == 'she said "yes, now"'


def test_empty_fields_behind_the_table_are_dropped(tmp_path: Path) -> None:
    assert rows_of(tmp_path, "t.csv", "text,label\na,x,,\nb,y\n")[0] == {"text": "a", "label": "x"}


def test_an_unnamed_column_is_numbered_and_noted(tmp_path: Path) -> None:
    result, parts = read(tmp_path, {"t.csv": b",text,label\n0,a,x\n"})
    assert parts["train"] == [{"column_1": "0", "text": "a", "label": "x"}]
    assert "column_1" in result["detected"]["notes"][0]


def test_a_field_of_200000_characters_is_kept(tmp_path: Path) -> None:
    assert len(rows_of(tmp_path, "t.csv", f"text,label\n{'x' * 200_000},y\n")[0]["text"]) == 200_000


REFUSED = [
    ("t.csv", b"", None, "t.csv is empty"),
    ("t.csv", b"\n \n", None, "nothing but blanks"),
    ("t.csv", b"text,label\n", None, "no rows beneath its header"),
    ("t.json", b"[]", None, "has no columns"),
    ("t.csv", b"text\na\n", None, "only one column, “text”"),
    ("t.csv", b"text,label\na,x\nb,y,z\n", 2, r"Row 2 of t.csv \(line 3\) has 3 fields; expected 2"),
    ("t.csv", b'text,label\n"a\nb",x\nb\n', 2, r"Row 2 of t.csv \(line 4\) has 1 field; expected 2"),
    (
        "t.csv",
        b'text,label\na,x\n"b,y\nc,z\n',
        2,
        r"Row 2 of t.csv \(line 3\) opens a double quote that is never closed",
    ),
    ("t.csv", b'text,label\n"a"b,x\nc,y\n', 1, "a double quote inside a quoted field"),
    ("t.csv", b"text,label\na,x\nb,y\0\n", 2, "a NUL character in the column 'label'"),
    ("t.csv", b"text,text\na,b\n", None, "Columns 1 and 2 of t.csv are both called “text”"),
    ("t.csv", b"text,label\na\xed\xa0\x80,x\n", None, "Line 2 of t.csv holds half of a character"),
    ("t.csv", "text,label\néé,x\nüü,y\nöö,z\näää,z\n".encode() + b"\xff,x\n", None, "is UTF-8, but line 6"),
    ("t.jsonl", b'{"a": "x", "b": "\\ud83d"}', 1, "Row 1 of t.jsonl has half of a character .* column 'b'"),
    ("t.jsonl", b'{"a": "x", "b": "y"}\n{"a": "x" "b": 1}', 2, "not valid JSON: .* in line 2, near"),
    ("t.jsonl", b'{"a": "x", "a": "y"}', 1, "has the field “a” twice"),
    ("t.json", b'[{"a": 1, "b": 2},\n{"a": 1, "b": 3},\n]', None, "comma after its last row, 2, in line 3 or before"),
    ("t.json", b'[{"a": 1, "b": 2},\n{"a": 1, "b"', 2, "ends in the middle of row 2, which begins in line 2"),
    ("t.json", b'[{"a": 1, "b": 2}]\n[]', None, "goes on after its array ends, in line 2"),
    ("t.json", b"[1, 2]", 1, "is a number; expected an object"),
    ("t.json", b"[" * 100_000, 1, "nested too deep"),
    ("t.jsonl", b'{"a":' * 100_000 + b"}" * 100_000, 1, "nested too deep"),
    ("t.xlsx", b"PK\x03\x04...", None, "t.xlsx is a workbook that cannot be read"),
    ("t.xls", b"\xd0\xcf\x11\xe0...", None, "an old Excel workbook, or one with a password, .* Save the table as CSV"),
    ("t.pdf", b"%PDF-1.4", None, "is a PDF"),
    ("t.csv", b"<!DOCTYPE html><html>", None, "web page"),
    ("t.bin", bytes(range(256)) * 9, None, "no text file"),
    ("t.json", b"text,label\n", None, "no JSON table"),
    ("t.parquet", b"PAR1", None, "damaged or cut-off Parquet"),
    ("t.parquet", parquet_bytes(pa.Table.from_pylist(ROWS * 100))[:300], None, "damaged or cut-off Parquet"),
    ("t.parquet", parquet_bytes(pa.table({"a": [b"x"], "b": ["y"]})), None, "“a” of t.parquet holds binary data"),
    ("t.csv.gz", gzip.compress(b"text,label\n" + bytes(range(40, 120)) * 200)[:-30], None, "damaged or cut off"),
    ("t.csv.gz", gzip.compress(gzip.compress(b"text,label\na,x\n")), None, "packed with gzip twice"),
]


@pytest.mark.parametrize(
    ("name", "data", "row", "sentence"), REFUSED, ids=[f"{case[0]}: {case[3]}" for case in REFUSED]
)
def test_a_bad_file_is_refused_with_its_row(
    tmp_path: Path, name: str, data: bytes, row: int | None, sentence: str
) -> None:
    with pytest.raises(InvalidInputError, match=sentence) as caught:
        read(tmp_path, {name: data})
    assert caught.value.row == row


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("t.csv", b"text,label\n" + b"x" * 3000 + b",y\n", "longer than 2,000 characters"),
        ("t.jsonl", b'{"a":"' + b"x" * 3000 + b'"}', "longer than 2,000 characters"),
        ("t.json", b'[{"a":"' + b"x" * 600_000 + b'"}]', "Row 1 .* longer than 2,000 characters"),
        ("t.json", b'{"a":"' + b"x" * 9000 + b'"}', "one JSON object of more than"),
        ("t.csv", b"text,label\n" + b"some text,y\n" * 1000, "GB of text"),
        ("t.parquet", parquet_bytes(pa.table({"a": ["x" * 1000] * 9, "b": ["y"] * 9})), "unpacks to far more"),
        ("t.csv.gz", gzip.compress(b"text,label\n" + b"a,b\n" * 9000), "unpacks to more than"),
    ],
)
def test_a_file_over_a_cap_is_refused(tmp_path: Path, name: str, data: bytes, sentence: str) -> None:
    limits = Limits(max_row_characters=2000, max_unpacked_bytes=8000, max_object_bytes=5000)
    with pytest.raises(TooLargeError, match=sentence):
        read(tmp_path, {name: data}, limits=limits)


def test_several_files_are_the_parts_that_their_names_say(tmp_path: Path) -> None:
    files = {"dev.csv": b"label,text\nx,v\n", "my-test.csv": b"text,label\nt,x\n", "train.csv": b"text,label\na,x\n"}
    result, parts = read(tmp_path, files)
    assert result["num_rows"] == {"train": 1, "validation": 1, "test": 1}
    assert parts["validation"] == [{"text": "v", "label": "x"}]


def test_files_of_records_may_differ_in_the_keys_of_an_object(tmp_path: Path) -> None:
    files = {"train.jsonl": b'{"t": "a", "s": {"x": 1}}', "test.jsonl": b'{"t": "b", "s": {"y": 2}}'}
    assert read(tmp_path, files)[0]["columns"] == ["t", "s", "s.x", "s.y"]


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["train.csv", "more.csv"], "more.csv does not say which part it is"),
        (["train.csv", "training.csv"], "train.csv and training.csv are both for train"),
        (["dev.csv", "test.csv"], "None of dev.csv, test.csv is for training"),
    ],
)
def test_files_whose_names_tell_no_parts_are_refused(tmp_path: Path, names: list[str], sentence: str) -> None:
    with pytest.raises(InvalidInputError, match=sentence):
        read(tmp_path, dict.fromkeys(names, b"text,label\na,x\n"))


def test_files_with_other_columns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidInputError, match=r"test.csv are not those of train.csv: it lacks “label” and has “gold”"
    ):
        read(tmp_path, {"train.csv": b"text,label\na,x\n", "test.csv": b"text,gold\na,x\n"})


def test_the_content_hash_speaks_of_rows_and_not_of_files(tmp_path: Path) -> None:
    hashes = {
        read(tmp_path, {name: data.encode()})[0]["content_hash"]
        for name, data in [("t.csv", "a,b\n1,2\n"), ("t.jsonl", '{"a": 1, "b": "2"}'), ("t.tsv", "a\tb\r\n1\t2")]
    }
    assert len(hashes) == 1
    assert read(tmp_path, {"t.csv": b"a,b\n12,\n"})[0]["content_hash"] not in hashes


def upload(settings: Settings, store: ArtifactStore, path: Path, limits: Limits | None = None) -> StoredTable:
    return parse_upload([(path.name, path)], store, folder=settings.home / "uploads", limits=limits)


def is_clean(settings: Settings, store: ArtifactStore) -> bool:
    return not list((settings.home / "uploads").iterdir()) and not list(store.hashes())


def test_the_child_process_reads_and_leaves_nothing_but_the_blobs(
    tmp_path: Path, settings: Settings, store: ArtifactStore
) -> None:
    path = tmp_path / "t.csv"
    path.write_text("text,label\na,x\nb,y\n")
    table = upload(settings, store, path)
    assert (table.columns, table.num_rows) == (["text", "label"], {"train": 2})
    assert pq.read_table(store.path(table.blobs["train"])).num_rows == 2
    assert not list((settings.home / "uploads").iterdir())


def test_datasets_opens_the_stored_table(tmp_path: Path, settings: Settings, store: ArtifactStore) -> None:
    path = tmp_path / "t.csv"
    path.write_text("text,label\na,x\nNA,007\n")
    blob = store.path(upload(settings, store, path).blobs["train"])
    script = (
        "import sys, datasets; rows = datasets.Dataset.from_parquet(sys.argv[1], cache_dir=sys.argv[2]); print(rows[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(blob), str(tmp_path / "cache")], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "{'text': 'NA', 'label': '007'}"


def test_a_refused_file_leaves_nothing(tmp_path: Path, settings: Settings, store: ArtifactStore) -> None:
    path = tmp_path / "t.csv"
    path.write_text("text,label\na,x\nb\n")
    with pytest.raises(InvalidInputError, match="Row 2") as caught:
        upload(settings, store, path)
    assert caught.value.row == 2
    assert is_clean(settings, store)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds a process to its memory")
def test_a_parquet_bomb_meets_the_memory_limit(tmp_path: Path, settings: Settings, store: ArtifactStore) -> None:
    limits = Limits(memory_bytes=450_000_000)
    path = tmp_path / "bomb.parquet"
    pq.write_table(pa.table({"a": ["x" * 60_000_000], "b": ["y"]}), path)
    with pytest.raises(TooLargeError, match="more memory than an upload may use"):
        upload(settings, store, path, limits)
    assert is_clean(settings, store)
    pq.write_table(pa.table({"a": ["x"], "b": ["y"]}), path)
    assert upload(settings, store, path, limits).num_rows == {"train": 1}


def test_a_reader_out_of_time_is_ended(tmp_path: Path, settings: Settings, store: ArtifactStore) -> None:
    path = tmp_path / "t.csv"
    path.write_text("text,label\na,x\n")
    with pytest.raises(TooLargeError, match="took longer than 0 seconds"):
        upload(settings, store, path, Limits(timeout_s=0.0))
    assert is_clean(settings, store)


def test_an_upload_over_the_cap_is_refused_before_it_is_read(
    tmp_path: Path, settings: Settings, store: ArtifactStore
) -> None:
    path = tmp_path / "t.csv"
    path.write_text("text,label\na,x\n")
    with pytest.raises(TooLargeError, match="expected at most"):
        upload(settings, store, path, Limits(max_file_bytes=10))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"encoding": "klingon"}, "no text encoding"),
        ({"encoding": "hex"}, "no text encoding"),
        ({"encoding": "punycode"}, "no text encoding"),
        ({"encoding": "unicode_escape"}, "no text encoding"),
        ({"delimiter": ",,"}, "expected one character"),
        ({"delimiter": 7}, "The separator is 7; expected one character"),
        ({"delimiter": "\0"}, "The separator is “␀”; expected one character"),
        ({"header": "yes"}, "expected true or false"),
        ({"quote": '"'}, "no reading option “quote”"),
    ],
)
def test_reading_options_are_checked(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidInputError, match=sentence):
        ReadOptions.from_dict(values)


def test_short_floats_of_parquet_keep_their_digits(tmp_path: Path) -> None:
    numbers = pa.array([0.1, 1.0, None, 16777216.0, 1e-7], pa.float32())
    rows = rows_of(tmp_path, "t.parquet", parquet_bytes(pa.table({"n": numbers, "label": ["a"] * 5})))
    assert [row["n"] for row in rows] == ["0.1", "1.0", "", "16777216.0", "1e-07"]


@pytest.mark.parametrize("name", ["t.csv", "t.json", "t.jsonl"])
def test_a_text_that_is_not_in_the_encoding_that_was_told_is_refused(tmp_path: Path, name: str) -> None:
    rows = [{"text": f"text {number}", "label": "a"} for number in range(12)]
    lines = {"t.csv": "text,label\na,x\nb,y\n", "t.json": json.dumps(rows), "t.jsonl": "\n".join(map(json.dumps, rows))}
    with pytest.raises(
        InvalidInputError, match=f"{name} is not text in the encoding utf-16. Choose the right encoding"
    ):
        rows_of(tmp_path, name, lines[name], ReadOptions(encoding="utf-16"))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("t.csv", "te\0xt,label\na,x\nb,y\n"),
        ("t.jsonl", '{"te\\u0000xt": "a", "label": "x"}\n{"te\\u0000xt": "b", "label": "y"}\n'),
        ("t.jsonl", '{"te\\ud800xt": "a", "label": "x"}\n{"te\\ud800xt": "b", "label": "y"}\n'),
    ],
)
def test_a_column_whose_name_is_no_text_is_refused(tmp_path: Path, name: str, data: str) -> None:
    with pytest.raises(InvalidInputError, match=r"The name of column 1 of .* half of a character, which is no text"):
        rows_of(tmp_path, name, data)


def test_all_tasks_open_with_the_rows_that_they_have(tmp_path: Path, shared_folder: Path) -> None:
    manifest = json.loads((shared_folder / "data" / "MANIFEST.json").read_text())
    for task in manifest["tasks"]:
        expected = {Path(file["file"]).stem: file["rows"] for file in task["files"]}
        files = {
            Path(file["file"]).name: (shared_folder / "data" / file["file"]).read_bytes() for file in task["files"]
        }
        if files:
            assert read(tmp_path, files)[0]["num_rows"] == expected, task["name"]


def test_files_as_found_open_with_no_option_set(tmp_path: Path, shared_folder: Path) -> None:
    for path in sorted((shared_folder / "data" / "dirty").iterdir()):
        assert read(tmp_path, {path.name: path.read_bytes()})[1]["train"], path.name
