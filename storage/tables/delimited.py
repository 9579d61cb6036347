"""Reads delimited text: CSV, TSV and their relatives."""

import csv
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import pyarrow as pa

from storage.errors import InvalidInputError, StudioError
from storage.quotes import quoted
from storage.tables.dialect import (
    BACKSLASH,
    DELIMITERS,
    DOUBLED,
    UNQUOTED,
    Quoting,
    column_names,
    guess_delimiter,
    guess_header,
    parse,
    sample_of,
)
from storage.tables.encoding import choices
from storage.tables.limits import ReadOptions
from storage.tables.plain_csv import NotPlainError, plain_batches
from storage.tables.readers import Cells, check_columns
from storage.tables.sources import SourceFile

MAX_ROWS_NAMED = 10
SPARE_RAGGED_ROWS = 20
"""Where more than half of the rows are ragged, the separator is wrong; the first rows may be so by chance."""

SEPARATOR_NAMES = {",": "comma", "\t": "tab", ";": "semicolon", "|": "bar", " ": "space", ":": "colon"}


class DelimitedReader:
    """A table with one row a line, fields between separators, quotes where they are needed.

    Args:
        source: The file.
        encoding: Its text encoding.
        options: What the user knows better than the guess.
        is_quick: Whether the file is to be read by `batches`; whatever is odd about it then raises `NotPlainError`.

    Raises:
        StudioError: It has no line, or its lines are too long.
    """

    def __init__(self, source: SourceFile, encoding: str, options: ReadOptions, *, is_quick: bool = False) -> None:
        self.source = source
        self.is_quick = is_quick
        self._encoding = encoding
        self._leaves_out_ragged = bool(options.leave_out_ragged)
        csv.field_size_limit(source.limits.max_row_characters)
        sample = sample_of(source.lines(encoding))
        self._delimiter = options.delimiter or guess_delimiter(sample)
        self._has_header = self._guess_header(sample) if options.header is None else options.header
        self.detected: dict[str, Any] = {
            "format": "tsv" if self._delimiter == "\t" else "csv",
            "encoding": encoding,
            "delimiter": self._delimiter,
            "header": self._has_header,
            "line_ends": _line_ends(sample),
            "choices": {
                "encoding": choices(encoding),
                "delimiter": list(dict.fromkeys([self._delimiter, *DELIMITERS])),
                "header": [True, False],
            },
        }

    def columns(self) -> list[str]:
        """Names of its columns: from its header, or `column_1` and so on."""
        names = column_names(self._first_row, self._has_header)
        self.detected["quotes"] = DOUBLED.name if self.is_quick else self._quoting.name
        unnamed = [name for name, cell in zip(names, self._first_row, strict=True) if not cell.strip()]
        if self._has_header and unnamed:
            self.detected["notes"] = [f"The header names no column where {', '.join(unnamed)} stands."]
        check_columns(names, self.source)
        return names

    def rows(self, columns: Sequence[str]) -> Iterator[Cells]:
        """Its rows; one with too many or too few fields is refused or left out: no cell stands under a wrong name."""
        if self.is_quick:
            raise NotPlainError("rows are asked for one by one")
        own = self.columns()
        order = [own.index(name) for name in columns]
        in_order = order == list(range(len(own)))
        for cells in self._data(self._quoting):
            yield cells if in_order else [cells[index] for index in order]
        if self._ragged_rows:
            self.detected["ragged_rows"] = {"count": len(self._ragged_rows), "rows": self._ragged_rows[:MAX_ROWS_NAMED]}

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The same rows as columns of text, in the order of the file, where Arrow reads them alike.

        Raises:
            NotPlainError: While they are read: it does not.
        """
        return plain_batches(self.source, self._delimiter, self._first_row, has_header=self._has_header)

    @cached_property
    def _quoting(self) -> Quoting:
        """The way of quoting that reads the whole file.

        Tab-separated files often carry quotes that mean nothing; read as marks they would swallow line ends.
        """
        try:
            has_long_rows = self._scan(DOUBLED)
        except StudioError:
            if self._delimiter == "\t" and self._reads(UNQUOTED):
                return UNQUOTED
            # Without a backslash before a quote this reading would only be a careless one.
            has_escapes = any('\\"' in line for line in self.source.lines(self._encoding))
            return BACKSLASH if has_escapes and self._reads(BACKSLASH) else DOUBLED
        return UNQUOTED if self._delimiter == "\t" and has_long_rows and self._reads(UNQUOTED) else DOUBLED

    def _reads(self, quoting: Quoting) -> bool:
        try:
            self._scan(quoting)
        except StudioError:
            return False
        return True

    def _scan(self, quoting: Quoting) -> bool:
        """Reads all rows once; returns whether any goes over several lines."""
        num_rows = int(self._has_header)
        for _ in self._data(quoting):
            num_rows += 1
        return self._lines_read > num_rows + self._blank_lines

    def _data(self, quoting: Quoting) -> Iterator[Cells]:
        width = len(self._first_row)
        reader = csv.reader(self.source.lines(self._encoding), delimiter=self._delimiter, **quoting.options)
        row = -1 if self._has_header else 0
        self._blank_lines = 0
        self._ragged_rows: list[int] = []
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise self._unreadable(error, row + 1, line) from error
            self._lines_read = reader.line_num
            if cells is None:
                return
            if not cells or (len(cells) == 1 and width > 1 and not cells[0].strip()):
                self._blank_lines += 1
                continue
            row += 1
            if len(cells) != width and row > 0:
                # Spreadsheets end rows with empty fields beyond the table; they shift nothing.
                if len(cells) < width or any(cells[width:]):
                    self._ragged_rows.append(row)
                    if self._leaves_out_ragged and 2 * len(self._ragged_rows) <= row + SPARE_RAGGED_ROWS:
                        continue
                    raise self._ragged(len(cells), width, row, line)
                del cells[width:]
            if row > 0:
                yield cells

    @cached_property
    def _first_row(self) -> Cells:
        """The first row that is not blank: the header, or where there is none a row of data."""
        for cells in parse(self.source.lines(self._encoding), self._delimiter):
            if any(cell.strip() for cell in cells):
                return cells
        raise InvalidInputError(f"{self.source.name} holds no text. Upload a file with a row a line.")

    def _guess_header(self, sample: list[str]) -> bool:
        return guess_header([row for row in parse(sample, self._delimiter) if any(cell.strip() for cell in row)])

    def _ragged(self, found: int, expected: int, row: int, line: int) -> InvalidInputError:
        separator = SEPARATOR_NAMES.get(self._delimiter, quoted(self._delimiter))
        remedy = (
            f"A text with a {separator} in it must stand in double quotes."
            if found > expected
            else "Fill in what is missing, or put a text with line breaks in double quotes."
        )
        return InvalidInputError(
            f"Row {row} of {self.source.name} (line {line}) has {_fields(found)}; expected {expected}, as in the first "
            f"line. {remedy} Or have such rows left out.",
            row=row,
        )

    def _unreadable(self, error: csv.Error, row: int, line: int) -> InvalidInputError:
        where = f"Row {row} of {self.source.name} (line {line})" if row else f"The header of {self.source.name}"
        if "field larger" in str(error) or "unexpected end" in str(error):
            what = "opens a double quote that is never closed. Close it, or double it where it is part of the text."
        elif "expected after" in str(error):
            what = (
                "has a double quote inside a quoted field. Double each quote that is part of the text, "
                'as in "She said ""yes"".".'
            )
        else:
            what = f"cannot be read ({error}). Save the file again from your spreadsheet."
        return InvalidInputError(f"{where} {what}", row=row or None)


def _fields(count: int) -> str:
    return "1 field" if count == 1 else f"{count} fields"


def _line_ends(sample: list[str]) -> str:
    ends = {"\r\n": "CRLF", "\n": "LF", "\r": "CR"}
    return next((name for end, name in ends.items() if sample and sample[0].endswith(end)), "LF")
