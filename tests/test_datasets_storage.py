"""Datasets as rows: versions that never change, and a delete that asks who needs them."""

import pytest

from storage.artifacts import ArtifactStore
from storage.database import Database
from storage.datasets import (
    add_version,
    delete_dataset,
    get_dataset,
    get_version,
    list_datasets,
    rename_dataset,
)
from storage.errors import ConflictError, InvalidInputError, NotFoundError
from storage.jobs import get_job, pause_job, request_stop
from storage.schema.job import Job
from tests.stored import MAPPING, PREFIX_FIELDS, add_dataset, add_job, claim, store_table


def dataset_of(database: Database, job: Job) -> str:
    assert job.dataset_version_id is not None
    with database.read() as session:
        return get_version(session, job.dataset_version_id).dataset_id


def test_change_of_the_mapping_makes_a_version_and_leaves_the_first(database: Database) -> None:
    with database.write() as session:
        dataset, first = add_dataset(session)
    with database.write() as session:
        add_version(session, dataset.id, mapping={**MAPPING, "template": "Review: {text}"})
    with database.read() as session:
        _, latest = get_dataset(session, dataset.id)
        assert (latest.number, latest.mapping["template"]) == (2, "Review: {text}")
        assert (latest.blobs, latest.columns, latest.num_rows) == (first.blobs, first.columns, first.num_rows)
        assert get_version(session, first.id).mapping == MAPPING


def test_repaired_table_makes_a_version_that_keeps_the_mapping(database: Database, store: ArtifactStore) -> None:
    finding = {"code": "empty_target", "severity": "warns", "message": "Row 3.", "count": 1, "rows": [3]}
    with database.write() as session:
        dataset, _ = add_dataset(session)
        table = store_table(store, train=[{"text": "a", "label": "b"}], test=[{"text": "c", "label": "d"}])
        _, version = add_version(session, dataset.id, table=table, findings=[finding])
    assert (version.mapping, version.findings, version.num_rows) == (MAPPING, [finding], 2)


def test_datasets_are_listed_from_the_newest_with_their_latest_version(database: Database) -> None:
    with database.write() as session:
        older, _ = add_dataset(session)
        newer, _ = add_dataset(session)
        add_version(session, older.id, mapping=MAPPING)
    with database.read() as session:
        listed = [(dataset.id, version.number) for dataset, version in list_datasets(session)]
    assert listed == [(newer.id, 1), (older.id, 2)]


def test_rename_checks_the_name(database: Database) -> None:
    with database.write() as session:
        dataset, _ = add_dataset(session)
        assert rename_dataset(session, dataset.id, " Reviews ").name == "Reviews"
    with pytest.raises(InvalidInputError, match="name is empty"), database.write() as session:
        rename_dataset(session, dataset.id, "")


def test_missing_dataset_and_version_are_told(database: Database) -> None:
    with pytest.raises(NotFoundError, match="no dataset with the id “x”"), database.read() as session:
        get_dataset(session, "x")
    with pytest.raises(NotFoundError, match="no version of a dataset"), database.read() as session:
        get_version(session, "x")


@pytest.mark.parametrize("state", ["queued", "running", "paused"])
def test_delete_is_refused_while_a_job_needs_the_dataset(database: Database, state: str) -> None:
    with database.write() as session:
        job = add_job(session)
        dataset_id = get_version(session, job.dataset_version_id or "").dataset_id
        # The job trains on an older version than the latest; it needs its rows all the same.
        add_version(session, dataset_id, mapping=MAPPING)
        if state == "paused":
            pause_job(session, job.id)
    if state == "running":
        claim(database)
    with pytest.raises(ConflictError, match=rf"needed by “Reviews” \({state}\)"), database.write() as session:
        delete_dataset(session, dataset_id)


def test_delete_leaves_ended_jobs_and_prefixes(database: Database) -> None:
    with database.write() as session:
        done = add_job(session)
        discarded = add_job(session, name="discarded")
    lease = claim(database)
    with database.write() as session:
        prefix = lease.succeed(session, PREFIX_FIELDS)
        request_stop(session, discarded.id, keep=False)
    with database.write() as session:
        delete_dataset(session, dataset_of(database, done))
        delete_dataset(session, dataset_of(database, discarded))
    with database.read() as session:
        assert get_job(session, done.id).dataset_version_id is None
        assert get_job(session, done.id).prefix_id == prefix.id
        assert list_datasets(session) == []
