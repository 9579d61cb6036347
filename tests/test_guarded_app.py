"""The guards on the whole web role, page included: nothing answers a stranger, no file of the machine gets out."""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

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


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    web = Web(tmp_path_factory.mktemp("home"))
    web.wait()
    yield web
    web.close()


def test_no_route_answers_a_stranger(web: Web) -> None:
    routes = web.routes()
    paths = {path for _, path in routes}
    expected = {"/", "/healthz", "/api/v1/jobs", "/api/v1/jobs/x/events", "/v1/x", "/config", "/docs", "/openapi.json"}
    assert expected | {"/gradio_api/queue/join", "/gradio_api/upload", "/gradio_api/file=x"} <= paths
    codes = {f"{method} {path}": web.stranger.request(method, path).status_code for method, path in routes}
    # The closed routes of Gradio are gone for everybody, the sign-in page is there for everybody.
    closed = {where for where, code in codes.items() if code == 404}
    assert all(word.split()[1].startswith(("/gradio_api/", "/monitoring")) for word in closed)
    assert {where: code for where, code in codes.items() if code not in (401, 404) and " /login" not in where} == {}


def test_token_opens_page_and_rest(web: Web) -> None:
    for path in ("/", "/api/v1/jobs", "/healthz", "/docs", "/config"):
        assert web.user.get(path).status_code == 200


def test_file_of_the_machine_does_not_pass_as_an_upload(web: Web) -> None:
    planted = web.home / "planted.csv"
    planted.write_text("secret,word\n" + "hidden,here\n" * 20)
    file_ids = {each["id"] for each in web.config()["components"] if each["type"] in ("file", "uploadbutton")}
    takers = [handler for handler in web.handlers() if file_ids & set(handler["inputs"])]
    assert takers
    for handler in takers:
        for path in (str(planted), "/etc/passwd"):
            file = {"path": path, "meta": {"_type": "gradio.FileData"}}
            for data in (file, [file]):
                told = web.call(handler, [data] * len(handler["inputs"]))
                assert "hidden" not in told
                assert "root:" not in told
    assert web.user.get("/api/v1/datasets").json() == []


def test_files_of_the_machine_and_of_the_home_folder_are_not_served(web: Web) -> None:
    (web.home / "secret.txt").write_text("do not show")
    for path in ("/etc/passwd", f"{web.home}/secret.txt", f"{web.home}/studio.db", "../../../../etc/passwd"):
        for route in (f"/gradio_api/file={path}", f"/gradio_api/file/{path}", f"/file={path}", f"/static/{path}"):
            answer = web.user.get(route)
            assert answer.status_code in (400, 403, 404, 422), route
            assert "do not show" not in answer.text


def test_name_of_an_uploaded_file_leads_nowhere(web: Web) -> None:
    answer = web.user.post("/gradio_api/upload", files={"files": ("../../a.csv", b"a,b\n1,2\n")})
    assert answer.status_code == 200
    assert ".." not in answer.text


def test_error_of_a_handler_does_not_tell_how_it_is_built(web: Web) -> None:
    for handler in web.handlers()[:20]:
        told = web.call(handler, [{"unforeseen": [1]}] * len(handler["inputs"]))
        assert "Traceback" not in told
        assert "site-packages" not in told
        assert "Error(" not in told


def test_page_carries_the_headers(web: Web) -> None:
    headers = web.user.get("/").headers
    assert headers["x-frame-options"] == "DENY"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "server" not in headers
