"""Jobs as their users see them: submitted, listed, stopped and deleted; `storage.order` says which comes first."""

from pathlib import Path
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from storage.errors import ConflictError, NotFoundError
from storage.history import BEGINS_ANEW
from storage.names import check_name, numbered
from storage.schema.base import now
from storage.schema.base_model import BaseModel
from storage.schema.job import ENDED_STATUSES, Checkpoint, Job, JobEvent, JobKind, JobStatus, StopRequest
from storage.schema.prefix import Prefix
from storage.schema.snapshot import Snapshot
from storage.settings import OWNER
from storage.starts import free_waiters

ENDED = ENDED_STATUSES


def submit_job(
    session: Session,
    *,
    name: str,
    dataset_version_id: str,
    base_model: BaseModel,
    recipe: dict[str, Any],
    rendering: dict[str, Any],
) -> Job:
    """Puts a job at the end of the queue.

    Args:
        session: A writing session.
        name: What the user calls it; its prefix takes the name over where it is free.
        dataset_version_id: The version of a dataset that it trains on.
        base_model: The base model that it trains for.
        recipe: `worker.engine.recipe.Recipe` as a dictionary; its `method` is the job's.
        rendering: `worker.engine.rendering.Rendering` as a dictionary.

    Raises:
        InvalidInputError: The name cannot be used.
    """
    job = Job(
        name=check_name(name),
        dataset_version_id=dataset_version_id,
        base_model_id=base_model.id,
        base_model=base_model.name,
        method=recipe["method"],
        recipe=dict(recipe),
        rendering=dict(rendering),
        max_steps=recipe.get("max_steps") or 0,
    )
    place_at_end(session, job)
    return job


def place_at_end(session: Session, job: Job) -> None:
    """Adds a new job, of whatever kind, at the end of the queue."""
    job.position = _end_of_queue(session)
    session.add(job)
    session.flush()
    enter_state(session, job, JobStatus.QUEUED)


def get_job(session: Session, job_id: str) -> Job:
    """The job of that id.

    Raises:
        NotFoundError: There is none.
    """
    job = session.scalar(select(Job).where(Job.id == job_id, Job.owner == OWNER))
    if job is None:
        raise NotFoundError(f"There is no job with the id {job_id!r}. It may have been deleted.")
    return job


def list_jobs(session: Session, *statuses: JobStatus) -> list[Job]:
    """Every job, or those in the given states, the newest first."""
    query = select(Job).where(Job.owner == OWNER).order_by(Job.created_at.desc(), Job.id)
    return list(session.scalars(query.where(Job.status.in_(statuses)) if statuses else query))


def queued_jobs(session: Session) -> list[Job]:
    """The queue in the order in which jobs will be claimed."""
    query = select(Job).where(Job.owner == OWNER, Job.status == JobStatus.QUEUED)
    return list(session.scalars(query.order_by(Job.priority.desc(), Job.position)))


def events_after(session: Session, job_id: str, after_id: int = 0, limit: int | None = None) -> list[JobEvent]:
    """What happened to a job since an event, in order.

    Args:
        session: Any session.
        job_id: The job.
        after_id: Id of the last event that is known; 0 for all.
        limit: The most events to give.
    """
    query = select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.id > after_id).order_by(JobEvent.id)
    return list(session.scalars(query.limit(limit)))


def request_stop(session: Session, job_id: str, *, keep: bool) -> Job:
    """Stops a job: at once where nothing runs, else at its trainer's next look at the row.

    A discarded job forgets its checkpoints; their files are the caller's to delete where nothing runs.

    Args:
        session: A writing session.
        job_id: The job.
        keep: Publish the best prefix so far; otherwise everything is discarded.

    Raises:
        NotFoundError: There is no such job.
        ConflictError: It has ended, or it is to be kept and there is nothing to keep yet.
    """
    job = get_job(session, job_id)
    _refuse_unless(job, "stopped", JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.PAUSED)
    if job.status == JobStatus.RUNNING:
        job.stop_request = StopRequest.KEEP if keep else StopRequest.DISCARD
    elif keep:
        raise ConflictError(
            f"{job.name!r} is {job.status}, so no training is under way whose result could be kept. "
            "Discard it, or let it run first."
        )
    else:
        job.stop_request = None
        _forget_training(session, job)
        enter_state(session, job, JobStatus.CANCELLED)
    return job


def pause_job(session: Session, job_id: str) -> Job:
    """Holds a job back: at once where it waits, after a checkpoint where it runs.

    Raises:
        NotFoundError: There is no such job.
        ConflictError: It neither waits nor runs.
    """
    job = get_job(session, job_id)
    _refuse_unless(job, "paused", JobStatus.QUEUED, JobStatus.RUNNING)
    if job.status == JobStatus.RUNNING:
        job.stop_request = StopRequest.PAUSE
    else:
        enter_state(session, job, JobStatus.PAUSED)
    return job


def resume_job(session: Session, job_id: str) -> Job:
    """Puts a paused job back at the end of the queue; it goes on from its checkpoint.

    Raises:
        NotFoundError: There is no such job.
        ConflictError: It is not paused, or what it needs is gone.
    """
    job = get_job(session, job_id)
    _refuse_unless(job, "resumed", JobStatus.PAUSED)
    return _queue_again(session, job)


def retry_job(session: Session, job_id: str) -> Job:
    """Puts a failed or cancelled job back at the end of the queue, as its next attempt.

    A failed job goes on from its checkpoint where it has one; a cancelled one was discarded and begins anew.

    Raises:
        NotFoundError: There is no such job.
        ConflictError: It has not failed, or what it needs is gone.
    """
    job = get_job(session, job_id)
    _refuse_unless(job, "retried", JobStatus.FAILED, JobStatus.CANCELLED)
    return _queue_again(session, job)


def duplicate_job(session: Session, job_id: str) -> Job:
    """Submits a job with the settings of another.

    Raises:
        NotFoundError: There is no such job.
        ConflictError: What it needs is gone.
    """
    job = get_job(session, job_id)
    return submit_job(
        session,
        name=numbered(job.name, 2),
        dataset_version_id=require_dataset(job),
        base_model=session.get_one(BaseModel, job.base_model_id),
        recipe=job.recipe,
        rendering=job.rendering,
    )


def delete_job(session: Session, job_id: str) -> None:
    """Deletes a job with its events; its run folder is its caller's to delete.

    Its prefix stays, and while that does, the snapshots of its training.

    Raises:
        NotFoundError: There is no such job.
        ConflictError: It is running.
    """
    job = get_job(session, job_id)
    if job.status == JobStatus.RUNNING:
        raise ConflictError(f"{job.name!r} is running. Stop it first, then delete it.")
    free_waiters(session, job)
    if session.scalar(select(Prefix.id).where(Prefix.job_id == job_id)) is None:
        _forget_training(session, job)
    session.delete(job)
    session.flush()


def enter_state(session: Session, job: Job, status: JobStatus, **data: Any) -> None:
    """Writes a job's new state, and an event that says so.

    Args:
        session: A writing session.
        job: The job; no trainer holds it.
        status: Its new state.
        **data: What else the event carries.
    """
    job.status = status
    job.finished_at = now() if status in ENDED else None
    session.add(JobEvent(job_id=job.id, attempt=job.attempt, kind="state", data={"status": status.value, **data}))
    session.flush()


def _queue_again(session: Session, job: Job) -> Job:
    if job.kind == JobKind.TRAINING:
        require_dataset(job)
    if job.status == JobStatus.CANCELLED:
        _forget_training(session, job)
    paths = session.scalars(select(Checkpoint.path).where(Checkpoint.job_id == job.id))
    begins_anew = not any(Path(path).is_file() for path in paths)
    if begins_anew:
        _forget_training(session, job)
        job.step, job.stage, job.metrics, job.eta_s, job.stopped_early = 0, "", {}, None, False
    job.position = _end_of_queue(session)
    job.error = None
    job.stop_request = None
    job.lost_attempts = 0
    enter_state(session, job, JobStatus.QUEUED, **({BEGINS_ANEW: True} if begins_anew else {}))
    return job


def _forget_training(session: Session, job: Job) -> None:
    session.execute(delete(Checkpoint).where(Checkpoint.job_id == job.id))
    session.execute(delete(Snapshot).where(Snapshot.job_id == job.id))


def require_dataset(job: Job) -> str:
    """Id of the version that a job trains on.

    Raises:
        ConflictError: Its dataset was deleted.
    """
    if job.dataset_version_id is None:
        raise ConflictError(f"The dataset of {job.name!r} was deleted. Upload it again and start a new job.")
    return job.dataset_version_id


def _refuse_unless(job: Job, done: str, *statuses: JobStatus) -> None:
    if job.status not in statuses:
        listed = " or ".join(statuses)
        raise ConflictError(f"{job.name!r} is {job.status}; only a job that is {listed} can be {done}.")


def _end_of_queue(session: Session) -> float:
    return float(session.scalar(select(func.coalesce(func.max(Job.position), 0.0))) or 0.0) + 1.0
