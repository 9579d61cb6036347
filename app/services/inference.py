"""The page's way to the inference role: comparisons as they are written."""

import json
from collections.abc import Generator, Iterator
from typing import Any

import httpx

from app.context import AppContext
from app.services.health import inference_state, read_address
from storage.errors import BusyError, InvalidInputError, StudioError

CONNECT_TIMEOUT_S = 5.0
NOT_READY = "The model server is still starting, or starts again. Try again in a few seconds."


def compare_stream(context: AppContext, body: dict[str, Any]) -> Generator[dict[str, Any], None, None]:
    """Answers of several models to one prompt, from one batch, piece by piece.

    Args:
        context: The open stores.
        body: As for `POST /v1/compare`; `stream` is set here. Closing the iterator ends the generation.

    Yields:
        The events of the stream.

    Raises:
        BusyError: The inference role is not up.
        StudioError: It refuses the request, in its own sentence.
    """
    address = read_address(context.settings)
    if address is None:
        raise BusyError(NOT_READY)
    timeout = httpx.Timeout(None, connect=CONNECT_TIMEOUT_S)
    try:
        with (
            httpx.Client(trust_env=False, timeout=timeout) as client,
            client.stream(
                "POST", f"{address.url}/v1/compare", json={**body, "stream": True}, headers=address.headers
            ) as answer,
        ):
            if not answer.is_success:
                raise _refusal(answer)
            yield from _events(answer.iter_lines())
    except httpx.TransportError as error:
        raise BusyError(NOT_READY) from error


def is_up(context: AppContext) -> bool:
    """Whether the inference role answers."""
    return bool(inference_state(context.settings)["state"] == "ready")


def device_name(context: AppContext) -> str | None:
    """What the inference role computes on, where it has said so."""
    try:
        told = json.loads(context.settings.inference_file.read_text())
    except (OSError, ValueError):
        return None
    return str(told["device_name"]) if isinstance(told, dict) and told.get("device_name") else None


def _events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            return
        event = json.loads(data)
        if "error" in event:
            raise StudioError(_message(event))
        yield event


def _refusal(answer: httpx.Response) -> StudioError:
    answer.read()
    try:
        message = _message(answer.json())
    except ValueError:
        message = f"The model server answered with code {answer.status_code}. Its log says more."
    return BusyError(message) if answer.status_code == 503 else InvalidInputError(message)


def _message(body: Any) -> str:
    error = body.get("error") if isinstance(body, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    return str(message or "The model server gave no reason. Its log says more.")
