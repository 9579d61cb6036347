"""How the middlewares say no: the same JSON as REST's errors, straight over ASGI."""

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send


async def refuse(
    scope: Scope, receive: Receive, send: Send, status: int, code: str, message: str, retry_after_s: int | None = None
) -> None:
    """Answers a request with an error before the app sees it."""
    headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    response = JSONResponse({"error": {"code": code, "message": message}}, status_code=status, headers=headers)
    await response(scope, receive, send)
