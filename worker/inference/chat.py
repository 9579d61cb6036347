"""`POST /v1/chat/completions`: messages through the base's chat template, in OpenAI's form."""

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
from worker.inference.completions import DONE, includes_usage, usage
from worker.inference.prompts import ChatPrompt
from worker.inference.requests import read_body

DEFAULT_MAX_TOKENS = 512


def chat_router(context: InferenceContext) -> APIRouter:
    """The route of chat completions."""
    router = APIRouter()

    @router.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        fields = await read_body(request)
        fields.refuse_unsupported()
        model = fields.text("model")
        prompt = ChatPrompt(tuple(fields.messages()))
        sampling = fields.sampling(max_tokens=DEFAULT_MAX_TOKENS, temperature=1.0)
        wants_stream = fields.flag("stream")
        wants_usage = includes_usage(fields)
        target = await asyncio.to_thread(context.registry.find, model)
        answer = await start(context, request, [Column(target, prompt)], sampling)
        head: dict[str, Any] = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        if wants_stream:
            chunks = _chunks(answer, {**head, "object": "chat.completion.chunk"}, wants_usage)
            return event_stream(chunks, closing=DONE)
        text = (await collect(request, answer))[0]
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text.text},
            "logprobs": None,
            "finish_reason": text.end.finish_reason if text.end else None,
        }
        body = {**head, "object": "chat.completion", "choices": [choice], "usage": usage(answer, text.end)}
        return JSONResponse(body)

    return router


async def _chunks(answer: Answer, head: dict[str, Any], wants_usage: bool) -> AsyncGenerator[dict[str, Any], None]:
    end: Ended | None = None
    yield {**head, "choices": [_delta({"role": "assistant", "content": ""})]}
    async with aclosing(answer.events) as events:
        async for event in events:
            if isinstance(event, Piece) and event.text:
                yield {**head, "choices": [_delta({"content": event.text})]}
            elif isinstance(event, Ended):
                end = event
                yield {**head, "choices": [_delta({}, event.finish_reason)]}
    if wants_usage:
        yield {**head, "choices": [], "usage": usage(answer, end)}


def _delta(delta: dict[str, str], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
