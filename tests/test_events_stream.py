"""The stream of a job's events: replayed after a break, ended with the job."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.main import create_app
from storage.base_models import BaseModelRecord, register
from storage.database import Database
from storage.datasets import create_dataset
from storage.jobs import submit_job
from storage.lease import Lease, NewEvent
from storage.queue import claim_next
from storage.schema.base_model import BaseModelSource, DownloadState
from storage.settings import Settings
from storage.tables.table import StoredTable


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings, page=False), base_url="http://127.0.0.1") as client:
        yield client


@pytest.fixture
def job(database: Database) -> str:
    """A job that ran five steps and was discarded."""
    with database.write() as session:
        table = StoredTable({"train": "0" * 64}, ["a", "b"], {"train": 2}, 10, "0" * 64, {})
        _, version = create_dataset(session, "table.csv", table, {}, [])
        base = register(session, BaseModelRecord("base", BaseModelSource.LOCAL, DownloadState.READY))
        job = submit_job(
            session, name="x", dataset_version_id=version.id, base_model=base, recipe={"method": "m"}, rendering={}
        )
        claim_next(session, "test")
        lease = Lease(job.id, 1)
        lease.record(session, [NewEvent("step", {"loss": 1.0 / step}, step) for step in range(1, 6)])
        lease.cancel(session)
        return job.id


def read(text: str) -> list[tuple[str, str, Any]]:
    """Each event as its id, its kind and its data."""
    found = []
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        found.append((fields.get("id", ""), fields["event"], json.loads(fields["data"])))
    return found


def test_everything_is_replayed_in_order_and_the_stream_ends_with_the_job(client: TestClient, job: str) -> None:
    answer = client.get(f"/api/v1/jobs/{job}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = read(answer.text)
    assert [kind for _, kind, _ in events] == ["state", "state", *["step"] * 5, "state", "end"]
    assert [data["step"] for _, kind, data in events if kind == "step"] == [1, 2, 3, 4, 5]
    assert events[-2][2]["data"]["status"] == "cancelled"


def test_reader_that_comes_back_gets_what_it_missed(client: TestClient, job: str) -> None:
    events = read(client.get(f"/api/v1/jobs/{job}/events").text)
    seen = events[3][0]
    again = read(client.get(f"/api/v1/jobs/{job}/events", headers={"Last-Event-ID": seen}).text)
    assert again == events[4:]
    assert read(client.get(f"/api/v1/jobs/{job}/events", params={"after": seen}).text) == events[4:]


def test_reader_that_saw_all_gets_the_end_at_once(client: TestClient, job: str) -> None:
    last = read(client.get(f"/api/v1/jobs/{job}/events").text)[-2][0]
    assert [kind for _, kind, _ in read(client.get(f"/api/v1/jobs/{job}/events?after={last}").text)] == ["end"]


def test_more_events_than_one_batch_all_come(client: TestClient, job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.api.events.BATCH", 2)
    assert len(read(client.get(f"/api/v1/jobs/{job}/events").text)) == 9


def test_unknown_job_is_told_before_the_stream_begins(client: TestClient) -> None:
    answer = client.get("/api/v1/jobs/nothing/events")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"
