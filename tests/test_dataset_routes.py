"""Datasets through REST, and how every error is told there."""

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.testclient import TestClient
from pydantic import BaseModel

from app.api import datasets
from app.api.errors import install_error_answers
from app.context import AppContext
from storage.artifacts import ArtifactStore
from storage.database import Database
from storage.errors import BusyError
from storage.settings import Settings
from worker.engine.errors import UnsupportedModelError

CSV = "text,label\n" + "".join(f"text {index},{'ab'[index % 2]}\n" for index in range(30))


class Order(BaseModel):
    count: int


faulty = APIRouter()


@faulty.get("/busy")
def busy() -> None:
    raise BusyError("The database is in use.")


@faulty.get("/unsupported")
def unsupported() -> None:
    raise UnsupportedModelError("This model is of no known family.")


@faulty.get("/broken")
def broken() -> None:
    raise ZeroDivisionError("secret detail")


@faulty.post("/order")
def order(order: Order) -> int:
    return order.count


@pytest.fixture
def client(settings: Settings, database: Database, store: ArtifactStore) -> Iterator[TestClient]:
    app = FastAPI()
    app.state.context = AppContext(replace(settings, max_upload_bytes=10_000), database, store)
    install_error_answers(app)
    app.include_router(datasets.router, prefix="/api/v1")
    app.include_router(faulty)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def post(client: TestClient, files: dict[str, str | bytes], **fields: str) -> Any:
    return client.post("/api/v1/datasets", files=[("file", each) for each in files.items()], data=fields)


def test_the_way_of_a_dataset_through_rest(client: TestClient) -> None:
    answer = post(client, {"reviews.csv": CSV}, mapping=json.dumps({"instruction": "Judge."}))
    assert answer.status_code == 201
    dataset = answer.json()
    address = f"/api/v1/datasets/{dataset['id']}"
    assert dataset["mapping"]["instruction"] == "Judge."
    assert client.get(address).json() == dataset
    assert [each["id"] for each in client.get("/api/v1/datasets").json()] == [dataset["id"]]
    changed = client.patch(address, json={"mapping": {"template": "Text: {text}"}}).json()
    assert changed["version"] == 2
    assert changed["samples"][0]["prompt"] == "Text: text 0"
    assert client.delete(address).json() == {"id": dataset["id"], "deleted": True}
    assert client.get(address).status_code == 404


def test_several_files_are_parts(client: TestClient) -> None:
    dataset = post(client, {"train.csv": CSV, "test.csv": "text,label\nnew,a\n"}).json()
    assert (dataset["num_rows"], dataset["num_test"]) == (31, 1)


def test_reading_options_correct_the_guess(client: TestClient) -> None:
    answer = post(
        client, {"t.csv": "ham,hello\nham,bye\nspam,win\n"}, options=json.dumps({"header": True}), name="Mail"
    )
    assert answer.json()["columns"] == ["ham", "hello"]
    assert answer.json()["name"] == "Mail"


def test_a_bad_file_names_its_row_and_leaves_nothing(client: TestClient, settings: Settings) -> None:
    answer = post(client, {"../bad.csv": "text,label\na,x\nb,y,z\n"})
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert (error["code"], error["row"]) == ("invalid_input", 2)
    assert error["message"].startswith("Row 2 of bad.csv (line 3) has 3 fields")
    assert list((settings.home / "uploads").iterdir()) == []


def test_an_upload_over_the_cap_is_413(client: TestClient, settings: Settings) -> None:
    answer = post(client, {"big.csv": CSV + "x,a\n" * 5000})
    assert answer.status_code == 413
    assert "larger than" in answer.json()["error"]["message"]
    assert list((settings.home / "uploads").iterdir()) == []


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"mapping": "{"}, "The field “mapping” is not valid JSON"),
        ({"mapping": "[1]"}, "expected a JSON object"),
        ({"mapping": '{"template": "{nope}"}'}, "names {nope}"),
        ({"options": '{"delimiter": ""}'}, "expected one character"),
    ],
)
def test_bad_fields_of_an_upload_are_refused(client: TestClient, fields: dict[str, str], sentence: str) -> None:
    answer = post(client, {"t.csv": CSV}, **fields)
    assert answer.status_code == 422
    assert sentence in answer.json()["error"]["message"]


def test_an_upload_without_a_file_is_told_so(client: TestClient) -> None:
    answer = client.post("/api/v1/datasets", data={"name": "x"})
    assert answer.status_code == 422
    assert answer.json()["error"]["message"] == "'file' is missing in the body."


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "code", "sentence"),
    [
        ("GET", "/api/v1/datasets/nope", {}, 404, "not_found", "There is no dataset with the id “nope”"),
        (
            "PATCH",
            "/api/v1/datasets/nope",
            {"json": {"size": 1}},
            422,
            "invalid_request",
            "'size' in the body is not known",
        ),
        ("GET", "/nowhere", {}, 404, "not_found", "There is nothing at /nowhere"),
        ("PUT", "/api/v1/datasets", {}, 405, "method_not_allowed", "PUT is not possible at /api/v1/datasets"),
        (
            "POST",
            "/order",
            {"json": {"count": "many"}},
            422,
            "invalid_request",
            "'count' in the body is \"many\": input",
        ),
        (
            "POST",
            "/order",
            {"content": b"{", "headers": {"content-type": "application/json"}},
            422,
            "invalid_request",
            "JSON",
        ),
        ("POST", "/order", {}, 422, "invalid_request", "The request has no body"),
        ("GET", "/busy", {}, 503, "busy", "The database is in use."),
        ("GET", "/unsupported", {}, 422, "unsupported_model", "This model is of no known family."),
    ],
)
def test_every_error_has_a_code_and_a_sentence(
    client: TestClient, method: str, path: str, options: dict[str, Any], status: int, code: str, sentence: str
) -> None:
    answer = client.request(method, path, **options)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert sentence in error["message"]
    assert (status == 503) == ("retry-after" in answer.headers)


def test_an_unknown_fault_is_calm_outside_and_traced_in_the_log(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, logger="app.api.errors"):
        answer = client.get("/broken")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (500, "internal")
    assert "secret" not in answer.text
    fault = error["message"].rstrip(".").rpartition(" ")[2]
    (record,) = [record for record in caplog.records if record.name == "app.api.errors"]
    assert fault in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


def test_a_dataset_of_the_hub_is_refused_offline_with_the_way_out(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    answer = client.post("/api/v1/datasets/hub", json={"id": "someone/reviews"})
    assert answer.status_code == 503
    assert "upload the table as a file" in answer.json()["error"]["message"]
    assert client.post("/api/v1/datasets/hub", json={"id": "../x"}).status_code == 422
