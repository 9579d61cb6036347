"""Repairs through the services and REST: a new version each, the original as it was, the file to download."""

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.api import datasets as routes
from app.api.errors import install_error_answers
from app.context import AppContext
from app.services import datasets
from app.services.dataset_repairs import preview_repairs
from storage.artifacts import ArtifactStore
from storage.database import Database
from storage.doctor import run
from storage.errors import ConflictError, InvalidInputError
from storage.settings import Settings

ROWS = [*((f"message {index}", "ham" if index % 2 else "spam") for index in range(40)), ("late", ""), ("odd", "Ham")]
FORMULA = "=1+1"


@pytest.fixture
def context(settings: Settings, database: Database, store: ArtifactStore) -> AppContext:
    return AppContext(settings, database, store)


@pytest.fixture
def client(context: AppContext) -> Iterator[TestClient]:
    app = FastAPI()
    app.state.context = context
    install_error_answers(app)
    app.include_router(routes.router, prefix="/api/v1")
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def uploaded(context: AppContext, folder: Path, rows: list[tuple[str, str]] = ROWS, **options: Any) -> dict[str, Any]:
    path = folder / "mail.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return datasets.upload(context, [("mail.csv", path)], None, **options)


def test_safe_repairs_make_a_version_and_the_original_stays(context: AppContext, tmp_path: Path) -> None:
    first = uploaded(context, tmp_path)
    assert {one["code"] for one in first["findings"]} == {"empty_target", "similar_labels"}
    second = datasets.change(context, first["id"], {"repairs": "safe"})
    assert (second["version"], second["num_rows"], second["findings"]) == (2, 41, [])
    assert second["content_hash"] != first["content_hash"]
    newest, oldest = datasets.versions(context, first["id"])
    assert newest["done"] == [
        "1 row given the spelling that most rows have.",
        "1 row without an answer left out.",
    ]
    assert (oldest["version_id"], oldest["content_hash"], oldest["num_rows"]) == (
        first["version_id"],
        first["content_hash"],
        42,
    )


def test_a_guessed_instruction_follows_the_merged_classes(context: AppContext, tmp_path: Path) -> None:
    first = uploaded(context, tmp_path)
    assert first["mapping"]["instruction"] == "Classify the text as one of: Ham, ham, spam."
    second = datasets.change(context, first["id"], {"repairs": ["merge_labels"]})
    assert second["mapping"]["instruction"] == "Classify the text as one of: ham, spam."


def test_an_instruction_of_the_users_own_stays(context: AppContext, tmp_path: Path) -> None:
    first = uploaded(context, tmp_path)
    changes = {"repairs": ["merge_labels"], "mapping": {"instruction": "Ham, ham or spam?"}}
    assert datasets.change(context, first["id"], changes)["mapping"]["instruction"] == "Ham, ham or spam?"


def test_a_repair_that_changes_nothing_keeps_the_hash_of_the_upload(context: AppContext, tmp_path: Path) -> None:
    first = uploaded(context, tmp_path)
    second = datasets.change(context, first["id"], {"repairs": ["remove_control_characters"]})
    assert (second["version"], second["content_hash"]) == (2, first["content_hash"])


def test_going_back_is_a_version_too_and_equals_the_earlier_one(context: AppContext, tmp_path: Path) -> None:
    first = uploaded(context, tmp_path)
    datasets.change(context, first["id"], {"repairs": "safe"})
    third = datasets.change(context, first["id"], {"version": 1})
    assert third["version"] == 3
    same = ("content_hash", "findings", "mapping", "report", "num_rows", "preview")
    assert {name: third[name] for name in same} == {name: first[name] for name in same}
    assert datasets.versions(context, first["id"])[0]["done"] == ["Went back to version 1."]


def test_a_preview_stores_nothing(context: AppContext, tmp_path: Path) -> None:
    first = uploaded(context, tmp_path)
    blobs = list(context.store.hashes())
    seen = preview_repairs(context, first["id"], ["drop_empty_targets"])
    assert (seen["version"], seen["left_out_rows"], seen["rows_after"]) == (1, 1, {"train": 41})
    assert list(context.store.hashes()) == blobs
    assert datasets.describe(context, first["id"]) == first


def test_columns_leave_prompt_or_table(context: AppContext, tmp_path: Path) -> None:
    path = tmp_path / "wide.csv"
    lines = [f"text {index},v1,{'a' if index % 2 else 'b'}" for index in range(30)]
    path.write_text("\n".join(["text,version,label", *lines]))
    first = datasets.upload(context, [("wide.csv", path)], {"template": "Version: {version}\nText: {text}"})
    second = datasets.change(
        context, first["id"], {"repairs": [{"kind": "leave_out_of_prompt", "columns": ["version"]}]}
    )
    assert (second["mapping"]["template"], second["columns"]) == ("Text: {text}", ["text", "version", "label"])
    third = datasets.change(context, first["id"], {"repairs": ["drop_columns"]})
    assert (third["columns"], third["findings"]) == (["text", "label"], [])
    with pytest.raises(InvalidInputError, match="is the answer"):
        datasets.change(context, first["id"], {"repairs": [{"kind": "drop_columns", "columns": ["label"]}]})


def test_a_file_is_read_anew_with_other_options(context: AppContext, tmp_path: Path) -> None:
    first = uploaded(context, tmp_path)
    second = datasets.change(context, first["id"], {"options": {"header": False}})
    assert (second["version"], second["columns"], second["num_rows"]) == (2, ["column_1", "column_2"], 43)
    assert second["origin"]["done"] == ["Read the file anew with header false."]
    third = datasets.change(context, first["id"], {"options": {"header": True}})
    assert third["content_hash"] == first["content_hash"]


def test_ragged_rows_are_left_out_where_that_is_asked_for(context: AppContext, tmp_path: Path) -> None:
    path = tmp_path / "ragged.csv"
    lines = [f"text {index},{'a' if index % 2 else 'b'}" for index in range(30)]
    lines[4] += ",surplus"
    lines[9] = "lonely"
    path.write_text("\n".join(["text,label", *lines]))
    with pytest.raises(InvalidInputError, match=r"Row 5 .* has 3 fields; expected 2.* Or have such rows left out"):
        datasets.upload(context, [("ragged.csv", path)], None)
    dataset = datasets.upload(context, [("ragged.csv", path)], None, options={"leave_out_ragged": True})
    assert dataset["num_rows"] == 28
    (found,) = dataset["findings"]
    assert (found["code"], found["count"], found["rows"]) == ("ragged_rows", 2, [5, 10])
    kept = datasets.change(context, dataset["id"], {"repairs": [{"kind": "drop_rows", "rows": {"train": [1]}}]})
    assert [each["code"] for each in kept["findings"]] == ["ragged_rows"]


def test_a_wrong_separator_is_no_table_of_ragged_rows(context: AppContext, tmp_path: Path) -> None:
    path = tmp_path / "notes.csv"
    path.write_text("a,b\n" + "".join(f"one{',x' * (index % 7 + 2)}\n" for index in range(200)))
    with pytest.raises(InvalidInputError, match="expected 2"):
        datasets.upload(context, [("notes.csv", path)], None, options={"leave_out_ragged": True, "delimiter": ","})


def test_an_upload_is_forgotten_after_an_hour(context: AppContext, tmp_path: Path) -> None:
    first = uploaded(context, tmp_path)
    os.utime(datasets.uploads_folder(context) / f"raw-{first['id']}", (0, 0))
    uploaded(context, tmp_path)
    with pytest.raises(ConflictError, match="kept for an hour"):
        datasets.change(context, first["id"], {"options": {"header": False}})


def test_a_large_table_is_mended_by_a_process_of_its_own(
    context: AppContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = uploaded(context, tmp_path)
    here = datasets.change(context, there["id"], {"repairs": "safe"})
    monkeypatch.setattr(run, "SMALL_BYTES", 0)
    away = uploaded(context, tmp_path)
    assert away["findings"] == there["findings"]
    assert away["report"] == there["report"]
    mended = datasets.change(context, away["id"], {"repairs": "safe"})
    assert mended["content_hash"] == here["content_hash"]
    wish = {"kind": "drop_rows", "rows": {"train": list(range(1, 43))}}
    with pytest.raises(InvalidInputError, match="would leave no row"):
        datasets.change(context, away["id"], {"repairs": [wish]})
    left = [path.name for path in datasets.uploads_folder(context).iterdir() if not path.name.startswith("raw-")]
    assert left == []


def test_rest_previews_repairs_lists_and_downloads(client: TestClient, context: AppContext, tmp_path: Path) -> None:
    rows = [*ROWS, ('say "hi",\nplease', FORMULA), ("007", "ham")]
    address = f"/api/v1/datasets/{uploaded(context, tmp_path, rows)['id']}"
    seen = client.post(f"{address}/repairs/preview", json={"repairs": "safe"}).json()
    assert seen["left_out_rows"] == 1
    assert client.patch(address, json={"repairs": "safe"}).json()["version"] == 2
    assert [each["version"] for each in client.get(f"{address}/versions").json()] == [2, 1]
    answer = client.get(f"{address}/download")
    assert answer.headers["content-disposition"].startswith('attachment; filename="mail-v2.csv"')
    assert answer.headers["x-content-type-options"] == "nosniff"
    table = list(csv.reader(io.StringIO(answer.text, newline="")))
    assert table == [["text", "label"], *[[text, label.lower()] for text, label in rows if label]]
    original = client.get(f"{address}/download", params={"version": 1}).text
    assert list(csv.reader(io.StringIO(original, newline="")))[1:] == [list(row) for row in rows]
    inert = client.get(f"{address}/download", params={"for_spreadsheets": True}).text
    assert f"'{FORMULA}" in inert
    assert client.patch(address, json={"version": 1}).json()["version"] == 3


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        ({"repairs": ["no such"]}, 422, "There is no repair “no such”"),
        ({"repairs": ["drop_duplicates"], "version": 1}, 422, "cannot be changed together"),
        ({"version": 9}, 404, "no version 9"),
        ({"options": {"delimiter": "long"}}, 422, "one character"),
        ({"options": {"colour": "red"}}, 422, "no reading option"),
    ],
)
def test_rest_refuses_in_a_sentence(
    client: TestClient, context: AppContext, tmp_path: Path, body: dict[str, Any], status: int, sentence: str
) -> None:
    dataset = uploaded(context, tmp_path)
    answer = client.patch(f"/api/v1/datasets/{dataset['id']}", json=body)
    assert (answer.status_code, sentence in answer.json()["error"]["message"]) == (status, True), answer.text
    assert client.get(f"/api/v1/datasets/{dataset['id']}").json() == dataset
    assert client.get(f"/api/v1/datasets/{dataset['id']}/download", params={"part": "test"}).status_code == 404
