"""What every answer carries and which requests are refused before the app sees them, as plain ASGI middlewares."""

import ipaddress
import re
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.policy import content_security_policy
from app.refusal import refuse
from storage.settings import is_loopback

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}

REFUSED_PATHS = re.compile(
    r"^(/gradio_api)?/("
    r"proxy=|file=(https?:|//)|monitoring|deep_link|dev/reload|vibe-|undo-vibe-|profiling|runs(/|$)|run-history"
    r"|component_server|process_recording|custom_component"
    r")",
    re.IGNORECASE,
)
"""Routes that Gradio opens and the page does not need: they fetch URLs, tell of other sessions, or run code."""

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
CORS_PREFIX = "access-control-"


class ResponseHeaders:
    """ASGI middleware that puts the security headers on every answer, and takes away what others say about CORS."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes one request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        held: Message | None = None
        page = b""

        async def send_with_headers(message: Message) -> None:
            nonlocal held, page
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                _dress(headers)
                if headers.get("content-type", "").startswith("text/html"):
                    held = message  # its policy names the scripts that are still to come
                    return
                headers["Content-Security-Policy"] = content_security_policy()
            elif held is not None:
                page += message.get("body", b"")
                if message.get("more_body", False):
                    return
                policy = content_security_policy(page)
                MutableHeaders(scope=held)["Content-Security-Policy"] = policy
                await send(held)
                held, message = None, {**message, "body": page}
            await send(message)

        await self.app(scope, receive, send_with_headers)


class RequestGuard:
    """ASGI middleware that refuses foreign hosts, foreign origins and routes that nobody needs.

    Args:
        app: What comes after.
        host: The address that the web role binds.
        has_token: Whether an access token guards the app. Without one, anything that reaches the loopback is the
            user, so a foreign name that resolves to it (DNS rebinding) must be turned away.
    """

    def __init__(self, app: ASGIApp, *, host: str, has_token: bool) -> None:
        self.app = app
        self.checks_host = is_loopback(host) and not has_token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes one request on, or refuses it."""
        if scope["type"] == "websocket":
            return
        if scope["type"] == "http":
            refusal = self._refusal(scope)
            if refusal is not None:
                await refuse(scope, receive, send, *refusal)
                return
        await self.app(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str, str] | None:
        headers = Headers(scope=scope)
        if self.checks_host and not is_local_name(headers.get("host", "")):
            return 421, "wrong_host", "This address is not one of Prefix Studio. Open http://127.0.0.1 with its port."
        if REFUSED_PATHS.match(scope["path"]):
            return 404, "not_found", "There is no such page."
        if scope["method"] not in SAFE_METHODS and not is_same_origin(headers):
            return (
                403,
                "cross_site",
                "A page of another site sent this, so it was not done. Use Prefix Studio's own page.",
            )
        return None


def is_local_name(host: str) -> bool:
    """Whether a Host header names this machine's loopback."""
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def is_same_origin(headers: Headers) -> bool:
    """Whether a request comes from a page of this app, or from no page at all (a program).

    Browsers tell where a request that changes something comes from; programs say nothing of it. A bearer token is never
    sent by a browser on its own, so a request with one needs no such check.
    """
    if headers.get("authorization", "").lower().startswith("bearer "):
        return True
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc == headers.get("host")


def _dress(headers: MutableHeaders) -> None:
    for name in [name for name in headers if name.lower().startswith(CORS_PREFIX)]:
        del headers[name]
    for name, value in HEADERS.items():
        headers[name] = value
