"""The inference role: HTTP on the loopback, for the web role of this machine and nobody else."""

import asyncio
import hmac
import json
import logging
import os
import secrets
import signal
import socket
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from storage.artifacts import ArtifactStore
from storage.children import end_with_parent
from storage.database import open_database
from storage.logs import set_up_logging
from storage.settings import Settings, read_settings
from worker.engine.base import choose_device
from worker.engine.token_budget import free_bytes
from worker.inference.answers import ClientGoneError, InferenceContext, client_gone
from worker.inference.chat import chat_router
from worker.inference.compare import compare_router
from worker.inference.completions import completions_router
from worker.inference.errors import UnknownModelError, install_error_handlers
from worker.inference.registry import Registry
from worker.inference.residents import Residents
from worker.inference.sharing import LoadGuard, sharing_router

SECRET_HEADER = "X-Prefix-Studio-Secret"
SHUTDOWN_S = 3

logger = logging.getLogger(__name__)


class SecretGate:
    """Lets only those in who know the secret: in a header of our own, or as a bearer token.

    Args:
        app: What lies behind it.
        secret: The secret.
    """

    def __init__(self, app: ASGIApp, secret: str) -> None:
        self.app = app
        self._secret = secret.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers 401 to anybody else."""
        if scope["type"] == "http" and not self._is_known(Headers(scope=scope)):
            message = "This server answers only the app on this machine. Call the app's own address instead."
            error = {"message": message, "type": "invalid_request_error", "param": None, "code": "unauthorized"}
            await JSONResponse({"error": error}, status_code=401)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _is_known(self, headers: Headers) -> bool:
        given = headers.get(SECRET_HEADER) or headers.get("Authorization", "").removeprefix("Bearer ")
        return hmac.compare_digest(given.encode(), self._secret)


class AnnouncingServer(uvicorn.Server):
    """Writes down where it listens once it does.

    Args:
        config: uvicorn's own.
        announcement: The file, and what it says.
    """

    def __init__(self, config: uvicorn.Config, announcement: tuple[Path, dict[str, Any]]) -> None:
        super().__init__(config)
        self._announcement = announcement

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to listen, then says so."""
        await super().startup(sockets)
        if self.started:
            announce(*self._announcement)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Says that it listens no more, then ends what is running."""
        withdraw(self._announcement[0])
        await super().shutdown(sockets)


def create_app(settings: Settings, context: InferenceContext) -> FastAPI:
    """The routes of the role; the gate stands in front of them in `main`."""
    app = FastAPI(title="Prefix Studio inference", openapi_url=None, docs_url=None, redoc_url=None)
    install_error_handlers(app)
    app.add_exception_handler(ClientGoneError, client_gone)
    for router in (completions_router(context), chat_router(context), compare_router(context)):
        app.include_router(router)
    app.include_router(sharing_router(context.residents.runners, free_here))

    @app.get("/healthz")
    async def healthz() -> dict[str, Any]:
        return {"status": "ready", "loaded": context.residents.loaded(), "device": device_name()}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        listing = await asyncio.to_thread(context.registry.listing)
        return {"object": "list", "data": listing}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        listing = await asyncio.to_thread(context.registry.listing)
        found = next((entry for entry in listing if entry["id"] == name), None)
        if found is None:
            raise UnknownModelError(f"There is no model {name!r} on this machine. GET /v1/models lists them.")
        return found

    return app


def announce(path: Path, told: dict[str, Any]) -> None:
    """Writes the file of the role, whole and readable by this user only."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(told, file)
    temporary.replace(path)


def withdraw(path: Path) -> None:
    """Removes the file again where it is this process's own."""
    try:
        if json.loads(path.read_text()).get("pid") == os.getpid():
            path.unlink()
    except (OSError, ValueError):
        return


def device_name() -> str:
    """What the role computes on, as a person calls it."""
    device = choose_device()
    return torch.cuda.get_device_name() if device.type == "cuda" else device.type.upper()


def free_here() -> int:
    """Free memory, in bytes, of the device that the role computes on."""
    return free_bytes(choose_device())


def main(settings: Settings) -> None:
    """Serves until it is told to stop.

    Args:
        settings: Home folder, database and artifacts.
    """
    set_up_logging("inference")
    end_with_parent()
    database = open_database(settings)
    registry = Registry(database, ArtifactStore(settings))
    context = InferenceContext(registry, Residents(settings, registry, guard=LoadGuard(database, free_here)))
    secret = secrets.token_urlsafe(32)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        told = {
            "url": f"http://127.0.0.1:{listener.getsockname()[1]}",
            "secret": secret,
            "pid": os.getpid(),
            "device_name": device_name(),
        }
        config = uvicorn.Config(
            SecretGate(create_app(settings, context), secret),
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=SHUTDOWN_S,
        )
        # uvicorn stops at these, and raises them once more afterwards, when only the database is left to close.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        try:
            AnnouncingServer(config, (settings.inference_file, told)).run(sockets=[listener])
        finally:
            database.close()


if __name__ == "__main__":
    main(read_settings())
