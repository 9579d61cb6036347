"""Finished cells (task, method, seed) as lines of JSON in a folder outside git, so that a stopped run goes on."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Record = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One training with one method.

    Attributes:
        task: Name of the task.
        method: Key of the method.
        seed: Of its random numbers and the order of its rows.
    """

    task: str
    method: str
    seed: int


def in_order(tasks: Sequence[str], methods: Sequence[str], seeds: Sequence[int]) -> list[Cell]:
    """All cells: every task with the first seed, then every task with the next one."""
    return [Cell(task, method, seed) for seed in seeds for task in tasks for method in methods]


class CellStore:
    """The finished cells of one state folder.

    Args:
        folder: Created where it is not there.
        settings: What every cell depends on; cells that were made under other settings are left alone.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "cells.jsonl"
        self._settings = dict(settings)

    def records(self) -> dict[Cell, Record]:
        """The finished cells of these settings, of two lines the later; one that was cut off counts as not there."""
        found: dict[Cell, Record] = {}
        for line in self._path.read_bytes().splitlines() if self._path.exists() else ():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if record["settings"] == self._settings:
                found[Cell(record["task"], record["method"], record["seed"])] = record
        return found

    def add(self, cell: Cell, figures: Mapping[str, Any]) -> Record:
        """Writes a finished cell, whole, in one call, so that two processes may share the file."""
        record = {"task": cell.task, "method": cell.method, "seed": cell.seed, "settings": self._settings, **figures}
        line = json.dumps(record, ensure_ascii=False) + "\n"
        file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(file).st_size
            is_cut_off = size > 0 and os.pread(file, 1, size - 1) != b"\n"
            os.write(file, (b"\n" if is_cut_off else b"") + line.encode())
            os.fsync(file)
        finally:
            os.close(file)
        return record
