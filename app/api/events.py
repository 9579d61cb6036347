"""The stream of what happens to a job: replayed from the start or from the last event that was seen."""

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio
from anyio.to_thread import run_sync
from fastapi import APIRouter, Header, Request
from fastapi.responses import StreamingResponse

from app.context import AppContext
from app.services import jobs
from storage.errors import BusyError, NotFoundError

router = APIRouter(prefix="/jobs", tags=["Jobs"])

POLL_S = 0.25
BATCH = 200
KEEP_ALIVE_S = 15.0
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


@router.get("/{job_id}/events", summary="What happens to it, as server-sent events", response_class=StreamingResponse)
async def events(
    request: Request, job_id: str, last_event_id: Annotated[str | None, Header()] = None, after: int = 0
) -> StreamingResponse:
    """Each event has the id, the kind (`state`, `step`, `evaluated`, `samples`, `log`) and its data as JSON.

    A client that comes back sends `Last-Event-ID` (or `?after=`) and gets what it missed. The stream ends with an event
    `end` once the job has ended.
    """
    context: AppContext = request.app.state.context
    start = int(last_event_id) if last_event_id is not None and last_event_id.isdecimal() else after
    # Asked once before the stream begins, so that an unknown job gets its 404.
    await run_sync(jobs.events, context, job_id, start, 1)
    return StreamingResponse(_stream(context, job_id, start), media_type="text/event-stream", headers=HEADERS)


async def _stream(context: AppContext, job_id: str, after_id: int) -> AsyncIterator[str]:
    """At most four writes a second, each with everything that is new."""
    quiet_s = 0.0
    while True:
        try:
            found, is_over = await run_sync(jobs.events, context, job_id, after_id, BATCH)
        except NotFoundError:
            found, is_over = [], True  # it was deleted while someone looked on
        except BusyError:
            found, is_over = [], False
        if found:
            after_id, quiet_s = found[-1]["id"], 0.0
            yield "".join(_as_text(event) for event in found)
        if is_over:
            yield "event: end\ndata: {}\n\n"
            return
        if len(found) == BATCH:
            continue
        await anyio.sleep(POLL_S)
        quiet_s += POLL_S
        if quiet_s >= KEEP_ALIVE_S:
            quiet_s = 0.0
            yield ": still here\n\n"


def _as_text(event: dict[str, Any]) -> str:
    return f"id: {event['id']}\nevent: {event['kind']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n"
