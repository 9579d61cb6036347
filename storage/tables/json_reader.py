"""Reads JSON: an array of objects, an object a line, or an object of columns."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

from storage.errors import InvalidInputError, TooLargeError
from storage.tables.encoding import choices
from storage.tables.json_values import array_items, decode
from storage.tables.readers import Cells, check_columns
from storage.tables.records import Shape, flatten, places
from storage.tables.sources import SourceFile

JsonLayout = Literal["array", "lines", "object"]

KINDS = {str: "text", bool: "true or false", list: "a list", type(None): "null"}


class JsonReader:
    """A table of JSON objects, whose nested objects become dotted columns.

    Args:
        source: The file.
        encoding: Its text encoding.
        layout: How the objects are laid out in it.
    """

    def __init__(self, source: SourceFile, encoding: str, layout: JsonLayout) -> None:
        self.source = source
        self._encoding = encoding
        self._layout: JsonLayout = layout
        name = "jsonl" if layout == "lines" else "json"
        self.detected: dict[str, Any] = {"format": name, "encoding": encoding, "layout": layout}
        self.detected["choices"] = {"encoding": choices(encoding), "format": [name, "csv"]}

    def columns(self) -> list[str]:
        """Names of its columns: the fields of all its records, those of nested objects with a dot."""
        names = columns_of(self.fields)
        check_columns(names, self.source)
        return names

    def rows(self, columns: Sequence[str]) -> Iterator[Cells]:
        """Its rows in the order of `columns`."""
        place = places(columns)
        for row, record in enumerate(self.records(), start=1):
            yield flatten(record, place, row)

    @cached_property
    def fields(self) -> dict[str, Shape]:
        """What stands under each name of a record, seen over the whole file."""
        fields: dict[str, Shape] = {}
        limits = self.source.limits
        for row, record in enumerate(self.records(), start=1):
            for name, value in record.items():
                if name not in fields:
                    self._check_field(row, len(fields))
                fields.setdefault(name, Shape()).add(value, limits.max_depth)
        return fields

    def _check_field(self, row: int, num_fields: int) -> None:
        if num_fields >= self.source.limits.max_columns:
            raise InvalidInputError(
                f"The rows of {self.source.name} have more than {self.source.limits.max_columns} different fields by "
                f"row {row}. Use the same field names in every row.",
                row=row,
            )

    def records(self) -> Iterator[Mapping[str, Any]]:
        """Its records, one after the other.

        Raises:
            StudioError: One cannot be read; the error says which.
        """
        for row, (line, value) in enumerate(self._items(), start=1):
            if not isinstance(value, Mapping):
                raise InvalidInputError(
                    f"Row {row} of {self.source.name} (line {line}) is {KINDS.get(type(value), 'a number')}; expected "
                    'an object with named fields, such as {"text": "…", "label": "…"}.',
                    row=row,
                )
            yield value

    def _items(self) -> Iterator[tuple[int, Any]]:
        if self._layout == "array":
            return array_items(self.source, self._encoding)
        return self._line_items() if self._layout == "lines" else self._object_items()

    def _line_items(self) -> Iterator[tuple[int, Any]]:
        row = 0
        for number, line in enumerate(self.source.lines(self._encoding), start=1):
            if line.isspace():
                continue
            row += 1
            yield number, decode(line.strip(), self.source, row, number)

    def _object_items(self) -> Iterator[tuple[int, Any]]:
        cap = self.source.limits.max_object_bytes
        with self.source.text(self._encoding) as file:
            try:
                text = file.read(cap + 1)
            except UnicodeError as error:
                raise self.source.not_in(self._encoding) from error
        if len(text) > cap:
            raise TooLargeError(
                f"{self.source.name} is one JSON object of more than {cap / 1e6:,.0f} MB, which has to be read as a "
                "whole. Save it as JSONL, one row on each line."
            )
        return ((1, record) for record in _rows_of(decode(text.strip(), self.source, None, 1)))


def columns_of(fields: Mapping[str, Shape]) -> list[str]:
    """Columns of records with these fields."""
    return [column for name, shape in fields.items() for column in shape.columns(name)]


def _rows_of(value: Any) -> Iterator[Any]:
    """Rows of one object: lists or dictionaries of cells by column, one list of records, or else a single row."""
    if not isinstance(value, Mapping) or not value:
        return iter([value])
    columns = list(value.values())
    if _are_columns(columns):
        return (dict(zip(value, cells, strict=True)) for cells in zip(*columns, strict=True))
    if all(isinstance(column, Mapping) for column in columns) and len({tuple(column) for column in columns}) == 1:
        return ({name: column[key] for name, column in value.items()} for key in columns[0])
    lists = [column for column in columns if isinstance(column, list) and column and isinstance(column[0], Mapping)]
    return iter(lists[0] if len(lists) == 1 else [value])


def _are_columns(values: list[Any]) -> bool:
    if not all(isinstance(value, list) for value in values) or len({len(value) for value in values}) != 1:
        return False
    return len(values) > 1 or not all(isinstance(cell, Mapping) for cell in values[0])
