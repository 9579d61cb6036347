"""The time of a prefix: its states from the first evaluation on, and trainings that can be asked while they go on."""

from typing import Any

from app.context import AppContext
from app.services import jobs, prefixes, snapshots
from app.services.columns import JOB
from storage.jobs import get_job

UNDER_WAY = ("queued", "running", "paused")

Moment = dict[str, Any]
"""`words`, and `model`, which a column asks for."""


def in_training(context: AppContext, base_model: str) -> dict[str, str]:
    """Trainings on a base that have a state to ask: model id without a step → name."""
    under_way = [job for job in jobs.listing(context) if job["status"] in UNDER_WAY and job["base_model"] == base_model]
    return {
        f"{JOB}{job['id']}": f"{job['name']} (in training)" for job in under_way if snapshots.of_job(context, job["id"])
    }


def names(context: AppContext) -> dict[str, str]:
    """Names of all trainings by their model id without a step."""
    return {f"{JOB}{job['id']}": f"{job['name']} (its training)" for job in jobs.listing(context)}


def source_of(context: AppContext, model: str, listed: list[dict[str, Any]]) -> dict[str, Any] | None:
    """What a model's prompts are made of: `name`, `rendering`, `dataset_version_id`; None for a base.

    Args:
        context: The open stores.
        model: Name of a prefix, or `job:ID`.
        listed: What `prefixes.listing` gives.
    """
    if model.startswith(JOB):
        with context.database.read() as session:
            job = get_job(session, model.removeprefix(JOB))
        kept = {name: getattr(job, name) for name in ("base_model", "rendering", "dataset_version_id")}
        return {"id": None, "name": model, **kept}
    prefix = next((each for each in listed if each["name"] == model), None)
    return prefixes.describe(context, prefix["id"]) if prefix else None


def moments_of(context: AppContext, source: dict[str, Any] | None) -> tuple[list[Moment], int]:
    """The states that can be asked, in order, and the index of the one that stands for the prefix itself.

    Args:
        context: The open stores.
        source: What `source_of` gives.
    """
    if source is None:
        return [], 0
    if source["id"] is None:
        kept = snapshots.of_job(context, source["name"].removeprefix(JOB))
        return [_moment(each, "") for each in kept], max(0, len(kept) - 1)
    kept = snapshots.of_prefix(context, source["id"])
    told = [_moment(each, ", published" if each["is_published"] else "") for each in kept]
    at = next((index for index, each in enumerate(kept) if each["is_published"]), None)
    if kept and at is None:
        told.append({"words": "the finished prefix", "model": source["name"]})
        at = len(told) - 1
    if at is not None:
        told[at]["model"] = source["name"]
    return told, at or 0


def spread(moments: list[Moment], count: int) -> list[Moment]:
    """At most so many of them, evenly from the first to the last."""
    if len(moments) <= count:
        return moments
    return [moments[round(at * (len(moments) - 1) / (count - 1))] for at in range(count)]


def _moment(snapshot: dict[str, Any], ending: str) -> Moment:
    loss = snapshot["validation_loss"]
    shown = f", loss {loss:.2f}" if loss is not None else ""
    return {"words": f"step {snapshot['step']:,}{shown}{ending}", "model": snapshot["model"]}
