"""The first rows of a file of any size, read from its beginning alone, before all of it is read."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from storage.errors import StudioError
from storage.tables.containers import unpacked
from storage.tables.conversations import as_conversations
from storage.tables.detect import open_reader
from storage.tables.json_reader import JsonReader, columns_of
from storage.tables.limits import Limits, ReadOptions
from storage.tables.parts import assign_parts
from storage.tables.readers import Cells, TableReader, check_width
from storage.tables.records import Shape, flatten, places
from storage.tables.sources import SourceFile

Item = TypeVar("Item")

HEAD_BYTES = 1 << 18
NUM_ROWS = 20
WHOLE_MAGIC = (b"PAR1", b"PK\x03\x04")
"""Formats of which a part is no file; their readers look only at what they need."""


def peek_files(request: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Columns and first rows of the training part of an upload.

    Args:
        request: As for `storage.tables.child.read_files`.
        folder: Where a beginning is written to.

    Returns:
        `columns`, `rows` (lists of cells) and `detected`; all of them as far as the beginning of the file tells.

    Raises:
        StudioError: Not even its first rows can be read.
    """
    limits = Limits(**request["limits"])
    options = ReadOptions.from_dict(request["options"])
    sources = unpacked([SourceFile(Path(file["path"]), file["name"], limits) for file in request["files"]], folder)
    source = sources[assign_parts([each.name for each in sources])["train"]]
    reader = as_conversations(_Beginning(open_reader(_head(source, folder / "head"), options)))
    columns = reader.columns()
    if reader.detected.get("kind") != "conversation":
        check_width(columns, source)
    return {"columns": columns, "rows": list(reader.rows(columns)), "detected": reader.detected}


class _Beginning:
    """The first rows of another reader, up to where the file is cut off."""

    def __init__(self, reader: TableReader) -> None:
        self.source = reader.source
        if isinstance(reader, JsonReader):
            records = _until_cut(reader.records())
            fields: dict[str, Shape] = {}
            for record in records:
                for name, value in record.items():
                    fields.setdefault(name, Shape()).add(value, reader.source.limits.max_depth)
            self._columns = columns_of(fields)
            place = places(self._columns)
            self._rows = [flatten(record, place, row) for row, record in enumerate(records, start=1)]
        else:
            self._columns = reader.columns()
            self._rows = _until_cut(reader.rows(self._columns))
        self.detected = reader.detected

    def columns(self) -> list[str]:
        """Names of its columns, as far as the first rows show them."""
        return self._columns

    def rows(self, columns: Sequence[str]) -> Iterator[Cells]:
        """The first rows."""
        order = [self._columns.index(name) for name in columns]
        return ([cells[place] for place in order] for cells in self._rows)


def _until_cut(items: Iterator[Item]) -> list[Item]:
    """The first items, as many as come before an error; the error where none does."""
    found: list[Item] = []
    try:
        for item in islice(items, NUM_ROWS):
            found.append(item)
    except StudioError:
        if not found:
            raise
    return found


def _head(source: SourceFile, path: Path) -> SourceFile:
    """The beginning of a text in a file of its own, up to its last whole line; other formats as they are."""
    with source.opened() as file:
        head = file.read(HEAD_BYTES + 1)
    if head.startswith(WHOLE_MAGIC) or (len(head) <= HEAD_BYTES and not source.is_gzip):
        return source
    if len(head) > HEAD_BYTES:
        end = max(head.rfind(b"\n"), head.rfind(b"\r")) + 1 or len(head)
        # The second byte of a line end in UTF-16.
        head = head[: end + 1] if head[end : end + 1] == b"\0" else head[:end]
    path.write_bytes(head)
    return SourceFile(path, source.name, source.limits, source.packing or ("gzip" if source.is_gzip else ""))
