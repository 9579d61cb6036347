"""Jobs as REST and the page speak of them: submitted, followed, stopped, deleted."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from app.context import AppContext
from app.services import start_order
from app.services.dataset_body import data_source
from app.services.health import HoldUps
from app.services.job_bodies import answers_body, event_body, job_body, log_lines_of
from app.services.outlook import outlook
from app.services.preflight import RENDERINGS, plan, refuse_misfit
from storage import jobs as stored
from storage import order
from storage.answerings import answerings_of, duplicate_answering
from storage.checkpoints import list_checkpoints
from storage.database import Session
from storage.datasets import get_version
from storage.errors import ConflictError
from storage.history import answers_by_step, loss_history, recent_events
from storage.names import numbered
from storage.schema.job import Job, JobKind, JobStatus
from storage.starts import waits_of

MAX_LOG_LINES = 500


def submit(context: AppContext, body: dict[str, Any]) -> dict[str, Any]:
    """Checks a job and puts it into the queue.

    Args:
        context: The open stores.
        body: `dataset_id`, `base_model`, and if given `method`, `name`, `recipe`, and `start_order.FIELDS`.

    Returns:
        The job, as `describe` gives it.

    Raises:
        StudioError: It cannot succeed, and why.
        EngineError: The same, for its recipe and the kind of model.
    """
    wishes, body = start_order.split(body)
    planned = plan(context, body)
    refuse_misfit(planned)
    with context.database.write() as session:
        job = stored.submit_job(
            session,
            name=planned.name,
            dataset_version_id=planned.version.id,
            base_model=planned.base_model,
            recipe=planned.wish.to_dict(),
            rendering=planned.rendering,
        )
        job.max_steps = planned.recipe.max_steps or 0
        start_order.apply(session, job.id, wishes)
    return describe(context, job.id)


def summary(context: AppContext, body: dict[str, Any]) -> dict[str, Any]:
    """What would happen if this job were submitted, before anything does.

    Returns:
        `sentence`, `warnings`, `recipe` (every field set), `num_virtual_tokens`, `num_parameters`, `base_parameters`,
        `share` (of the base, 0 to 1), `size_bytes`, `estimate_s`, `estimate_bytes`, `fit`.

    Raises:
        StudioError: It would be refused, and why.
        EngineError: The same, for its recipe and the kind of model.
    """
    planned = plan(context, body)
    refuse_misfit(planned)
    with context.database.read() as session:
        finished = [job.metrics for job in stored.list_jobs(session, JobStatus.SUCCEEDED)]
    return outlook(planned, finished)


def describe(context: AppContext, job_id: str) -> dict[str, Any]:
    """Everything that is known of one job.

    Raises:
        NotFoundError: There is no such job.
    """
    with context.database.read() as session:
        job = stored.get_job(session, job_id)
        named = data_source(get_version(session, job.dataset_version_id) if job.dataset_version_id else None)
        queue, waits = _queue(session), waits_of(session, [job])
        works_on = _answers_bodies(session, [job]).get(job_id, {})
    body = job_body(job, queue) | start_order.start_body(job, waits.get(job_id)) | works_on
    HoldUps(context.settings).tell([body], queue)
    samples = body["metrics"].pop("samples", [])
    return {**body, **named, "samples": samples, "recipe": job.recipe, "rendering": job.rendering}


def listing(context: AppContext) -> list[dict[str, Any]]:
    """Every job, the newest first."""
    with context.database.read() as session:
        jobs = stored.list_jobs(session)
        queue, waits = _queue(session), waits_of(session, jobs)
        works_on = _answers_bodies(session, jobs)
    bodies = [job_body(job, queue, with_rows=False) | start_order.start_body(job, waits.get(job.id)) for job in jobs]
    HoldUps(context.settings).tell(bodies, queue)
    for body in bodies:
        body["metrics"].pop("samples", None)
        body |= works_on.get(body["id"], {})
    return bodies


def stop(context: AppContext, job_id: str, keep: bool) -> dict[str, Any]:
    """Ends a job: its best prefix so far is published, or all is discarded.

    Raises:
        NotFoundError: There is no such job.
        ConflictError: It has ended, or has nothing to keep.
    """
    return _change(context, job_id, partial(stored.request_stop, keep=keep))


def pause(context: AppContext, job_id: str) -> dict[str, Any]:
    """Holds a job back, after a checkpoint where it runs."""
    return _change(context, job_id, stored.pause_job)


def resume(context: AppContext, job_id: str) -> dict[str, Any]:
    """Puts a paused job back into the queue; it goes on from its checkpoint."""
    return _change(context, job_id, stored.resume_job)


def retry(context: AppContext, job_id: str) -> dict[str, Any]:
    """Puts a failed or discarded job back into the queue."""
    return _change(context, job_id, stored.retry_job)


def duplicate(context: AppContext, job_id: str, changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """Submits a job with the settings of another, on the same version of its dataset; returns the new one.

    Args:
        context: The open stores.
        job_id: The other job, in whatever state; it stays as it is.
        changes: What differs: `name`, `base_model`, `method`, `recipe` (single settings), `rendering`; and when it
            starts, see `start_order.FIELDS`.

    Raises:
        StudioError: It cannot succeed so, and why.
        EngineError: The same, for its recipe and the kind of model.
    """
    wishes, changes = start_order.split(changes or {})
    if not changes:
        with context.database.write() as session:
            copy = _copied(session, job_id)
            start_order.apply(session, copy.id, wishes)
        return describe(context, copy.id)
    with context.database.read() as session:
        job = stored.get_job(session, job_id)
        if job.kind is JobKind.ANSWERING:
            raise ConflictError(
                f"{job.name!r} answers a table, and its copy takes no changes. Send the table again instead."
            )
        version = get_version(session, stored.require_dataset(job))
    recipe = {**job.recipe, **changes.get("recipe", {})}
    if "method" in changes:
        recipe["method"] = changes["method"]
    kept = {"name": numbered(job.name, 2), "base_model": job.base_model}
    if job.rendering.get("kind") in RENDERINGS:
        kept["rendering"] = job.rendering["kind"]
    source = {"dataset_id": version.dataset_id, "version_id": version.id}
    return submit(context, {**kept, **changes, **source, **wishes, "recipe": recipe})


def change(context: AppContext, job_id: str, wishes: dict[str, Any]) -> dict[str, Any]:
    """Changes when a job that waits or is paused starts.

    Args:
        context: The open stores.
        job_id: The job.
        wishes: Any of `start_order.FIELDS`.

    Raises:
        StudioError: It runs or has ended, or could never start so.
    """
    with context.database.write() as session:
        start_order.apply(session, job_id, wishes)
    return describe(context, job_id)


def move(context: AppContext, job_id: str, place: int) -> dict[str, Any]:
    """Moves a waiting job to another place in the queue, counted from 0."""
    with context.database.write() as session:
        order.move_job(session, job_id, place)
    return describe(context, job_id)


def place(context: AppContext, job_id: str) -> int | None:
    """Where a job stands among all that wait, from 0; None for one that does not."""
    with context.database.read() as session:
        queue = [job.id for job in stored.queued_jobs(session)]
    return queue.index(job_id) if job_id in queue else None


def remove(context: AppContext, job_id: str) -> None:
    """Deletes a job with its curve, log and checkpoints; its prefix stays.

    Raises:
        NotFoundError: There is no such job.
        ConflictError: It is running.
    """
    with context.database.write() as session:
        stored.delete_job(session, job_id)
    context.store.delete_run(job_id)


def events(context: AppContext, job_id: str, after_id: int, limit: int) -> tuple[list[dict[str, Any]], bool]:
    """What happened to a job since an event, and whether anything more can.

    Raises:
        NotFoundError: There is no such job.
    """
    with context.database.read() as session:
        job = stored.get_job(session, job_id)
        found = stored.events_after(session, job_id, after_id, limit)
    return [event_body(event) for event in found], job.status in stored.ENDED and len(found) < limit


def curve(context: AppContext, job_id: str) -> dict[str, Any]:
    """The loss of a job over its steps: one account of all its attempts, thinned out where it is long.

    Returns:
        `steps`, `train_loss` (one for each step), `validation` (`step`, `loss`), `baselines` (`base`, `instruction`,
        `few_shot`), `best_step`.

    Raises:
        NotFoundError: There is no such job.
    """
    with context.database.read() as session:
        job = stored.get_job(session, job_id)
        history = loss_history(session, job_id)
    return {
        "steps": list(history.train),
        "train_loss": list(history.train.values()),
        "validation": [{"step": step, "loss": loss} for step, loss in history.validation.items()],
        "baselines": {name: job.metrics.get(f"{name}_loss") for name in ("base", "instruction", "few_shot")},
        "best_step": job.metrics.get("best_step"),
    }


def sample_history(context: AppContext, job_id: str) -> list[dict[str, Any]]:
    """The answers to a few held-out prompts after each look at them: `step` and `rows`, in the order of the steps.

    Raises:
        NotFoundError: There is no such job.
    """
    with context.database.read() as session:
        stored.get_job(session, job_id)
        told = answers_by_step(session, job_id)
    return [{"step": step, "rows": rows} for step, rows in told.items()]


def log_lines(context: AppContext, job_id: str) -> list[str]:
    """What a job wrote down, the latest last.

    Raises:
        NotFoundError: There is no such job.
    """
    with context.database.read() as session:
        stored.get_job(session, job_id)
        found = recent_events(session, job_id, ("log", "state"), MAX_LOG_LINES)
    lines = [line for event in found for line in log_lines_of(event)]
    return lines[-MAX_LOG_LINES:]


def _queue(session: Session) -> list[str]:
    """Ids of the jobs whose turn comes by itself, in their order."""
    queued = stored.queued_jobs(session)
    waits = waits_of(session, queued)
    return [job.id for job in queued if job.id not in waits or waits[job.id].is_over]


def _copied(session: Session, job_id: str) -> Job:
    is_answering = stored.get_job(session, job_id).kind is JobKind.ANSWERING
    return duplicate_answering(session, job_id) if is_answering else stored.duplicate_job(session, job_id)


def _answers_bodies(session: Session, jobs: Sequence[Job]) -> dict[str, dict[str, Any]]:
    """What jobs that answer tables say besides, by their ids."""
    found = answerings_of(session, [job.id for job in jobs if job.kind is JobKind.ANSWERING])
    return {job_id: {"answers": answers_body(answering)} for job_id, answering in found.items()}


def _change(context: AppContext, job_id: str, change: Callable[[Any, str], Job]) -> dict[str, Any]:
    with context.database.write() as session:
        before = {row.path for row in list_checkpoints(session, job_id)}
        job = change(session, job_id)
        forgotten = before - {row.path for row in list_checkpoints(session, job_id)}
    for path in forgotten:
        Path(path).unlink(missing_ok=True)
    return describe(context, job.id)
