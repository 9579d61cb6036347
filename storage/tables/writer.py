"""Writes rows of text as Parquet, a row group at a time, and counts and hashes what it writes."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from storage.errors import InvalidInputError, TooLargeError
from storage.tables.hashing_file import HashingFile
from storage.tables.limits import Limits
from storage.tables.text_columns import bytes_of, offsets_of

GROUP_ROWS = 10_000
GROUP_CHARACTERS = 16_000_000
LENGTHS = np.dtype("<i4")
LOOKED_AT = 1000
BUFFER_BYTES = 1 << 20


class PartWriter:
    """Turns the rows of one part into one Parquet file, all columns of text.

    Args:
        path: The file to write.
        columns: Names of the columns.
        name: What the user calls the file that the rows come from.
        limits: Caps on a row and on all rows.

    Attributes:
        num_rows: Rows written so far.
        file: What has been written.
    """

    file: HashingFile

    def __init__(self, path: Path, columns: Sequence[str], name: str, limits: Limits) -> None:
        self._path = path
        self._schema = pa.schema([(column, pa.string()) for column in columns])
        self._name = name
        self._limits = limits
        self._left_bytes = limits.max_unpacked_bytes
        self._group: list[list[str]] = []
        self._texts = [xxhash.xxh3_128() for _ in columns]
        self._lengths = [xxhash.xxh3_128() for _ in columns]
        self.num_rows = 0

    @property
    def digest(self) -> Any:
        """A hash of the cells so far, column by column; the same however they came and are stored.

        Cells are hashed by XXH3, ten times as fast as SHA-256: it tells tables apart and guards nothing.
        """
        whole = hashlib.sha256()
        for texts, lengths in zip(self._texts, self._lengths, strict=True):
            whole.update(texts.digest() + lengths.digest())
        return whole

    def write(self, rows: Iterable[list[str]]) -> None:
        """Writes all rows.

        Raises:
            StudioError: There is no row, or one that cannot be kept; the error names it.
        """
        with self._opened("zstd") as file:
            characters = 0
            for row in rows:
                length = sum(map(len, row))
                if length > self._limits.max_row_characters:
                    raise self._too_long(length, len(self._group))
                self._group.append(row)
                characters += length
                if len(self._group) >= GROUP_ROWS or characters >= GROUP_CHARACTERS:
                    self._flush(file)
                    characters = 0
            if self._group:
                self._flush(file)
        self._refuse_empty()

    def write_batches(self, batches: Iterable[pa.RecordBatch], order: Sequence[int]) -> None:
        """Writes columns of text that hold neither nulls nor NULs, in batches of some megabytes.

        They are not compressed: that would take more time than all else together.

        Args:
            batches: All rows.
            order: For each column of the table, its place in a batch.

        Raises:
            StudioError: There is no row, or too much text.
        """
        found = iter(batches)
        first = next(found, None)
        repeating = [] if first is None else [name for name, place in zip(self._schema.names, order, strict=True)
                                              if _repeats(first.column(place))]  # fmt: skip
        with self._opened("none", repeating) as file:
            for batch in () if first is None else chain([first], found):
                columns = [batch.column(place) for place in order]
                self._account(columns)
                file.write_batch(pa.RecordBatch.from_arrays(columns, schema=self._schema))
                self.num_rows += batch.num_rows
        self._refuse_empty()

    @contextmanager
    def _opened(self, compression: str, repeating: Sequence[str] | bool = True) -> Iterator[pq.ParquetWriter]:
        """A Parquet file; texts of columns that are known as repeating are stored once a row group."""
        with self._path.open("wb", buffering=BUFFER_BYTES) as file, HashingFile(file) as hashing:
            self.file = hashing
            with pq.ParquetWriter(
                pa.PythonFile(hashing, mode="w"),
                self._schema,
                compression=compression,
                use_dictionary=list(repeating) if isinstance(repeating, Sequence) else repeating,
                write_statistics=False,
            ) as writer:
                yield writer

    def _refuse_empty(self) -> None:
        if not self.num_rows:
            raise InvalidInputError(f"{self._name} has no rows beneath its header. Add at least two rows of data.")

    def _flush(self, file: Any) -> None:
        try:
            columns = [pa.array(cells, pa.string()) for cells in zip(*self._group, strict=True)]
        except UnicodeEncodeError:
            raise self._bad_cell(_has_surrogate, "half of a character (a lone surrogate)") from None
        if any((np.frombuffer(bytes_of(column), dtype=np.uint8) == 0).any() for column in columns):
            raise self._bad_cell(_has_nul, "a NUL character")
        self._account(columns)
        file.write_batch(pa.RecordBatch.from_arrays(columns, schema=self._schema))
        self.num_rows += len(self._group)
        self._group = []

    def _account(self, columns: Sequence[pa.Array]) -> None:
        """Hashes texts and their lengths apart: no text can then be taken for the end of another."""
        for column, texts, lengths in zip(columns, self._texts, self._lengths, strict=True):
            data = bytes_of(column)
            texts.update(data)
            lengths.update(np.diff(offsets_of(column)).astype(LENGTHS).tobytes())
            self._left_bytes -= len(data) + len(column)
        if self._left_bytes < 0:
            raise TooLargeError(
                f"{self._name} holds more than {self._limits.max_unpacked_bytes / 1e9:,.0f} GB of text. "
                "Upload a smaller part of it."
            )

    def _bad_cell(self, is_bad: Any, what: str) -> InvalidInputError:
        index, row = next((index, row) for index, row in enumerate(self._group) if any(map(is_bad, row)))
        column = next(name for name, cell in zip(self._schema.names, row, strict=True) if is_bad(cell))
        number = self.num_rows + index + 1
        return InvalidInputError(
            f"Row {number} of {self._name} has {what} in the column {column!r}, which is no text. Remove it there.",
            row=number,
        )

    def _too_long(self, length: int, index: int) -> TooLargeError:
        number = self.num_rows + index + 1
        return TooLargeError(
            f"Row {number} of {self._name} has {length:,} characters; expected at most "
            f"{self._limits.max_row_characters:,}. Shorten it, or leave it out.",
            row=number,
        )


def _has_nul(cell: str) -> bool:
    return "\0" in cell


def _has_surrogate(cell: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in cell)


def _repeats(column: pa.Array) -> bool:
    """Whether the first texts of a column come again and again."""
    head = column.slice(0, LOOKED_AT)
    return bool(len(head) > 4 and len(head.unique()) < len(head) // 4)
