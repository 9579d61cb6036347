"""The guards around the web role: bodies, headers, hosts, origins, routes that nobody needs."""

import base64
import hashlib
from collections.abc import Iterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from app.limits import MAX_BODY_BYTES, MAX_FIELD_BYTES, MULTIPART_SLACK_BYTES, BodyLimit
from app.security import RequestGuard, ResponseHeaders

UPLOAD_CAP = 2_000_000
BASE_URL = "http://127.0.0.1:7860"


async def measure(request: Request) -> JSONResponse:
    """Answers with the size of the body, and with a header that would open it to other sites."""
    return JSONResponse({"bytes": len(await request.body())}, headers={"Access-Control-Allow-Origin": "*"})


def guarded(*, host: str = "127.0.0.1", has_token: bool = False) -> TestClient:
    app = Starlette(routes=[Route("/{path:path}", measure, methods=["GET", "POST", "DELETE"])])
    app.add_middleware(BodyLimit, max_upload_bytes=UPLOAD_CAP)
    app.add_middleware(RequestGuard, host=host, has_token=has_token)
    app.add_middleware(ResponseHeaders)
    return TestClient(app, base_url=BASE_URL)


def in_chunks(size_bytes: int) -> Iterator[bytes]:
    for _ in range(size_bytes // 100_000):
        yield b"x" * 100_000


def test_body_over_the_cap_is_refused_by_its_declared_length() -> None:
    answer = guarded().post("/api/v1/jobs", content=b"x" * (MAX_BODY_BYTES + 1))
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "too_large"
    assert "8 MB" in answer.json()["error"]["message"]


def test_chunked_body_over_the_cap_is_refused_while_it_comes() -> None:
    answer = guarded().post("/api/v1/jobs", content=in_chunks(MAX_BODY_BYTES + 200_000))
    assert answer.status_code == 413
    assert "content-length" not in answer.request.headers


def test_body_within_the_cap_arrives_whole() -> None:
    assert guarded().post("/api/v1/jobs", content=in_chunks(300_000)).json() == {"bytes": 300_000}


def test_upload_may_be_larger_than_other_bodies() -> None:
    client = guarded()
    file = b"x" * (UPLOAD_CAP - 1000)
    assert client.post("/api/v1/datasets", files={"file": ("a.csv", file)}).status_code == 200
    over = b"x" * (UPLOAD_CAP + MULTIPART_SLACK_BYTES)
    assert client.post("/api/v1/datasets", files={"file": ("a.csv", over)}).status_code == 413


@pytest.mark.parametrize("path", ["/api/v1/datasets", "/gradio_api/upload"])
def test_large_form_field_of_an_upload_is_refused(path: str) -> None:
    client = guarded()
    field = "x" * (MAX_FIELD_BYTES + 1)
    answer = client.post(path, data={"mapping": field}, files={"file": ("a.csv", b"a")})
    assert answer.status_code == 413
    assert "A form field is over" in answer.json()["error"]["message"]


def test_upload_that_is_no_form_gets_the_small_cap() -> None:
    answer = guarded().post("/gradio_api/upload", content=in_chunks(MAX_BODY_BYTES + 200_000))
    assert answer.status_code == 413


def test_field_cannot_pass_as_a_file_by_a_second_header() -> None:
    body = (
        b"--b\r\n"
        b'Content-Disposition: form-data; name="f"; filename="a"\r\n'
        b'Content-Disposition: form-data; name="f"\r\n\r\n' + b"x" * (MAX_FIELD_BYTES + 1) + b"\r\n--b--\r\n"
    )
    headers = {"content-type": "multipart/form-data; boundary=b"}
    assert guarded().post("/gradio_api/upload", content=body, headers=headers).status_code == 413


def test_every_answer_carries_the_headers_and_opens_nothing_to_other_sites() -> None:
    client = guarded()
    for answer in (client.get("/x"), client.get("/monitoring"), client.post("/x", headers={"Origin": "https://a.b"})):
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert "object-src 'none'" in answer.headers["Content-Security-Policy"]
        assert not [name for name in answer.headers if name.startswith("access-control")]


async def scripted(request: Request) -> HTMLResponse:
    return HTMLResponse("<script>run(1)</script><script src='/a.js'></script><img onerror='run(2)'>")


def test_page_may_run_its_own_scripts_by_their_hashes_and_no_other() -> None:
    app = Starlette(routes=[Route("/", scripted)])
    app.add_middleware(ResponseHeaders)
    answer = TestClient(app).get("/")
    policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
    digest = base64.b64encode(hashlib.sha256(b"run(1)").digest()).decode()
    assert policy["script-src"] == f"'self' 'unsafe-eval' 'sha256-{digest}'"
    assert answer.text.startswith("<script>run(1)</script>")


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Sec-Fetch-Site": "cross-site", "Origin": BASE_URL},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_change_sent_by_another_site_is_refused(headers: dict[str, str]) -> None:
    client = guarded()
    for method in ("POST", "DELETE"):
        answer = client.request(method, "/api/v1/jobs", headers=headers)
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "cross_site"


@pytest.mark.parametrize("headers", [{}, {"Origin": BASE_URL}, {"Sec-Fetch-Site": "same-origin", "Origin": BASE_URL}])
def test_change_sent_by_the_page_or_a_program_passes(headers: dict[str, str]) -> None:
    assert guarded().post("/api/v1/jobs", headers=headers).status_code == 200


def test_reading_from_another_site_is_left_to_the_browser() -> None:
    assert guarded().get("/api/v1/jobs", headers={"Origin": "https://evil.example"}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "10.0.0.1:7860", ""])
def test_foreign_host_is_refused_on_the_loopback(host: str) -> None:
    answer = guarded().get("/api/v1/jobs", headers={"Host": host})
    assert answer.status_code == 421
    assert answer.json()["error"]["code"] == "wrong_host"


@pytest.mark.parametrize("host", ["localhost:7860", "127.0.0.1:80", "[::1]:7860"])
def test_names_of_the_loopback_pass(host: str) -> None:
    assert guarded().get("/api/v1/jobs", headers={"Host": host}).status_code == 200


def test_any_host_passes_where_a_token_guards() -> None:
    client = guarded(host="0.0.0.0", has_token=True)
    assert client.get("/api/v1/jobs", headers={"Host": "studio.example"}).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/proxy=http://127.0.0.1:1/x",
        "/proxy=https://a.b/c",
        "/gradio_api/file=http://169.254.169.254/latest",
        "/gradio_api/file=https://a.b",
        "/file=//a.b/c",
        "/gradio_api/file%3Dhttp://a.b",
        "/monitoring",
        "/monitoring/summary",
        "/gradio_api/deep_link",
        "/gradio_api/run-history/records",
        "/gradio_api/component_server",
        "/gradio_api/vibe-edit",
    ],
)
def test_risky_routes_of_the_page_are_closed(path: str) -> None:
    assert guarded().get(path).status_code == 404


@pytest.mark.parametrize("path", ["/gradio_api/queue/join", "/gradio_api/run/predict", "/config", "/gradio_api/upload"])
def test_routes_that_the_page_needs_stay_open(path: str) -> None:
    assert guarded().get(path).status_code == 200
