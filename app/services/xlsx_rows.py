"""A stored table as a workbook of Excel with one sheet, written by openpyxl a row at a time."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from openpyxl import Workbook
from openpyxl.cell import WriteOnlyCell

from storage.tables.view import iterate_columns

MAX_ROWS = 1_048_576
MAX_COLUMNS = 16_384
MAX_CELL_CHARACTERS = 32_767
"""Counted in units of UTF-16, as Excel does."""

MAX_CELLS = 1_000_000
"""More of them would keep a person waiting for over a minute, where CSV comes at once."""

NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,10})(\.[0-9]{0,7}[1-9])?")
"""Texts that a sheet may hold as numbers: read back they are the same, and shown they are not rounded."""

MAX_NUMBER_CHARACTERS = 12
UNWRITABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0d-\x1f\ud800-\udfff\ufffe\uffff]|_(?=x[0-9A-Fa-f]{4}_)")
"""What XML may not hold or would change, and what would be read as the sign for it."""

CHUNK_BYTES = 1 << 18


def unfit(path: Path, columns: Sequence[str]) -> str | None:
    """Why a table does not go into a sheet, as a clause; None where it does.

    Args:
        path: The table as Parquet.
        columns: Its columns.
    """
    num_rows = pq.read_metadata(path).num_rows
    if num_rows >= MAX_ROWS:
        return f"it has {num_rows:,} rows, and a sheet of Excel holds {MAX_ROWS - 1:,} below its header"
    if len(columns) > MAX_COLUMNS:
        return f"it has {len(columns):,} columns, and a sheet of Excel holds {MAX_COLUMNS:,}"
    if num_rows * len(columns) > MAX_CELLS:
        return f"it has {num_rows * len(columns):,} cells, and workbooks are written with up to {MAX_CELLS:,}"
    for batch in iterate_columns(path, columns):
        for cells in batch:
            longest = pc.max(pc.utf8_length(pa.array(cells, pa.large_string()))).as_py() or 0
            # A character beyond the basic plane counts twice.
            if 2 * longest > MAX_CELL_CHARACTERS and max(map(_units, cells)) > MAX_CELL_CHARACTERS:
                return f"one of its cells is longer than the {MAX_CELL_CHARACTERS:,} characters that Excel takes"
    return None


def xlsx_chunks(path: Path, columns: Sequence[str], sheet: str) -> Iterator[bytes]:
    """The workbook. Texts stay texts, whatever they begin with, so none is taken for a formula.

    Args:
        path: A table as Parquet, for which `unfit` knows no reason.
        columns: Which columns, in which order.
        sheet: Name of the sheet.
    """
    book = Workbook(write_only=True)
    page = book.create_sheet(sheet)
    page.append([_text_cell(page, name) for name in columns])
    for batch in iterate_columns(path, columns):
        for row in zip(*batch, strict=True):
            page.append([_cell(page, text) for text in row])
    with TemporaryFile() as file:
        book.save(file)
        file.seek(0)
        while data := file.read(CHUNK_BYTES):
            yield data


def _cell(page: Any, text: str) -> Any:
    if not text:
        return None
    if len(text) <= MAX_NUMBER_CHARACTERS and NUMBER.fullmatch(text) and text != "-0":
        return float(text) if "." in text else int(text)
    return _text_cell(page, text)


def _text_cell(page: Any, text: str) -> Any:
    cell = WriteOnlyCell(page, value=UNWRITABLE.sub(lambda found: f"_x{ord(found[0]):04X}_", text))
    # openpyxl takes a leading "=" for a formula and "#N/A" for an error.
    cell.data_type = "s"
    return cell


def _units(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2
