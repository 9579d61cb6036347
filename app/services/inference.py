"""The page's way to the inference role: comparisons as they are written."""

import hashlib
import hmac
import json
from collections.abc import Generator, Iterator
from typing import Any

import httpx

from app.context import AppContext
from app.services.health import InferenceAddress, inference_state, read_address
from storage.errors import BusyError, InvalidInputError, StudioError

CONNECT_TIMEOUT_S = 5.0
CLIENT_HEADER = "X-Prefix-Studio-Client"
NOT_READY = "The model server is still starting, or starts again. Try again in a few seconds."


def compare_stream(
    context: AppContext, body: dict[str, Any], *, client: str = "page"
) -> Generator[dict[str, Any], None, None]:
    """Answers of several models to one prompt, from one batch, piece by piece.

    Args:
        context: The open stores.
        body: As for `POST /v1/compare`; `stream` is set here. Closing the iterator ends the generation.
        client: Who asks, as a session's hash: turns are taken by client.

    Yields:
        The events of the stream.

    Raises:
        BusyError: The inference role is not up.
        StudioError: It refuses the request, in its own sentence.
    """
    address = _address(context)
    headers = client_headers(address, client)
    try:
        with (
            _http_client() as http_client,
            http_client.stream(
                "POST", f"{address.url}/v1/compare", json={**body, "stream": True}, headers=headers
            ) as answer,
        ):
            if not answer.is_success:
                raise _refusal(answer)
            yield from _events(answer.iter_lines())
    except httpx.TransportError as error:
        raise BusyError(NOT_READY) from error


def compare(context: AppContext, body: dict[str, Any], *, client: str = "page") -> list[dict[str, Any]]:
    """Whole answers of several models to one prompt, from one batch.

    Args:
        context: The open stores.
        body: As for `POST /v1/compare`; `stream` is switched off here.
        client: Who asks, as a session's hash: turns are taken by client.

    Returns:
        In the order of the columns, each `{"model", "context", "text", "finish_reason", "tokens", …}`.

    Raises:
        BusyError: The inference role is not up, or has too much to do.
        StudioError: It refuses the request, in its own sentence.
    """
    address = _address(context)
    headers = client_headers(address, client)
    try:
        with _http_client() as http_client:
            answer = http_client.post(f"{address.url}/v1/compare", json={**body, "stream": False}, headers=headers)
    except httpx.TransportError as error:
        raise BusyError(NOT_READY) from error
    return _columns_of(answer)


async def compare_later(
    http_client: httpx.AsyncClient, context: AppContext, body: dict[str, Any], *, client: str = "page"
) -> list[dict[str, Any]]:
    """As `compare`, for whoever asks much at once; cancelling it ends the generation.

    Args:
        http_client: Of `many_requests`.
        context: The open stores.
        body: As for `POST /v1/compare`; `stream` is switched off here.
        client: Who asks, as a session's hash: turns are taken by client.

    Raises:
        BusyError: The inference role is not up, or has too much to do.
        StudioError: It refuses the request, in its own sentence.
    """
    address = _address(context)
    headers = client_headers(address, client)
    try:
        answer = await http_client.post(f"{address.url}/v1/compare", json={**body, "stream": False}, headers=headers)
    except httpx.TransportError as error:
        raise BusyError(NOT_READY) from error
    return _columns_of(answer)


def many_requests() -> httpx.AsyncClient:
    """A client for many requests to the inference role at once; close it when they are done."""
    # The role listens on this machine, without certificates; reading those of the system takes a while.
    return httpx.AsyncClient(trust_env=False, verify=False, timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S))


def client_headers(address: InferenceAddress, *who: str) -> dict[str, str]:
    """Headers of a call for someone: the secret, and a name that tells clients apart and nothing else of them.

    Args:
        address: The inference role.
        who: What tells this client from others, such as its session and its address.
    """
    told = "\0".join(who).encode("utf-8", "surrogateescape")
    name = hmac.new(address.secret.encode(), told, hashlib.sha256).hexdigest()[:32]
    return {**address.headers, CLIENT_HEADER: name}


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


def _address(context: AppContext) -> InferenceAddress:
    address = read_address(context.settings)
    if address is None:
        raise BusyError(NOT_READY)
    return address


def _http_client() -> httpx.Client:
    # Generation may take long, so only connecting has a limit; `trust_env` would send it through a proxy.
    return httpx.Client(trust_env=False, timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S))


def _events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            return
        event = json.loads(data)
        if "error" in event:
            raise _fault(event)
        yield event


def _columns_of(answer: httpx.Response) -> list[dict[str, Any]]:
    if not answer.is_success:
        raise _refusal(answer)
    columns: list[dict[str, Any]] = answer.json()
    return columns


def _refusal(answer: httpx.Response) -> StudioError:
    answer.read()
    try:
        message = _message(answer.json())
    except ValueError:
        message = f"The model server answered with code {answer.status_code}. Its log says more."
    return BusyError(message) if answer.status_code == 503 else InvalidInputError(message)


def _fault(event: dict[str, Any]) -> StudioError:
    """What ended a stream that had begun; a request that gave way to others may come again."""
    error = event["error"]
    is_busy = isinstance(error, dict) and error.get("code") == BusyError.code
    return BusyError(_message(event)) if is_busy else StudioError(_message(event))


def _message(body: Any) -> str:
    error = body.get("error") if isinstance(body, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    return str(message or "The model server gave no reason. Its log says more.")
