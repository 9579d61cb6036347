"""From a request to a running batch and back: the first event decides the status, a caller that leaves ends it."""

import asyncio
import json
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from worker.engine.recipe import Precision
from worker.inference.batch import Column, Ended, Piece, Started, batch_of
from worker.inference.errors import InvalidRequestError, error_body
from worker.inference.explanations import Explained, ExplainedEvent, with_explanations
from worker.inference.logprobs import TokenLogprobs
from worker.inference.registry import Registry
from worker.inference.requests import Sampling
from worker.inference.residents import Residents
from worker.inference.ticket import ANONYMOUS, Ticket, Work

CLIENT_GONE = 499
CLIENT_HEADER = "X-Prefix-Studio-Client"
"""Who asks, as the web role tells; turns are taken by it. Only callers who know the role's secret get so far."""

MAX_CLIENT_CHARACTERS = 64
SSE_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

Result = TypeVar("Result")


@dataclass(frozen=True)
class InferenceContext:
    """What the routes work with."""

    registry: Registry
    residents: Residents


class ClientGoneError(Exception):
    """The caller has closed the connection."""


@dataclass(frozen=True)
class Answer:
    """A batch that runs.

    Attributes:
        started: What each column is about to compute.
        events: The rest, as it comes; to be closed by whoever reads it.
    """

    started: list[Started]
    events: AsyncGenerator[ExplainedEvent, None]


@dataclass
class Text:
    """A whole answer of one column.

    Attributes:
        text: What can be shown.
        logprobs: Of its tokens, where they were asked for.
        end: How it ended.
        explained: What its prefix changed, where that was asked for.
    """

    text: str = ""
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    end: Ended | None = None
    explained: Explained | None = None


async def start(
    context: InferenceContext,
    request: Request,
    columns: Sequence[Column],
    sampling: Sampling,
    *,
    has_proof: bool = False,
    explains: bool = False,
) -> Answer:
    """Hands a batch to the runner of its base and waits until it begins.

    Args:
        context: Where models are.
        request: Of the caller.
        columns: The answers that are asked for.
        sampling: For all of them.
        has_proof: Whether the base's column is compared with the untouched model.
        explains: Whether the columns with a prefix are explained behind their ends.

    Raises:
        InvalidRequestError: The columns are of different bases.
        StudioError: The batch is refused, or too many wait.
        ClientGoneError: The caller left while it waited.
    """
    bases = list(dict.fromkeys(replace(column.target.base, precision="auto") for column in columns))
    if len(bases) > 1:
        raise InvalidRequestError(
            f"The models have different bases, {bases[0].name!r} and {bases[1].name!r}; expected models of one base. "
            "Compare them one base at a time.",
            param="models",
        )
    base = replace(bases[0], precision=_precision_of(columns))
    runner, client = context.residents.runner(base), _client(request)
    ticket = runner.submit(batch_of(columns, sampling, has_proof=has_proof), client)
    try:
        events = ticket.events()
        started: list[Started] = await while_connected(request, _first(events))
    except BaseException:
        ticket.cancel()
        raise
    if not explains:
        return Answer(started, events)

    def submit(work: Work) -> Ticket:
        return runner.submit(work, client)

    return Answer(started, with_explanations(events, started, columns, submit))


async def collect(request: Request, answer: Answer) -> list[Text]:
    """Waits for whole answers, in the order of the columns.

    Raises:
        ClientGoneError: The caller left before.
    """
    return await while_connected(request, _collected(answer))


async def while_connected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Awaits something for as long as the caller is there.

    Raises:
        ClientGoneError: The caller left first; the work is cancelled.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


def event_stream(chunks: AsyncGenerator[Any, None], *, closing: str | None = None) -> StreamingResponse:
    """Server-sent events of JSON.

    Args:
        chunks: What each event carries.
        closing: Data of a last event, as OpenAI's clients wait for.
    """
    return StreamingResponse(_lines(chunks, closing), media_type="text/event-stream", headers=SSE_HEADERS)


async def client_gone(request: Request, error: Exception) -> Response:
    """Answers nobody."""
    return Response(status_code=CLIENT_GONE)


def _client(request: Request) -> str:
    return request.headers.get(CLIENT_HEADER, ANONYMOUS)[:MAX_CLIENT_CHARACTERS]


def _precision_of(columns: Sequence[Column]) -> Precision:
    """One for the batch: what its first prefix of a quantised base was trained with, else `auto`."""
    named = (column.target.base.precision for column in columns)
    return next((precision for precision in named if precision != "auto"), "auto")


async def _first(events: AsyncGenerator[Any, None]) -> Any:
    return await anext(events)


async def _collected(answer: Answer) -> list[Text]:
    texts = [Text() for _ in answer.started]
    async with aclosing(answer.events) as events:
        async for event in events:
            if isinstance(event, Piece):
                texts[event.column].text += event.text
                texts[event.column].logprobs += [event.logprobs] if event.logprobs is not None else []
            elif isinstance(event, Ended):
                texts[event.column].end = event
            elif isinstance(event, Explained):
                texts[event.column].explained = event
    return texts


async def _lines(chunks: AsyncGenerator[Any, None], closing: str | None) -> AsyncGenerator[str, None]:
    async with aclosing(chunks) as opened:
        try:
            async for chunk in opened:
                yield f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"
        except Exception as error:  # the head is sent already, so it is told as an event
            yield f"data: {json.dumps(error_body(error), ensure_ascii=False)}\n\n"
            return
        if closing is not None:
            yield f"data: {closing}\n\n"


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue
