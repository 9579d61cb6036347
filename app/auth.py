"""The access token: as a bearer for programs, as a cookie from the sign-in page for browsers. Denied by default."""

import asyncio
import hashlib
import hmac
import html
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.requests import Request, cookie_parser
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.refusal import refuse

COOKIE = "prefix_studio_session"
COOKIE_AGE_S = 30 * 24 * 3600
LOGIN_PATH = "/login"
LOGOUT_PATH = "/logout"
WRONG_TOKEN_PAUSE_S = 1.0
MAX_FORM_BYTES = 4096

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Prefix Studio</title><style>
:root {{ color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }}
body {{ display: grid; place-items: center; min-height: 90vh; margin: 0 1rem; }}
form {{ display: grid; gap: .75rem; width: min(22rem, 100%); }}
h1 {{ font-size: 1.4rem; margin: 0; }} p {{ margin: 0; }}
input, button {{ font: inherit; padding: .6rem .75rem; border-radius: .5rem; border: 1px solid #8888; }}
button {{ background: #0f766e; border-color: #0f766e; color: #fff; cursor: pointer; }}
.fault {{ color: #b91c1c; }} @media (prefers-color-scheme: dark) {{ .fault {{ color: #fca5a5; }} }}
</style></head><body><form method="post" action="/login">
<h1>Prefix Studio</h1><p>Enter the access token that this server was started with.</p>{fault}
<label for="token">Access token</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>
<input name="next" type="hidden" value="{next}"><button type="submit">Sign in</button></form></body></html>"""


class TokenAuth:
    """ASGI middleware that lets nothing pass without the access token, but the sign-in page.

    Args:
        app: What comes after.
        token: The access token.
    """

    def __init__(self, app: ASGIApp, *, token: str) -> None:
        self.app = app
        self.token = token
        # The cookie holds no token, only what can be computed from it.
        self.session = hmac.new(token.encode(), b"prefix-studio-session", hashlib.sha256).hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes one request on, signs someone in or out, or answers 401."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method, headers = scope["path"], scope["method"], Headers(scope=scope)
        if path == LOGIN_PATH:
            response = await self._sign_in(Request(scope, receive)) if method == "POST" else _page("/", status=200)
            await response(scope, receive, send)
        elif self._is_signed_in(headers):
            await (_signed_out() if path == LOGOUT_PATH and method == "POST" else self.app)(scope, receive, send)
        elif method == "GET" and "text/html" in headers.get("accept", ""):
            query = scope.get("query_string", b"").decode("latin-1")
            await _page(f"{path}?{query}" if query else path, status=401)(scope, receive, send)
        else:
            message = "An access token is needed. Send it as 'Authorization: Bearer TOKEN', or sign in on the page."
            await refuse(scope, receive, send, 401, "unauthorized", message)

    def _is_signed_in(self, headers: Headers) -> bool:
        scheme, _, value = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and _equal(value.strip(), self.token):
            return True
        return _equal(cookie_parser(headers.get("cookie", "")).get(COOKIE, ""), self.session)

    async def _sign_in(self, request: Request) -> Response:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_FORM_BYTES:
                return _page("/", status=413, fault="That is too long for an access token.")
        form = parse_qs(body.decode("utf-8", errors="replace"))
        target = form.get("next", ["/"])[0]
        if not _equal(form.get("token", [""])[0], self.token):
            await asyncio.sleep(WRONG_TOKEN_PAUSE_S)
            return _page(target, status=401, fault="That is not the access token of this server.")
        response = RedirectResponse(_own_path(target), status_code=303)
        is_secure = request.url.scheme == "https"
        response.set_cookie(COOKIE, self.session, max_age=COOKIE_AGE_S, httponly=True, samesite="lax", secure=is_secure)
        return response


def _page(target: str, *, status: int, fault: str = "") -> HTMLResponse:
    told = f'<p class="fault" role="alert">{html.escape(fault)}</p>' if fault else ""
    content = PAGE.format(fault=told, next=html.escape(_own_path(target), quote=True))
    return HTMLResponse(content, status_code=status, headers={"Cache-Control": "no-store"})


def _signed_out() -> Response:
    response = RedirectResponse(LOGIN_PATH, status_code=303)
    response.delete_cookie(COOKIE)
    return response


def _own_path(target: str) -> str:
    """A path on this server; anything else (another site, a scheme) becomes the front page."""
    is_own = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
    return target if is_own else "/"


def _equal(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())
