"""Which format a file is in, by its content; each format has one reader."""

import json
import re
from dataclasses import replace

from storage.errors import InvalidInputError, StudioError
from storage.quotes import quoted
from storage.tables.containers import ZIP_MAGIC
from storage.tables.delimited import DelimitedReader
from storage.tables.encoding import detect_encoding, encoding_of_head
from storage.tables.json_reader import JsonLayout, JsonReader
from storage.tables.json_values import DECODER
from storage.tables.limits import ReadOptions
from storage.tables.parquet_reader import ParquetReader
from storage.tables.plain_csv import NotPlainError
from storage.tables.readers import TableReader
from storage.tables.sources import CHUNK_BYTES, GZIP_MAGIC, SourceFile
from storage.tables.xlsx_reader import XlsxReader

READABLE = "CSV, TSV, JSON, JSONL, Parquet or XLSX"

FOREIGN_FORMATS = (
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook, or one with a password"),
    (b"%PDF", "a PDF"),
    (b"ARROW1", "an Arrow file"),
    (b"FEA1", "a Feather file"),
    (b"ORC", "an ORC file"),
    (b"Obj\x01", "an Avro file"),
    (b"SQLite format 3\x00", "an SQLite database"),
    (b"\x28\xb5\x2f\xfd", "compressed by Zstandard"),
    (b"BZh", "compressed by bzip2"),
    (b"\xfd7zXZ", "compressed by xz"),
    (b"\x89PNG", "an image"),
    (b"\xff\xd8\xff", "an image"),
    (b"GIF8", "an image"),
    (b"\x7fELF", "a program"),
    (b"\x80\x04\x95", "a Python pickle"),
)
DELIMITED_ENDINGS = (".csv", ".tsv", ".tab")
JSON_ENDINGS = (".json", ".jsonl", ".ndjson")
QUICK_ENCODINGS = ("utf-8", "utf-8-sig")
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
LAYOUTS: dict[str, JsonLayout] = {"[": "array", "{": "object"}
MARKUP = ("<!doctype", "<html", "<?xml")


def open_reader(source: SourceFile, options: ReadOptions, *, is_quick: bool = False) -> TableReader:
    """The reader for a file.

    Args:
        source: The file.
        options: What the user knows better than the guess.
        is_quick: Whether text is looked at only in its beginning and read without care; what needs more raises
            `NotPlainError`.

    Raises:
        StudioError: It is empty, or in a format that cannot be read.
        NotPlainError: It has to be read with care.
    """
    with source.opened() as file:
        head = file.read(CHUNK_BYTES)
    if not head:
        raise InvalidInputError(f"{source.name} is empty. Upload a file with a row of data on each line.")
    _refuse_foreign(source, head)
    reader = _reader(source, head, options, is_quick)
    if packing := source.packing or ("gzip" if source.is_gzip else ""):
        reader.detected["compression"] = packing
    return reader


def _reader(source: SourceFile, head: bytes, options: ReadOptions, is_quick: bool) -> TableReader:
    if head.startswith(b"PAR1"):
        return ParquetReader(source)
    if head.startswith(ZIP_MAGIC):
        return XlsxReader(source, options)
    if not is_quick:
        return _text_reader(source, options, options.encoding or detect_encoding(source))
    encoding = options.encoding or encoding_of_head(head)
    if encoding is None or encoding not in QUICK_ENCODINGS:
        return _text_reader(source, options, encoding or detect_encoding(source))
    try:
        return _text_reader(source, options, encoding, is_quick=True)
    except StudioError as error:
        raise NotPlainError(error.message) from error


def _refuse_foreign(source: SourceFile, head: bytes) -> None:
    for magic, kind in FOREIGN_FORMATS:
        if head.startswith(magic):
            raise InvalidInputError(
                f"{source.name} is {kind}, which cannot be read. Save the table as {READABLE}, then upload that."
            )
    if head.startswith(GZIP_MAGIC):
        raise InvalidInputError(f"{source.name} is packed with gzip twice. Unpack it once, and upload it again.")


def _text_reader(source: SourceFile, options: ReadOptions, encoding: str, *, is_quick: bool = False) -> TableReader:
    start = _start(source, encoding)
    if not start:
        raise InvalidInputError(
            f"{source.name} holds nothing but blanks. Upload a file with a row of data on each line."
        )
    if _is_binary(start):
        raise InvalidInputError(f"{source.name} is no text file. Save the table as {READABLE}, then upload that.")
    if start.lower().startswith(MARKUP):
        raise InvalidInputError(
            f"{source.name} is a web page or XML, not a table. Save the table as {READABLE}, then upload that."
        )
    if options.format in ("csv", "tsv"):
        told = options if options.format == "csv" or options.delimiter else replace(options, delimiter="\t")
        return _delimited(source, encoding, told, is_quick)
    if options.format in ("json", "jsonl"):
        layout: JsonLayout = "lines" if options.format == "jsonl" else LAYOUTS.get(start[0], "array")
        return _json(source, encoding, layout, is_quick)
    if found := _json_layout(source, start):
        return _json(source, encoding, found, is_quick)
    return _delimited(source, encoding, options, is_quick)


def _delimited(source: SourceFile, encoding: str, options: ReadOptions, is_quick: bool) -> TableReader:
    reader = DelimitedReader(source, encoding, options, is_quick=is_quick)
    if is_quick and not reader.detected["delimiter"].isascii():
        raise NotPlainError("a separator that is not ASCII")
    return reader


def _json(source: SourceFile, encoding: str, layout: JsonLayout, is_quick: bool) -> TableReader:
    if is_quick:
        raise NotPlainError("JSON")
    return JsonReader(source, encoding, layout)


def _start(source: SourceFile, encoding: str) -> str:
    """The beginning of a text, as long as a row may be, from its first character that is not blank."""
    with source.text(encoding) as text:
        try:
            while start := text.read(source.limits.max_row_characters):
                if stripped := start.lstrip():
                    return stripped
        except UnicodeError as error:
            raise source.not_in(encoding) from error
    return ""


def _is_binary(start: str) -> bool:
    """Whether control characters are more than the odd one that slips into a text."""
    head = start[:4096]
    controls = len(CONTROL.findall(head))
    return controls > 8 and controls > 0.02 * len(head)


def _json_layout(source: SourceFile, start: str) -> JsonLayout | None:
    is_named_json = source.inner_name.endswith(JSON_ENDINGS)
    if start[0] not in "[{" or source.inner_name.endswith(DELIMITED_ENDINGS):
        if is_named_json:
            raise InvalidInputError(
                f"{source.name} begins with {quoted(start[:20].strip())}, which is no JSON table. Expected an array "
                "of objects, or one object on each line."
            )
        return None
    if start[0] == "[":
        return "array" if is_named_json or start[1:50].lstrip()[:1] in ("", "{", "]") else None
    if source.inner_name.endswith((".jsonl", ".ndjson")):
        return "lines"
    line, _, rest = start.partition("\n")
    return "lines" if rest.strip() and _is_whole(line) else "object"


def _is_whole(line: str) -> bool:
    """Whether the line is one complete JSON value; the refusal of a bad one comes later, with its row."""
    try:
        DECODER.decode(line.strip())
    except (json.JSONDecodeError, RecursionError):
        return False
    except ValueError:
        return True
    return True
