"""Looks into stored tables: first rows, a sample over the whole length, the classes of a column."""

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from storage.artifacts import ArtifactStore

BATCH_ROWS = 2048
SAMPLE_GROUPS = 8

Row = dict[str, str]


def iterate_batches(store: ArtifactStore, blob: str, columns: Sequence[str]) -> Iterator[list[list[str]]]:
    """The cells of each column, a batch of rows at a time, in the order of the file.

    Args:
        store: Where the table lies.
        blob: SHA-256 of its Parquet file.
        columns: The columns to read.
    """
    with store.open(blob) as file:
        for batch in pq.ParquetFile(file, pre_buffer=False).iter_batches(BATCH_ROWS, columns=list(columns)):
            yield [batch.column(name).to_pylist() for name in columns]


def first_rows(store: ArtifactStore, blob: str, count: int) -> list[Row]:
    """The first rows of a table."""
    with store.open(blob) as file:
        for batch in pq.ParquetFile(file, pre_buffer=False).iter_batches(count):
            return _records(batch.slice(0, count))
    return []


def sample_rows(store: ArtifactStore, blob: str, count: int) -> list[Row]:
    """Rows from several places of a table, since many are sorted by class."""
    with store.open(blob) as file:
        parquet = pq.ParquetFile(file, pre_buffer=False)
        groups = parquet.num_row_groups
        chosen = sorted({groups * index // SAMPLE_GROUPS for index in range(SAMPLE_GROUPS)} & set(range(groups)))
        rows: list[Row] = []
        for group in chosen:
            table = parquet.read_row_group(group)
            step = max(1, table.num_rows * len(chosen) // count)
            rows.extend(_records(table.take(pa.array(range(0, table.num_rows, step)))))
    return rows


def distinct_values(store: ArtifactStore, blob: str, column: str, limit: int) -> list[str] | None:
    """The different cells of a column in order of appearance; None where there are more than `limit`."""
    seen: dict[str, None] = {}
    for (cells,) in iterate_batches(store, blob, [column]):
        seen.update(dict.fromkeys(cells))
        if len(seen) > limit:
            return None
    return list(seen)


def _records(table: pa.Table | pa.RecordBatch) -> list[Row]:
    rows: list[Row] = table.to_pylist()
    return rows
