"""Many held-out rows: which are asked, several at once, what they score, and the file that comes of it."""

import asyncio
import csv
import io
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.api import many_rows as routes
from app.api.errors import install_error_answers
from app.context import AppContext
from app.services import inference, many_rows, many_rows_file
from app.services.columns import column_of
from app.services.many_rows import answer_all, held_out, max_tokens_for
from app.ui import many_view
from storage.artifacts import ArtifactStore
from storage.database import Database
from storage.datasets import create_dataset
from storage.errors import BusyError, InvalidInputError, NotFoundError
from storage.settings import Settings
from tests.stored import store_table

COLUMNS = [column_of("tiny"), column_of("support")]
MAPPING = {
    "template": "Text: {text}", "target": "label", "instruction": "", "validation_fraction": 0.5, "seed": 0,
    "rendering": "plain",
}  # fmt: skip
Answers = Callable[[dict[str, Any]], list[str]]


@pytest.fixture
def context(settings: Settings, database: Database, store: ArtifactStore) -> AppContext:
    return AppContext(settings, database, store)


@pytest.fixture
def source(context: AppContext) -> dict[str, Any]:
    rows: list[dict[str, str | None]] = [
        {"text": f"number {number}", "label": "even" if number % 2 == 0 else "odd", "secret": "x"}
        for number in range(60)
    ]
    with context.database.write() as session:
        version = create_dataset(session, "numbers.csv", store_table(context.store, train=rows), MAPPING, [])[1]
    rendering = {"kind": "plain", "template": MAPPING["template"], "target": "label"}
    return {"dataset_version_id": version.id, "rendering": rendering, "metrics": {"evaluation": {"metric": "accuracy"}}}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answers], list[dict[str, Any]]]]:
    """Puts a function in the place of the model server, and gives the requests that it got."""
    pool = ThreadPoolExecutor(2 * many_rows.IN_FLIGHT)

    def put(answers: Answers) -> list[dict[str, Any]]:
        bodies: list[dict[str, Any]] = []

        async def compare(
            http_client: httpx.AsyncClient, context: AppContext, body: dict[str, Any], *, client: str
        ) -> list[dict[str, Any]]:
            bodies.append(body)
            return [{"text": text} for text in await asyncio.get_running_loop().run_in_executor(pool, answers, body)]

        monkeypatch.setattr(inference, "compare_later", compare)
        return bodies

    yield put
    pool.shutdown()


def right(body: dict[str, Any]) -> str:
    return "even" if int(body["fields"]["text"].split()[1]) % 2 == 0 else "odd"


def run(context: AppContext, source: dict[str, Any], count: int = 20, **body: Any) -> many_rows.ManyRows:
    table = held_out(context, source, COLUMNS, count)
    for _ in answer_all(context, table, body, threading.Event(), client="test"):
        pass
    return table


def test_rows_are_held_out_spread_and_asked_by_the_columns_of_the_template_alone(
    context: AppContext, source: dict[str, Any], server: Any
) -> None:
    bodies = server(lambda body: ["even", right(body)])
    table = run(context, source, 20)
    assert (len(table.rows), table.num_done, table.is_ended) == (20, 20, True)
    assert len({row.number for row in table.rows}) == 20
    assert table.rows[0].prompt == f"Text: number {table.rows[0].number - 1}"
    assert all(body["fields"].keys() == {"text"} and body["models"] == COLUMNS for body in bodies)
    assert bodies[0]["max_tokens"] == max_tokens_for(["even"])


def test_columns_are_scored_with_a_range_and_rows_one_by_one(
    context: AppContext, source: dict[str, Any], server: Any
) -> None:
    server(lambda body: ["even\nText: and so on", f" {right(body).upper()}. "])
    table = run(context, source, 30)
    base, prefix = table.intervals()
    assert prefix.value == 1.0
    assert base.low < base.value < base.high < 1.0
    assert base.value == sum(row.expected == "even" for row in table.rows) / 30
    scores = table.scores()
    assert all(scores[row.number] == [float(row.expected == "even"), 1.0] for row in table.rows)
    assert table.rows[0].answers is not None
    assert table.rows[0].answers[0] == "even"


def test_several_requests_are_under_way_at_once(context: AppContext, source: dict[str, Any], server: Any) -> None:
    meeting = threading.Barrier(many_rows.IN_FLIGHT, timeout=20)

    def together(body: dict[str, Any]) -> list[str]:
        meeting.wait()
        return ["even", "odd"]

    server(together)
    assert run(context, source, many_rows.IN_FLIGHT).num_done == many_rows.IN_FLIGHT


def test_stop_keeps_what_is_there_and_asks_no_more(context: AppContext, source: dict[str, Any], server: Any) -> None:
    cancelled = threading.Event()

    def stopping(body: dict[str, Any]) -> list[str]:
        cancelled.set()
        return ["even", "odd"]

    bodies = server(stopping)
    table = held_out(context, source, COLUMNS, 30)
    for _ in answer_all(context, table, {}, cancelled, client="test"):
        pass
    assert len(table.answered) <= len(bodies) <= 2 * many_rows.IN_FLIGHT < 30
    assert "stopped" in many_view.totals(table, ["a", "b"])


def test_refused_row_is_told_and_the_others_are_answered(
    context: AppContext, source: dict[str, Any], server: Any
) -> None:
    table = held_out(context, source, COLUMNS, 12)
    unwanted = table.rows[3].asked

    def refusing(body: dict[str, Any]) -> list[str]:
        if body["fields"] == unwanted["fields"]:
            raise InvalidInputError("The prompt has 900 tokens.")
        return ["even", "odd"]

    server(refusing)
    for _ in answer_all(context, table, {}, threading.Event(), client="test"):
        pass
    assert (len(table.answered), table.rows[3].fault) == (11, "The prompt has 900 tokens.")
    assert "1 refused: The prompt has 900 tokens." in many_view.totals(table, ["a", "b"])


def test_refusal_of_every_row_is_an_error(context: AppContext, source: dict[str, Any], server: Any) -> None:
    def refusing(body: dict[str, Any]) -> list[str]:
        raise InvalidInputError("There is no such model.")

    server(refusing)
    with pytest.raises(InvalidInputError, match="no such model"):
        run(context, source)


def test_busy_server_is_asked_again(
    context: AppContext, source: dict[str, Any], server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(many_rows, "PAUSE_S", 0.01)
    refusals = iter(range(5))

    def busy(body: dict[str, Any]) -> list[str]:
        if next(refusals, None) is not None:
            raise BusyError("Too much to do.")
        return ["even", "odd"]

    server(busy)
    assert len(run(context, source, 8).answered) == 8


def test_columns_without_known_rows_are_refused(context: AppContext, source: dict[str, Any]) -> None:
    with pytest.raises(NotFoundError, match="Choose a prefix that was trained here"):
        held_out(context, None, COLUMNS, 5)
    with pytest.raises(NotFoundError):
        held_out(context, {**source, "dataset_version_id": "0" * 16}, COLUMNS, 5)


def test_file_is_inert_in_spreadsheets_and_found_by_its_key_alone(
    context: AppContext, source: dict[str, Any], server: Any
) -> None:
    server(lambda body: ["=cmd()", "odd"])
    table = run(context, source, 10)
    key = many_rows_file.keep(context, table, ["+base", "support"])
    app = FastAPI()
    app.state.context = context
    install_error_answers(app)
    app.include_router(routes.router, prefix="/api/v1")
    client = TestClient(app)
    answer = client.get(f"/api/v1/held-out-rows/{key}")
    assert answer.headers["content-disposition"].startswith("attachment")
    header, *rows = csv.reader(io.StringIO(answer.text, newline=""))
    assert header == ["row", "prompt", "expected", "'+base", "'+base: accuracy", "support", "support: accuracy"]
    assert len(rows) == 10
    assert {row[3] for row in rows} == {"'=cmd()"}
    for other in ("0" * 32, "..", "%2e%2e%2fstudio.db"):
        assert client.get(f"/api/v1/held-out-rows/{other}").status_code == 404


def test_table_on_the_page_has_as_many_cells_as_headers(
    context: AppContext, source: dict[str, Any], server: Any
) -> None:
    server(lambda body: ["x" * 5000, "odd"])
    table = run(context, source, 4)
    titles = ["support", "support"]
    headers = many_view.headers(titles, table.metric)
    assert len(headers) == len(set(headers)) == len(many_view.datatypes(2)) == len(many_view.widths(2)) == 7
    cells = many_view.cells(table)
    assert [len(row) for row in cells] == [7] * 4
    assert len(cells[0][3]) < 700
    assert many_view.headers(titles, table.metric)[0] == "Row"


def test_closing_the_page_ends_the_asking(context: AppContext, source: dict[str, Any], server: Any) -> None:
    bodies = server(lambda body: time.sleep(0.02) or ["even", "odd"])
    cancelled = threading.Event()
    states = answer_all(context, held_out(context, source, COLUMNS, 30), {}, cancelled, client="test")
    next(states)
    states.close()
    assert cancelled.is_set()
    time.sleep(0.1)
    assert len(bodies) <= 2 * many_rows.IN_FLIGHT


def test_few_bytes_need_few_tokens() -> None:
    assert max_tokens_for([]) == 8
    assert max_tokens_for(["a" * 100]) == 58
    assert max_tokens_for(["a" * 10_000]) == many_rows.MAX_TOKENS
