"""Rows come back as they were stored; the drawn split is always the same."""

from pathlib import Path

import pytest

from storage.artifacts import ArtifactStore
from storage.database import Database
from storage.errors import NotFoundError
from storage.rows import count_rows, load_parts, read_rows, validation_indices
from storage.schema.dataset import DatasetVersion
from tests.stored import add_dataset, store_table


def version_of(mapping: dict[str, object]) -> DatasetVersion:
    return DatasetVersion(mapping=mapping, blobs={"train": "d" * 64}, columns=["text", "label"])


def rows(count: int, start: int = 0) -> list[dict[str, str | None]]:
    return [{"text": f"row {index}", "label": str(index % 3)} for index in range(start, start + count)]


@pytest.fixture
def version(database: Database, store: ArtifactStore) -> DatasetVersion:
    with database.write() as session:
        return add_dataset(session, store_table(store, train=rows(45)))[1]


def test_rows_come_back_in_order_and_absent_cells_as_empty_text(database: Database, store: ArtifactStore) -> None:
    table = store_table(store, train=[{"a.b": "007", "a": "NA"}, {"a.b": None, "a": "a\nline\u202e \U0001f600"}])
    with database.write() as session:
        _, version = add_dataset(session, table)
    expected = [{"a.b": "007", "a": "NA"}, {"a.b": "", "a": "a\nline\u202e \U0001f600"}]
    assert read_rows(store, version, "train", 0, 99) == expected
    assert read_rows(store, version, "test", 0, 99) == []


@pytest.mark.parametrize(("start", "stop"), [(0, 3), (9, 11), (10, 20), (38, 99), (45, 50), (7, 7), (0, 45)])
def test_read_rows_gives_the_slice_across_row_groups(
    store: ArtifactStore, version: DatasetVersion, start: int, stop: int
) -> None:
    assert read_rows(store, version, "train", start, stop) == rows(45)[start:stop]


def test_load_parts_draws_validation_rows_and_loses_none(store: ArtifactStore, version: DatasetVersion) -> None:
    parts = load_parts(store, version)
    assert len(parts.validation) == 4
    assert parts.test == []
    assert sorted([*parts.train, *parts.validation], key=lambda row: int(row["text"][4:])) == rows(45)
    assert count_rows(store, version) == {"train": 41, "validation": 4, "test": 0}


def test_load_parts_uses_the_split_that_the_user_brought(database: Database, store: ArtifactStore) -> None:
    table = store_table(store, train=rows(20), validation=rows(5, 20), test=rows(3, 25))
    with database.write() as session:
        _, version = add_dataset(session, table)
    parts = load_parts(store, version)
    assert (parts.train, parts.validation, parts.test) == (rows(20), rows(5, 20), rows(3, 25))
    assert count_rows(store, version) == {"train": 20, "validation": 5, "test": 3}


FROZEN = [1, 2, 5, 17]


def test_drawn_rows_are_frozen_for_a_seed() -> None:
    """A change of these numbers would let rows that a prefix was trained on into its validation part."""
    assert validation_indices(version_of({"validation_fraction": 0.2, "seed": 7}), 20) == FROZEN
    assert validation_indices(version_of({"validation_fraction": 0.2, "seed": 8}), 20) != FROZEN


@pytest.mark.parametrize(
    ("num_rows", "fraction", "expected"),
    [
        (0, 0.1, 0),
        (1, 0.1, 0),
        (2, 0.1, 1),
        (3, 0.99, 2),
        (2, 1.0, 1),
        (50, 0.0, 0),
        (50, None, 5),
        (100_000, 0.2, 500),
    ],
)
def test_number_of_drawn_rows_suits_the_table(num_rows: int, fraction: float | None, expected: int) -> None:
    assert len(validation_indices(version_of({"validation_fraction": fraction}), num_rows)) == expected


def test_rows_whose_file_is_gone_are_told(store: ArtifactStore, version: DatasetVersion) -> None:
    store.delete(version.blobs["train"])
    with pytest.raises(NotFoundError, match="no longer kept"):
        load_parts(store, version)


def test_rows_without_an_answer_are_in_no_part(database: Database, store: ArtifactStore) -> None:
    given: list[dict[str, str | None]] = [
        {"text": f"{index}", "label": "yes" if index % 4 else " "} for index in range(40)
    ]
    with database.write() as session:
        _, version = add_dataset(session, store_table(store, train=given))
    parts = load_parts(store, version)
    assert len(parts.train) + len(parts.validation) == 30
    assert all(row["label"] == "yes" for row in [*parts.train, *parts.validation])
    assert count_rows(store, version) == {"train": len(parts.train), "validation": len(parts.validation), "test": 0}


def test_rows_of_one_prompt_stay_on_one_side_of_the_drawn_split(database: Database, store: ArtifactStore) -> None:
    given: list[dict[str, str | None]] = [{"text": f"prompt {index // 4}", "label": f"{index}"} for index in range(200)]
    with database.write() as session:
        _, version = add_dataset(session, store_table(store, train=given))
    parts = load_parts(store, version)
    train, validation = ({row["text"] for row in rows} for rows in (parts.train, parts.validation))
    assert len(parts.validation) == 20
    assert len(parts.train) == 180
    assert not train & validation


def test_table_of_a_single_prompt_is_split_by_rows(database: Database, store: ArtifactStore) -> None:
    given: list[dict[str, str | None]] = [{"text": "the same", "label": f"{index}"} for index in range(20)]
    with database.write() as session:
        _, version = add_dataset(session, store_table(store, train=given))
    assert count_rows(store, version) == {"train": 18, "validation": 2, "test": 0}


def test_stored_rows_open_in_the_datasets_library(
    store: ArtifactStore, version: DatasetVersion, tmp_path: Path
) -> None:
    from datasets import Dataset

    opened = Dataset.from_parquet(str(store.path(version.blobs["train"])), cache_dir=str(tmp_path))
    assert list(opened) == rows(45)
