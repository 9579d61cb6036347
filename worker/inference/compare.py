"""`POST /v1/compare`: several models answer one prompt side by side, from one batch."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import asdict
from typing import Any, get_args

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from storage.settings import MAX_COLUMNS_COMPARED
from worker.engine.rendering import Rendering
from worker.engine.tokens import Context, KindWish
from worker.inference.answers import Answer, InferenceContext, Text, collect, event_stream, start
from worker.inference.batch import BatchEvent, Column, Ended, Piece, Proof
from worker.inference.errors import InvalidRequestError
from worker.inference.prompts import ChatPrompt, FieldsPrompt, Prompt, RawPrompt
from worker.inference.registry import PrefixEntry, Registry, Target
from worker.inference.requests import Fields, check_text, read_body

DEFAULT_MAX_TOKENS = 256
MAX_TEMPLATE_CHARACTERS = 20_000
MAX_FIELDS = 200
CONTEXTS: tuple[Context, ...] = get_args(Context)
KIND_WISHES: tuple[KindWish, ...] = get_args(KindWish)


def compare_router(context: InferenceContext) -> APIRouter:
    """The route of comparisons."""
    router = APIRouter()

    @router.post("/v1/compare")
    async def compare(request: Request) -> Response:
        fields = await read_body(request)
        models = await asyncio.to_thread(_models, fields, context.registry)
        columns = _columns(fields, models)
        sampling = fields.sampling(max_tokens=DEFAULT_MAX_TOKENS, temperature=0.0)
        wants_stream = fields.flag("stream")
        answer = await start(context, request, columns, sampling, has_proof=wants_stream)
        if wants_stream:
            return event_stream(_events(answer, columns))
        texts = await collect(request, answer)
        return JSONResponse([_whole(column, text) for column, text in zip(columns, texts, strict=True)])

    return router


def _models(fields: Fields, registry: Registry) -> list[tuple[Target, Context]]:
    listed = fields.get("models")
    if not isinstance(listed, list) or not 0 < len(listed) <= MAX_COLUMNS_COMPARED:
        raise InvalidRequestError(
            f"models has to be a list of 1 to {MAX_COLUMNS_COMPARED} model names. Name at least one.", param="models"
        )
    return [_model(entry, registry) for entry in listed]


def _model(entry: Any, registry: Registry) -> tuple[Target, Context]:
    named = entry if isinstance(entry, dict) else {"model": entry}
    name = check_text(named.get("model"), "models", limit=1000)
    context = named.get("context") or "none"
    if context not in CONTEXTS:
        raise InvalidRequestError(
            f"The context of {name!r} is not known; expected one of {', '.join(CONTEXTS)}.", param="models"
        )
    return registry.find(name), context


def _columns(fields: Fields, models: Sequence[tuple[Target, Context]]) -> list[Column]:
    source = next((target.prefix for target, _ in models if target.prefix is not None), None)
    prompt = _prompt(fields, source)
    columns = []
    for target, context in models:
        example_source = target.prefix or source
        if context == "few-shot" and example_source is None:
            raise InvalidRequestError(
                "The context 'few-shot' takes its examples from the rows of a prefix, and none is among the models. "
                "Add one, or choose another context.",
                param="models",
            )
        columns.append(Column(target, prompt, context, example_source))
    return columns


def _prompt(fields: Fields, source: PrefixEntry | None) -> Prompt:
    ways = [name for name in ("prompt", "messages", "fields") if fields.get(name) is not None]
    if len(ways) != 1:
        raise InvalidRequestError(
            f"The request has {' and '.join(ways) or 'nothing to ask'}; expected one of prompt, messages and fields."
        )
    wish, rendering = _rendering(fields, source)
    if ways == ["prompt"]:
        return RawPrompt(fields.text("prompt"), rendering)
    if ways == ["messages"]:
        return ChatPrompt(tuple(fields.messages()), rendering)
    if rendering is None or not rendering.template:
        raise InvalidRequestError(
            "The fields need a template: put a prefix that has one among the models, or send `rendering`.",
            param="fields",
        )
    return FieldsPrompt(_cells(fields.get("fields")), rendering, wish)


def _rendering(fields: Fields, source: PrefixEntry | None) -> tuple[KindWish, Rendering | None]:
    """The rendering that was sent, or that of the first prefix, and the kind that is wished for."""
    given = fields.get("rendering")
    if given is None:
        return ("auto", None) if source is None else (source.rendering.kind, source.rendering)
    wish = (given.get("kind") or "auto") if isinstance(given, dict) else None
    if wish not in KIND_WISHES:
        raise InvalidRequestError(
            f"rendering has to be an object with a template and a kind of {', '.join(KIND_WISHES)}.", param="rendering"
        )
    values = Fields({"instruction": "", "template": "", **given})
    rendering = Rendering(
        kind="plain",
        template=values.text("template", limit=MAX_TEMPLATE_CHARACTERS),
        target="",
        instruction=values.text("instruction", limit=MAX_TEMPLATE_CHARACTERS),
    )
    return wish, rendering


def _cells(given: Any) -> dict[str, str]:
    if not isinstance(given, dict) or len(given) > MAX_FIELDS:
        raise InvalidRequestError(
            f"fields has to be an object of up to {MAX_FIELDS} columns with their texts.", param="fields"
        )
    return {check_text(name, "fields"): check_text(text, f"fields.{name}") for name, text in given.items()}


def _whole(column: Column, text: Text) -> dict[str, Any]:
    end = text.end
    return {
        "model": column.target.name,
        "context": column.context,
        "text": text.text,
        "finish_reason": end.finish_reason if end else None,
        "tokens": end.tokens if end else 0,
        "tokens_per_second": end.tokens_per_second if end else 0.0,
    }


async def _events(answer: Answer, columns: Sequence[Column]) -> AsyncGenerator[dict[str, Any], None]:
    yield {
        "prompt": answer.started[0].prompt,
        "columns": [
            {
                **{name: value for name, value in asdict(started).items() if name != "prompt_ids"},
                "model": column.target.name,
                "context": column.context,
            }
            for started, column in zip(answer.started, columns, strict=True)
        ],
    }
    async with aclosing(answer.events) as events:
        async for event in events:
            told = _event(event)
            if told is not None:
                yield told


def _event(event: BatchEvent) -> dict[str, Any] | None:
    if isinstance(event, Piece):
        return {"column": event.column, "text": event.text} if event.text else None
    if isinstance(event, Ended):
        return {"column": event.column, "done": True, **{k: v for k, v in asdict(event).items() if k != "column"}}
    return {"proof": asdict(event)} if isinstance(event, Proof) else None
