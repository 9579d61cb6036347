"""`POST /v1/completions`: raw text goes on, in OpenAI's form."""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from worker.inference.answers import Answer, InferenceContext, collect, event_stream, start
from worker.inference.batch import Column, Ended, Piece
from worker.inference.errors import InvalidRequestError
from worker.inference.prompts import RawPrompt
from worker.inference.requests import Fields, check_text, read_body

DEFAULT_MAX_TOKENS = 16
"""What OpenAI's interface takes where a request names none."""

DONE = "[DONE]"


def completions_router(context: InferenceContext) -> APIRouter:
    """The route of raw completions."""
    router = APIRouter()

    @router.post("/v1/completions")
    async def complete(request: Request) -> Response:
        fields = await read_body(request)
        fields.refuse_unsupported()
        model = fields.text("model")
        sampling = fields.sampling(max_tokens=DEFAULT_MAX_TOKENS, temperature=1.0)
        wants_stream = fields.flag("stream")
        wants_usage = includes_usage(fields)
        prompt = RawPrompt(_prompt(fields))
        column = Column(await asyncio.to_thread(context.registry.find, model), prompt)
        answer = await start(context, request, [column], sampling)
        head = {"id": f"cmpl-{uuid.uuid4().hex}", "object": "text_completion", "created": int(time.time())}
        head["model"] = model
        if wants_stream:
            return event_stream(_chunks(answer, head, wants_usage), closing=DONE)
        text = (await collect(request, answer))[0]
        choice = _choice(text.text, text.end.finish_reason if text.end else None)
        return JSONResponse({**head, "choices": [choice], "usage": usage(answer, text.end)})

    return router


def usage(answer: Answer, end: Ended | None) -> dict[str, int]:
    """Counts of tokens in OpenAI's form; virtual tokens are not counted, as nobody sent them."""
    prompt_tokens, completion_tokens = answer.started[0].prompt_tokens, end.tokens if end else 0
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def includes_usage(fields: Fields) -> bool:
    """Whether a stream shall end with the counts of tokens."""
    options = fields.get("stream_options")
    return Fields(options).flag("include_usage") if isinstance(options, dict) else False


def _prompt(fields: Fields) -> str:
    prompt = fields.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str):
        prompt = prompt[0]
    if isinstance(prompt, list):
        raise InvalidRequestError(
            f"prompt is a list of {len(prompt)}; expected one text. Send a request for each.", param="prompt"
        )
    return check_text(prompt, "prompt")


def _choice(text: str, finish_reason: str | None) -> dict[str, Any]:
    return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}


async def _chunks(answer: Answer, head: dict[str, Any], wants_usage: bool) -> AsyncGenerator[dict[str, Any], None]:
    end: Ended | None = None
    async with aclosing(answer.events) as events:
        async for event in events:
            if isinstance(event, Piece) and event.text:
                yield {**head, "choices": [_choice(event.text, None)]}
            elif isinstance(event, Ended):
                end = event
                yield {**head, "choices": [_choice("", event.finish_reason)]}
    if wants_usage:
        yield {**head, "choices": [], "usage": usage(answer, end)}
