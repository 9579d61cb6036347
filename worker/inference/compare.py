"""`POST /v1/compare`: several models answer one prompt side by side, from one batch."""

import asyncio
import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from typing import Any, get_args

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from storage.settings import MAX_COLUMNS_COMPARED
from worker.engine.chat_template import Message
from worker.engine.rendering import Rendering
from worker.engine.tokens import Context, KindWish
from worker.inference.answers import Answer, InferenceContext, Text, collect, event_stream, start
from worker.inference.batch import Column, Ended, Piece, Proof
from worker.inference.errors import InvalidRequestError
from worker.inference.explanations import Explained, ExplainedEvent, NotExplained
from worker.inference.prompts import ChatPrompt, FieldsPrompt, Prompt, RawPrompt
from worker.inference.registry import PrefixEntry, Registry, Target
from worker.inference.requests import Fields, check_text, read_body

DEFAULT_MAX_TOKENS = 256
MAX_TEMPLATE_CHARACTERS = 20_000
MAX_FIELDS = 200
WAYS = ("prompt", "messages", "fields")
CONTEXTS: tuple[Context, ...] = get_args(Context)
KIND_WISHES: tuple[KindWish, ...] = get_args(KindWish)


def compare_router(context: InferenceContext) -> APIRouter:
    """The route of comparisons."""
    router = APIRouter()

    @router.post("/v1/compare")
    async def compare(request: Request) -> Response:
        fields = await read_body(request)
        asked = await asyncio.to_thread(_asked_models, fields, context.registry)
        columns = _columns(fields, asked)
        sampling = fields.sampling(max_tokens=DEFAULT_MAX_TOKENS, temperature=0.0)
        wants_stream, explains = fields.flag("stream"), fields.flag("explain")
        answer = await start(context, request, columns, sampling, has_proof=wants_stream, explains=explains)
        if wants_stream:
            return event_stream(_events(answer, columns))
        texts = await collect(request, answer)
        return JSONResponse([_whole(column, text) for column, text in zip(columns, texts, strict=True)])

    return router


@dataclass(frozen=True)
class _AskedModel:
    """A column as it was asked for."""

    target: Target
    context: Context
    strength: float
    messages: tuple[Message, ...] | None


def _asked_models(fields: Fields, registry: Registry) -> list[_AskedModel]:
    listed = fields.get("models")
    if not isinstance(listed, list) or not 0 < len(listed) <= MAX_COLUMNS_COMPARED:
        raise InvalidRequestError(
            f"models has to be a list of 1 to {MAX_COLUMNS_COMPARED} model names. Name at least one.", param="models"
        )
    return [_asked_model(entry, registry) for entry in listed]


def _asked_model(entry: Any, registry: Registry) -> _AskedModel:
    named = Fields(entry if isinstance(entry, dict) else {"model": entry})
    name = check_text(named.get("model"), "models", limit=1000)
    context = named.get("context") or "none"
    if context not in CONTEXTS:
        raise InvalidRequestError(
            f"The context of {name!r} is not known; expected one of {', '.join(CONTEXTS)}.", param="models"
        )
    messages = None if named.get("messages") is None else tuple(named.messages())
    return _AskedModel(registry.find(name), context, named.strength(), messages)


def _columns(fields: Fields, asked: Sequence[_AskedModel]) -> list[Column]:
    source = next((each.target.prefix for each in asked if each.target.prefix is not None), None)
    columns = []
    for each, prompt in zip(asked, _prompts(fields, source, asked), strict=True):
        example_source = each.target.prefix or source
        if each.context == "few-shot" and example_source is None:
            raise InvalidRequestError(
                "The context 'few-shot' takes its examples from the rows of a prefix, and none is among the models. "
                "Add one, or choose another context.",
                param="models",
            )
        columns.append(Column(each.target, prompt, each.context, example_source, each.strength))
    return columns


def _prompts(fields: Fields, source: PrefixEntry | None, asked: Sequence[_AskedModel]) -> Sequence[Prompt]:
    """What each column is asked: the same, or the messages that it brings, a conversation of its own."""
    rendering = _rendering(fields, source)[1]
    own = [ChatPrompt(each.messages, rendering) for each in asked if each.messages is not None]
    if not own:
        return [_prompt(fields, source)] * len(asked)
    if len(own) < len(asked) or any(fields.get(name) is not None for name in WAYS):
        raise InvalidRequestError(
            "Some columns have messages of their own; expected them in every column, and no prompt, messages or fields "
            "beside them.",
            param="models",
        )
    return own


def _prompt(fields: Fields, source: PrefixEntry | None) -> Prompt:
    ways = [name for name in WAYS if fields.get(name) is not None]
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


def _asked(column: Column) -> dict[str, Any]:
    """How a column names itself."""
    return {
        "model": column.target.name,
        "context": column.context,
        "strength": round(100 * column.strength, 4),
    }


def _whole(column: Column, text: Text) -> dict[str, Any]:
    end = text.end
    told = {
        **_asked(column),
        "text": text.text,
        "finish_reason": end.finish_reason if end else None,
        "tokens": end.tokens if end else 0,
        "tokens_per_second": end.tokens_per_second if end else 0.0,
        "first_token_s": end.first_token_s if end else 0.0,
    }
    return {**told, "explained": _explained(text.explained)} if text.explained is not None else told


def _explained(explained: Explained) -> dict[str, Any]:
    return {"mean_kl": explained.mean_kl, "tokens": explained.tokens}


async def _events(answer: Answer, columns: Sequence[Column]) -> AsyncGenerator[dict[str, Any], None]:
    yield {
        "prompt": answer.started[0].prompt,
        "columns": [
            {**_without(asdict(started), "prompt_ids"), **_asked(column)}
            for started, column in zip(answer.started, columns, strict=True)
        ],
    }
    async with aclosing(answer.events) as events:
        async for event in events:
            told = _event(event)
            if told is not None:
                yield told


def _event(event: ExplainedEvent) -> dict[str, Any] | None:
    if isinstance(event, Piece):
        return {"column": event.column, "text": event.text} if event.text else None
    if isinstance(event, Ended):
        return {"column": event.column, "done": True, **_without(asdict(event), "column")}
    if isinstance(event, Explained):
        return {"column": event.column, "explained": _explained(event)}
    if isinstance(event, NotExplained):
        return {"column": event.column, "not_explained": event.reason}
    return {"proof": _finite(asdict(event))} if isinstance(event, Proof) else None


def _without(told: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in told.items() if key != name}


def _finite(told: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no infinite numbers: a distribution that rules out what the other takes has no finite distance."""
    return {key: value if value is None or math.isfinite(value) else None for key, value in told.items()}
