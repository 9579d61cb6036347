"""What runs and what has ended since someone last looked, in few words: for titles, notices and notifications."""

from datetime import UTC, datetime
from typing import Any

from app.context import AppContext
from storage.history import ended_since
from storage.jobs import list_jobs
from storage.schema.base import now
from storage.schema.job import Job, JobStatus

MAX_ENDED = 20


def since(context: AppContext, moment: datetime | None) -> dict[str, Any]:
    """What runs now, how many wait, and the latest jobs that ended after a moment.

    Args:
        context: The open stores.
        moment: When one looked last; one without a time zone is taken as UTC. None for nothing that has ended.

    Returns:
        `running` (`id`, `name`, `share` from 0 to 1, `stage`, `eta_s`), `num_queued`, `ended` (`id`, `name`, `status`,
        `message` of a failure, `finished_at`; the earliest first), `now`.
    """
    moment = moment.replace(tzinfo=UTC) if moment and moment.tzinfo is None else moment
    with context.database.read() as session:
        # Read before the jobs, so that one that ends meanwhile is told twice rather than never.
        told_at = now()
        active = list_jobs(session, JobStatus.RUNNING, JobStatus.QUEUED)
        ended = ended_since(session, moment, MAX_ENDED) if moment else []
    running = sorted((job for job in active if job.status == JobStatus.RUNNING), key=lambda job: job.position)
    return {
        "running": [_running(job) for job in running],
        "num_queued": len(active) - len(running),
        "ended": [_ended(job) for job in ended],
        "now": told_at.isoformat(),
    }


def _running(job: Job) -> dict[str, Any]:
    share = min(1.0, job.step / job.max_steps) if job.max_steps else 0.0
    return {"id": job.id, "name": job.name, "share": share, "stage": job.stage, "eta_s": job.eta_s}


def _ended(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "name": job.name,
        "status": job.status.value,
        "message": (job.error or {}).get("message"),
        "finished_at": job.finished_at.isoformat() if job.finished_at else None,
    }
