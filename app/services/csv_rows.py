"""A stored table as CSV in UTF-8, a batch of rows at a time."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from storage.tables.view import iterate_columns

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def csv_chunks(path: Path, columns: Sequence[str], *, for_spreadsheets: bool) -> Iterator[bytes]:
    """The header, then the rows.

    Args:
        path: A table as Parquet.
        columns: Which columns, in which order.
        for_spreadsheets: Whether cells that a spreadsheet would take for a formula get an apostrophe in front.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(map(inert, columns) if for_spreadsheets else columns)
    # A table without rows has no batch, and still a header.
    yield _taken(text)
    for batch in iterate_columns(path, columns):
        rows = zip(*batch, strict=True)
        writer.writerows([list(map(inert, row)) for row in rows] if for_spreadsheets else rows)
        yield _taken(text)


def inert(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{cell}" if cell.startswith(FORMULA_STARTS) else cell


def _taken(text: io.StringIO) -> bytes:
    written = text.getvalue().encode()
    text.seek(0)
    text.truncate()
    return written
