"""What every reader of a format offers to the rest: columns, and rows of text in the order of the file."""

import re
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from storage.errors import InvalidInputError
from storage.quotes import quoted
from storage.tables.sources import SourceFile

Cells = list[str]

NO_TEXT = re.compile("[\0\ud800-\udfff]")


class TableReader(Protocol):
    """Reads one file as a table; each format has its own, chosen by `storage.tables.detect`.

    Attributes:
        source: The file.
        detected: How it is read, for the page to show: `format`, `encoding`, `delimiter`, `header`, …
    """

    source: SourceFile
    detected: dict[str, Any]

    def columns(self) -> list[str]:
        """Names of its columns.

        Raises:
            StudioError: The file is no table.
        """

    def rows(self, columns: Sequence[str]) -> Iterator[Cells]:
        """Its rows, each with its cells in the order of `columns`; a cell that a row lacks is the empty text.

        Raises:
            StudioError: A row cannot be read; the error says which, counted from 1.
        """


def check_columns(names: Sequence[str], source: SourceFile) -> None:
    """Refuses names of columns that a template could not tell apart, and tables too wide.

    Raises:
        InvalidInputError: Saying which column.
    """
    seen: dict[str, int] = {}
    for number, name in enumerate(names, start=1):
        if not name:
            raise InvalidInputError(f"Column {number} of {source.name} has no name. Give it one, and upload it again.")
        if NO_TEXT.search(name):
            raise InvalidInputError(
                f"The name of column {number} of {source.name}, {quoted(name)}, holds a NUL character or half of a "
                "character, which is no text. Rename it."
            )
        if name in seen:
            raise InvalidInputError(
                f"Columns {seen[name]} and {number} of {source.name} are both called {quoted(name)}. Rename one of "
                "them."
            )
        seen[name] = number
    if len(names) > source.limits.max_columns:
        raise InvalidInputError(
            f"{source.name} has {len(names):,} columns; expected at most {source.limits.max_columns}. "
            "Keep the columns of the prompt and the answer."
        )


def check_width(names: Sequence[str], source: SourceFile) -> None:
    """Refuses a table with fewer columns than are needed (see `Limits.min_columns`).

    Raises:
        InvalidInputError: Saying what it has.
    """
    if len(names) < source.limits.min_columns:
        raise InvalidInputError(
            f"{source.name} has only one column, {quoted(names[0][:60])}; expected at least two, one for the prompt "
            "and one for the answer. Where the columns are cut apart by something unusual, choose the separator."
            if names
            else f"{source.name} has no columns. Give each row named fields, such as text and label."
        )
