"""Errors in the form that OpenAI's clients read: `{"error": {"message", "type", "param", "code"}}`."""

import logging
from typing import Any, ClassVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from storage.errors import BusyError, StudioError
from worker.engine.errors import EngineError

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 2
UNEXPECTED = "Something went wrong in the model server. Its log says more; try again, or restart the app."


class InvalidRequestError(StudioError):
    """A field of a request cannot be used.

    Args:
        message: The sentence.
        param: Name of the field.
    """

    code: ClassVar[str] = "invalid_request"
    http_status: ClassVar[int] = 400

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class UnknownModelError(StudioError):
    """Neither a base model nor a prefix has that name."""

    code: ClassVar[str] = "model_not_found"
    http_status: ClassVar[int] = 404


def install_error_handlers(app: FastAPI) -> None:
    """Makes every refusal of an app take OpenAI's form."""
    app.add_exception_handler(StudioError, _answer)
    app.add_exception_handler(EngineError, _answer)
    app.add_exception_handler(HTTPException, _answer)
    app.add_exception_handler(Exception, _answer)


def status_of(error: BaseException) -> int:
    """The HTTP status that fits an error."""
    if isinstance(error, StudioError):
        return error.http_status
    if isinstance(error, HTTPException):
        return error.status_code
    return 400 if isinstance(error, EngineError) else 500


def error_body(error: BaseException) -> dict[str, Any]:
    """The body that tells of an error; what is not meant for a reader goes to the log instead."""
    status = status_of(error)
    if isinstance(error, StudioError | EngineError):
        message, code = error.message, error.code
    elif isinstance(error, HTTPException):
        message, code = str(error.detail), "http_error"
    else:
        logger.error("an unexpected error", exc_info=error)
        message, code = UNEXPECTED, "unexpected"
    # A refusal may repeat half a character that was sent, which no JSON answer could carry.
    message = message.encode("utf-8", "backslashreplace").decode()
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": getattr(error, "param", None), "code": code}}


async def _answer(request: Request, error: Exception) -> JSONResponse:
    headers = {"Retry-After": str(RETRY_AFTER_S)} if isinstance(error, BusyError) else None
    return JSONResponse(error_body(error), status_code=status_of(error), headers=headers)
