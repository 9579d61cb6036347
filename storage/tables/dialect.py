"""How a delimited text file is written: its separator, its quotes, and whether its first line names the columns."""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from storage.tables.column_names import INPUT_NAMES, OTHER_NAMES, TARGET_NAMES, simple

DELIMITERS = (",", "\t", ";", "|")
RARE_DELIMITERS = ("^", "~", "\x1f", "\x01", "¦", "§", "#", ":")
"""Tried where none of the usual ones makes columns, and taken only where it cuts every line alike."""

SAMPLE_LINES = 400
SAMPLE_CHARACTERS = 400_000

LONGEST_NAME_CHARACTERS = 80
KNOWN_NAMES = frozenset((*INPUT_NAMES, *TARGET_NAMES, *OTHER_NAMES)) - {"x", "y"}
NUMBER = re.compile(r"[-+]?[\d.,]*\d[\d.,]*%?")


@dataclass(frozen=True)
class Quoting:
    """How a field with a separator or a line end in it is written.

    Attributes:
        name: What the page shows.
        options: The same for the `csv` module.
    """

    name: str
    options: dict[str, Any]


DOUBLED = Quoting("double quotes", {"doublequote": True, "strict": True})
UNQUOTED = Quoting("none", {"quoting": csv.QUOTE_NONE})
BACKSLASH = Quoting("double quotes, escaped by a backslash", {"doublequote": False, "escapechar": "\\", "strict": True})


def sample_of(lines: Iterable[str]) -> list[str]:
    """The first lines of a file, enough to see how it is written."""
    sample: list[str] = []
    characters = 0
    for line in islice(lines, SAMPLE_LINES):
        sample.append(line)
        characters += len(line)
        if characters > SAMPLE_CHARACTERS:
            break
    return sample


def guess_delimiter(sample: list[str]) -> str:
    """The separator that cuts most rows into as many fields as the first; a comma where none cuts any."""
    scores = {delimiter: _consistency(sample, delimiter) for delimiter in DELIMITERS}
    best = max(DELIMITERS, key=lambda delimiter: scores[delimiter])
    if scores[best][0] < 0.5 and len(sample) > 2:
        rare = next((each for each in RARE_DELIMITERS if _consistency(sample, each)[0] == 1.0), None)
        return rare or best
    return best


def _consistency(sample: list[str], delimiter: str) -> tuple[float, int]:
    widths = [len(row) for row in parse(sample, delimiter) if row]
    if not widths or widths[0] < 2:
        return 0.0, 0
    return sum(width == widths[0] for width in widths) / len(widths), widths[0]


def parse(lines: Iterable[str], delimiter: str, quoting: Quoting | None = None) -> Iterator[list[str]]:
    """Rows of delimited lines; without `quoting`, lenient and up to the first row that cannot be read."""
    options = {"doublequote": True} if quoting is None else quoting.options
    try:
        yield from csv.reader(lines, delimiter=delimiter, **options)
    except csv.Error:
        if quoting is not None:
            raise


def guess_header(rows: list[list[str]]) -> bool:
    """Whether the first row names the columns.

    It does unless it looks like data: a number, a text too long for a name, a cell that comes again below it, or
    whole sentences as in the rows that follow.
    """
    if not rows:
        return False
    first, rest = rows[0], rows[1:]
    if any(simple(cell) in KNOWN_NAMES for cell in first):
        return True
    if any(NUMBER.fullmatch(cell.strip()) or len(cell) > LONGEST_NAME_CHARACTERS for cell in first):
        return False
    below = [Counter(row[index] for row in rest if index < len(row)) for index in range(len(first))]
    if any(cell.strip() and below[index][cell] for index, cell in enumerate(first)):
        return False
    return not (_sentences(first) >= 0.5 and _sentences([cell for row in rest for cell in row]) >= 0.4)


def _sentences(cells: list[str]) -> float:
    """Share of the cells that end as a sentence does."""
    return sum(cell.rstrip()[-1:] in (".", "!", "?") for cell in cells if cell) / max(1, len(cells))


def column_names(first: list[str], has_header: bool) -> list[str]:
    """Names of the columns: those of the header, trimmed, and `column_3` for a third that has none."""
    if not has_header:
        return [f"column_{number}" for number in range(1, len(first) + 1)]
    names = [" ".join(cell.split()) for cell in first]
    return [name or f"column_{number}" for number, name in enumerate(names, start=1)]
