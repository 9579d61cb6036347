"""The past of a job: what a retry carries on, and the one account that is shown of several attempts."""

from pathlib import Path

import pytest

from storage.checkpoints import add_checkpoint, list_checkpoints
from storage.database import Database
from storage.history import loss_history, recent_events
from storage.jobs import request_stop, retry_job
from storage.lease import Lease, NewEvent, Progress
from storage.schema.job import Job
from tests.stored import add_job, claim


@pytest.fixture
def job(database: Database) -> Job:
    with database.write() as session:
        return add_job(session)


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
