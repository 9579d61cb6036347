"""Mends a table: says what changes, and writes the mended rows as Parquet files of their own."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from storage.doctor.cases import clipped
from storage.doctor.classes import spelling_of
from storage.doctor.examine import look_at
from storage.doctor.mend import CellMender, Mask, dropped_rows
from storage.doctor.order import Order
from storage.doctor.repairs import CELL_KINDS, KINDS
from storage.doctor.scan import scan_part
from storage.errors import InvalidInputError
from storage.quotes import quoted
from storage.tables.table import Part
from storage.tables.view import Cells, count_stored_rows, iterate_columns
from storage.tables.writer import PartWriter

MAX_EXAMPLES = 10
MIN_EXAMPLES_OF_A_KIND = 2

Row = tuple[int, list[str]]


class Treatment:
    """One table on its way through the repairs of an order.

    Args:
        order: The table and what is to be mended.
    """

    def __init__(self, order: Order) -> None:
        self._order = order
        self._view = order.view
        self._after = order.after or order.view
        self._kinds = [wish["kind"] for wish in order.repairs]
        self._mender = self._make_mender()
        self._dropped = self._find_dropped()
        self._counts: Counter[str] = Counter()
        self._examples: list[dict[str, Any]] = []
        self._shown: Counter[str] = Counter()
        self._changed_rows = 0

    def run(self, folder: Path) -> dict[str, Any]:
        """Mends the table.

        Args:
            folder: Where the mended Parquet files go; nothing is written where the order is a trial.

        Returns:
            `difference`; and unless it was a trial what a `StoredTable` needs, `findings` and `report`.

        Raises:
            InvalidInputError: Nothing would be left to train on.
        """
        before = {part: count_stored_rows(path) for part, path in self._order.paths.items()}
        kept = {part: self._count_kept(part, before[part]) for part in before}
        after = self._rows_after(kept)
        if not after.get("train"):
            raise InvalidInputError(
                "These repairs would leave no row to train on. Choose fewer of them, or another column for the answer."
            )
        if self._order.is_trial:
            for part in before:
                for _ in self._batches(part):
                    pass
            return {"difference": self._difference(before, after)}
        result = self._write(folder, after)
        paths = {part: folder / f"{part}.parquet" for part in after}
        return {
            **result,
            "difference": self._difference(before, after),
            **look_at(paths, self._after, self._order.mapping),
        }

    def _make_mender(self) -> CellMender:
        kinds = frozenset(kind for kind in self._kinds if kind in CELL_KINDS)
        mender = CellMender(self._view, kinds - {"merge_labels"})
        if "merge_labels" not in kinds:
            return mender
        scan = scan_part(self._order.paths["train"], self._view, fix=mender)
        return CellMender(self._view, kinds, spelling_of(scan))

    def _find_dropped(self) -> dict[Part, dict[str, Mask]]:
        if all(kind in (*CELL_KINDS, "drop_columns", "leave_out_of_prompt", "resplit") for kind in self._kinds):
            return {part: {} for part in self._order.paths}
        scans = {part: scan_part(path, self._view, fix=self._mender) for part, path in self._order.paths.items()}
        return dropped_rows(scans, self._order.repairs)

    def _count_kept(self, part: Part, num_rows: int) -> int:
        return num_rows - sum(int(mask.sum()) for mask in self._dropped[part].values())

    def _rows_after(self, kept: Mapping[Part, int]) -> dict[Part, int]:
        after = {part: count for part, count in kept.items() if count}
        if "resplit" in self._kinds and "validation" in after:
            moved = after.pop("validation")
            after["train"] = after.get("train", 0) + moved
            self._counts["resplit"] += moved
        return after

    def _write(self, folder: Path, after: Mapping[Part, int]) -> dict[str, Any]:
        columns = list(self._after.columns)
        digest = hashlib.sha256(json.dumps(columns).encode())
        num_rows: dict[Part, int] = {}
        for part in after:
            writer = PartWriter(folder / f"{part}.parquet", columns, "The table", self._order.limits)
            writer.write(self._chosen_rows(part))
            num_rows[part] = writer.num_rows
            digest.update(f"{part} {writer.num_rows} ".encode() + writer.digest.digest())
        return {"columns": columns, "num_rows": num_rows, "content_hash": digest.hexdigest()}

    def _chosen_rows(self, part: Part) -> Iterator[list[str]]:
        places = [self._view.place(name) for name in self._after.columns]
        sources: list[Part] = [part]
        if part == "train" and "resplit" in self._kinds and "validation" in self._order.paths:
            sources.append("validation")
        for source in sources:
            for row in self._rows(source):
                yield [row[place] for place in places]

    def _rows(self, part: Part) -> Iterator[list[str]]:
        """Rows of a part that are kept, mended."""
        for mended, out in self._batches(part):
            for index, row in enumerate(zip(*mended, strict=True)):
                if index not in out:
                    yield list(row)

    def _batches(self, part: Part) -> Iterator[tuple[list[Cells], set[int]]]:
        """Mended columns with the rows to leave out; what changes is counted and the first of it kept."""
        start = 0
        dropped = self._dropped[part]
        gone = np.logical_or.reduce(list(dropped.values())) if dropped else None
        for batch in iterate_columns(self._order.paths[part], self._view.columns):
            mended = self._mender(batch)
            size = len(batch[0])
            out = set(np.flatnonzero(gone[start : start + size]).tolist()) if gone is not None else set()
            self._note_changes(part, start, batch, mended, out)
            for index in sorted(out):
                self._note_drop(part, start + index, [cells[index] for cells in mended])
            yield mended, out
            start += size

    def _note_changes(
        self, part: Part, start: int, batch: Sequence[Cells], mended: Sequence[Cells], out: set[int]
    ) -> None:
        changed: dict[int, dict[str, str]] = {}
        for name, before, after in zip(self._view.columns, batch, mended, strict=True):
            if before is after:
                continue
            for index, pair in enumerate(zip(before, after, strict=True)):
                if pair[0] != pair[1] and index not in out:
                    changed.setdefault(index, {})[name] = pair[0]
        for index, cells in sorted(changed.items()):
            kinds = {kind for name, before in cells.items() for kind in self._mender.changed_by(name, before)}
            self._counts.update(kinds)
            self._changed_rows += 1
            if self._has_room(kinds):
                after_cells = {name: mended[self._view.place(name)][index] for name in cells}
                self._show(part, start + index, cells, after_cells, kinds)

    def _note_drop(self, part: Part, index: int, row: list[str]) -> None:
        kind = next(kind for kind, mask in self._dropped[part].items() if mask[index])
        self._counts[kind] += 1
        if self._has_room({kind}):
            used = [*self._view.used[:3], self._view.target]
            self._show(part, index, {name: row[self._view.place(name)] for name in dict.fromkeys(used)}, None, {kind})

    def _has_room(self, kinds: set[str]) -> bool:
        share = max(MIN_EXAMPLES_OF_A_KIND, MAX_EXAMPLES // max(1, len(self._kinds)))
        return len(self._examples) < MAX_EXAMPLES and any(self._shown[kind] < share for kind in kinds)

    def _show(
        self, part: Part, index: int, before: Mapping[str, str], after: Mapping[str, str] | None, kinds: set[str]
    ) -> None:
        self._shown.update(kinds)
        places = {name: _first_difference(cell, (after or before)[name]) for name, cell in before.items()}
        self._examples.append(
            {
                "part": part,
                "row": index + 1,
                "kinds": [kind for kind in KINDS if kind in kinds],
                "before": {name: clipped(cell, places[name]) for name, cell in before.items()},
                "after": None if after is None else {name: clipped(cell, places[name]) for name, cell in after.items()},
            }
        )

    def _difference(self, before: Mapping[Part, int], after: Mapping[Part, int]) -> dict[str, Any]:
        steps = []
        for wish in self._order.repairs:
            kind, columns = wish["kind"], wish.get("columns")
            count = len(columns) if columns else self._counts[kind]
            steps.append(
                {"kind": kind, "label": KINDS[kind].label, "count": count, "done": _sentence(kind, count, columns)}
            )
        return {
            "rows_before": dict(before),
            "rows_after": dict(after),
            "steps": steps,
            "changed_rows": self._changed_rows,
            "left_out_rows": sum(before.values()) - sum(after.values()),
            "examples": sorted(self._examples, key=lambda each: (each["part"] != "train", each["part"], each["row"])),
            "removed_columns": [name for name in self._view.columns if name not in self._after.columns],
        }


def treat(order: Order, folder: Path) -> dict[str, Any]:
    """Mends the table of an order; see `Treatment.run`."""
    return Treatment(order).run(folder)


def _sentence(kind: str, count: int, columns: list[str] | None) -> str:
    if columns:
        named = ", ".join(map(quoted, columns))
        return f"Removed {named}." if kind == "drop_columns" else f"Took {named} out of the prompt."
    return f"{count:,} {'row' if count == 1 else 'rows'} {KINDS[kind].done}."


def _first_difference(before: str, after: str) -> int:
    pairs = enumerate(zip(before, after, strict=False))
    return next((index for index, pair in pairs if pair[0] != pair[1]), 0)
