"""A running web role, page included, with an access token."""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from storage.migrate import migrate
from storage.settings import read_settings

PROJECT = Path(__file__).parents[1]
TOKEN = "a long secret"

LIST_ROUTES = """
import json, re, sys
from starlette.routing import Mount
from app.main import create_app
from storage.settings import read_settings

def every_route(routes, prefix=""):
    for route in routes:
        path = prefix + getattr(route, "path", "")
        if isinstance(route, Mount) or hasattr(route, "routes"):
            yield from every_route(route.routes or [], path.rstrip("/"))
        elif hasattr(route, "original_router"):
            context = route.include_context
            yield from every_route(route.original_router.routes, prefix + context.prefix)
        else:
            for method in getattr(route, "methods", None) or {"GET"}:
                yield method, re.sub(r"{[^}]*}", "x", path) or "/"

print(json.dumps(sorted(set(every_route(create_app(read_settings()).routes)))))
"""


class Web:
    """A running web role with an access token, one client that has it and one that has not."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.home = folder
        given = {"PREFIX_STUDIO_HOME": str(folder), "PREFIX_STUDIO_TOKEN": TOKEN, "PREFIX_STUDIO_PORT": str(port)}
        migrate(read_settings(given))
        self.environment = {**os.environ, **given}
        self.log = (folder / "log").open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "app.web"], cwd=PROJECT, env=self.environment, stderr=self.log, stdout=self.log
        )
        url = f"http://127.0.0.1:{port}"
        self.stranger = httpx.Client(base_url=url, trust_env=False, timeout=60.0)
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        self.user = httpx.Client(base_url=url, trust_env=False, timeout=60.0, headers=bearer)

    def wait(self) -> None:
        deadline = time.monotonic() + 90.0
        while time.monotonic() < deadline:
            assert self.process.poll() is None, (self.home / "log").read_text()[-2000:]
            try:
                self.stranger.get("/healthz")
                return
            except httpx.TransportError:
                time.sleep(0.1)
        raise AssertionError((self.home / "log").read_text()[-2000:])

    def routes(self) -> list[tuple[str, str]]:
        command = [sys.executable, "-c", LIST_ROUTES]
        listed = subprocess.run(command, cwd=PROJECT, env=self.environment, capture_output=True, text=True, check=True)
        return [(method, path) for method, path in json.loads(listed.stdout)]

    def handlers(self) -> list[dict[str, Any]]:
        """Every event handler of the page."""
        return list(self.config()["dependencies"])

    def config(self) -> dict[str, Any]:
        """What the page is made of."""
        return dict(self.user.get("/config").json())

    def call(self, handler: dict[str, Any], data: list[Any]) -> str:
        """Calls a handler as the page does, through the queue; returns the last message."""
        session = secrets.token_hex(8)
        body = {"data": data, "fn_index": handler["id"], "session_hash": session}
        joined = self.user.post("/gradio_api/queue/join", json=body)
        if joined.status_code != 200:
            return joined.text
        with self.user.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as messages:
            for line in messages.iter_lines():
                if "process_completed" in line or "close_stream" in line:
                    return line
        raise AssertionError("the handler never ended")

    def close(self) -> None:
        self.stranger.close()
        self.user.close()
        self.process.terminate()
        self.process.wait(timeout=20)
        self.log.close()
