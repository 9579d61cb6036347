"""Rows of a stored table as a sequence that holds none of them: each is read from Parquet when it is asked for."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

Row = dict[str, str]

GROUPS_KEPT = 8
"""Row groups that stay decoded, as Arrow columns, so that a walk in order and a few far looks cost little."""


class StoredRows(Sequence[Row]):
    """Some rows of a Parquet file of text, in the order of their indices.

    Args:
        path: The file; it is never changed.
        indices: Rows of it, counted from 0.
    """

    def __init__(self, path: Path, indices: Sequence[int] | npt.NDArray[np.int64]) -> None:
        self._path = path
        self.indices = np.asarray(indices, dtype=np.int64)
        metadata = pq.read_metadata(path)
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._ends = np.cumsum(np.asarray(sizes, dtype=np.int64))
        self._group = lru_cache(maxsize=GROUPS_KEPT)(self._read_group)

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, place: int) -> Row: ...

    @overload
    def __getitem__(self, place: slice) -> "StoredRows": ...

    def __getitem__(self, place: int | slice) -> "Row | StoredRows":
        if isinstance(place, slice):
            return StoredRows(self._path, self.indices[place])
        group, offset = self._locate(int(self.indices[place]))
        return _row(self._group(group).slice(offset, 1).to_pylist()[0])

    def __iter__(self) -> Iterator[Row]:
        groups = np.searchsorted(self._ends, self.indices, side="right")
        start = 0
        while start < len(groups):
            group = int(groups[start])
            stop = start + int(np.argmax(groups[start:] != group)) if (groups[start:] != group).any() else len(groups)
            begin = int(self._ends[group - 1]) if group else 0
            chosen = self._group(group).take(pa.array(self.indices[start:stop] - begin))
            for batch in chosen.to_batches(max_chunksize=512):
                yield from map(_row, batch.to_pylist())
            start = stop

    def __eq__(self, other: object) -> bool:
        """Whether another sequence has the same rows."""
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(dict.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]

    def number(self, place: int) -> int:
        """Number of a row in its file, counted from 1, as findings and errors tell it."""
        return int(self.indices[place]) + 1

    def _locate(self, index: int) -> tuple[int, int]:
        group = int(np.searchsorted(self._ends, index, side="right"))
        return group, index - (int(self._ends[group - 1]) if group else 0)

    def _read_group(self, group: int) -> pa.Table:
        with pq.ParquetFile(self._path, pre_buffer=False) as file:
            return file.read_row_group(group, use_threads=False)


def _row(cells: dict[str, str | None]) -> Row:
    return {name: "" if cell is None else str(cell) for name, cell in cells.items()}
