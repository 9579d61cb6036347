"""Rows that are read when they are asked for are the rows that were stored."""

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.stored_rows import StoredRows
from storage.tables.view import iterate_columns


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "t.parquet"
    cells = [None if index == 7 else f"row {index}" for index in range(45)]
    pq.write_table(pa.table({"text": pa.array(cells, pa.string())}), path, row_group_size=10)
    return path


def expected(indices: list[int]) -> list[dict[str, str]]:
    return [{"text": "" if index == 7 else f"row {index}"} for index in indices]


@pytest.mark.parametrize("indices", [[], [0], list(range(45)), [44, 3, 3, 12, 11, 7], list(range(0, 45, 3))])
def test_rows_come_in_the_order_of_their_indices(path: Path, indices: list[int]) -> None:
    rows = StoredRows(path, indices)
    assert list(rows) == expected(indices) == [rows[place] for place in range(len(rows))]
    assert rows == expected(indices)
    assert rows != expected([*indices, 1])


def test_a_slice_and_places_from_the_end_are_those_of_a_list(path: Path) -> None:
    rows = StoredRows(path, list(range(45)))
    assert rows[10:40:7] == expected(list(range(45))[10:40:7])
    assert rows[-1] == expected([44])[0]
    with pytest.raises(IndexError, match="out of bounds"):
        rows[45]


def test_a_sample_is_that_of_a_list(path: Path) -> None:
    rows = StoredRows(path, list(range(45)))
    assert random.Random(3).sample(rows, 30) == random.Random(3).sample(expected(list(range(45))), 30)


def test_a_row_knows_its_number_in_the_file(path: Path) -> None:
    assert StoredRows(path, [4, 44]).number(1) == 45


def test_a_walk_through_a_table_keeps_none_of_it(tmp_path: Path) -> None:
    """Arrow reads ahead by default, and then holds all that it has read."""
    path = tmp_path / "large.parquet"
    cells = pa.array([f"{index} {'x' * 1000}" for index in range(10_000)])
    with pq.ParquetWriter(path, pa.schema([("text", pa.string())]), compression="none", use_dictionary=False) as file:
        for _ in range(30):
            file.write_table(pa.table({"text": cells}))
    before = pa.total_allocated_bytes()
    most = 0
    for number, _ in enumerate(iterate_columns(path, ["text"])):
        if number % 20 == 0:
            most = max(most, pa.total_allocated_bytes() - before)
    assert most < 60_000_000 < path.stat().st_size
