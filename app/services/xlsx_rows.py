"""A stored table as a workbook of Excel with one sheet, a batch of rows at a time.

The workbook is written as it is sent, so that it takes neither room on the disk nor memory for all rows.
"""

import re
import zipfile
from collections.abc import Iterator, Sequence
from io import RawIOBase
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.tables.view import iterate_columns

MAX_ROWS = 1_048_576
MAX_COLUMNS = 16_384
MAX_CELL_CHARACTERS = 32_767
"""Counted in units of UTF-16, as Excel does."""

MAX_TEXT_BYTES = 1_000_000_000
"""The sheet has to stay below the 2 GiB of an ordinary zip, tags included."""

NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,10})(\.[0-9]{0,7}[1-9])?")
"""Texts that a sheet may hold as numbers: read back they are the same, and shown they are not rounded."""

MAX_NUMBER_CHARACTERS = 12
UNWRITABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0d-\x1f\ud800-\udfff\ufffe\uffff]|_(?=x[0-9A-Fa-f]{4}_)")
"""What XML may not hold or would change, and what would be read as the sign for it."""

MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006"
HEAD = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml"
FIXED = {
    "[Content_Types].xml": f'<Types xmlns="{PACKAGE}/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    f'<Override PartName="/xl/workbook.xml" ContentType="{TYPE}.sheet.main+xml"/>'
    f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{TYPE}.worksheet+xml"/></Types>',
    "_rels/.rels": f'<Relationships xmlns="{PACKAGE}/relationships">'
    f'<Relationship Id="rId1" Type="{OFFICE}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
    "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{PACKAGE}/relationships">'
    f'<Relationship Id="rId1" Type="{OFFICE}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>',
}


class _Sent(RawIOBase):
    """Takes what the zip writes, until it is sent."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def taken(self) -> bytes:
        """What was written since the last time."""
        data = b"".join(self._parts)
        self._parts.clear()
        return data


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
    num_bytes = 0
    for batch in iterate_columns(path, columns):
        for cells in batch:
            array = pa.array(cells, pa.large_string())
            num_bytes += pc.sum(pc.binary_length(array)).as_py() or 0
            longest = pc.max(pc.utf8_length(array)).as_py() or 0
            # A character beyond the basic plane counts twice.
            if 2 * longest > MAX_CELL_CHARACTERS and max(map(_units, cells)) > MAX_CELL_CHARACTERS:
                return f"one of its cells is longer than the {MAX_CELL_CHARACTERS:,} characters that Excel takes"
    return "it is too large for a workbook" if num_bytes > MAX_TEXT_BYTES else None


def xlsx_chunks(path: Path, columns: Sequence[str], sheet: str) -> Iterator[bytes]:
    """The workbook. Texts stay texts, whatever they begin with, so none is taken for a formula.

    Args:
        path: A table as Parquet, for which `unfit` knows no reason.
        columns: Which columns, in which order.
        sheet: Name of the sheet.
    """
    sent = _Sent()
    with zipfile.ZipFile(sent, "w", zipfile.ZIP_DEFLATED, compresslevel=3) as book:
        for name, content in {**FIXED, "xl/workbook.xml": _workbook(sheet)}.items():
            book.writestr(name, HEAD + content)
        with book.open("xl/worksheets/sheet1.xml", "w") as page:
            page.write(f'{HEAD}<worksheet xmlns="{MAIN}"><sheetData>{_row(columns)}'.encode())
            for batch in iterate_columns(path, columns):
                page.write("".join(_row(row, has_numbers=True) for row in zip(*batch, strict=True)).encode())
                yield sent.taken()
            page.write(b"</sheetData></worksheet>")
    yield sent.taken()


def _workbook(sheet: str) -> str:
    name = quoteattr(_writable(sheet))
    return (
        f'<workbook xmlns="{MAIN}" xmlns:r="{OFFICE}"><sheets><sheet name={name} sheetId="1" r:id="rId1"/></sheets>'
        "</workbook>"
    )


def _row(cells: Sequence[str], *, has_numbers: bool = False) -> str:
    return f"<row>{''.join(_cell(cell, has_numbers) for cell in cells)}</row>"


def _cell(text: str, has_numbers: bool) -> str:
    if not text:
        return "<c/>"
    if has_numbers and len(text) <= MAX_NUMBER_CHARACTERS and NUMBER.fullmatch(text) and text != "-0":
        return f"<c><v>{text}</v></c>"
    return f'<c t="inlineStr"><is><t xml:space="preserve">{escape(_writable(text))}</t></is></c>'


def _writable(text: str) -> str:
    return UNWRITABLE.sub(lambda found: f"_x{ord(found[0]):04X}_", text)


def _units(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2
