"""Tables to be answered through REST: what is taken, what is refused in which words, and what comes back."""

import csv
import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from openpyxl import Workbook, load_workbook

from app.context import AppContext
from app.services import answers
from app.services.answer_wishes import matched
from app.services.xlsx_rows import unfit, xlsx_chunks
from storage.answerings import get_answering, publish_answers
from storage.errors import InvalidInputError, NotFoundError
from storage.prefixes import delete_prefix
from tests.prefixes import RENDERING, add_prefix, tiny_context
from tests.rest import rest_client
from tests.stored import claim

CSV = "id,name,kind of food\n1,Blue Spice,Italian\n2,=cmd(),Thai\n"
OTHER = 'id,Name,food\n1,"Blue, Spice",Italian\n'


@pytest.fixture
def context(settings, database, store, tmp_path) -> AppContext:
    return tiny_context(settings, database, store, tmp_path / "models")


@pytest.fixture
def client(context):
    return rest_client(context)


@pytest.fixture
def prefix(context, tmp_path):
    return add_prefix(context, tmp_path)


def send(client, prefix, text: str | bytes = CSV, name: str = "places.csv", **settings: Any):
    data = text.encode() if isinstance(text, str) else text
    fields = {"settings": json.dumps(settings)} if settings else {}
    return client.post(f"/api/v1/prefixes/{prefix.id}/answers", files={"file": (name, data)}, data=fields)


def refusal(answer) -> str:
    assert answer.status_code in (404, 409, 413, 422), answer.text
    return str(answer.json()["error"]["message"])


def finish(context: AppContext, job_id: str, rows: list[dict[str, str]]) -> None:
    """Ends the job with a table, as its trainer would."""
    lease = claim(context.database)
    assert lease.job_id == job_id
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    result = context.store.put_bytes(sink.getvalue().to_pybytes())
    with context.database.write() as session:
        publish_answers(session, lease, result, {"columns": list(rows[0]), "answered": len(rows)})


def test_table_becomes_a_job_of_its_own_kind(client, context, prefix) -> None:
    answer = send(client, prefix)
    assert answer.status_code == 201, answer.text
    job = answer.json()
    assert (job["kind"], job["status"], job["max_steps"], job["name"]) == ("answering", "queued", 2, "places.csv")
    told = job["answers"]
    assert told["mapping"] == {"name": "name", "kind of food": "kind of food"}
    assert (told["answer_column"], told["download"], told["uses_prefix"]) == ("answer", None, True)
    assert told["settings"] == {"max_tokens": None, "temperature": 0.0, "top_p": 1.0, "seed": 0}
    listed = client.get("/api/v1/jobs").json()
    assert [each["kind"] for each in listed] == ["answering"]
    assert listed[0]["answers"] == client.get(f"/api/v1/jobs/{job['id']}").json()["answers"] == told
    address = f"/api/v1/prefixes/{prefix.id}/answers"
    assert client.get(address).json()[0]["id"] == client.get(f"{address}/{job['id']}").json()["id"] == job["id"]


def test_missing_columns_are_named_beside_those_that_are_there(client, prefix, context) -> None:
    told = refusal(send(client, prefix, "id,title\n1,Blue Spice\n"))
    assert "lacks the columns “name”, “kind of food”" in told
    assert "it has “id”, “title”" in told
    assert list(context.store.hashes()) == [prefix.artifact_hash]


def test_columns_are_found_by_other_spellings_and_told_by_mapping(client, prefix) -> None:
    assert "lacks the column “kind of food”" in refusal(send(client, prefix, OTHER))
    job = send(client, prefix, OTHER, mapping={"kind of food": "food"}).json()
    assert job["answers"]["mapping"] == {"name": "Name", "kind of food": "food"}
    assert "no such column; it has “id”, “Name”, “food”" in refusal(
        send(client, prefix, OTHER, mapping={"kind of food": "meal"})
    )
    assert "which the prompt does not use" in refusal(send(client, prefix, OTHER, mapping={"meal": "food"}))


@pytest.mark.parametrize("text", ["text\nBlue Spice\nVaults\n", 'text\n"Vaults, the"\nBlue\n'])
def test_table_of_one_column_fills_a_prompt_of_one(client, context, tmp_path, text) -> None:
    prefix = add_prefix(context, tmp_path, "Short", rendering={**RENDERING, "template": "Say: {review}"})
    answer = send(client, prefix, text)
    assert answer.status_code == 201, answer.text
    assert answer.json()["max_steps"] == 2
    assert answer.json()["answers"]["mapping"] == {"review": "text"}
    unquoted = refusal(send(client, prefix, "text\nVaults, the\n"))
    assert "has 2 fields; expected 1" in unquoted
    assert "must stand in double quotes" in unquoted


def test_lone_column_is_meant() -> None:
    assert matched(["review"], ["text"]) == {"review": "text"}
    assert matched(["review"], ["a", "b"]) == {}
    assert matched(["Kind-of food"], ["kind of food", "x"]) == {"Kind-of food": "kind of food"}


BAD_SETTINGS = [
    ({"max_tokens": 0}, "max_tokens is “0”; expected a whole number from 1 to 4,096"),
    ({"max_tokens": 1.5}, "expected a whole number"),
    ({"temperature": float("nan")}, "temperature is “nan”; expected a number from 0 to 2"),
    ({"temperature": True}, "temperature is “True”"),
    ({"top_p": 0}, "top_p is “0”"),
    ({"tempratur": 1}, "no setting “tempratur”"),
    ({"model": "gpt-4"}, "model is “gpt-4”; expected “Where to eat”, or its base model “tiny”"),
    ({"mapping": [1]}, "mapping is"),
]


@pytest.mark.parametrize(("wishes", "words"), BAD_SETTINGS)
def test_settings_that_make_no_sense_are_refused(client, prefix, wishes, words: str) -> None:
    assert words in refusal(send(client, prefix, **wishes))


def test_base_may_answer_alone(client, prefix) -> None:
    assert send(client, prefix, model="tiny").json()["answers"]["uses_prefix"] is False


def test_empty_table_broken_json_two_files_and_unknown_prefix_are_refused(client, prefix) -> None:
    assert refusal(send(client, prefix, ""))
    assert refusal(send(client, prefix, "name,kind of food\n"))
    address = f"/api/v1/prefixes/{prefix.id}/answers"
    two = [("file", ("a.csv", CSV.encode())), ("file", ("b.csv", CSV.encode()))]
    assert "2 files; expected one table" in refusal(client.post(address, files=two))
    broken = client.post(address, files={"file": ("a.csv", CSV.encode())}, data={"settings": "{"})
    assert "not valid JSON" in refusal(broken)
    nowhere = client.post(f"/api/v1/prefixes/{'0' * 16}/answers", files={"file": ("a.csv", CSV.encode())})
    assert nowhere.status_code == 404


def test_prefix_is_kept_while_its_table_waits_and_its_answers_after_it_is_gone(client, context, prefix) -> None:
    job = send(client, prefix).json()
    kept = client.delete(f"/api/v1/prefixes/{prefix.id}")
    assert "needed by the job 'places.csv'" in refusal(kept)
    finish(context, job["id"], [{"name": "a", "answer": "b"}])
    with context.database.write() as session:
        delete_prefix(session, prefix.id)
    address = f"/api/v1/prefixes/{prefix.id}/answers"
    assert client.get(f"{address}/{job['id']}/download").status_code == 200
    assert len(client.get(address).json()) == 1


ANSWERED = [
    {"id": "1", "name": "=1+1", "answer": "@home, “yes”"},
    {"id": "-2", "name": "a\nb", "answer": "+1"},
    {"id": "3", "name": "<b>", "answer": ""},
]


def test_download_is_inert_in_spreadsheets_and_exact_where_that_is_asked_for(client, context, prefix) -> None:
    job = send(client, prefix).json()
    address = f"/api/v1/prefixes/{prefix.id}/answers/{job['id']}/download"
    assert "no answers to download yet" in refusal(client.get(address))
    finish(context, job["id"], ANSWERED)
    answer = client.get(address)
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert "places-answered.csv" in answer.headers["content-disposition"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    rows = list(csv.reader(io.StringIO(answer.text, newline="")))
    assert rows[0] == ["id", "name", "answer"]
    assert rows[1:3] == [["1", "'=1+1", "'@home, “yes”"], ["'-2", "a\nb", "'+1"]]
    exact = client.get(address, params={"for_spreadsheets": False})
    assert list(csv.DictReader(io.StringIO(exact.text, newline=""))) == ANSWERED
    lines = client.get(address, params={"format": "jsonl"}).text.splitlines()
    assert [json.loads(line) for line in lines] == ANSWERED
    table = pq.read_table(io.BytesIO(client.get(address, params={"format": "parquet"}).content))
    assert table.to_pylist() == ANSWERED
    assert "expected csv, xlsx, parquet, jsonl" in refusal(client.get(address, params={"format": "ods"}))


def workbook(answer) -> tuple[str, list[list[Any]]]:
    """Name of the sheet and cells of a workbook that was downloaded."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].endswith("spreadsheetml.sheet")
    sheet = load_workbook(io.BytesIO(answer.content)).active
    return sheet.title, [list(row) for row in sheet.iter_rows(values_only=True)]


def test_workbook_comes_back_as_one_on_a_sheet_of_the_same_name(client, context, prefix) -> None:
    sent = Workbook()
    sent.active.title = "Places & <more>"
    for row in (["id", "name", "kind of food"], [7, "Blue Spice", "Italian"], [8, "=1+1", "Thai"]):
        sent.active.append(row)
    data = io.BytesIO()
    sent.save(data)
    job = send(client, prefix, data.getvalue(), "places.xlsx").json()
    assert job["answers"]["format"] == "xlsx"
    odd = "\x02_x0041_ tail\r\n"
    finish(context, job["id"], [{"id": "7", "name": "=1+1", "answer": "01"}, {"id": "8.5", "name": odd, "answer": ""}])
    address = f"/api/v1/prefixes/{prefix.id}/answers/{job['id']}/download"
    answer = client.get(address)
    assert "places-answered.xlsx" in answer.headers["content-disposition"]
    escaped = "_x0002__x005F_x0041_ tail_x000D_\n"
    assert workbook(answer) == (
        "Places & <more>",
        [["id", "name", "answer"], [7, "=1+1", "01"], [8.5, escaped, None]],
    )
    cells = load_workbook(io.BytesIO(answer.content)).active
    assert [cells.cell(2, column).data_type for column in (1, 2, 3)] == ["n", "s", "s"]
    assert client.get(address, params={"format": "csv"}).headers["content-type"].startswith("text/csv")
    again = send(client, prefix, answer.content, "again.xlsx", mapping={"kind of food": "answer"}).json()
    with context.database.read() as session:
        path = context.store.path(get_answering(session, again["id"]).table_hash)
    assert pq.read_table(path).to_pylist()[1]["name"].startswith("\x02_x0041_ tail")


def test_answers_that_outgrow_a_sheet_come_as_csv_and_are_refused_as_a_workbook(client, context, prefix) -> None:
    job = send(client, prefix).json()
    finish(context, job["id"], [{"name": "a", "answer": "\U0001f35c" * 16_400}])
    address = f"/api/v1/prefixes/{prefix.id}/answers/{job['id']}/download"
    told = refusal(client.get(address, params={"format": "xlsx"}))
    assert "longer than the 32,767 characters that Excel takes. Take it as csv" in told
    with context.database.write() as session:
        get_answering(session, job["id"]).detected = {"format": "xlsx"}
    assert client.get(address).headers["content-type"].startswith("text/csv")


def test_workbook_with_too_many_cells_is_not_waited_for(tmp_path, monkeypatch) -> None:
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table({"n": ["1", "2"], "m": ["3", "4"]}), path)
    assert unfit(path, ["n", "m"]) is None
    monkeypatch.setattr("app.services.xlsx_rows.MAX_CELLS", 3)
    assert unfit(path, ["n", "m"]) == "it has 4 cells, and workbooks are written with up to 3"


def test_numbers_are_numbers_only_where_nothing_of_them_is_lost(tmp_path) -> None:
    texts = ["0", "-12.5", "007", "1.50", "1e5", "12345678901", "491511234567", "-0", ".5", "١"]
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table({"n": texts}), path)
    (tmp_path / "table.xlsx").write_bytes(b"".join(xlsx_chunks(path, ["n"], "n")))
    sheet = load_workbook(tmp_path / "table.xlsx").active
    kinds = {text: sheet.cell(row, 1).data_type for row, text in enumerate(texts, 2)}
    assert [text for text, kind in kinds.items() if kind == "n"] == ["0", "-12.5", "12345678901"]


def test_job_is_found_under_its_own_prefix_only(client, context, prefix, tmp_path) -> None:
    other = add_prefix(context, tmp_path, "Another")
    job = send(client, prefix).json()
    assert client.get(f"/api/v1/prefixes/{other.id}/answers/{job['id']}").status_code == 404
    assert client.get(f"/api/v1/prefixes/{other.id}/answers/{job['id']}/download").status_code == 404
    assert client.get(f"/api/v1/prefixes/{other.id}/answers").json() == []


def test_copy_takes_the_same_table_and_no_changes(client, prefix) -> None:
    job = send(client, prefix).json()
    copy = client.post(f"/api/v1/jobs/{job['id']}/duplicate").json()
    assert (copy["kind"], copy["answers"]["mapping"]) == ("answering", job["answers"]["mapping"])
    changed = client.post(f"/api/v1/jobs/{job['id']}/duplicate", json={"recipe": {"max_steps": 3}})
    assert "its copy takes no changes" in refusal(changed)


def test_dropped_table_is_looked_at_before_it_is_queued(context, prefix, tmp_path) -> None:
    path = tmp_path / "sent"
    path.write_text(OTHER)
    draft = answers.read_table(context, prefix.id, [("new.csv", path)])
    assert (draft["num_rows"], draft["needed"]) == (1, ["name", "kind of food"])
    assert draft["mapping"] == {"name": "Name"}
    assert draft["estimate_s"] is None
    with pytest.raises(InvalidInputError, match="lacks the column"):
        answers.start(context, prefix.id, draft, draft["mapping"])
    whole = {**draft["mapping"], "kind of food": "food"}
    assert answers.start(context, prefix.id, draft, whole)["answers"]["mapping"] == whole
    context.store.delete(draft["table"]["blobs"]["train"])
    with pytest.raises(NotFoundError, match="Drop the file again"):
        answers.start(context, prefix.id, draft, whole)


def test_time_is_told_from_the_evaluation_then_from_earlier_tables(context, tmp_path) -> None:
    evaluation = {"num_rows": 50, "seconds": 20.0, "arms": {"base": {}, "prefix": {}}}
    prefix = add_prefix(context, tmp_path, metrics={"evaluation": evaluation})
    assert answers.estimate_seconds(context, prefix, 100) == pytest.approx(answers.START_S + 20)
