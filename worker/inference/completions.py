"""`POST /v1/completions`: raw text goes on, in OpenAI's form."""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from worker.inference.answers import Answer, InferenceContext, Text, collect, event_stream, start
from worker.inference.batch import Column, Ended, Piece
from worker.inference.errors import InvalidRequestError
from worker.inference.logprobs import TokenLogprobs, completion_logprobs
from worker.inference.openai_request import DONE, MAX_CHOICES, OpenAIRequest, read_request, usage
from worker.inference.prompts import RawPrompt
from worker.inference.requests import Fields, check_text, read_body, shown

DEFAULT_MAX_TOKENS = 16
"""What OpenAI's interface takes where a request names none."""

MAX_LOGPROBS = 5


def completions_router(context: InferenceContext) -> APIRouter:
    """The route of raw completions."""
    router = APIRouter()

    @router.post("/v1/completions")
    async def complete(request: Request) -> Response:
        fields = await read_body(request)
        top_logprobs = fields.integer("logprobs", 0, MAX_LOGPROBS) if fields.get("logprobs") is not False else None
        asked = read_request(fields, max_tokens=DEFAULT_MAX_TOKENS, top_logprobs=top_logprobs)
        prompts = _prompts(fields, asked.num_choices)
        target = await asyncio.to_thread(context.registry.find, asked.model)
        columns = [
            Column(target, RawPrompt(prompt), strength=asked.strength, draw=draw)
            for prompt in prompts
            for draw in range(asked.num_choices)
        ]
        answer = await start(context, request, columns, asked.sampling)
        head = {"id": f"cmpl-{uuid.uuid4().hex}", "object": "text_completion", "created": int(time.time())}
        head["model"] = asked.model
        if asked.wants_stream:
            return event_stream(_chunks(answer, head, asked), closing=DONE)
        texts = await collect(request, answer)
        choices = [_whole(index, text, asked) for index, text in enumerate(texts)]
        ends = [text.end for text in texts]
        return JSONResponse({**head, "choices": choices, "usage": usage(answer, ends, asked.num_choices)})

    return router


def _prompts(fields: Fields, num_choices: int) -> list[str]:
    given = fields.get("prompt")
    listed = given if isinstance(given, list) else [given]
    if any(isinstance(prompt, int | list) for prompt in listed):
        raise InvalidRequestError(
            f"prompt is {shown(given)}; expected a text or a list of texts. Token ids are not taken: send the text.",
            param="prompt",
        )
    if not listed or len(listed) * num_choices > MAX_CHOICES:
        raise InvalidRequestError(
            f"The request asks for {len(listed)} prompts times {num_choices} answers; expected 1 to {MAX_CHOICES} "
            "answers in all. Send several requests.",
            param="prompt",
        )
    is_list = isinstance(given, list)
    return [check_text(text, f"prompt[{index}]" if is_list else "prompt") for index, text in enumerate(listed)]


def _choice(index: int, text: str, finish_reason: str | None, logprobs: dict[str, Any] | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}


def _whole(index: int, text: Text, asked: OpenAIRequest) -> dict[str, Any]:
    logprobs = completion_logprobs(text.logprobs) if asked.wants_logprobs else None
    return _choice(index, text.text, text.end.finish_reason if text.end else None, logprobs)


@dataclass
class _Unsent:
    """Tokens of a choice whose text is held back, and the characters of those that were sent."""

    tokens: list[TokenLogprobs] = field(default_factory=list)
    offset: int = 0

    def take(self) -> dict[str, Any]:
        told = completion_logprobs(self.tokens, self.offset)
        self.offset += sum(len(token.token) for token in self.tokens)
        self.tokens = []
        return told


async def _chunks(answer: Answer, head: dict[str, Any], asked: OpenAIRequest) -> AsyncGenerator[dict[str, Any], None]:
    ends: list[Ended | None] = [None] * len(answer.started)
    unsent = [_Unsent() for _ in ends]
    async with aclosing(answer.events) as events:
        async for event in events:
            if isinstance(event, Piece):
                waiting = unsent[event.column]
                waiting.tokens += [event.logprobs] if event.logprobs is not None else []
                if event.text:
                    logprobs = waiting.take() if asked.wants_logprobs else None
                    yield {**head, "choices": [_choice(event.column, event.text, None, logprobs)]}
            elif isinstance(event, Ended):
                ends[event.column] = event
                logprobs = unsent[event.column].take() if unsent[event.column].tokens else None
                yield {**head, "choices": [_choice(event.column, "", event.finish_reason, logprobs)]}
    if asked.wants_usage:
        yield {**head, "choices": [], "usage": usage(answer, ends, asked.num_choices)}
