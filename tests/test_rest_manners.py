"""Manners of the whole web app, page included: what is documented, and what unknown addresses and odd text meet."""

from collections.abc import Iterator

import httpx
import pytest

from tests.web_role import Web


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    web = Web(tmp_path_factory.mktemp("home"))
    web.wait()
    yield web.user
    web.close()


def test_documentation_holds_rest_and_the_openai_compatible_calls(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    expected = {"/v1/models", "/v1/completions", "/v1/chat/completions", "/v1/compare", "/api/v1/jobs"}
    assert expected <= set(paths)
    body = paths["/v1/compare"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"models", "prompt", "fields", "max_tokens"} <= set(body["properties"])


def test_documentation_needs_no_other_host(client: httpx.Client) -> None:
    page = client.get("/docs").text
    assert "swagger-ui-bundle.js" in page
    assert "cdn" not in page
    assert client.get("/swagger/swagger-ui-bundle.js").status_code == 200


@pytest.mark.parametrize("path", ["/api/v1/health", "/api/v1/prefixes/x/questions", "/api/v2/jobs"])
def test_unknown_address_beneath_api_is_answered_in_a_sentence(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert "There is nothing at" in answer.json()["error"]["message"]


def test_known_address_with_a_wrong_method_says_so(client: httpx.Client) -> None:
    answer = client.request("PUT", "/api/v1/jobs")
    assert answer.status_code == 405
    assert "is not possible" in answer.json()["error"]["message"]


def test_half_a_character_in_a_name_is_refused_in_a_sentence(client: httpx.Client) -> None:
    body = '{"dataset_id": "x", "base_model": "\\ud800", "name": "\\ud800"}'
    answer = client.post("/api/v1/jobs", content=body, headers={"content-type": "application/json"})
    assert 400 <= answer.status_code < 500
    assert answer.json()["error"]["message"]
