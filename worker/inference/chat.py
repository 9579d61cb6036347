"""`POST /v1/chat/completions`: messages through the base's chat template, in OpenAI's form."""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from worker.inference.answers import Answer, InferenceContext, Text, collect, event_stream, start
from worker.inference.batch import Column, Ended, Piece
from worker.inference.errors import InvalidRequestError
from worker.inference.logprobs import TokenLogprobs, chat_logprobs
from worker.inference.openai_request import DONE, OpenAIRequest, read_request, usage
from worker.inference.prompts import ChatPrompt
from worker.inference.requests import Fields, read_body

DEFAULT_MAX_TOKENS = 512
MAX_TOP_LOGPROBS = 20


def chat_router(context: InferenceContext) -> APIRouter:
    """The route of chat completions."""
    router = APIRouter()

    @router.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        fields = await read_body(request)
        asked = read_request(fields, max_tokens=DEFAULT_MAX_TOKENS, top_logprobs=_top_logprobs(fields))
        prompt = ChatPrompt(tuple(fields.messages()))
        target = await asyncio.to_thread(context.registry.find, asked.model)
        columns = [Column(target, prompt, strength=asked.strength, draw=draw) for draw in range(asked.num_choices)]
        answer = await start(context, request, columns, asked.sampling)
        head: dict[str, Any] = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": asked.model}
        if asked.wants_stream:
            return event_stream(_chunks(answer, {**head, "object": "chat.completion.chunk"}, asked), closing=DONE)
        texts = await collect(request, answer)
        choices = [_whole(index, text, asked) for index, text in enumerate(texts)]
        counts = usage(answer, [text.end for text in texts], asked.num_choices)
        return JSONResponse({**head, "object": "chat.completion", "choices": choices, "usage": counts})

    return router


def _top_logprobs(fields: Fields) -> int | None:
    wish = fields.integer("top_logprobs", 0, MAX_TOP_LOGPROBS)
    if fields.flag("logprobs"):
        return wish or 0
    if wish:
        raise InvalidRequestError(
            f"top_logprobs is {wish} without logprobs; expected logprobs true beside it. Set both, or none.",
            param="top_logprobs",
        )
    return None


def _whole(index: int, text: Text, asked: OpenAIRequest) -> dict[str, Any]:
    return {
        "index": index,
        "message": {"role": "assistant", "content": text.text},
        "logprobs": chat_logprobs(text.logprobs) if asked.wants_logprobs else None,
        "finish_reason": text.end.finish_reason if text.end else None,
    }


async def _chunks(answer: Answer, head: dict[str, Any], asked: OpenAIRequest) -> AsyncGenerator[dict[str, Any], None]:
    ends: list[Ended | None] = [None] * len(answer.started)
    unsent: list[list[TokenLogprobs]] = [[] for _ in ends]
    for index in range(len(ends)):
        yield {**head, "choices": [_delta(index, {"role": "assistant", "content": ""})]}
    async with aclosing(answer.events) as events:
        async for event in events:
            if isinstance(event, Piece):
                # Tokens go out with the first text behind them, which may be held back for a while.
                unsent[event.column] += [event.logprobs] if event.logprobs is not None else []
                if event.text:
                    tokens, unsent[event.column] = unsent[event.column], []
                    yield {**head, "choices": [_delta(event.column, {"content": event.text}, tokens=tokens)]}
            elif isinstance(event, Ended):
                ends[event.column] = event
                tokens = unsent[event.column]
                yield {**head, "choices": [_delta(event.column, {}, event.finish_reason, tokens=tokens)]}
    if asked.wants_usage:
        yield {**head, "choices": [], "usage": usage(answer, ends, asked.num_choices)}


def _delta(
    index: int, delta: dict[str, str], finish_reason: str | None = None, *, tokens: list[TokenLogprobs] | None = None
) -> dict[str, Any]:
    logprobs = chat_logprobs(tokens) if tokens else None
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
