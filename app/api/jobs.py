"""Routes of jobs: submit, follow, stop, delete."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from app.context import AppContext
from app.services import activity, compare_runs, jobs
from storage.settings import MAX_NAME_CHARACTERS
from worker.engine.recipe import Method

router = APIRouter(prefix="/jobs", tags=["Jobs"])


def _context(request: Request) -> AppContext:
    context: AppContext = request.app.state.context
    return context


Context = Annotated[AppContext, Depends(_context)]


class Start(BaseModel):
    """When a job starts; what is left out stays as it is."""

    model_config = ConfigDict(extra="forbid")

    priority: Literal[-1, 0, 1] | None = Field(None, description="1 starts first, -1 last; 0 by default.")
    starts_after: str | None = Field(
        None, description="Id of a job that has to end before this one starts; null lets it start without waiting."
    )
    starts_when: Literal["ended", "succeeded", "failed"] | None = Field(
        None, description="How that job has to end; however it does by default. Discarding it is no failure."
    )


class JobRequest(Start):
    """A training that is asked for."""

    model_config = ConfigDict(extra="forbid")

    dataset_id: str = Field(description="Id of an uploaded dataset; its latest version is used.")
    base_model: str = Field(description="Name of a base model that is on this machine.")
    method: Method | None = Field(
        None,
        description="Prefix tuning by default. Only Prefix Studio can load what prefix-tuning-plus makes, not PEFT.",
    )
    name: str | None = Field(
        None, max_length=MAX_NAME_CHARACTERS, description="Also names the prefix; by default the table's name."
    )
    recipe: dict[str, Any] = Field(
        default_factory=dict,
        description="Settings by name: num_virtual_tokens, learning_rate, max_steps, batch_size, eval_every, seed, "
        "init, precision, reparameterisation, sweep and others. What is left out is chosen for the task.",
    )
    rendering: Literal["auto", "plain", "chat"] | None = Field(
        None, description="Whether rows go through the base's chat template; as the dataset's mapping says by default."
    )


class Changes(Start):
    """What a copy has otherwise."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = Field(None, max_length=MAX_NAME_CHARACTERS, description="By default that of the job, numbered.")
    base_model: str | None = Field(None, description="Name of another base model that is on this machine.")
    method: Method | None = None
    recipe: dict[str, Any] | None = Field(None, description="The settings that differ; all others stay.")
    rendering: Literal["auto", "plain", "chat"] | None = None


class StopOrder(BaseModel):
    """How to end a job."""

    model_config = ConfigDict(extra="forbid")

    keep: bool = Field(description="Publish the best prefix so far; otherwise everything is discarded.")


class Place(BaseModel):
    """Where to in the queue."""

    model_config = ConfigDict(extra="forbid")

    place: int = Field(ge=0, description="New place in the queue, from 0.")


@router.post("", status_code=201, summary="Put a job into the queue")
def submit(context: Context, order: JobRequest) -> dict[str, Any]:
    """Refused with a sentence where it could not succeed: data, base model, recipe, memory, disk."""
    return jobs.submit(context, order.model_dump(exclude_none=True))


@router.post("/summary", summary="What a job would do, without starting it")
def summary(context: Context, order: JobRequest) -> dict[str, Any]:
    """The numbers trained, their share of the base, size, and about how long it takes."""
    return jobs.summary(context, order.model_dump(exclude_none=True))


@router.get("", summary="Every job, the newest first")
def listing(context: Context) -> list[dict[str, Any]]:
    """Jobs in every state."""
    return jobs.listing(context)


@router.get("/compare", summary="Several jobs side by side")
def compare(
    context: Context, ids: Annotated[str, Query(description="Ids of two to six jobs, with commas between.")]
) -> dict[str, Any]:
    """Their curves, settings and results; of each setting and result, whether it differs."""
    return compare_runs.compare(context, [each.strip() for each in ids.split(",")])


@router.get("/activity", summary="What runs, and what has ended since a moment")
def news(
    context: Context, since: Annotated[datetime | None, Query(description="A moment with its time zone.")] = None
) -> dict[str, Any]:
    """For those who look often: a few fields of few jobs, and `now`, to be sent as `since` the next time."""
    return activity.since(context, since)


@router.patch("/{job_id}", summary="Change when it starts")
def change(context: Context, job_id: str, order: Start) -> dict[str, Any]:
    """Only while it waits or is paused; nothing of a running job is changed."""
    return jobs.change(context, job_id, order.model_dump(exclude_unset=True))


@router.get("/{job_id}", summary="One job")
def describe(context: Context, job_id: str) -> dict[str, Any]:
    """State, progress, latest metrics, sample answers, and the prefix once there is one."""
    return jobs.describe(context, job_id)


@router.get("/{job_id}/curve", summary="Its loss over the steps")
def curve(context: Context, job_id: str) -> dict[str, Any]:
    """Training and validation loss, the levels of the base and of the written instruction, the best step."""
    return jobs.curve(context, job_id)


@router.get("/{job_id}/samples", summary="Its answers to held-out prompts over the training")
def samples(context: Context, job_id: str) -> list[dict[str, Any]]:
    """After each look at them: the step, and of each prompt what is expected and what base and prefix answered."""
    return jobs.sample_history(context, job_id)


@router.get("/{job_id}/log", summary="Its log")
def log(context: Context, job_id: str) -> dict[str, list[str]]:
    """The lines that it wrote down, the latest last."""
    return {"lines": jobs.log_lines(context, job_id)}


@router.post("/{job_id}/stop", summary="End it, with or without its prefix")
def stop(context: Context, job_id: str, order: StopOrder) -> dict[str, Any]:
    """A running job ends within a step or two; follow its events."""
    return jobs.stop(context, job_id, order.keep)


@router.post("/{job_id}/pause", summary="Hold it back")
def pause(context: Context, job_id: str) -> dict[str, Any]:
    """A running job writes a checkpoint first."""
    return jobs.pause(context, job_id)


@router.post("/{job_id}/resume", summary="Go on with a paused job")
def resume(context: Context, job_id: str) -> dict[str, Any]:
    """It goes to the end of the queue and on from its checkpoint."""
    return jobs.resume(context, job_id)


@router.post("/{job_id}/retry", summary="Try a failed or discarded job again")
def retry(context: Context, job_id: str) -> dict[str, Any]:
    """It goes to the end of the queue as its next attempt."""
    return jobs.retry(context, job_id)


@router.post("/{job_id}/duplicate", status_code=201, summary="Submit a copy, changed if wanted")
def duplicate(context: Context, job_id: str, changes: Changes | None = None) -> dict[str, Any]:
    """Answers with the new job, which trains on the same version of the dataset; a body says what differs."""
    return jobs.duplicate(context, job_id, changes.model_dump(exclude_none=True) if changes else None)


@router.post("/{job_id}/move", summary="Move it in the queue")
def move(context: Context, job_id: str, order: Place) -> dict[str, Any]:
    """Only while it waits."""
    return jobs.move(context, job_id, order.place)


@router.delete("/{job_id}", status_code=204, summary="Delete it")
def remove(context: Context, job_id: str) -> None:
    """Its curve, log and checkpoints go; its prefix stays."""
    jobs.remove(context, job_id)
