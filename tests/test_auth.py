"""The access token: bearer, cookie, the sign-in page, and nothing else."""

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from app import auth
from app.auth import COOKIE, TokenAuth

TOKEN = "correct horse battery staple"


async def secret(request: Request) -> PlainTextResponse:
    return PlainTextResponse("secret")


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> TestClient:
    monkeypatch.setattr(auth, "WRONG_TOKEN_PAUSE_S", 0.0)
    app = Starlette(routes=[Route("/{path:path}", secret, methods=["GET", "POST"])])
    app.add_middleware(TokenAuth, token=TOKEN)
    return TestClient(app, base_url="http://127.0.0.1", follow_redirects=False)


@pytest.mark.parametrize("path", ["/", "/healthz", "/api/v1/jobs", "/login/", "/static/../x", "/logout"])
def test_nothing_passes_without_the_token(client: TestClient, path: str) -> None:
    for method in ("GET", "POST"):
        answer = client.request(method, path)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "unauthorized"


def test_browser_gets_the_sign_in_page_in_its_place(client: TestClient) -> None:
    answer = client.get("/jobs?id=1", headers={"Accept": "text/html,*/*"})
    assert answer.status_code == 401
    assert 'value="/jobs?id=1"' in answer.text
    assert "secret" not in answer.text


def test_bearer_token_passes(client: TestClient) -> None:
    assert client.get("/", headers={"Authorization": f"Bearer {TOKEN}"}).text == "secret"
    assert client.get("/", headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert client.get("/", headers={"Authorization": TOKEN}).status_code == 401


def test_signing_in_sets_a_cookie_that_scripts_and_other_sites_cannot_use(client: TestClient) -> None:
    answer = client.post("/login", data={"token": TOKEN, "next": "/jobs"})
    assert answer.status_code == 303
    assert answer.headers["location"] == "/jobs"
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert TOKEN not in cookie
    assert client.get("/jobs").text == "secret"


def test_signing_out_takes_the_cookie_away(client: TestClient) -> None:
    client.post("/login", data={"token": TOKEN})
    assert client.post("/logout").headers["location"] == "/login"
    assert client.get("/").status_code == 401


def test_wrong_token_is_told_on_the_page(client: TestClient) -> None:
    answer = client.post("/login", data={"token": "guess", "next": '"><script>'})
    assert answer.status_code == 401
    assert "not the access token" in answer.text
    assert "<script>" not in answer.text
    assert COOKIE not in answer.headers.get("set-cookie", "")


@pytest.mark.parametrize("target", ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)"])
def test_signing_in_leads_nowhere_else(client: TestClient, target: str) -> None:
    assert client.post("/login", data={"token": TOKEN, "next": target}).headers["location"] == "/"


def test_token_itself_is_no_session(client: TestClient) -> None:
    assert client.get("/", headers={"Cookie": f"{COOKIE}={TOKEN}"}).status_code == 401


def test_endless_form_is_cut_off(client: TestClient) -> None:
    assert client.post("/login", content=b"token=" + b"x" * 10_000).status_code == 413
