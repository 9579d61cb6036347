"""The OpenAI-compatible interface `/v1/*`: passed on to the inference role as it comes, streams included."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from app.auth import COOKIE
from app.openai_docs import CALLS, request_body
from app.services.health import read_address
from app.services.inference import CONNECT_TIMEOUT_S, NOT_READY, client_headers
from storage.settings import Settings

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 5
MAX_CONNECTIONS = 256
FORWARDED_REQUEST_HEADERS = ("content-type", "accept")
FORWARDED_RESPONSE_HEADERS = ("content-type", "retry-after", "cache-control", "x-accel-buffering")


class InferenceProxy:
    """Passes requests on to the inference role of this machine.

    Args:
        settings: Where that role writes its address and secret.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._client: httpx.AsyncClient | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Holds the connections to the role while the app runs."""
        # Generation may take long, so only connecting has a limit; `trust_env` would send it through a proxy.
        timeout = httpx.Timeout(None, connect=CONNECT_TIMEOUT_S)
        limits = httpx.Limits(max_connections=MAX_CONNECTIONS)
        async with httpx.AsyncClient(timeout=timeout, limits=limits, trust_env=False) as client:
            self._client = client
            yield
        self._client = None

    async def forward(self, request: Request, path: str) -> Response:
        """Passes one request on and streams what comes back; when the caller goes away, the generation ends."""
        address = read_address(self.settings)
        if address is None or self._client is None:
            return _not_ready()
        body = await request.body()
        headers = {name: value for name in FORWARDED_REQUEST_HEADERS if (value := request.headers.get(name))}
        headers |= client_headers(address, *_who(request))
        outgoing = self._client.build_request(
            request.method, f"{address.url}/v1/{path}", params=request.query_params, content=body, headers=headers
        )
        try:
            answer = await _unless_gone(request, self._client.send(outgoing, stream=True))
        except httpx.TransportError as error:
            logger.warning("the inference role does not answer: %r", error)
            return _not_ready()
        if answer is None:
            return Response(status_code=499)
        passed_on = {name: value for name in FORWARDED_RESPONSE_HEADERS if (value := answer.headers.get(name))}
        return StreamingResponse(_relay(answer), status_code=answer.status_code, headers=passed_on)


def proxy_router(proxy: InferenceProxy) -> APIRouter:
    """The routes beneath `/v1`."""
    router = APIRouter(tags=["OpenAI-compatible"])

    def documented(path: str) -> Callable[[Request], Awaitable[Response]]:
        async def call(request: Request) -> Response:
            return await proxy.forward(request, path)

        return call

    for method, path, summary, body in CALLS:
        router.add_api_route(
            f"/v1/{path}",
            documented(path),
            methods=[method],
            summary=summary,
            operation_id=f"v1_{path.replace('/', '_')}",
            openapi_extra=request_body(body),
        )

    @router.api_route("/v1/{path:path}", methods=["GET", "POST"], include_in_schema=False)
    async def forward(request: Request, path: str) -> Response:
        return await proxy.forward(request, path)

    return router


def _who(request: Request) -> tuple[str, str, str]:
    """What tells callers apart: the sign-in, the token and the address; a header of theirs is not believed."""
    peer = request.client.host if request.client else ""
    return request.cookies.get(COOKIE, ""), request.headers.get("authorization", ""), peer


async def _relay(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for chunk in answer.aiter_raw():
            yield chunk
    except httpx.TransportError as error:
        # The head is sent already; a broken stream is all that can still be told.
        logger.warning("the inference role broke off an answer: %r", error)
    finally:
        # Shielded: when the caller has gone, this task is cancelled, and the role must still learn of it.
        with anyio.CancelScope(shield=True):
            await answer.aclose()


async def _unless_gone(request: Request, sending: Coroutine[Any, Any, httpx.Response]) -> httpx.Response | None:
    """Waits for an answer for as long as the caller does; None when the caller has gone."""
    answer = asyncio.ensure_future(sending)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
        return answer.result() if answer.done() else None
    finally:
        gone.cancel()
        answer.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue


def _not_ready() -> Response:
    error = {"message": NOT_READY, "type": "server_error", "param": None, "code": "not_ready"}
    return JSONResponse({"error": error}, status_code=503, headers={"Retry-After": str(RETRY_AFTER_S)})
