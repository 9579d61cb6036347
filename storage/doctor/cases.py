"""The first rows of each finding, read again so that the page can show what is wrong with them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from storage.doctor.characters import CONTROL, LOST, restore
from storage.doctor.finding import Finding
from storage.tables.table import Part
from storage.tables.view import Cells, View, iterate_columns

MAX_CASES = 3
MAX_CELL_CHARACTERS = 160
MAX_COLUMNS = 4


def with_cases(found: Sequence[Finding], paths: Mapping[Part, Path], view: View) -> list[Finding]:
    """Findings with `cases`: number and cells of the first rows that each is about.

    Args:
        found: Findings with their `part` and `rows`.
        paths: The Parquet file of each part.
        view: Which columns are prompt and answer.
    """
    wanted = {
        part: {row for one in found if one.get("part") == part for row in one["rows"][:MAX_CASES]} for part in paths
    }
    known = {part: _read(paths[part], view.columns, rows) for part, rows in wanted.items()}
    return [{**one, "cases": _cases(one, known.get(one.get("part") or "train", {}), view)} for one in found]


def clipped(cell: str, around: int = 0) -> str:
    """A cell short enough to be shown, with the place `around` in it."""
    start = max(0, around - MAX_CELL_CHARACTERS // 2)
    shown = cell[start : start + MAX_CELL_CHARACTERS]
    return ("… " if start else "") + shown + (" …" if len(cell) > start + MAX_CELL_CHARACTERS else "")


def _read(path: Path, columns: Sequence[str], rows: set[int]) -> dict[int, Cells]:
    """Rows by number, counted from 1; reading ends with the last of them."""
    found: dict[int, Cells] = {}
    start = 1
    for batch in iterate_columns(path, columns) if rows else ():
        size = len(batch[0])
        found |= {row: [cells[row - start] for cells in batch] for row in rows if start <= row < start + size}
        start += size
        if len(found) == len(rows):
            break
    return found


def _cases(one: Finding, rows: Mapping[int, Cells], view: View) -> list[dict[str, Any]]:
    return [
        {"row": row, "cells": _cells(one["code"], dict(zip(view.columns, rows[row], strict=True)), view)}
        for row in one["rows"][:MAX_CASES]
        if row in rows
    ]


def _cells(code: str, row: Mapping[str, str], view: View) -> dict[str, str]:
    """The cells that show what is meant: those with the fault, or prompt and answer."""
    places = {name: place for name, cell in row.items() if (place := _place(code, cell)) is not None}
    names = list(places) or list(dict.fromkeys((*view.used[: MAX_COLUMNS - 1], view.target)))
    return {name: clipped(row[name], places.get(name, 0)) for name in names[:MAX_COLUMNS]}


def _place(code: str, cell: str) -> int | None:
    """Where in a cell a fault of its characters stands."""
    if code == "control_characters":
        match = CONTROL.search(restore(cell))
        return match.start() if match else None
    if code == "lost_characters":
        return cell.find(LOST) if LOST in cell else None
    if code == "mojibake":
        restored = restore(cell)
        same = next((index for index, pair in enumerate(zip(cell, restored, strict=False)) if pair[0] != pair[1]), 0)
        return same if restored != cell else None
    return None
