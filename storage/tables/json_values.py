"""Takes JSON apart value by value, so that a file larger than memory can be read."""

import json
from collections.abc import Iterator
from typing import Any, TextIO

from storage.errors import InvalidInputError, StudioError, TooLargeError
from storage.quotes import quoted
from storage.tables.records import Scalar
from storage.tables.sources import SourceFile

CHUNK_CHARACTERS = 1 << 18
UNFINISHED_TAIL = 16
"""A value cut off at the end of what was read fails within its last characters, at most a literal or an escape."""


class RepeatedKeyError(ValueError):
    """An object names a key twice; the first value would be lost in silence."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        keys = [key for key, _ in pairs]
        raise RepeatedKeyError(next(key for key in keys if keys.count(key) > 1))
    return record


# Line ends within strings are common in files written by hand; numbers keep the digits that they were written with.
DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=Scalar, parse_int=Scalar, parse_constant=Scalar, strict=False
)


def decode(text: str, source: SourceFile, row: int | None, line: int) -> Any:
    """The one value that a text holds.

    Args:
        text: JSON text.
        source: The file, for the errors.
        row: Number of its row, counted from 1.
        line: Line of the file where the text begins, counted from 1.

    Raises:
        InvalidInputError: It is no JSON, or nested too deep, or names a key twice.
    """
    try:
        return DECODER.decode(text)
    except (RecursionError, ValueError) as error:
        raise refusal(error, source, row, line) from error


def array_items(source: SourceFile, encoding: str) -> Iterator[tuple[int, Any]]:
    """The items of a file that is one array, each with the line where it begins.

    Raises:
        StudioError: The file is damaged, cut off, or one of its items is too large.
    """
    with source.text(encoding) as file:
        text = _Window(file, source, encoding)
        text.expect("[")
        row = 0
        while not text.take("]"):
            if row:
                text.expect(",")
                text.refuse_end(row)
            row += 1
            yield text.line, text.value(row)
        text.end()


class _Window:
    """A piece of the file that moves forward; holds one value and what follows it."""

    def __init__(self, file: TextIO, source: SourceFile, encoding: str) -> None:
        self._file = file
        self._source = source
        self._encoding = encoding
        self._text = ""
        self._place = 0
        self._is_complete = False
        self.line = 1

    def take(self, mark: str) -> bool:
        """Steps over `mark` where it comes next."""
        self._skip_space()
        if not self._text.startswith(mark, self._place):
            return False
        self._place += 1
        return True

    def expect(self, mark: str) -> None:
        """Steps over `mark`, which has to come next."""
        if self.take(mark):
            return
        found = self._text[self._place : self._place + 1]
        raise InvalidInputError(
            f"{self._source.name} is cut off at line {self.line}. Upload the whole file again."
            if not found
            else f"{self._source.name} has {quoted(found)} in line {self.line}; expected {quoted(mark)} there. Repair "
            "the file."
        )

    def refuse_end(self, row: int) -> None:
        """Refuses an array that ends where a comma promised another value."""
        if self.take("]"):
            raise InvalidInputError(
                f"{self._source.name} has a comma after its last row, {row}, in line {self.line} or before. Remove "
                "the comma in front of the closing bracket."
            )

    def end(self) -> None:
        """Refuses anything after the last value."""
        self._skip_space()
        if self._place < len(self._text):
            raise InvalidInputError(
                f"{self._source.name} goes on after its array ends, in line {self.line}. "
                "Put all rows into one array, or one object on each line."
            )

    def value(self, row: int) -> Any:
        """The value that comes next, with as much of the file as it needs."""
        self._skip_space()
        while True:
            try:
                value, end = DECODER.raw_decode(self._text, self._place)
            except RepeatedKeyError as error:
                raise refusal(error, self._source, row, self.line) from error
            except json.JSONDecodeError as error:
                is_cut_off = error.msg.startswith("Unterminated") or error.pos >= len(self._text) - UNFINISHED_TAIL
                if not is_cut_off:
                    # The decoder counts lines from the start of the window, not from where the value begins.
                    begin = self.line - self._text.count("\n", 0, self._place)
                    raise refusal(error, self._source, row, begin) from error
                if self._is_complete:
                    raise self._cut_off(row) from error
            except RecursionError as error:
                raise refusal(error, self._source, row, self.line) from error
            else:
                self._advance(end)
                return value
            self._refuse_long(row)
            # Doubled each time, so that a long value is not tried again and again.
            self._read_more(max(CHUNK_CHARACTERS, len(self._text)))

    def _cut_off(self, row: int) -> InvalidInputError:
        return InvalidInputError(
            f"{self._source.name} ends in the middle of row {row}, which begins in line {self.line}. A bracket or a "
            "quote is not closed there, or the file is cut off.",
            row=row,
        )

    def _refuse_long(self, row: int) -> None:
        cap = self._source.limits.max_row_characters
        if len(self._text) - self._place > cap:
            raise TooLargeError(
                f"Row {row} of {self._source.name} (line {self.line}) is longer than {cap:,} characters. "
                "Shorten it, or leave it out.",
                row=row,
            )

    def _skip_space(self) -> None:
        while True:
            rest = self._text[self._place : self._place + 64]
            stripped = rest.lstrip(" \t\r\n")
            self._advance(self._place + len(rest) - len(stripped))
            if stripped or not (self._place < len(self._text) or self._read_more(CHUNK_CHARACTERS)):
                return

    def _advance(self, place: int) -> None:
        self.line += self._text.count("\n", self._place, place)
        self._place = place

    def _read_more(self, size: int) -> bool:
        try:
            more = self._file.read(size)
        except UnicodeError as error:
            raise self._source.not_in(self._encoding) from error
        self._text = self._text[self._place :] + more
        self._place = 0
        self._is_complete = not more
        return bool(more)


def refusal(error: Exception, source: SourceFile, row: int | None, line: int) -> StudioError:
    """The sentence for a value that cannot be read."""
    where = f"Row {row} of {source.name}" if row else source.name
    if isinstance(error, RecursionError):
        return InvalidInputError(
            f"{where} (line {line}) is nested too deep to be a row of a table. Flatten it to named fields.", row=row
        )
    if isinstance(error, RepeatedKeyError):
        return InvalidInputError(
            f"{where} (line {line}) has the field {quoted(str(error)[:80])} twice. Rename or remove one of them.",
            row=row,
        )
    if isinstance(error, json.JSONDecodeError):
        line += error.lineno - 1
        near = error.doc[max(0, error.pos - 15) : error.pos + 15]
        return InvalidInputError(
            f"{where} is not valid JSON: {error.msg.lower()} in line {line}, near {quoted(near)}. Repair it there.",
            row=row,
        )
    return InvalidInputError(f"{where} (line {line}) is not valid JSON. Repair it.", row=row)
