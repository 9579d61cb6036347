"""Priority and waiting for other jobs through REST: at submission, later, and for copies."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from storage import disk
from storage.database import Database
from storage.lease import Lease
from storage.settings import Settings
from tests.stored import PREFIX_FIELDS, claim
from tests.tiny import tiny_base_folder

ROWS = b"food,text\n" + b"".join(b"food %d,A place for food %d.\n" % (number, number) for number in range(40))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_base_folder(folder / "tiny")
    return folder


@pytest.fixture
def client(settings: Settings, models: Path) -> Iterator[TestClient]:
    app = create_app(Settings(**{**vars(settings), "models": models}), page=False)
    with TestClient(app, base_url="http://127.0.0.1") as client:
        yield client


@pytest.fixture
def dataset(client: TestClient) -> str:
    answer = client.post("/api/v1/datasets", files={"file": ("food.csv", ROWS)})
    return str(answer.json()["id"])


@pytest.fixture
def first(client: TestClient, dataset: str) -> str:
    return str(submit(client, dataset, name="first")["id"])


def submit(client: TestClient, dataset: str, **more: Any) -> Any:
    answer = client.post("/api/v1/jobs", json={"dataset_id": dataset, "base_model": "tiny", **more})
    assert answer.status_code == 201, answer.text
    return answer.json()


def patch(client: TestClient, job_id: str, **body: Any) -> Any:
    answer = client.patch(f"/api/v1/jobs/{job_id}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refusal(client: TestClient, job_id: str, **body: Any) -> str:
    answer = client.patch(f"/api/v1/jobs/{job_id}", json=body)
    assert 400 <= answer.status_code < 500, answer.text
    return str(answer.json()["error"]["message"])


def end(database: Database, lease: Lease, how: str) -> None:
    with database.write() as session:
        if how == "succeeded":
            lease.succeed(session, PREFIX_FIELDS)
        else:
            lease.fail(session, {"code": "diverged", "message": "No."})


def test_job_says_what_it_waits_for_and_how_that_stands(
    client: TestClient, database: Database, dataset: str, first: str
) -> None:
    second = submit(client, dataset, name="second", starts_after=first, starts_when="failed", priority=1)
    assert (second["priority"], second["starts_after"], second["starts_when"]) == (1, first, "failed")
    assert second["waits_for"]["sentence"] == "Starts once “first” has failed; that job is queued now."
    assert (second["waits_for"]["name"], second["waits_for"]["is_missed"]) == ("first", False)
    # It is first by its priority, but does not keep the other from its turn.
    assert client.get(f"/api/v1/jobs/{first}").json()["jobs_ahead"] == 0
    lease = claim(database)
    assert lease.job_id == first
    end(database, lease, "succeeded")
    held = client.get(f"/api/v1/jobs/{second['id']}").json()["waits_for"]
    assert held["is_missed"]
    assert held["sentence"].startswith("Held back: it starts once “first” has failed, which has succeeded. Try “first”")
    assert {each["id"]: each["waits_for"] for each in client.get("/api/v1/jobs").json()}[second["id"]] == held
    patch(client, second["id"], starts_after=None)
    assert claim(database).job_id == second["id"]
    begun = client.get(f"/api/v1/jobs/{second['id']}").json()
    assert (begun["starts_after"], begun["waits_for"]) == (None, None)


def test_deleting_what_is_waited_for_is_told(client: TestClient, dataset: str, first: str) -> None:
    second = submit(client, dataset, starts_after=first, starts_when="succeeded")["id"]
    third = submit(client, dataset, starts_after=first)["id"]
    client.delete(f"/api/v1/jobs/{first}")
    told = client.get(f"/api/v1/jobs/{second}").json()["waits_for"]
    assert (told["name"], told["status"]) == (None, None)
    assert "that job was deleted. Let it start without waiting" in told["sentence"]
    assert client.get(f"/api/v1/jobs/{third}").json()["starts_after"] is None


def test_parts_of_the_start_are_changed_alone(client: TestClient, dataset: str, first: str) -> None:
    second = submit(client, dataset, starts_after=first, starts_when="succeeded")["id"]
    assert patch(client, second, priority=-1)["starts_when"] == "succeeded"
    assert patch(client, second, starts_when="ended")["starts_after"] == first
    assert patch(client, second)["priority"] == -1
    third = submit(client, dataset)["id"]
    # A condition belongs to the job that it was said of.
    patch(client, second, starts_when="failed")
    assert patch(client, second, starts_after=third)["starts_when"] == "ended"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"priority": 5}, "'priority' in the body is 5"),
        ({"starts_when": "succeeded"}, "waits for no other job. Give starts_after too."),
        ({"starts_after": "nothing"}, "There is no job with the id 'nothing'"),
        ({"starts_after": "first", "starts_when": "never"}, "'starts_when' in the body is \"never\""),
        ({"status": "running"}, "'status' in the body is not known"),
        ({"starts_after": "itself"}, "cannot start after itself"),
    ],
)
def test_start_that_cannot_be_is_refused(
    client: TestClient, dataset: str, first: str, body: dict[str, Any], said: str
) -> None:
    job = submit(client, dataset, name="second")["id"]
    named = {"first": first, "itself": job}
    body = {name: named.get(value, value) for name, value in body.items()}
    assert said in refusal(client, job, **body)
    assert client.get(f"/api/v1/jobs/{job}").json()["starts_after"] is None


def test_refused_start_submits_nothing(client: TestClient, dataset: str) -> None:
    body = {"dataset_id": dataset, "base_model": "tiny", "starts_after": "nothing"}
    assert client.post("/api/v1/jobs", json=body).status_code == 404
    assert client.get("/api/v1/jobs").json() == []


def test_nothing_of_a_running_job_is_changed(client: TestClient, database: Database, first: str) -> None:
    claim(database)
    assert "nothing of a running job can be changed. Pause it first" in refusal(client, first, priority=1)
    assert "nothing of a running job can be changed" in refusal(client, first, starts_after=None)


@pytest.mark.parametrize("changes", [{}, {"recipe": {"seed": 5}}])
def test_copy_starts_after_its_original(
    client: TestClient, database: Database, first: str, changes: dict[str, Any]
) -> None:
    body = {**changes, "starts_after": first, "starts_when": "failed", "priority": 1}
    copy = client.post(f"/api/v1/jobs/{first}/duplicate", json=body).json()
    assert (copy["starts_after"], copy["starts_when"], copy["priority"]) == (first, "failed", 1)
    assert copy["recipe"]["seed"] == changes.get("recipe", {}).get("seed", 0)
    end(database, claim(database), "failed")
    assert claim(database).job_id == copy["id"]


def test_job_says_why_it_does_not_start_though_its_turn_has_come(
    client: TestClient, dataset: str, first: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(job_id: str) -> str | None:
        answer = client.get(f"/api/v1/jobs/{job_id}").json()["waits_because"]
        assert {each["id"]: each["waits_because"] for each in client.get("/api/v1/jobs").json()}[job_id] == answer
        return None if answer is None else str(answer)

    def beat(**state: Any) -> None:
        (settings.home / "run").mkdir(exist_ok=True)
        (settings.home / "run" / "dispatcher.json").write_text(json.dumps({"at": time.time(), **state}))

    second = submit(client, dataset, name="second", starts_after=first)["id"]
    beat()
    assert (told(first), told(second)) == (None, None)
    beat(waits={first: "Waits for memory: it needs more."})
    assert (told(first), told(second)) == ("Waits for memory: it needs more.", None)
    beat(at=time.time() - 60.0)
    assert "dispatcher, which does not answer" in (told(first) or "")
    beat(fault="The database is in use.")
    assert told(first) == "Waits until work can go on. The database is in use."
    monkeypatch.setattr(disk, "MIN_ROOM_BYTES", 10**18)
    assert "room on the disk" in (told(first) or "")
    assert told(second) is None
    assert "waits" not in client.get("/healthz").json()["roles"]["dispatcher"]
