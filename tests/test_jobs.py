"""Jobs as their users see them."""

from collections.abc import Callable

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from storage.database import Database
from storage.datasets import delete_dataset, get_version
from storage.errors import ConflictError, InvalidInputError, NotFoundError
from storage.jobs import (
    delete_job,
    duplicate_job,
    events_after,
    get_job,
    list_jobs,
    pause_job,
    queued_jobs,
    request_stop,
    resume_job,
    retry_job,
    submit_job,
)
from storage.lease import NewEvent
from storage.order import move_job
from storage.schema.job import Job, JobStatus, StopRequest
from tests.stored import PREFIX_FIELDS, RECIPE, RENDERING, add_base_model, add_dataset, add_job, claim


@pytest.fixture
def job(database: Database) -> Job:
    with database.write() as session:
        return add_job(session)


def read_job(database: Database, job_id: str) -> Job:
    with database.read() as session:
        return get_job(session, job_id)


def queue_names(session: Session) -> list[str]:
    return [job.name for job in queued_jobs(session)]


def test_submitted_job_waits_at_the_end_of_the_queue(database: Database, job: Job) -> None:
    with database.write() as session:
        _, version = add_dataset(session)
        second = submit_job(
            session,
            name=" Tickets ",
            dataset_version_id=version.id,
            base_model=add_base_model(session),
            recipe={**RECIPE, "max_steps": 50},
            rendering=RENDERING,
        )
    assert (second.status, second.name, second.method) == (JobStatus.QUEUED, "Tickets", "prefix-tuning")
    assert (second.max_steps, second.base_model, second.attempt) == (50, "tiny", 0)
    with database.read() as session:
        assert queue_names(session) == ["Reviews", "Tickets"]
        assert [found.name for found in list_jobs(session)] == ["Tickets", "Reviews"]
        assert list_jobs(session, JobStatus.RUNNING) == []


@pytest.mark.parametrize(
    ("name", "reason"),
    [("  ", "empty"), ("x" * 81, "81 characters"), ("a\x00b", r"U\+0000"), ("a\ud800", r"U\+D800")],
)
def test_job_with_an_unusable_name_is_refused(database: Database, name: str, reason: str) -> None:
    with pytest.raises(InvalidInputError, match=reason), database.write() as session:
        add_job(session, name=name)


def test_missing_job_is_told(database: Database) -> None:
    with pytest.raises(NotFoundError, match="no job with the id 'x'"), database.read() as session:
        get_job(session, "x")


def test_events_are_replayed_from_where_a_reader_was(database: Database, job: Job) -> None:
    lease = claim(database)
    with database.write() as session:
        lease.record(session, [NewEvent("step", {"loss": float(step)}, step) for step in range(3)])
    with database.read() as session:
        events = events_after(session, job.id)
        assert [event.kind for event in events] == ["state", "state", "step", "step", "step"]
        assert [event.step for event in events_after(session, job.id, events[2].id)] == [1, 2]
        assert [event.step for event in events_after(session, job.id, events[1].id, limit=1)] == [0]


def test_discarding_a_queued_job_cancels_it_at_once(database: Database, job: Job) -> None:
    with database.write() as session:
        request_stop(session, job.id, keep=False)
    cancelled = read_job(database, job.id)
    assert cancelled.status == JobStatus.CANCELLED
    assert cancelled.finished_at is not None


def test_keeping_a_queued_job_is_refused(database: Database, job: Job) -> None:
    with pytest.raises(ConflictError, match="'Reviews' is queued, so no training"), database.write() as session:
        request_stop(session, job.id, keep=True)


@pytest.mark.parametrize(("keep", "asked"), [(True, StopRequest.KEEP), (False, StopRequest.DISCARD)])
def test_stopping_a_running_job_leaves_a_request(database: Database, job: Job, keep: bool, asked: StopRequest) -> None:
    claim(database)
    with database.write() as session:
        request_stop(session, job.id, keep=keep)
    assert (read_job(database, job.id).status, read_job(database, job.id).stop_request) == (JobStatus.RUNNING, asked)


def test_pause_and_resume_of_a_queued_job(database: Database, job: Job) -> None:
    with database.write() as session:
        add_job(session, name="second")
        assert pause_job(session, job.id).status == JobStatus.PAUSED
    with database.write() as session:
        resume_job(session, job.id)
    with database.read() as session:
        assert queue_names(session) == ["second", "Reviews"]


def test_pause_of_a_running_job_leaves_a_request(database: Database, job: Job) -> None:
    claim(database)
    with database.write() as session:
        assert pause_job(session, job.id).stop_request == StopRequest.PAUSE


def test_retry_forgets_the_error_and_the_lost_attempts(database: Database, job: Job) -> None:
    lease = claim(database)
    with database.write() as session:
        lease.fail(session, {"code": "out_of_memory", "message": "Too little memory."})
        get_job(session, job.id).lost_attempts = 2
    with database.write() as session:
        retry_job(session, job.id)
    again = read_job(database, job.id)
    assert (again.status, again.error, again.finished_at, again.lost_attempts) == (JobStatus.QUEUED, None, None, 0)
    assert claim(database).attempt == 2


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (lambda session, job_id: request_stop(session, job_id, keep=False), "queued or running or paused"),
        (pause_job, "queued or running can be paused"),
        (resume_job, "paused can be resumed"),
        (retry_job, "failed or cancelled can be retried"),
        (lambda session, job_id: move_job(session, job_id, 0), "queued can be moved"),
    ],
)
def test_finished_job_refuses_what_needs_another_state(
    database: Database, job: Job, act: Callable[[Session, str], object], reason: str
) -> None:
    lease = claim(database)
    with database.write() as session:
        lease.succeed(session, PREFIX_FIELDS)
    with pytest.raises(ConflictError, match=f"'Reviews' is succeeded; .*{reason}"), database.write() as session:
        act(session, job.id)


def test_duplicate_takes_the_settings_and_starts_anew(database: Database, job: Job) -> None:
    claim(database)
    with database.write() as session:
        copy = duplicate_job(session, job.id)
    assert (copy.name, copy.status, copy.attempt) == ("Reviews 2", JobStatus.QUEUED, 0)
    assert (copy.recipe, copy.rendering, copy.dataset_version_id) == (RECIPE, RENDERING, job.dataset_version_id)


@pytest.mark.parametrize("act", [retry_job, duplicate_job])
def test_job_whose_dataset_is_gone_is_not_started_again(
    database: Database, job: Job, act: Callable[[Session, str], Job]
) -> None:
    with database.write() as session:
        request_stop(session, job.id, keep=False)
        assert job.dataset_version_id is not None
        delete_dataset(session, get_version(session, job.dataset_version_id).dataset_id)
    with pytest.raises(ConflictError, match="dataset of 'Reviews' was deleted"), database.write() as session:
        act(session, job.id)


@pytest.mark.parametrize(("place", "order"), [(0, "cab"), (1, "acb"), (2, "abc"), (9, "abc"), (-4, "cab")])
def test_move_changes_the_order_of_the_queue(database: Database, place: int, order: str) -> None:
    with database.write() as session:
        jobs = {name: add_job(session, name=name) for name in "abc"}
    with database.write() as session:
        assert [job.name for job in move_job(session, jobs["c"].id, place)] == list(order)
    assert [read_job(database, claim(database).job_id).name for _ in "abc"] == list(order)


def test_move_takes_over_the_priority_of_its_new_place(database: Database) -> None:
    with database.write() as session:
        urgent, _, late = (add_job(session, name=name) for name in ("urgent", "normal", "late"))
        urgent.priority = 5
    with database.write() as session:
        move_job(session, late.id, 0)
        assert queue_names(session) == ["late", "urgent", "normal"]


def test_delete_takes_the_events_along(database: Database, job: Job) -> None:
    with database.write() as session:
        delete_job(session, job.id)
    with database.read() as session:
        assert session.execute(text("SELECT count(*) FROM job_events")).scalar_one() == 0


def test_delete_of_a_running_job_is_refused(database: Database, job: Job) -> None:
    claim(database)
    with pytest.raises(ConflictError, match="'Reviews' is running"), database.write() as session:
        delete_job(session, job.id)


def test_job_that_is_given_back_keeps_its_place_though_others_were_moved(database: Database) -> None:
    with database.write() as session:
        first, _, third = (add_job(session, name=name).id for name in ("first", "second", "third"))
    lease = claim(database)
    assert lease.job_id == first
    with database.write() as session:
        move_job(session, third, 0)
        lease.release(session)
        assert queue_names(session) == ["first", "third", "second"]
