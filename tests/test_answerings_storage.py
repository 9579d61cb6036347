"""Answering jobs as rows: the same queue and the same promises as trainings, and files that are kept while needed."""

import os
import time

import pytest
from sqlalchemy.orm import Session

from storage.answerings import (
    answerings_of_prefix,
    duplicate_answering,
    free_column,
    get_answering,
    publish_answers,
    require_result,
    shortened,
    submit_answering,
)
from storage.artifacts import ArtifactStore
from storage.base_models import delete_base_model, mark_absent
from storage.database import Database
from storage.errors import ConflictError, NotFoundError
from storage.jobs import delete_job, get_job, pause_job, request_stop, resume_job, retry_job
from storage.lease import Lease, LeaseLostError, Progress
from storage.prefixes import create_prefix, delete_prefix
from storage.schema.job import Job, JobKind, JobStatus
from storage.schema.prefix import Prefix
from storage.settings import Settings
from storage.sweep import Sweeper
from storage.usage import usage
from tests.stored import PREFIX_FIELDS, RECIPE, RENDERING, add_base_model, add_job, claim, store_table

ROWS: list[dict[str, str | None]] = [{"text": f"row {number}"} for number in range(20)]
SETTINGS = {"max_tokens": None, "temperature": 0.0, "top_p": 1.0, "seed": 0}


def add_prefix(session: Session) -> Prefix:
    base = add_base_model(session)
    more = {"base_model_id": base.id, "base_model": base.name, "method": "prefix-tuning"}
    return create_prefix(session, "Reviews", {**PREFIX_FIELDS, **more, "rendering": RENDERING, "recipe": RECIPE})


def submit(database: Database, store: ArtifactStore) -> tuple[Job, Prefix]:
    table = store_table(store, train=ROWS)
    with database.write() as session:
        prefix = add_prefix(session)
        job = submit_answering(
            session, prefix, table, file_name="new reviews.csv", mapping={"text": "text"}, settings=SETTINGS
        )
    return job, prefix


def finish(database: Database, store: ArtifactStore, lease: Lease) -> str:
    result = store.put_bytes(b"answered")
    with database.write() as session:
        publish_answers(session, lease, result, {"answered": 20})
    return result


def test_answering_waits_in_the_queue_of_trainings(database: Database, store: ArtifactStore) -> None:
    with database.write() as session:
        training = add_job(session)
    job, _ = submit(database, store)
    assert (job.kind, job.status, job.max_steps) == (JobKind.ANSWERING, JobStatus.QUEUED, 20)
    assert training.kind == JobKind.TRAINING
    assert [claim(database).job_id, claim(database).job_id] == [training.id, job.id]


def test_published_answers_end_the_job_once(database: Database, store: ArtifactStore) -> None:
    _, prefix = submit(database, store)
    lease = claim(database)
    with database.write() as session:
        lease.record(session, [], Progress(step=5, metrics={"left_out": 1}))
    result = finish(database, store, lease)
    with database.read() as session:
        done, answering = answerings_of_prefix(session, prefix.id)[0]
    assert (done.status, done.metrics) == (JobStatus.SUCCEEDED, {"left_out": 1, "answered": 20})
    assert (done.prefix_id, require_result(answering)) == (None, result)
    with pytest.raises(LeaseLostError, match="no longer owns it"):
        finish(database, store, lease)


def test_stale_attempt_publishes_nothing(database: Database, store: ArtifactStore) -> None:
    job, _ = submit(database, store)
    first = claim(database)
    with database.write() as session:
        first.lose(session, "its process was killed")
    second = claim(database)
    with pytest.raises(LeaseLostError, match="Attempt 1"):
        finish(database, store, first)
    with database.read() as session, pytest.raises(ConflictError, match="no answers to download yet"):
        require_result(get_answering(session, job.id))
    assert second.attempt == 2


def test_answering_is_paused_resumed_discarded_and_retried_without_a_dataset(
    database: Database, store: ArtifactStore
) -> None:
    job, _ = submit(database, store)
    with database.write() as session:
        pause_job(session, job.id)
        assert resume_job(session, job.id).status == JobStatus.QUEUED
        assert request_stop(session, job.id, keep=False).status == JobStatus.CANCELLED
        assert retry_job(session, job.id).status == JobStatus.QUEUED


def test_prefix_and_base_stay_while_a_table_waits_for_them(database: Database, store: ArtifactStore) -> None:
    job, prefix = submit(database, store)
    with database.write() as session:
        with pytest.raises(ConflictError, match=r"needed by the job 'new reviews\.csv'"):
            delete_prefix(session, prefix.id)
        with pytest.raises(ConflictError, match=r"'new reviews\.csv' \(queued\)"):
            mark_absent(session, "tiny")
        with pytest.raises(ConflictError, match="is needed by"):
            delete_base_model(session, "tiny")
    finish(database, store, claim(database))
    with database.write() as session:
        delete_prefix(session, prefix.id)
    with database.read() as session:
        assert require_result(get_answering(session, job.id, prefix.id))


def test_tables_are_kept_with_their_job_and_go_with_it(
    database: Database, store: ArtifactStore, settings: Settings
) -> None:
    job, _ = submit(database, store)
    result = finish(database, store, claim(database))
    with database.read() as session:
        table = get_answering(session, job.id).table_hash
    for sha256 in (table, result):
        os.utime(store.path(sha256), times=(time.time() - 9999,) * 2)
    assert Sweeper(0.0).look(database, store) == 0
    assert usage(database, store, settings)["answers"] == store.size(table) + store.size(result)
    with database.write() as session:
        delete_job(session, job.id)
    assert Sweeper(0.0).look(database, store) == 2
    with database.read() as session, pytest.raises(NotFoundError, match="no answering job"):
        get_answering(session, job.id)


def test_copy_answers_the_same_table_again(database: Database, store: ArtifactStore) -> None:
    job, _ = submit(database, store)
    with database.write() as session:
        copy = duplicate_answering(session, job.id)
        first, second = (get_answering(session, each) for each in (job.id, copy.id))
        assert (first.table_hash, first.mapping) == (second.table_hash, second.mapping)
        assert get_job(session, copy.id).max_steps == 20


def test_answer_of_another_prefix_is_not_found(database: Database, store: ArtifactStore) -> None:
    job, _ = submit(database, store)
    with database.read() as session, pytest.raises(NotFoundError, match="no answering job"):
        get_answering(session, job.id, "0" * 16)


def test_answers_take_a_column_name_that_is_free() -> None:
    assert free_column(["text"], "answer") == "answer"
    assert free_column(["Answer", "answer 2"], "answer") == "answer 3"


def test_job_is_named_after_its_file_without_folders_and_controls() -> None:
    assert shortened("C:\\data\\new\x00 reviews.csv") == "new reviews.csv"
    assert len(shortened("x" * 300 + ".csv")) == 80
    assert shortened("///") == "table"
