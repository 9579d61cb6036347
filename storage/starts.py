"""Jobs that start after another: what they wait for, and whether it can still happen.

A condition is looked at when a job is claimed, and is forgotten as its first attempt begins. Until then it stays, so a
job whose condition was missed stays in the queue, held back, and starts by itself once the other one is tried again and
ends as wanted.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Table, and_, exists, or_, select, update
from sqlalchemy.orm import Session

from storage.errors import ConflictError
from storage.schema.job import ENDED_STATUSES, Job, JobStatus, StartCondition

STATUSES: dict[StartCondition, tuple[JobStatus, ...]] = {
    StartCondition.ENDED: ENDED_STATUSES,
    StartCondition.SUCCEEDED: (JobStatus.SUCCEEDED,),
    StartCondition.FAILED: (JobStatus.FAILED,),
}
"""States of the other job in which a condition holds."""


@dataclass(frozen=True)
class Wait:
    """What one job waits for.

    Attributes:
        job_id: The other job.
        when: How it has to end.
        name: Its name; None where it was deleted.
        status: Its state; None where it was deleted.
    """

    job_id: str
    when: StartCondition
    name: str | None
    status: JobStatus | None

    @property
    def is_over(self) -> bool:
        """Whether the job may start."""
        return self.status in STATUSES[self.when]

    @property
    def is_missed(self) -> bool:
        """Whether the other job has ended otherwise or was deleted, so that nothing will happen by itself."""
        return not self.is_over and (self.status is None or self.status in ENDED_STATUSES)


def may_start(jobs: Table) -> ColumnElement[bool]:
    """The clause by which jobs are claimed: a job waits for nothing, or for something that has happened.

    Args:
        jobs: The table of jobs, as the statement around it reads it.
    """
    other = jobs.alias("other")
    holds = [and_(jobs.c.starts_when == when, other.c.status.in_(wanted)) for when, wanted in STATUSES.items()]
    has_happened = exists(select(other.c.id).where(other.c.id == jobs.c.starts_after, or_(*holds)).correlate(jobs))
    return or_(jobs.c.starts_after.is_(None), has_happened)


def waits_of(session: Session, jobs: Iterable[Job]) -> dict[str, Wait]:
    """What each of these jobs waits for, by its id; those that wait for nothing are left out."""
    waiting = [job for job in jobs if job.starts_after is not None]
    wanted = {job.starts_after for job in waiting}
    rows = session.execute(select(Job.id, Job.name, Job.status).where(Job.id.in_(wanted))).all() if wanted else []
    others = {row.id: row for row in rows}
    waits = {}
    for job in waiting:
        assert job.starts_after is not None
        other, when = others.get(job.starts_after), job.starts_when or StartCondition.ENDED
        waits[job.id] = Wait(job.starts_after, when, other and other.name, other and other.status)
    return waits


def refuse_senseless(session: Session, job: Job, other: Job, when: StartCondition) -> None:
    """Refuses what could never start.

    Raises:
        ConflictError: The other job is this one, waits for it, or has ended otherwise.
    """
    if other.id == job.id:
        raise ConflictError(f"{job.name!r} cannot start after itself. Choose another job.")
    if Wait(other.id, when, other.name, other.status).is_missed:
        raise ConflictError(
            f"{other.name!r} is {other.status} already, so {job.name!r} would never start after it has {when}. "
            f"Try {other.name!r} again first, or wait only until it has ended."
        )
    link: Job | None = other
    while link is not None and link.starts_after is not None:
        if link.starts_after == job.id:
            through = "" if link is other else f" through {link.name!r}"
            raise ConflictError(
                f"{job.name!r} cannot start after {other.name!r}, which waits for {job.name!r}{through}; neither would "
                "ever start. Let one of them start without waiting."
            )
        link = session.get(Job, link.starts_after)


def free_waiters(session: Session, job: Job) -> None:
    """Before a job is deleted: those that waited for its end wait no longer, nor do those whose condition holds.

    Whoever waits for a success or a failure that cannot come any more stays held back, for its user to decide.
    """
    holding = [when for when, wanted in STATUSES.items() if job.status in wanted or when is StartCondition.ENDED]
    waiting = update(Job).where(Job.starts_after == job.id, Job.starts_when.in_(holding))
    session.execute(waiting.values(starts_after=None, starts_when=None))
