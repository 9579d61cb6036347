"""Jobs as their users see them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from storage.checkpoints import add_checkpoint, list_checkpoints
from storage.database import Database
from storage.datasets import delete_dataset, get_version
from storage.errors import ConflictError, InvalidInputError, NotFoundError
from storage.history import loss_history, recent_events
from storage.jobs import (
    delete_job,
    duplicate_job,
    events_after,
    get_job,
    list_jobs,
    move_job,
    pause_job,
    queued_jobs,
    request_stop,
    resume_job,
    retry_job,
    submit_job,
)
from storage.queue import Lease, NewEvent, Progress
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


def train_steps(database: Database, lease: Lease, first: int, last: int, loss: float) -> None:
    """Records steps as a trainer does; an attempt that does not resume evaluates before its first step."""
    events = [NewEvent("evaluated", {"loss": loss}, 0)] if first == 1 else []
    events += [NewEvent("step", {"loss": loss}, step) for step in range(first, last + 1)]
    events += [NewEvent("evaluated", {"loss": loss}, last)]
    with database.write() as session:
        lease.record(session, events, Progress(step=last, metrics={"best_step": last, "samples": []}, stage="Training"))


def keep_checkpoint(database: Database, lease: Lease, path: Path, step: int) -> None:
    path.write_bytes(b"state")
    with database.write() as session:
        add_checkpoint(session, lease, step=step, path=path, sha256="a" * 64, size_bytes=5)


def test_retry_of_a_job_that_failed_before_its_first_checkpoint_forgets_how_far_it_was(
    database: Database, job: Job
) -> None:
    lease = claim(database)
    train_steps(database, lease, 1, 5, 3.0)
    with database.write() as session:
        lease.fail(session, {"code": "out_of_memory", "message": "Too little memory."})
    with database.write() as session:
        again = retry_job(session, job.id)
    assert (again.step, again.metrics, again.stage, again.eta_s, again.stopped_early) == (0, {}, "", None, False)
    with database.read() as session:
        assert loss_history(session, job.id).train == {}


def test_retry_of_a_failed_job_goes_on_from_its_checkpoint(database: Database, job: Job, tmp_path: Path) -> None:
    lease = claim(database)
    train_steps(database, lease, 1, 5, 3.0)
    keep_checkpoint(database, lease, tmp_path / "checkpoint", 5)
    with database.write() as session:
        lease.fail(session, {"code": "unexpected", "message": "It broke."})
    with database.write() as session:
        again = retry_job(session, job.id)
        assert (again.step, again.metrics["best_step"], again.error) == (5, 5, None)
        assert len(list_checkpoints(session, job.id)) == 1
        assert list(loss_history(session, job.id).train) == [1, 2, 3, 4, 5]


def test_retry_of_a_discarded_job_begins_anew_whatever_is_on_the_disk(
    database: Database, job: Job, tmp_path: Path
) -> None:
    lease = claim(database)
    train_steps(database, lease, 1, 5, 3.0)
    keep_checkpoint(database, lease, tmp_path / "checkpoint", 5)
    with database.write() as session:
        lease.cancel(session)
    with database.write() as session:
        assert retry_job(session, job.id).step == 0
        assert list_checkpoints(session, job.id) == []


def test_retry_after_the_checkpoint_file_is_gone_begins_anew(database: Database, job: Job, tmp_path: Path) -> None:
    lease = claim(database)
    keep_checkpoint(database, lease, tmp_path / "checkpoint", 5)
    (tmp_path / "checkpoint").unlink()
    with database.write() as session:
        lease.fail(session, {"code": "unexpected", "message": "It broke."})
    with database.write() as session:
        assert retry_job(session, job.id).step == 0


def test_discarding_a_paused_job_forgets_its_checkpoints(database: Database, job: Job, tmp_path: Path) -> None:
    lease = claim(database)
    keep_checkpoint(database, lease, tmp_path / "checkpoint", 5)
    with database.write() as session:
        lease.release(session, paused=True)
    with database.write() as session:
        request_stop(session, job.id, keep=False)
        assert list_checkpoints(session, job.id) == []


def test_history_of_a_resumed_attempt_drops_what_it_does_again(database: Database, job: Job) -> None:
    first = claim(database)
    train_steps(database, first, 1, 9, 3.0)
    with database.write() as session:
        first.release(session)
    train_steps(database, claim(database), 5, 6, 2.0)
    with database.read() as session:
        history = loss_history(session, job.id)
    assert history.train == {1: 3.0, 2: 3.0, 3: 3.0, 4: 3.0, 5: 2.0, 6: 2.0}
    assert history.validation == {0: 3.0, 6: 2.0}


def test_history_of_an_attempt_that_began_anew_without_being_asked_to_is_its_own(database: Database, job: Job) -> None:
    first = claim(database)
    train_steps(database, first, 1, 9, 3.0)
    with database.write() as session:
        first.lose(session, "its process died")
    second = claim(database)
    with database.write() as session:
        second.record(session, [NewEvent("evaluated", {"loss": 2.5}, 0)])
        history = loss_history(session, job.id)
        assert (history.train, history.validation) == ({}, {0: 2.5})


def test_history_of_a_training_that_diverged_goes_back_with_it(database: Database, job: Job) -> None:
    lease = claim(database)
    train_steps(database, lease, 1, 9, 3.0)
    train_steps(database, lease, 4, 5, 2.0)
    with database.read() as session:
        assert loss_history(session, job.id).train == {1: 3.0, 2: 3.0, 3: 3.0, 4: 2.0, 5: 2.0}


def test_long_history_is_thinned_evenly_with_its_first_and_last_step(database: Database, job: Job) -> None:
    first = claim(database)
    train_steps(database, first, 1, 2501, 3.0)
    with database.write() as session:
        first.release(session)
    train_steps(database, claim(database), 2333, 2503, 2.0)
    with database.read() as session:
        train = loss_history(session, job.id, max_points=100).train
    assert list(train) == [1, *range(26, 2331, 26), 2333, *range(2340, 2503, 26), 2503]
    assert {loss for step, loss in train.items() if step >= 2333} == {2.0}
    assert {loss for step, loss in train.items() if step < 2333} == {3.0}


def test_recent_events_are_the_latest_of_their_kinds_in_order(database: Database, job: Job) -> None:
    lease = claim(database)
    with database.write() as session:
        lease.record(session, [NewEvent("log", {"message": "first"}), NewEvent("step", {"loss": 1.0}, 1)])
        lease.record(session, [NewEvent("log", {"message": "second"}), NewEvent("step", {"loss": 1.0}, 2)])
    with database.read() as session:
        assert [event.kind for event in recent_events(session, job.id, ("log", "state"), 3)] == ["state", "log", "log"]
        assert [event.data["message"] for event in recent_events(session, job.id, ("log",), 1)] == ["second"]


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
