"""Reads workbooks of Excel, their cells as a person sees them."""

import datetime
import re
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import islice
from typing import Any

from storage.errors import InvalidInputError, StudioError, TooLargeError
from storage.quotes import quoted
from storage.tables.dialect import SAMPLE_LINES, column_names, guess_header
from storage.tables.limits import ReadOptions
from storage.tables.merged_cells import Place, SheetMarks, scan_sheet
from storage.tables.readers import Cells, check_columns
from storage.tables.sources import SourceFile

MAX_ROWS = 1_048_576
MAX_SHEETS = 200
MAX_TITLE_ROWS = 10
PADDED = re.compile(r"0{2,30}")
"""A number format that fills up with zeros, as postal codes have."""

ESCAPED = re.compile(r"_x([0-9A-Fa-f]{4})_")
"""How the format writes characters that XML may not hold."""


class XlsxReader:
    """A table on one sheet of a workbook.

    Rows without any cell are left out, cells that were merged all have the value that they show, and a title above the
    table is skipped.

    Args:
        source: The file.
        options: What the user knows better than the guess: `sheet`, `header`.

    Raises:
        StudioError: It is damaged, has too much in it, or no such sheet.
    """

    def __init__(self, source: SourceFile, options: ReadOptions) -> None:
        self.source = source
        self._options = options
        self._sheet_rows: list[int] = []
        self._check_size()
        with self._workbook() as workbook:
            names = [sheet.title for sheet in workbook.worksheets[:MAX_SHEETS]]
            self._sheet = self._choose(workbook, options.sheet)
        self.detected: dict[str, Any] = {
            "format": "xlsx",
            "sheet": self._sheet,
            "header": self._has_header,
            "choices": {"sheet": names, "header": [True, False]},
        }
        if len(self._head) > self._first_data_row:
            self.detected["first_row"] = self._sheet_rows[self._first_data_row]
        if notes := self._notes():
            self.detected["notes"] = notes

    def columns(self) -> list[str]:
        """Names of its columns: from its header, or `column_1` and so on; those without a cell are left out."""
        check_columns(self._names, self.source)
        return self._names

    def rows(self, columns: Sequence[str]) -> Iterator[Cells]:
        """Its rows in the order of `columns`."""
        order = [self._places[self._names.index(name)] for name in columns]
        for cells in islice(self._data(), self._first_data_row, None):
            yield [cells[place] if place < len(cells) else "" for place in order]

    @cached_property
    def _head(self) -> list[Cells]:
        head = list(islice(self._numbered(), SAMPLE_LINES))
        self._sheet_rows = [number for number, _ in head]
        return [cells for _, cells in head]

    @cached_property
    def _title_rows(self) -> int:
        """Rows above the table that hold one cell, while the table is wider."""
        has_merged = any(number in self._marks.merged for number in range(1, MAX_TITLE_ROWS + 1))
        filled = [sum(map(bool, set(cells) if has_merged else cells)) for cells in self._head]
        first = next((index for index, count in enumerate(filled) if count > 1), 0)
        return first if first <= MAX_TITLE_ROWS else 0

    @cached_property
    def _has_header(self) -> bool:
        if self._options.header is not None:
            return self._options.header
        return guess_header(self._head[self._title_rows :])

    @property
    def _first_data_row(self) -> int:
        return self._title_rows + int(self._has_header)

    @cached_property
    def _places(self) -> list[int]:
        """Columns of the sheet that hold a cell anywhere in the table."""
        places: set[int] = set()
        for cells in islice(self._data(), self._title_rows, None):
            if len(cells) > len(places):
                places |= {place for place, cell in enumerate(cells) if cell}
        return sorted(places)

    @cached_property
    def _names(self) -> list[str]:
        if not self._head:
            raise InvalidInputError(
                f"The sheet {quoted(self._sheet)} of {self.source.name} is empty. Choose another sheet."
            )
        first = self._head[self._title_rows]
        return column_names([first[place] if place < len(first) else "" for place in self._places], self._has_header)

    def _notes(self) -> list[str]:
        notes = []
        if self._title_rows:
            skipped = [cell for cells in self._head[: self._title_rows] for cell in cells if cell]
            notes.append(f"Skipped above the table: {', '.join(dict.fromkeys(skipped))}.")
        if self._marks.num_uncomputed:
            count = self._marks.num_uncomputed
            what = "1 cell holds a formula" if count == 1 else f"{count:,} cells hold formulas"
            notes.append(
                f"{what} without a result, read as empty. Open the workbook in a spreadsheet program, save it, and "
                "upload it again."
            )
        return [note[:300] for note in notes]

    def _check_size(self) -> None:
        """A zip gives no more bytes than it declares for a member, so what is declared can be counted on."""
        allowed = self.source.limits.unpacked_bytes(self.source.path.stat().st_size)
        with self._told(), zipfile.ZipFile(self.source.path) as archive:
            total = sum(member.file_size for member in archive.infolist())
            for member in archive.infolist():
                if member.filename.endswith((".xml", ".rels")) and b"<!DOCTYPE" in archive.open(member).read(4096):
                    raise InvalidInputError(f"{self.source.name} declares a document type, which no workbook needs.")
        if total > allowed:
            raise TooLargeError(
                f"{self.source.name} unpacks to {total / 1e6:,.0f} MB, far more than a workbook of its size would. "
                "Save the sheet as CSV and upload that."
            )

    def _choose(self, workbook: Any, wish: str | None) -> str:
        """The sheet that was asked for, or the first visible one with a table."""
        sheets = {sheet.title: sheet for sheet in workbook.worksheets}
        if not sheets:
            raise InvalidInputError(f"{self.source.name} has no sheet with cells. Upload one with a table.")
        if wish is not None and wish not in sheets:
            raise InvalidInputError(
                f"{self.source.name} has no sheet {quoted(wish)}; it has {', '.join(list(sheets)[:20])}."
            )
        if wish is not None:
            return wish
        visible = [sheet for sheet in workbook.worksheets if sheet.sheet_state == "visible"] or workbook.worksheets
        for sheet in visible[:MAX_SHEETS]:
            sheet.reset_dimensions()
            rows = islice(sheet.iter_rows(values_only=True), SAMPLE_LINES)
            if sum(len({value for value in row if value is not None}) > 1 for row in rows) > 1:
                return str(sheet.title)
        return str(visible[0].title)

    def _data(self) -> Iterator[Cells]:
        return (cells for _, cells in self._numbered())

    def _numbered(self) -> Iterator[tuple[int, Cells]]:
        """The rows of the sheet that hold anything with their numbers in it, each as wide as its last filled cell."""
        shown: dict[Place, str] = {}
        with self._workbook() as workbook:
            sheet = workbook[self._sheet]
            # The size that a sheet declares of itself may be anything.
            sheet.reset_dimensions()
            for number, row in enumerate(sheet.iter_rows(), start=1):
                if number > MAX_ROWS:
                    raise TooLargeError(f"{self.source.name} has more than {MAX_ROWS:,} rows, more than Excel allows.")
                cells = [_text(cell) for cell in row]
                for place, origin in self._marks.merged.get(number, {}).items():
                    cells.extend([""] * (place + 1 - len(cells)))
                    cells[place] = shown.setdefault(origin, cells[place])
                while cells and not cells[-1]:
                    cells.pop()
                if cells:
                    yield number, cells

    @cached_property
    def _marks(self) -> SheetMarks:
        # Cells are streamed, and the ranges that were merged stand behind them in the file.
        with self._workbook() as workbook, workbook._archive.open(workbook[self._sheet]._worksheet_path) as file:
            return scan_sheet(file)

    @contextmanager
    def _workbook(self) -> Iterator[Any]:
        from openpyxl import load_workbook

        with self._told(), self.source.path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            workbook = load_workbook(file, read_only=True, data_only=True, keep_links=False)
            try:
                yield workbook
            finally:
                workbook.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turns what openpyxl and zipfile raise for broken files into a sentence."""
        try:
            yield
        except (StudioError, MemoryError, RecursionError, GeneratorExit):
            raise
        except OSError as error:
            if error.errno is not None:
                raise
            raise self._damaged(error) from error
        except Exception as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> InvalidInputError:
        reason = str(error).partition("\n")[0].rstrip(".")[:120] or type(error).__name__
        return InvalidInputError(
            f"{self.source.name} is a damaged or unusual workbook ({reason}). Save it again as XLSX or as CSV."
        )


def _text(cell: Any) -> str:
    """A cell as a person reads it: whole numbers without a fraction, dates as ISO 8601."""
    value = cell.value
    if value is None:
        return ""
    if isinstance(value, str):
        return ESCAPED.sub(lambda match: chr(int(match[1], 16)), value) if "_x" in value else value
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, (int, float)):
        return _number(value, cell)
    if isinstance(value, datetime.datetime):
        is_date = value.time() == datetime.time()
        return value.date().isoformat() if is_date else value.isoformat()
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    return str(value)


def _number(value: float, cell: Any) -> str:
    """Fifteen digits are what Excel shows; the rest is the noise of its arithmetic."""
    if isinstance(value, float) and not value.is_integer():
        return format(value, ".15g")
    if abs(value) >= 1e15:
        return format(value, ".15g") if isinstance(value, float) else str(value)
    number = str(int(value))
    padding = str(cell.number_format)
    return number.zfill(len(padding)) if PADDED.fullmatch(padding) else number
