"""When a job starts: its priority and the job it waits for, as REST and the page speak of them."""

from collections.abc import Mapping
from typing import Any

from storage import order
from storage.database import Session
from storage.errors import InvalidInputError
from storage.jobs import get_job
from storage.quotes import quoted
from storage.schema.job import ENDED_STATUSES, Job, JobStatus, StartCondition
from storage.starts import Wait

FIELDS = ("priority", "starts_after", "starts_when")
"""What a user may say of the start of a job."""

HAPPENED = {JobStatus.SUCCEEDED: "has succeeded", JobStatus.FAILED: "has failed", JobStatus.CANCELLED: "was discarded"}
WANTED = {
    StartCondition.ENDED: "has ended",
    StartCondition.SUCCEEDED: "has succeeded",
    StartCondition.FAILED: "has failed",
}


def split(body: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a body says of the start of a job, and the rest of it."""
    return {name: body[name] for name in FIELDS if name in body}, {k: v for k, v in body.items() if k not in FIELDS}


def apply(session: Session, job_id: str, wishes: Mapping[str, Any]) -> None:
    """Writes what was asked for.

    Args:
        session: A writing session.
        job_id: A job that waits or is paused.
        wishes: Any of `FIELDS`; `starts_after` None lets it start without waiting.

    Raises:
        StudioError: It cannot be, and why.
    """
    if wishes.get("priority") is not None:
        order.set_priority(session, job_id, wishes["priority"])
    if "starts_after" not in wishes and wishes.get("starts_when") is None:
        return
    job = get_job(session, job_id)
    other_id = wishes.get("starts_after", job.starts_after)
    if other_id is None and wishes.get("starts_when") is not None:
        raise InvalidInputError(
            f"starts_when is {wishes['starts_when']!r}, but {job.name!r} waits for no other job. Give starts_after too."
        )
    kept = job.starts_when if other_id == job.starts_after else None
    order.start_after(session, job_id, other_id, _condition(wishes.get("starts_when") or kept or "ended"))


def start_body(job: Job, wait: Wait | None) -> dict[str, Any]:
    """The start of a job as REST answers with it.

    Args:
        job: Its row.
        wait: What it waits for, see `storage.starts.waits_of`.

    Returns:
        `FIELDS`, and `waits_for`: `id`, `name`, `status` (None where it was deleted), `is_over`, `is_missed` and a
        `sentence`; None where the job waits for nothing, or does not wait at all.
    """
    told: dict[str, Any] | None = None
    if wait is not None and job.status in (JobStatus.QUEUED, JobStatus.PAUSED):
        status = wait.status.value if wait.status else None
        told = {"id": wait.job_id, "name": wait.name, "status": status, "sentence": sentence(wait)}
        told |= {"is_over": wait.is_over, "is_missed": wait.is_missed}
    when = job.starts_when.value if job.starts_when else None
    return {"priority": job.priority, "starts_after": job.starts_after, "starts_when": when, "waits_for": told}


def sentence(wait: Wait) -> str:
    """What a job waits for, in words that say what can be done where nothing happens by itself."""
    if wait.status is None:
        return (
            f"Held back: it was to start once another job {WANTED[wait.when]}, and that job was deleted. Let it start "
            "without waiting, or discard it."
        )
    name = quoted(wait.name)
    if wait.is_missed:
        return (
            f"Held back: it starts once {name} {WANTED[wait.when]}, which {HAPPENED[wait.status]}. Try {name} again, "
            "or let this job start without waiting."
        )
    if wait.status in ENDED_STATUSES:
        return f"Starts at its turn: {name}, which it waited for, {HAPPENED[wait.status]}."
    return f"Starts once {name} {WANTED[wait.when]}; that job is {wait.status.value} now."


def _condition(value: object) -> StartCondition:
    try:
        return StartCondition(str(value))
    except ValueError:
        known = ", ".join(StartCondition)
        raise InvalidInputError(f"starts_when is {value!r}; expected one of {known}.") from None
