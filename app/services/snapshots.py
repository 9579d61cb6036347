"""The prefixes of a training's evaluations, as REST and the time slider speak of them."""

from typing import Any

from app.context import AppContext
from storage.jobs import get_job
from storage.prefixes import get_prefix
from storage.schema.job import Job
from storage.schema.prefix import Prefix
from storage.snapshots import list_snapshots, model_id, snapshots_of


def of_prefix(context: AppContext, prefix_id: str) -> list[dict[str, Any]]:
    """The states that a prefix went through in its training, by step; none of one that was imported.

    Args:
        context: The open stores.
        prefix_id: The prefix.

    Returns:
        `step`, `validation_loss` (None without validation rows), `model` (what `/v1/*` and comparisons take) and
        `is_published` (it is the prefix itself) of each.

    Raises:
        NotFoundError: There is no such prefix.
    """
    with context.database.read() as session:
        prefix = get_prefix(session, prefix_id)
        return [
            {
                **_body(prefix, each.step, each.validation_loss),
                "is_published": each.artifact_hash == prefix.artifact_hash,
            }
            for each in list_snapshots(session, snapshots_of(prefix) or "")
        ]


def of_job(context: AppContext, job_id: str) -> list[dict[str, Any]]:
    """The states that a training has gone through so far, by step; they can be asked while it goes on.

    Args:
        context: The open stores.
        job_id: The job.

    Returns:
        As `of_prefix` gives them, without `is_published`.

    Raises:
        NotFoundError: There is no such job.
    """
    with context.database.read() as session:
        job = get_job(session, job_id)
        return [_body(job, each.step, each.validation_loss) for each in list_snapshots(session, job.id)]


def _body(origin: Job | Prefix, step: int, validation_loss: float | None) -> dict[str, Any]:
    return {"step": step, "validation_loss": validation_loss, "model": model_id(origin, step)}
