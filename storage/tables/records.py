"""From nested records to flat rows of text: dotted columns, and JSON text for what has no columns of its own."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from storage.errors import InvalidInputError
from storage.quotes import quoted
from storage.tables.chat_formats import is_conversation

MAX_FIELDS = 64
"""An object with more different keys than this is data under keys, not a record with fields."""


class Scalar(str):
    """A number, true or false as it stood in the file; quotes around it would make another value of it."""

    __slots__ = ()


@dataclass
class Shape:
    """What was seen under one name, over all records.

    Attributes:
        seen: How often it was there.
        num_objects: How often it was an object.
        has_cell: Whether it ever was anything else that fills a cell.
        fields: What was seen beneath it, in order of appearance.
        only: What was seen in lists of one object each.
    """

    seen: int = 0
    num_objects: int = 0
    has_cell: bool = False
    fields: dict[str, "Shape"] = field(default_factory=dict)
    only: "Shape | None" = None

    def add(self, value: Any, max_depth: int) -> None:
        """Takes one more value into account; objects deeper than `max_depth` count as text."""
        self.seen += 1
        if max_depth and (inside := only_object(value)) is not None:
            self.only = self.only or Shape()
            self.only.add(inside, max_depth - 1)
            return
        if not isinstance(value, Mapping) or max_depth == 0:
            self.has_cell = self.has_cell or value is not None
            return
        self.num_objects += 1
        for name, inner in value.items():
            if name in self.fields or len(self.fields) <= MAX_FIELDS:
                self.fields.setdefault(name, Shape()).add(inner, max_depth - 1)

    @property
    def is_uniform(self) -> bool:
        """Whether it was an object with the same keys each time."""
        return all(inner.seen == self.num_objects for inner in self.fields.values())

    def merge(self, other: "Shape") -> None:
        """Takes in what was seen in another file."""
        self.seen += other.seen
        self.num_objects += other.num_objects
        self.has_cell = self.has_cell or other.has_cell
        if other.only is not None:
            self.only = self.only or Shape()
            self.only.merge(other.only)
        for name, inner in other.fields.items():
            self.fields.setdefault(name, Shape()).merge(inner)

    def columns(self, name: str) -> Iterator[str]:
        """Columns for it: itself, or `slots.date` for a field of an object called `slots`.

        An object whose keys differ from row to row also stays whole, as JSON text under its own name, since the set of
        its keys may be what the table is about. A list that holds one object in every row is read as that object.
        """
        if self.only is not None and not self.has_cell and not self.fields and self.only.is_uniform:
            yield from self.only.columns(name)
            return
        is_record = 0 < len(self.fields) <= MAX_FIELDS
        if self.has_cell or self.only is not None or not is_record or not self.is_uniform:
            yield name
        if is_record:
            for inner_name, inner in self.fields.items():
                yield from inner.columns(f"{name}.{inner_name}")


def flatten(record: Mapping[str, Any], columns: Mapping[str, int], row: int) -> list[str]:
    """The cells of one record.

    Args:
        record: Names to values; an absent or null one becomes the empty text.
        columns: Place of each column among the cells.
        row: Its number, counted from 1, for the error.

    Raises:
        InvalidInputError: Two of its fields fall into one column.
    """
    cells: list[str | None] = [None] * len(columns)
    _fill(cells, record, columns, "", row)
    return ["" if cell is None else cell for cell in cells]


def _fill(
    cells: list[str | None], record: Mapping[str, Any], columns: Mapping[str, int], prefix: str, row: int
) -> None:
    for name, value in record.items():
        column = prefix + name
        if value is None:
            continue
        place = columns.get(column)
        if place is not None:
            if cells[place] is not None:
                raise InvalidInputError(
                    f"Row {row} has two fields that would both become the column {quoted(column)}. Rename one of them.",
                    row=row,
                )
            cells[place] = value if isinstance(value, str) else to_text(value)
        inside = only_object(value) if place is None else None
        if inside is not None or isinstance(value, Mapping):
            _fill(cells, value if inside is None else inside, columns, f"{column}.", row)


def only_object(value: Any) -> Mapping[str, Any] | None:
    """The object in a list that holds nothing else; None for every other value, a single turn of a chat included."""
    is_single = isinstance(value, list) and len(value) == 1 and isinstance(value[0], Mapping) and value[0]
    return value[0] if is_single and not is_conversation(value) else None


def to_text(value: Any) -> str:
    """JSON text of a value, its numbers as they stood in the file."""
    if isinstance(value, Scalar):
        return str(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{to_text(str(name))}: {to_text(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(to_text, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def places(columns: Sequence[str]) -> dict[str, int]:
    """Place of each column among the cells of a row."""
    return {name: place for place, name in enumerate(columns)}
