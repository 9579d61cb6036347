"""What a streamed sheet does not tell of itself: which cells are merged, and formulas whose result was never saved."""

import re
from dataclasses import dataclass, field
from typing import IO

CHUNK_BYTES = 1 << 20
OVERLAP_BYTES = 200
MAX_MERGED_CELLS = 200_000
MERGED = re.compile(rb'<(?:\w+:)?mergeCell\s[^>]*?ref="([A-Z]{1,3})(\d{1,7}):([A-Z]{1,3})(\d{1,7})"')
UNCOMPUTED = re.compile(
    rb"(?:</(?:\w+:)?f>|<(?:\w+:)?f[^>]*/>)\s*(?:<(?:\w+:)?v\s*/>|<(?:\w+:)?v></(?:\w+:)?v>)?\s*</(?:\w+:)?c>"
)

Place = tuple[int, int]


@dataclass
class SheetMarks:
    """Marks of one sheet.

    Attributes:
        merged: Row (from 1) to column (from 0) of each merged cell, to the place of the cell that shows its value.
        num_merged: Merged cells counted so far.
        num_uncomputed: Formulas without a result.
    """

    merged: dict[int, dict[int, Place]] = field(default_factory=dict)
    num_merged: int = 0
    num_uncomputed: int = 0


def scan_sheet(file: IO[bytes]) -> SheetMarks:
    """Looks through the XML of a sheet; no text of a cell can look like a mark, since `<` is escaped in it.

    Args:
        file: The XML.
    """
    marks = SheetMarks()
    tail = b""
    while chunk := file.read(CHUNK_BYTES):
        window = tail + chunk
        # What ends within the tail was counted with the window before.
        marks.num_uncomputed += sum(match.end() > len(tail) for match in UNCOMPUTED.finditer(window))
        for match in MERGED.finditer(window):
            _add(marks, match)
        tail = window[-OVERLAP_BYTES:]
    return marks


def _add(marks: SheetMarks, match: re.Match[bytes]) -> None:
    left, right = (_column(match[group]) for group in (1, 3))
    top, bottom = int(match[2]), int(match[4])
    marks.num_merged += (bottom - top + 1) * (right - left + 1)
    if marks.num_merged > MAX_MERGED_CELLS:
        return
    for row in range(top, bottom + 1):
        marks.merged.setdefault(row, {}).update(dict.fromkeys(range(left, right + 1), (top, left)))


def _column(letters: bytes) -> int:
    number = 0
    for letter in letters:
        number = number * 26 + letter - 64
    return number - 1
