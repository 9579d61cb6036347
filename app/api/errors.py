"""Turns every error of a request into `{"error": {"code", "message"}}`, whose message a person can read."""

import json
import logging
import secrets
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Match

from storage.disk import disk_full, is_full
from storage.errors import StudioError
from worker.engine.errors import EngineError

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 5
ENGINE_STATUS = {"out_of_memory": 503}
MAX_SHOWN_CHARACTERS = 80


def install_error_answers(app: FastAPI) -> None:
    """Has the app answer with sentences, whatever a route raises."""
    app.add_exception_handler(StudioError, _answer_studio_error)
    app.add_exception_handler(EngineError, _answer_engine_error)
    app.add_exception_handler(RequestValidationError, _answer_invalid_request)
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_exception_handler(Exception, _answer_unknown_error)


def add_unknown_api_answer(app: FastAPI) -> None:
    """Answers for addresses beneath `/api` that do not exist, before the page mounted at the root would."""

    @app.api_route("/api/{rest:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"], include_in_schema=False)
    async def unknown(request: Request, rest: str) -> None:
        is_known = any(route.matches(request.scope)[0] is Match.PARTIAL for route in app.router.routes)
        raise HTTPException(405 if is_known else 404)


def error_body(code: str, message: str, row: int | None = None) -> dict[str, Any]:
    """The body of an answer that says what went wrong; `row` is there where it speaks of a row of the user's file."""
    # A refusal may repeat half a character that was sent, which no JSON answer could carry.
    message = message.encode("utf-8", "backslashreplace").decode()
    return {"error": {"code": code, "message": message, **({} if row is None else {"row": row})}}


async def _answer_studio_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, StudioError)
    return _answer(error.http_status, error_body(error.code, error.message, error.row))


async def _answer_engine_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, EngineError)
    return _answer(ENGINE_STATUS.get(error.code, 422), error_body(error.code, error.message))


async def _answer_invalid_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return _answer(422, error_body("invalid_request", _sentence(error.errors()[0])))


async def _answer_http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    # A body that no temporary file has room for comes as an error of its parser.
    if isinstance(error.__cause__, OSError) and is_full(error.__cause__):
        return await _answer_studio_error(request, disk_full("receiving the upload"))
    messages = {
        404: f"There is nothing at {request.url.path}. The routes are listed at /docs.",
        405: f"{request.method} is not possible at {request.url.path}. The routes are listed at /docs.",
    }
    # A detail that is not the standard phrase was written for the reader.
    is_own = error.detail not in ("Not Found", "Method Not Allowed")
    message = str(error.detail) if is_own else messages.get(error.status_code, str(error.detail))
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
    return _answer(error.status_code, error_body(code, message), dict(error.headers or {}))


async def _answer_unknown_error(request: Request, error: Exception) -> JSONResponse:
    fault = secrets.token_hex(4)
    logger.error("fault %s in %s %s", fault, request.method, request.url.path, exc_info=error)
    message = (
        f"Something went wrong here, and it is not your doing. Try again; if it stays, the log has it as fault {fault}."
    )
    return _answer(500, error_body("internal", message))


def _answer(status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> JSONResponse:
    retry = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else {}
    return JSONResponse(body, status, headers={**retry, **(headers or {})})


def _sentence(error: dict[str, Any]) -> str:
    """What one failed check says, naming the place and what stood there."""
    place, *path = [str(part) for part in error["loc"]]
    name = ".".join(path)
    kind, where = error["type"], {"body": "the body", "query": "the address", "path": "the path"}.get(place, place)
    if kind == "json_invalid":
        return f"The body is not valid JSON: {error.get('ctx', {}).get('error', 'it cannot be read')}."
    if kind == "missing":
        return f"{name!r} is missing in {where}." if name else "The request has no body; expected JSON."
    if kind == "extra_forbidden":
        return f"{name!r} in {where} is not known here. The fields are listed at /docs."
    reason = str(error["msg"]).removeprefix("Value error, ")
    got = json.dumps(error.get("input"), ensure_ascii=False, default=lambda value: type(value).__name__)
    got = got if len(got) <= MAX_SHOWN_CHARACTERS else f"{got[:MAX_SHOWN_CHARACTERS]}…"
    subject = f"{name!r} in {where}" if name else where.capitalize()
    return f"{subject} is {got}: {reason[:1].lower()}{reason[1:]}."
