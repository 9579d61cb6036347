"""The order in which jobs start: their priority, their place among equals, and the job that one of them waits for."""

from sqlalchemy.orm import Session

from storage.errors import ConflictError, InvalidInputError
from storage.jobs import get_job, queued_jobs
from storage.schema.job import Job, JobStatus, StartCondition
from storage.starts import refuse_senseless

PRIORITIES = (-1, 0, 1)
"""Last, normal, first."""


def set_priority(session: Session, job_id: str, priority: int) -> Job:
    """Lets a job that waits start before or after all others; among equals its place counts.

    Args:
        session: A writing session.
        job_id: The job.
        priority: -1 for last, 0, or 1 for first.

    Raises:
        NotFoundError: There is no such job.
        ConflictError: It neither waits nor is paused.
        InvalidInputError: There is no such priority.
    """
    job = _changeable(session, job_id)
    if priority not in PRIORITIES:
        raise InvalidInputError(f"priority is {priority!r}; expected 1 (first), 0 (normal) or -1 (last).")
    job.priority = priority
    session.flush()
    return job


def start_after(
    session: Session, job_id: str, other_id: str | None, when: StartCondition = StartCondition.ENDED
) -> Job:
    """Has a job that waits start only once another has ended.

    Args:
        session: A writing session.
        job_id: The job.
        other_id: The other one; None lets it start without waiting.
        when: How the other has to end.

    Raises:
        NotFoundError: There is no such job.
        ConflictError: It neither waits nor is paused, or could never start so.
    """
    job = _changeable(session, job_id)
    if other_id is None:
        job.starts_after, job.starts_when = None, None
    else:
        refuse_senseless(session, job, get_job(session, other_id), when)
        job.starts_after, job.starts_when = other_id, when
    session.flush()
    return job


def move_job(session: Session, job_id: str, place: int) -> list[Job]:
    """Moves a queued job to another place in the queue.

    Args:
        session: A writing session.
        job_id: The job.
        place: Its new place, from 0; one past the end is the end.

    Returns:
        The queue in its new order.

    Raises:
        NotFoundError: There is no such job.
        ConflictError: It is not queued.
    """
    job = get_job(session, job_id)
    if job.status != JobStatus.QUEUED:
        raise ConflictError(f"{job.name!r} is {job.status}; only a job that is queued can be moved.")
    queue = queued_jobs(session)
    # Those that wait change seats among themselves, so that a job that runs keeps its own for when it is given back.
    seats = sorted(other.position for other in queue)
    queue.remove(job)
    place = min(max(place, 0), len(queue))
    neighbours = queue[place : place + 1] or queue[-1:]
    job.priority = neighbours[0].priority if neighbours else job.priority
    queue.insert(place, job)
    for seat, other in zip(seats, queue, strict=True):
        other.position = seat
    session.flush()
    return queue


def _changeable(session: Session, job_id: str) -> Job:
    job = get_job(session, job_id)
    if job.status == JobStatus.RUNNING:
        raise ConflictError(
            f"{job.name!r} is running, and nothing of a running job can be changed. Pause it first, or run a copy "
            "with the changes."
        )
    if job.status not in (JobStatus.QUEUED, JobStatus.PAUSED):
        raise ConflictError(f"{job.name!r} is {job.status}; only a job that is queued or paused can be changed.")
    return job
