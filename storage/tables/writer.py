"""Writes rows of text as Parquet, a row group at a time, and counts and hashes what it writes."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import InvalidInputError, TooLargeError
from storage.tables.limits import Limits

GROUP_ROWS = 10_000
GROUP_CHARACTERS = 16_000_000


class PartWriter:
    """Turns the rows of one part into one Parquet file, all columns of text.

    Args:
        path: The file to write.
        columns: Names of the columns.
        name: What the user calls the file that the rows come from.
        limits: Caps on a row and on all rows.

    Attributes:
        num_rows: Rows written so far.
        digest: SHA-256 of the cells so far, whatever they are stored in.
    """

    def __init__(self, path: Path, columns: Sequence[str], name: str, limits: Limits) -> None:
        self._path = path
        self._columns = list(columns)
        self._name = name
        self._limits = limits
        self._left_bytes = limits.max_unpacked_bytes
        self._group: list[list[str]] = []
        self.num_rows = 0
        self.digest = hashlib.sha256()

    def write(self, rows: Iterable[list[str]]) -> None:
        """Writes all rows.

        Raises:
            StudioError: There is no row, or one that cannot be kept; the error names it.
        """
        schema = pa.schema([(name, pa.string()) for name in self._columns])
        with pq.ParquetWriter(self._path, schema, compression="zstd", write_page_checksum=True) as file:
            characters = 0
            for row in rows:
                length = sum(map(len, row))
                if length > self._limits.max_row_characters:
                    raise self._too_long(length, len(self._group))
                self._group.append(row)
                characters += length
                if len(self._group) >= GROUP_ROWS or characters >= GROUP_CHARACTERS:
                    self._flush(file, schema)
                    characters = 0
            if self._group:
                self._flush(file, schema)
        if not self.num_rows:
            raise InvalidInputError(f"{self._name} has no rows beneath its header. Add at least two rows of data.")

    def _flush(self, file: Any, schema: pa.Schema) -> None:
        self._account()
        cells = zip(*self._group, strict=True)
        file.write_table(pa.table([pa.array(column, pa.string()) for column in cells], schema=schema))
        self.num_rows += len(self._group)
        self._group = []

    def _account(self) -> None:
        """Checks and hashes the group as one text, its cells apart by a character that none of them may hold."""
        text = "\0".join(map("\0".join, self._group)) + "\0"
        try:
            data = text.encode()
        except UnicodeEncodeError:
            raise self._bad_cell(_has_surrogate, "half of a character (a lone surrogate)") from None
        if text.count("\0") != len(self._group) * len(self._columns):
            raise self._bad_cell(_has_nul, "a NUL character")
        self.digest.update(data)
        self._left_bytes -= len(data)
        if self._left_bytes < 0:
            raise TooLargeError(
                f"{self._name} holds more than {self._limits.max_unpacked_bytes / 1e9:,.0f} GB of text. "
                "Upload a smaller part of it."
            )

    def _bad_cell(self, is_bad: Any, what: str) -> InvalidInputError:
        index, row = next((index, row) for index, row in enumerate(self._group) if any(map(is_bad, row)))
        column = next(name for name, cell in zip(self._columns, row, strict=True) if is_bad(cell))
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
