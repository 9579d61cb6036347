"""The queue: every attempt has one owner, and only it writes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.dialects import sqlite

from storage.checkpoints import add_checkpoint, list_checkpoints
from storage.database import Database, open_database
from storage.jobs import events_after, get_job, request_stop
from storage.lease import MAX_LOST_ATTEMPTS, Lease, LeaseLostError, NewEvent, Progress
from storage.queue import _FIRST_QUEUED, claim_next
from storage.schema.base import new_id
from storage.schema.job import Job, JobStatus, StopRequest
from storage.schema.prefix import Prefix
from storage.settings import Settings, read_settings
from tests.stored import PREFIX_FIELDS, add_base_model, add_job, claim

ROOT = Path(__file__).parents[1]
CLAIMED_JOBS = int(os.environ.get("CLAIMED_JOBS", "1000"))


@pytest.fixture
def job(database: Database) -> Job:
    with database.write() as session:
        return add_job(session)


def read_job(database: Database, job_id: str) -> Job:
    with database.read() as session:
        return get_job(session, job_id)


def states(database: Database, job_id: str) -> list[str]:
    with database.read() as session:
        return [event.data["status"] for event in events_after(session, job_id) if event.kind == "state"]


def claims_of(settings: Settings, num_claimers: int) -> list[str]:
    """What so many processes claim that start at one moment; each must end well."""
    command = [sys.executable, "-m", "tests.rivals", "claim", settings.database_url, str(num_claimers)]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=240).stdout.split("\n")


@pytest.mark.parametrize("num_claimers", [2, 16])
def test_processes_claim_each_of_many_jobs_once(migrated_database: Path, num_claimers: int) -> None:
    """In memory where there is such a folder: who gets a job does not depend on when it reaches the disk."""
    fast = Path("/dev/shm")
    with TemporaryDirectory(dir=fast if os.access(fast, os.W_OK) else None) as folder:
        shutil.copy(migrated_database, Path(folder) / "studio.db")
        settings = read_settings({"PREFIX_STUDIO_HOME": folder})
        database = open_database(settings)
        with database.write() as session:
            first = add_job(session)
            session.flush()
            columns = {column.name: getattr(first, column.name) for column in Job.__table__.columns}
            copies = [{**columns, "id": new_id(), "position": 2.0 + number} for number in range(CLAIMED_JOBS - 1)]
            session.execute(insert(Job), copies)
        database.close()
        claimed = claims_of(settings, num_claimers)
    assert sorted(claimed) == sorted(["", *(f"{copy['id']} 1" for copy in [columns, *copies])])


def test_next_job_is_the_first_of_an_index_however_many_wait(database: Database) -> None:
    first = _FIRST_QUEUED.compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True})
    with database.read() as session:
        plan = [row[3] for row in session.execute(text(f"EXPLAIN QUERY PLAN {first}"))]
    assert plan[0] == "SEARCH jobs USING INDEX ix_jobs_status_priority_position (status=?)"
    assert not [line for line in plan if "ORDER BY" in line]


def test_claim_gives_the_first_of_the_highest_priority(database: Database) -> None:
    with database.write() as session:
        for name in ("first", "second", "urgent"):
            add_job(session, name=name)
        session.scalars(select(Job).where(Job.name == "urgent")).one().priority = 1
    claimed = [read_job(database, claim(database).job_id).name for _ in range(3)]
    assert claimed == ["urgent", "first", "second"]
    with database.write() as session:
        assert claim_next(session, "trainer") is None


def test_claim_starts_an_attempt_under_a_lease(database: Database, job: Job) -> None:
    lease = claim(database)
    claimed = read_job(database, job.id)
    assert (lease.job_id, lease.attempt) == (job.id, 1)
    assert (claimed.status, claimed.attempt, claimed.lease_holder) == (JobStatus.RUNNING, 1, "trainer")
    assert claimed.renewals == 1
    assert claimed.heartbeat_at is not None
    assert states(database, job.id) == ["queued", "running"]


def test_record_appends_events_and_merges_progress(database: Database, job: Job) -> None:
    lease = claim(database)
    with database.write() as session:
        lease.record(session, [NewEvent("log", {"text": "loading"})], Progress(max_steps=9, stage="loading"))
    with database.write() as session:
        lease.record(session, [NewEvent("step", {"loss": 2.0}, 1)], Progress(step=1, metrics={"loss": 2.0}, eta_s=8.0))
    with database.write() as session:
        lease.record(session, [], Progress(step=0, metrics={"validation_loss": 1.5}))
    recorded = read_job(database, job.id)
    assert (recorded.step, recorded.max_steps, recorded.stage, recorded.eta_s) == (0, 9, "loading", 8.0)
    assert recorded.metrics == {"loss": 2.0, "validation_loss": 1.5}
    with database.read() as session:
        events = [(event.kind, event.step, event.data) for event in events_after(session, job.id)]
    assert events[2:] == [("log", None, {"text": "loading"}), ("step", 1, {"loss": 2.0})]


def test_succeed_publishes_the_prefix_with_what_the_job_knows(database: Database, job: Job) -> None:
    lease = claim(database)
    with database.write() as session:
        prefix = lease.succeed(session, PREFIX_FIELDS, stopped_early=True)
    ended = read_job(database, job.id)
    assert (ended.status, ended.stopped_early, ended.prefix_id) == (JobStatus.SUCCEEDED, True, prefix.id)
    assert ended.finished_at is not None
    assert ended.lease_holder is None
    assert (prefix.name, prefix.base_model, prefix.job_id) == ("Reviews", "tiny", job.id)
    assert prefix.dataset_version_id == job.dataset_version_id
    assert states(database, job.id) == ["queued", "running", "succeeded"]


def test_succeed_finds_a_free_name_at_that_moment(database: Database) -> None:
    with database.write() as session:
        add_base_model(session, "Reviews 2")
        for _ in range(2):
            add_job(session)
    published = []
    for lease in (claim(database), claim(database)):
        with database.write() as session:
            published.append(lease.succeed(session, PREFIX_FIELDS).name)
    assert published == ["Reviews", "Reviews 3"]


def test_succeed_that_cannot_publish_leaves_the_job_running(database: Database, job: Job) -> None:
    lease = claim(database)
    with pytest.raises(TypeError, match="no_such_column"), database.write() as session:
        lease.succeed(session, {**PREFIX_FIELDS, "no_such_column": 1})
    assert read_job(database, job.id).status == JobStatus.RUNNING
    assert states(database, job.id) == ["queued", "running"]


WRITES: dict[str, Any] = {
    "renew": lambda lease, session: lease.renew(session),
    "record": lambda lease, session: lease.record(session, [NewEvent("log", {})], Progress(step=7)),
    "succeed": lambda lease, session: lease.succeed(session, PREFIX_FIELDS),
    "fail": lambda lease, session: lease.fail(session, {"code": "diverged", "message": "No."}),
    "cancel": lambda lease, session: lease.cancel(session),
    "release": lambda lease, session: lease.release(session),
    "lose": lambda lease, session: lease.lose(session, "it stopped answering"),
    "checkpoint": lambda lease, session: add_checkpoint(
        session, lease, step=7, path="x", sha256="a" * 64, size_bytes=1
    ),
}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("ended_by", ["another attempt", "its own end"])
def test_write_of_an_attempt_that_ended_is_refused(database: Database, job: Job, write: str, ended_by: str) -> None:
    lease = claim(database)
    with database.write() as session:
        lease.release(session) if ended_by == "another attempt" else lease.cancel(session)
    if ended_by == "another attempt":
        assert claim(database).attempt == 2
    before = states(database, job.id)
    with pytest.raises(LeaseLostError, match=r"Attempt 1 of the job \w+ no longer"), database.write() as session:
        WRITES[write](lease, session)
    unchanged = read_job(database, job.id)
    assert (unchanged.step, unchanged.attempt) == (0, 2 if ended_by == "another attempt" else 1)
    assert states(database, job.id) == before
    with database.read() as session:
        assert session.execute(text("SELECT count(*) FROM prefixes")).scalar_one() == 0
        assert list_checkpoints(session, job.id) == []


def test_write_to_a_deleted_job_is_refused(database: Database) -> None:
    with pytest.raises(LeaseLostError, match="no longer owns it"), database.write() as session:
        Lease("0" * 16, 1).renew(session)


def test_fail_keeps_the_sentence(database: Database, job: Job) -> None:
    lease = claim(database)
    with database.write() as session:
        lease.fail(session, {"code": "diverged", "message": "The loss is no longer a number."})
    failed = read_job(database, job.id)
    assert failed.status == JobStatus.FAILED
    assert failed.error == {"code": "diverged", "message": "The loss is no longer a number."}


@pytest.mark.parametrize(("paused", "status"), [(False, JobStatus.QUEUED), (True, JobStatus.PAUSED)])
def test_release_gives_the_job_back(database: Database, job: Job, paused: bool, status: JobStatus) -> None:
    lease = claim(database)
    with database.write() as session:
        lease.release(session, paused=paused)
    released = read_job(database, job.id)
    assert (released.status, released.lease_holder, released.lost_attempts) == (status, None, 0)


def test_attempts_given_back_are_not_counted_as_lost(database: Database, job: Job) -> None:
    for _ in range(MAX_LOST_ATTEMPTS + 1):
        lease = claim(database)
        with database.write() as session:
            lease.release(session)
    assert read_job(database, job.id).status == JobStatus.QUEUED


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (StopRequest.DISCARD, JobStatus.CANCELLED),
        (StopRequest.PAUSE, JobStatus.PAUSED),
        (StopRequest.KEEP, JobStatus.QUEUED),
    ],
)
def test_lost_attempt_ends_as_its_user_had_asked(
    database: Database, job: Job, asked: StopRequest, status: JobStatus
) -> None:
    lease = claim(database)
    with database.write() as session:
        get_job(session, job.id).stop_request = asked
    with database.write() as session:
        assert lease.lose(session, "it was killed") == status
    lost = read_job(database, job.id)
    # What is to be kept has yet to be published: the next attempt sees the wish, and ends at its checkpoint.
    assert lost.stop_request == (StopRequest.KEEP if asked == StopRequest.KEEP else None)


def test_cancel_and_completion_leave_one_end(database: Database, job: Job) -> None:
    lease = claim(database)
    with database.write() as session:
        request_stop(session, job.id, keep=False)
    with database.write() as session:
        lease.cancel(session)
    with pytest.raises(LeaseLostError, match="no longer owns it"), database.write() as session:
        lease.succeed(session, PREFIX_FIELDS)
    assert states(database, job.id) == ["queued", "running", "cancelled"]
    with database.read() as session:
        assert session.scalars(select(Prefix)).all() == []


def test_checkpoints_are_listed_from_the_latest(database: Database, job: Job) -> None:
    lease = claim(database)
    for step in (10, 20):
        with database.write() as session:
            add_checkpoint(session, lease, step=step, path=f"at-{step}", sha256="a" * 64, size_bytes=1)
    with database.read() as session:
        assert [checkpoint.step for checkpoint in list_checkpoints(session, job.id)] == [20, 10]
    assert read_job(database, job.id).step == 20
