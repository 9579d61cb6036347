"""The way to the inference role: streams pass as they come, and a role that is away is told in OpenAI's form."""

import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.testclient import TestClient

from app.context import AppContext
from app.main import create_app
from app.services.inference import CLIENT_HEADER, compare, compare_stream
from storage.artifacts import ArtifactStore
from storage.database import Database
from storage.errors import BusyError, InvalidInputError
from storage.settings import Settings

SECRET = "between the roles"
BASE_URL = "http://127.0.0.1"


class FakeRole:
    """An inference role that streams slowly and notices when its caller goes away."""

    def __init__(self) -> None:
        self.seen: list[dict[str, str]] = []
        self.gone = threading.Event()
        self.app = FastAPI()
        self.app.add_api_route("/v1/completions", self.complete, methods=["POST"])
        self.app.add_api_route("/v1/compare", self.compare, methods=["POST"])
        self.app.add_api_route("/v1/models/{name:path}", self.model)
        config = uvicorn.Config(self.app, port=0, log_level="error", timeout_graceful_shutdown=1)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    def start(self) -> str:
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        return f"http://127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}"

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join()

    async def complete(self, request: Request) -> StreamingResponse:
        self.seen.append(dict(request.headers))
        body = await request.json()
        return StreamingResponse(self._tokens(request, body["max_tokens"]), media_type="text/event-stream")

    async def compare(self, request: Request) -> object:
        self.seen.append(dict(request.headers))
        body = await request.json()
        if not body["models"]:
            return JSONResponse({"error": {"message": "No model is named.", "code": "invalid_request"}}, 400)
        if body["models"] == ["busy"]:
            error = {"message": "50 requests already wait.", "code": "busy"}
            return JSONResponse({"error": error}, 503, headers={"Retry-After": "2"})
        if not body.get("stream"):
            return [{"model": model, "text": "soup"} for model in body["models"]]
        return StreamingResponse(self._tokens(request, 3), media_type="text/event-stream")

    async def model(self, name: str) -> dict[str, str]:
        return {"id": name}

    async def _tokens(self, request: Request, count: int) -> AsyncIterator[str]:
        import anyio

        try:
            for number in range(count):
                yield f"data: {json.dumps({'column': 0, 'text': str(number)})}\n\n"
                await anyio.sleep(0.02)
            yield "data: [DONE]\n\n"
        finally:
            self.gone.set()


@pytest.fixture
def role(settings: Settings) -> Iterator[FakeRole]:
    role = FakeRole()
    url = role.start()
    settings.inference_file.parent.mkdir(exist_ok=True)
    settings.inference_file.write_text(json.dumps({"url": url, "secret": SECRET, "device_name": "CPU"}))
    yield role
    role.stop()


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings, page=False), base_url=BASE_URL) as client:
        yield client


@pytest.fixture
def context(settings: Settings, database: Database, store: ArtifactStore) -> AppContext:
    return AppContext(settings, database, store)


def test_stream_passes_and_the_secret_is_added(role: FakeRole, client: TestClient) -> None:
    answer = client.post("/v1/completions", json={"max_tokens": 3}, headers={"Cookie": "private=1"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.count("data: ") == 4
    assert role.seen[0]["authorization"] == f"Bearer {SECRET}"
    assert "cookie" not in role.seen[0]


def test_callers_are_told_apart_by_names_that_say_nothing_of_them(role: FakeRole, client: TestClient) -> None:
    for headers in ({"Authorization": "Bearer one"}, {"Authorization": "Bearer two"}, {CLIENT_HEADER: "chosen"}, {}):
        client.post("/v1/completions", json={"max_tokens": 1}, headers=headers)
    one, two, pretender, anonymous = (seen[CLIENT_HEADER.lower()] for seen in role.seen)
    assert len({one, two, anonymous}) == 3
    assert pretender == anonymous
    assert all(len(name) == 32 and int(name, 16) for name in (one, two, anonymous))


def test_names_with_slashes_pass(role: FakeRole, client: TestClient) -> None:
    assert client.get("/v1/models/org/model").json() == {"id": "org/model"}


def test_refusal_of_the_role_passes_with_its_status(role: FakeRole, client: TestClient) -> None:
    answer = client.post("/v1/compare", json={"models": []})
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "No model is named.")


def test_role_with_too_much_to_do_is_told_with_the_time_to_wait(
    role: FakeRole, client: TestClient, context: AppContext
) -> None:
    answer = client.post("/v1/compare", json={"models": ["busy"]})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert answer.json()["error"]["message"] == "50 requests already wait."
    with pytest.raises(BusyError, match="50 requests already wait"):
        next(compare_stream(context, {"models": ["busy"]}))
    with pytest.raises(BusyError, match="50 requests already wait"):
        compare(context, {"models": ["busy"]})


def test_role_that_is_not_up_is_told_in_openai_form(client: TestClient) -> None:
    answer = client.post("/v1/completions", json={})
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_role_that_was_killed_is_told_the_same_way(settings: Settings, client: TestClient) -> None:
    settings.inference_file.parent.mkdir(exist_ok=True)
    settings.inference_file.write_text(json.dumps({"url": "http://127.0.0.1:9", "secret": "x"}))
    assert client.get("/v1/models").status_code == 503


def test_caller_that_goes_away_ends_the_generation(role: FakeRole, settings: Settings) -> None:
    server = uvicorn.Server(uvicorn.Config(create_app(settings, page=False), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    with (
        httpx.Client(trust_env=False) as caller,
        caller.stream("POST", f"{url}/v1/completions", json={"max_tokens": 10**6}) as answer,
    ):
        next(answer.iter_lines())
        assert not role.gone.is_set()
    assert role.gone.wait(2.0)
    server.should_exit = True
    thread.join()


def test_comparison_streams_events(role: FakeRole, context: AppContext) -> None:
    events = list(compare_stream(context, {"models": ["base"], "prompt": "x"}))
    assert [event["text"] for event in events] == ["0", "1", "2"]


def test_whole_comparison_is_a_list_of_columns(role: FakeRole, context: AppContext) -> None:
    columns = compare(context, {"models": ["base", "prefix"], "prompt": "x", "stream": True})
    assert [column["model"] for column in columns] == ["base", "prefix"]
    with pytest.raises(InvalidInputError, match=r"No model is named\."):
        compare(context, {"models": []})


def test_comparisons_of_two_sessions_are_of_two_clients(role: FakeRole, context: AppContext) -> None:
    for session in ("a", "b", "a"):
        compare(context, {"models": ["base"]}, client=session)
    first, second, third = (seen[CLIENT_HEADER.lower()] for seen in role.seen)
    assert first == third != second


def test_comparison_that_is_closed_ends_the_generation(role: FakeRole, context: AppContext) -> None:
    with closing(compare_stream(context, {"models": ["base"]})) as events:
        next(events)
    assert role.gone.wait(2.0)


def test_comparison_tells_the_refusal_of_the_role(role: FakeRole, context: AppContext) -> None:
    with pytest.raises(InvalidInputError, match=r"No model is named\."):
        next(compare_stream(context, {"models": []}))


def test_comparison_without_a_role_says_so(context: AppContext) -> None:
    with pytest.raises(BusyError, match="still starting"):
        next(compare_stream(context, {"models": ["base"]}))
    with pytest.raises(BusyError, match="still starting"):
        compare(context, {"models": ["base"]})


def test_health_tells_which_roles_are_up(role: FakeRole, client: TestClient, settings: Settings) -> None:
    role.app.add_api_route("/healthz", lambda: {"device": "CPU", "loaded": []})
    told = client.get("/healthz").json()
    assert told["status"] == "degraded"
    assert told["roles"]["inference"]["state"] == "ready"
    assert told["roles"]["dispatcher"]["state"] == "starting"
    beat = Path(settings.home) / "run" / "dispatcher.json"
    beat.write_text(json.dumps({"pid": 1, "at": time.time(), "running": []}))
    assert client.get("/api/v1/healthz").json()["status"] == "ok"
    beat.write_text(json.dumps({"pid": 1, "at": time.time() - 60, "running": []}))
    assert client.get("/healthz").json()["roles"]["dispatcher"]["state"] == "stopped"
