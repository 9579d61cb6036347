"""The queue: which job is the next, and how a process takes it, so that no other process can."""

from typing import cast

from sqlalchemy import Table, bindparam, select, update
from sqlalchemy.orm import Session

from storage.lease import Lease, note_state
from storage.schema.base import now
from storage.schema.job import Job, JobStatus
from storage.starts import may_start


def has_queued(session: Session) -> bool:
    """Whether a job could start now; asking takes no lock."""
    return session.execute(_FIRST_QUEUED).first() is not None


def startable_jobs(session: Session, limit: int) -> list[Job]:
    """The jobs that could start now, in the order in which they will be claimed.

    Args:
        session: Any session.
        limit: The most jobs to give.
    """
    query = select(Job).where(Job.status == JobStatus.QUEUED, may_start(_TABLE))
    return list(session.scalars(query.order_by(Job.priority.desc(), Job.position).limit(limit)))


def claim_next(session: Session, holder: str, *, only: str | None = None) -> Lease | None:
    """Takes the first job of the queue for its next attempt.

    Args:
        session: A writing session.
        holder: Name of the process that will run it.
        only: Takes it only where it is this one.

    Returns:
        The right to write to the job, which is running now; None where no job could start.
    """
    values = {"holder": holder, "moment": now()}
    statement = _CLAIM if only is None else _CLAIM_ONLY
    claimed = session.execute(statement, values if only is None else {**values, "only": only}).one_or_none()
    if claimed is None:
        return None
    session.expire_all()
    lease = Lease(claimed.id, claimed.attempt)
    note_state(session, lease, JobStatus.RUNNING)
    return lease


# Claims contend for one lock, so their statements are built once: for the objects of a session SQLAlchemy took four
# times as long as SQLite for the work itself.
_TABLE = cast(Table, Job.__table__)
_JOBS = _TABLE.c
_FIRST_QUEUED = (
    select(_JOBS.id)
    .where(_JOBS.status == JobStatus.QUEUED, may_start(_TABLE))
    .order_by(_JOBS.priority.desc(), _JOBS.position)
    .limit(1)
)
# One statement, so that two processes cannot both see the job as queued. Databases that lock rows skip those that
# another claimer holds; SQLite leaves the clause out, and lets in one writer at a time.
_CLAIM = (
    update(_TABLE)
    .where(
        _JOBS.id == _FIRST_QUEUED.with_for_update(skip_locked=True).scalar_subquery(),
        _JOBS.status == JobStatus.QUEUED,
    )
    .values(
        status=JobStatus.RUNNING,
        attempt=_JOBS.attempt + 1,
        lease_holder=bindparam("holder"),
        renewals=_JOBS.renewals + 1,
        heartbeat_at=bindparam("moment"),
        started_at=bindparam("moment"),
        stage="",
        eta_s=None,
        starts_after=None,
        starts_when=None,
    )
    .returning(_JOBS.id, _JOBS.attempt)
)
_CLAIM_ONLY = _CLAIM.where(_JOBS.id == bindparam("only"))
