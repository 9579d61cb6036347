"""Which job starts first, and which waits for another: what is claimed, what is held back, what is refused."""

import pytest
from sqlalchemy.orm import Session

from storage.database import Database
from storage.errors import ConflictError, InvalidInputError, NotFoundError
from storage.jobs import delete_job, get_job, queued_jobs, request_stop, retry_job
from storage.lease import Lease
from storage.order import set_priority, start_after
from storage.queue import claim_next, has_queued
from storage.schema.job import JobStatus, StartCondition
from storage.starts import Wait, waits_of
from tests.stored import PREFIX_FIELDS, add_job, claim

ENDS = {
    "succeeded": lambda lease, session: lease.succeed(session, PREFIX_FIELDS),
    "failed": lambda lease, session: lease.fail(session, {"code": "diverged", "message": "No."}),
    "cancelled": lambda lease, session: lease.cancel(session),
}


@pytest.fixture
def pair(database: Database) -> tuple[str, str]:
    """Two queued jobs: the one that is waited for, and the one that waits (for nothing yet)."""
    with database.write() as session:
        return add_job(session, "first").id, add_job(session, "second").id


def wait(database: Database, job_id: str, other_id: str | None, when: str = "ended") -> None:
    with database.write() as session:
        start_after(session, job_id, other_id, StartCondition(when))


def end(database: Database, lease: Lease, how: str) -> None:
    with database.write() as session:
        ENDS[how](lease, session)


def wait_of(session: Session, job_id: str) -> Wait:
    return waits_of(session, [get_job(session, job_id)])[job_id]


@pytest.mark.parametrize("priorities", [(0, 1, -1), (1, 0, 0), (-1, -1, 0)])
def test_higher_priority_starts_first_and_place_decides_between_equals(
    database: Database, priorities: tuple[int, ...]
) -> None:
    with database.write() as session:
        jobs = [add_job(session, str(number)).id for number in range(3)]
        for job_id, priority in zip(jobs, priorities, strict=True):
            set_priority(session, job_id, priority)
    expected = sorted(range(3), key=lambda number: (-priorities[number], number))
    assert [jobs.index(claim(database).job_id) for _ in jobs] == expected


@pytest.mark.parametrize("priority", [2, -2, 7])
def test_other_priorities_are_refused(database: Database, pair: tuple[str, str], priority: int) -> None:
    with pytest.raises(InvalidInputError, match=r"expected 1 \(first\), 0 \(normal\)"), database.write() as session:
        set_priority(session, pair[0], priority)


@pytest.mark.parametrize(
    ("when", "how", "starts"),
    [
        ("ended", "succeeded", True),
        ("ended", "failed", True),
        ("ended", "cancelled", True),
        ("succeeded", "succeeded", True),
        ("succeeded", "failed", False),
        ("succeeded", "cancelled", False),
        ("failed", "succeeded", False),
        ("failed", "failed", True),
        ("failed", "cancelled", False),
    ],
)
def test_job_starts_once_the_other_has_ended_as_wanted(
    database: Database, pair: tuple[str, str], when: str, how: str, starts: bool
) -> None:
    first, second = pair
    wait(database, second, first, when)
    lease = claim(database)
    assert lease.job_id == first
    with database.write() as session:
        assert not has_queued(session)
        assert claim_next(session, "trainer") is None
    end(database, lease, how)
    with database.write() as session:
        assert wait_of(session, second).is_missed is not starts
        assert has_queued(session) is starts
        claimed = claim_next(session, "trainer")
    assert (claimed and claimed.job_id) == (second if starts else None)


def test_waiting_job_lets_those_behind_it_pass(database: Database, pair: tuple[str, str]) -> None:
    first, second = pair
    with database.write() as session:
        third = add_job(session, "third").id
        set_priority(session, second, 1)
        start_after(session, second, first)
    assert [claim(database).job_id for _ in range(2)] == [first, third]


def test_missed_condition_holds_once_the_other_is_tried_again(database: Database, pair: tuple[str, str]) -> None:
    first, second = pair
    wait(database, second, first, "succeeded")
    end(database, claim(database), "failed")
    with database.write() as session:
        retry_job(session, first)
        assert not wait_of(session, second).is_missed
    end(database, claim(database), "succeeded")
    assert claim(database).job_id == second


def test_condition_is_forgotten_with_the_first_attempt(database: Database, pair: tuple[str, str]) -> None:
    first, second = pair
    wait(database, second, first)
    end(database, claim(database), "failed")
    lease = claim(database)
    with database.write() as session:
        retry_job(session, first)
        lease.release(session)
        assert get_job(session, second).starts_after is None
        # It keeps its place behind the first, which is tried again, but does not wait for it.
        assert len(queued_jobs(session)) == 2
    assert {claim(database).job_id, claim(database).job_id} == {first, second}


@pytest.mark.parametrize(
    ("when", "how", "starts"),
    [
        ("ended", None, True),
        ("ended", "failed", True),
        ("failed", "failed", True),
        ("succeeded", "failed", False),
        ("succeeded", None, False),
        ("failed", None, False),
    ],
)
def test_deleted_job_counts_as_ended_and_nothing_else(
    database: Database, pair: tuple[str, str], when: str, how: str | None, starts: bool
) -> None:
    first, second = pair
    wait(database, second, first, when)
    if how:
        end(database, claim(database), how)
    with database.write() as session:
        delete_job(session, first)
        assert has_queued(session) is starts
        if not starts:
            told = wait_of(session, second)
            assert (told.name, told.status, told.is_missed) == (None, None, True)
            start_after(session, second, None)
    assert claim(database).job_id == second


def test_discarding_the_other_frees_whoever_waits_for_its_end(database: Database, pair: tuple[str, str]) -> None:
    first, second = pair
    wait(database, second, first)
    with database.write() as session:
        request_stop(session, first, keep=False)
    assert claim(database).job_id == second


def test_jobs_cannot_wait_in_a_circle(database: Database, pair: tuple[str, str]) -> None:
    first, second = pair
    with database.write() as session:
        third = add_job(session, "third").id
        start_after(session, second, first)
        start_after(session, third, second)
    with pytest.raises(ConflictError, match="'first' cannot start after itself"):
        wait(database, first, first)
    with pytest.raises(ConflictError, match="'first' cannot start after 'second', which waits for 'first'; neither"):
        wait(database, first, second)
    with pytest.raises(ConflictError, match="which waits for 'first' through 'second'; neither would ever start"):
        wait(database, first, third)
    wait(database, second, None)
    wait(database, first, third)
    assert claim(database).job_id == second


def test_circle_through_a_discarded_job_is_refused_too(database: Database, pair: tuple[str, str]) -> None:
    """It may be tried again, and waits again then."""
    first, second = pair
    wait(database, second, first)
    with database.write() as session:
        request_stop(session, second, keep=False)
    with pytest.raises(ConflictError, match="which waits for 'first'"):
        wait(database, first, second)


def test_condition_that_was_missed_already_is_refused(database: Database, pair: tuple[str, str]) -> None:
    first, second = pair
    end(database, claim(database), "failed")
    with pytest.raises(ConflictError, match="'first' is failed already, so 'second' would never start"):
        wait(database, second, first, "succeeded")
    wait(database, second, first, "failed")
    assert claim(database).job_id == second


def test_unknown_job_cannot_be_waited_for(database: Database, pair: tuple[str, str]) -> None:
    with pytest.raises(NotFoundError, match="There is no job with the id 'nothing'"):
        wait(database, pair[0], "nothing")


@pytest.mark.parametrize("how", [None, "succeeded", "cancelled"])
def test_nothing_of_a_running_or_ended_job_is_changed(database: Database, pair: tuple[str, str], how: str) -> None:
    first, second = pair
    lease = claim(database)
    if how:
        end(database, lease, how)
    said = r"only a job that is queued or paused" if how else "nothing of a running job can be changed. Pause it first"
    with pytest.raises(ConflictError, match=said), database.write() as session:
        set_priority(session, first, 1)
    with pytest.raises(ConflictError, match=said):
        wait(database, first, second)
    with database.read() as session:
        unchanged = get_job(session, first)
    assert (unchanged.priority, unchanged.starts_after) == (0, None)
    assert unchanged.status == JobStatus(how or "running")
