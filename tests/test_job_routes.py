"""Jobs through REST: submitted, refused with a sentence, followed, changed, deleted."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.main import create_app
from app.services import preflight
from storage.checkpoints import add_checkpoint
from storage.database import Database
from storage.lease import Lease, NewEvent, Progress
from storage.queue import claim_next
from storage.settings import Settings
from tests.tiny import CONTEXT_LENGTH, tiny_base_folder
from tests.tiny_seq2seq import tiny_seq2seq_folder
from worker.engine import quantisation
from worker.engine.families import geometry


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_base_folder(folder / "tiny")
    tiny_seq2seq_folder(folder / "tiny-t5")
    return folder


@pytest.fixture
def client(settings: Settings, models: Path) -> Iterator[TestClient]:
    app = create_app(Settings(**{**vars(settings), "models": models}), page=False)
    with TestClient(app, base_url="http://127.0.0.1") as client:
        yield client


def table(rows: int = 40) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["food", "text"])
    writer.writerows([f"food {number}", f"A place for food {number}."] for number in range(rows))
    return text.getvalue().encode()


@pytest.fixture
def dataset(client: TestClient) -> str:
    mapping = {"template": "food: {food}", "target": "text", "instruction": "Say what the place serves."}
    answer = client.post(
        "/api/v1/datasets", files={"file": ("food.csv", table())}, data={"mapping": json.dumps(mapping)}
    )
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def submit(client: TestClient, dataset: str, **more: Any) -> Any:
    body = {"dataset_id": dataset, "base_model": "tiny", "method": "prefix-tuning", "name": "Food", **more}
    return client.post("/api/v1/jobs", json=body)


def message(answer: Any, status: int) -> str:
    assert answer.status_code == status, answer.text
    return str(answer.json()["error"]["message"])


def test_job_is_queued_with_its_wishes(client: TestClient, dataset: str) -> None:
    answer = submit(client, dataset, recipe={"num_virtual_tokens": 8, "max_steps": 30, "seed": 3})
    assert answer.status_code == 201
    job = answer.json()
    assert (job["status"], job["max_steps"], job["step"], job["prefix_id"]) == ("queued", 30, 0, None)
    assert job["recipe"]["seed"] == 3
    assert job["recipe"]["learning_rate"] is None
    assert (job["dataset_id"], job["dataset_name"]) == (dataset, "food.csv")
    assert client.get(f"/api/v1/jobs/{job['id']}").json() == job
    assert [each["id"] for each in client.get("/api/v1/jobs").json()] == [job["id"]]


def test_name_and_recipe_may_be_left_out(client: TestClient, dataset: str) -> None:
    job = client.post("/api/v1/jobs", json={"dataset_id": dataset, "base_model": "tiny"}).json()
    assert (job["name"], job["method"]) == ("food", "prefix-tuning")
    assert job["max_steps"] > 0


def test_waiting_jobs_know_how_many_are_before_them(client: TestClient, dataset: str) -> None:
    first, second = (submit(client, dataset).json()["id"] for _ in range(2))
    assert client.get(f"/api/v1/jobs/{second}").json()["jobs_ahead"] == 1
    client.post(f"/api/v1/jobs/{second}/move", json={"place": 0})
    assert client.get(f"/api/v1/jobs/{first}").json()["jobs_ahead"] == 1


@pytest.mark.parametrize(
    ("change", "status", "sentence"),
    [
        ({"dataset_id": "nothing"}, 404, "There is no dataset with the id “nothing”"),
        ({"base_model": "nothing"}, 404, "There is no base model 'nothing'"),
        ({"method": "full"}, 422, "'method' in the body"),
        ({"name": "x" * 81}, 422, "at most 80"),
        ({"recipe": {"learning_rate": -1}}, 422, "learning_rate is -1; expected 1e-06 to 10."),
        ({"recipe": {"speed": 1}}, 422, "The recipe has no setting 'speed'"),
        ({"recipe": {"method": "prompt-tuning"}}, 422, "method is 'prefix-tuning', but the recipe says"),
        ({"recipe": {"num_virtual_tokens": CONTEXT_LENGTH}}, 422, f"Give at most {CONTEXT_LENGTH // 2}."),
        ({"recipe": {"precision": "int2"}}, 422, "precision is 'int2'; expected one of auto, float32"),
        ({"base_model": "tiny-t5", "method": "prompt-tuning"}, 422, "this base has an encoder. Choose prefix tuning"),
        ({"base_model": "tiny-t5", "method": "prefix-tuning-plus"}, 422, "Prefix tuning+ works with models that only"),
        ({"surprise": 1}, 422, "'surprise' in the body is not known"),
    ],
)
def test_job_that_cannot_succeed_is_refused_with_a_sentence(
    client: TestClient, dataset: str, change: dict[str, Any], status: int, sentence: str
) -> None:
    assert sentence in message(submit(client, dataset, **change), status)
    assert client.get("/api/v1/jobs").json() == []


def test_dataset_with_a_blocking_finding_is_refused_in_its_words(client: TestClient) -> None:
    rows = b"food,text\n" + b"".join(b"food %d,\n" % number for number in range(10))
    mapping = json.dumps({"template": "{food}", "target": "text"})
    told = client.post("/api/v1/datasets", files={"file": ("bad.csv", rows)}, data={"mapping": mapping}).json()
    assert told["blocked"]
    refused = message(submit(client, told["id"]), 409)
    assert "'bad.csv' cannot be trained on yet" in refused


def test_training_that_will_not_fit_is_refused_with_both_numbers(
    client: TestClient, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "available_memory", lambda: 100_000_000)
    refused = message(submit(client, dataset), 409)
    assert "0.1 GB are free" in refused


def test_precision_without_its_package_is_refused_with_the_remedy(
    client: TestClient, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantisation, "find_spec", lambda name: None)
    refused = message(submit(client, dataset, recipe={"precision": "int4"}), 422)
    assert "needs the package bitsandbytes and accelerate" in refused


def test_encoder_decoder_is_accepted_and_counts_three_prefixes_a_layer(client: TestClient, dataset: str) -> None:
    order = {"base_model": "tiny-t5", "recipe": {"num_virtual_tokens": 16}}
    assert submit(client, dataset, **order).status_code == 201
    told = client.post("/api/v1/jobs/summary", json={"dataset_id": dataset, **order}).json()
    assert told["num_parameters"] == 16 * (2 + 2 * 3) * 2 * 4 * 8


def test_full_disk_is_refused_before_the_training(
    client: TestClient, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "MIN_FREE_BYTES", 10**18)
    told = message(submit(client, dataset), 507)
    assert "MB left" in told
    assert "MB for checkpoints and prefixes and 1,000,000,000,000 MB for all else. Free some room" in told


def test_summary_says_what_will_happen_and_starts_nothing(client: TestClient, dataset: str, models: Path) -> None:
    body = {"dataset_id": dataset, "base_model": "tiny", "recipe": {"num_virtual_tokens": 16}}
    told = client.post("/api/v1/jobs/summary", json=body).json()
    config = json.loads((models / "tiny" / "config.json").read_text())
    assert told["num_parameters"] == geometry(config).prefix_parameters("prefix-tuning", 16)
    assert told["size_bytes"] == 4 * told["num_parameters"]
    assert 0 < told["share"] < 1
    assert all(value is not None for value in told["recipe"].values())
    assert told["sentence"].startswith("A prefix of 16 virtual tokens, which is ")
    assert f"{told['num_parameters']:,} numbers (" in told["sentence"]
    assert "about" in told["sentence"]
    assert client.get("/api/v1/jobs").json() == []


def test_summary_of_a_prefix_that_peft_cannot_load_says_so(client: TestClient, dataset: str) -> None:
    body = {"dataset_id": dataset, "base_model": "tiny", "recipe": {"num_virtual_tokens": 16}}
    plain, plus = (
        client.post("/api/v1/jobs/summary", json={**body, "method": method}).json()
        for method in ("prefix-tuning", "prefix-tuning-plus")
    )
    assert plus["num_parameters"] == 2 * plain["num_parameters"]
    assert "16 virtual tokens and as many again outside attention's softmax, which is" in plus["sentence"]
    assert plus["sentence"].endswith("Only Prefix Studio can load it, not PEFT.")
    assert "PEFT" not in plain["sentence"]


def test_waiting_job_is_discarded_at_once_and_can_be_tried_again(client: TestClient, dataset: str) -> None:
    job = submit(client, dataset).json()["id"]
    assert "nothing" not in client.post(f"/api/v1/jobs/{job}/stop", json={"keep": False}).json()["status"]
    assert client.get(f"/api/v1/jobs/{job}").json()["status"] == "cancelled"
    assert client.post(f"/api/v1/jobs/{job}/retry").json()["status"] == "queued"


def test_pause_resume_and_copy(client: TestClient, dataset: str) -> None:
    job = submit(client, dataset).json()["id"]
    assert client.post(f"/api/v1/jobs/{job}/pause").json()["status"] == "paused"
    assert client.post(f"/api/v1/jobs/{job}/resume").json()["status"] == "queued"
    copy = client.post(f"/api/v1/jobs/{job}/duplicate")
    assert copy.status_code == 201
    assert copy.json()["id"] != job


def test_copy_takes_changes_and_leaves_the_rest_and_the_job_as_they_were(client: TestClient, dataset: str) -> None:
    job = submit(client, dataset, recipe={"max_steps": 9, "seed": 3, "num_virtual_tokens": 4}).json()
    client.patch(f"/api/v1/datasets/{dataset}", json={"mapping": {"template": "What: {food}"}})
    changes = {"name": "Faster", "recipe": {"learning_rate": 0.5}}
    copy = client.post(f"/api/v1/jobs/{job['id']}/duplicate", json=changes)
    assert copy.status_code == 201, copy.text
    told = copy.json()
    assert (told["name"], told["status"]) == ("Faster", "queued")
    assert told["recipe"] == {**job["recipe"], "learning_rate": 0.5}
    # The same version of the dataset, though its mapping has changed since: else the two could not be compared.
    assert told["rendering"] == job["rendering"]
    assert client.get(f"/api/v1/jobs/{job['id']}").json()["recipe"] == job["recipe"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"recipe": {"learning_rate": -1}}, "learning_rate"),
        ({"recipe": {"speed": 9}}, "no setting 'speed'"),
        ({"base_model": "absent"}, "absent"),
        ({"status": "succeeded"}, "status"),
    ],
)
def test_copy_with_changes_that_cannot_be_is_refused(
    client: TestClient, dataset: str, changes: dict[str, Any], said: str
) -> None:
    job = submit(client, dataset).json()["id"]
    refused = client.post(f"/api/v1/jobs/{job}/duplicate", json=changes)
    assert 400 <= refused.status_code < 500
    assert said in refused.json()["error"]["message"]
    assert len(client.get("/api/v1/jobs").json()) == 1


def test_running_job_is_not_deleted(client: TestClient, database: Database, dataset: str) -> None:
    job = submit(client, dataset).json()["id"]
    with database.write() as session:
        claim_next(session, "test")
    assert "is running" in message(client.delete(f"/api/v1/jobs/{job}"), 409)
    assert client.post(f"/api/v1/jobs/{job}/stop", json={"keep": True}).json()["stop_request"] == "keep"
    with database.write() as session:
        Lease(job, 1).cancel(session)
    assert client.delete(f"/api/v1/jobs/{job}").status_code == 204
    assert "There is no job" in message(client.get(f"/api/v1/jobs/{job}"), 404)


def test_curve_takes_the_later_account_of_a_repeated_step(client: TestClient, database: Database, dataset: str) -> None:
    job = submit(client, dataset).json()["id"]
    with database.write() as session:
        claim_next(session, "test")
        lease = Lease(job, 1)
        events = [NewEvent("evaluated", {"loss": 9.0}, 0), *(NewEvent("step", {"loss": 5.0 - s}, s) for s in (1, 2, 3))]
        lease.record(session, events, Progress(step=3, metrics={"base_loss": 9.0, "best_step": 2}))
        lease.release(session)
        claim_next(session, "test")
        Lease(job, 2).record(session, [NewEvent("step", {"loss": 1.5}, 3)])
    curve = client.get(f"/api/v1/jobs/{job}/curve").json()
    assert (curve["steps"], curve["train_loss"]) == ([1, 2, 3], [4.0, 3.0, 1.5])
    assert curve["validation"] == [{"step": 0, "loss": 9.0}]
    assert (curve["baselines"]["base"], curve["best_step"]) == (9.0, 2)


def test_curve_after_discard_and_retry_is_of_the_second_training_alone(
    client: TestClient, database: Database, dataset: str
) -> None:
    job = submit(client, dataset).json()["id"]
    for attempt, (steps, loss) in enumerate([(1793, 5.0), (40, 2.0)], start=1):
        events = [NewEvent("evaluated", {"loss": loss}, step) for step in (0, *range(20, steps + 1, 20))]
        events = [*events[:1], *(NewEvent("step", {"loss": loss}, step) for step in range(1, steps + 1)), *events[1:]]
        events.sort(key=lambda event: event.step or 0)
        with database.write() as session:
            claim_next(session, "test")
            metrics = {"best_step": steps, "base_loss": loss}
            Lease(job, attempt).record(session, events, Progress(step=steps, metrics=metrics))
            if attempt == 1:
                Lease(job, attempt).cancel(session)
        if attempt == 1:
            waiting = client.post(f"/api/v1/jobs/{job}/retry").json()
            assert (waiting["step"], waiting["metrics"]) == (0, {})
            curve = client.get(f"/api/v1/jobs/{job}/curve").json()
            assert (curve["steps"], curve["validation"], curve["best_step"]) == ([], [], None)
    curve = client.get(f"/api/v1/jobs/{job}/curve").json()
    assert (curve["steps"], curve["train_loss"]) == (list(range(1, 41)), [2.0] * 40)
    assert curve["validation"] == [{"step": step, "loss": 2.0} for step in (0, 20, 40)]
    assert (curve["baselines"]["base"], curve["best_step"]) == (2.0, 40)


def test_discarding_a_paused_job_deletes_its_checkpoints(
    client: TestClient, database: Database, dataset: str, tmp_path: Path
) -> None:
    job = submit(client, dataset).json()["id"]
    path = tmp_path / "checkpoint-00000005.safetensors"
    path.write_bytes(b"state")
    with database.write() as session:
        claim_next(session, "test")
        add_checkpoint(session, Lease(job, 1), step=5, path=path, sha256="a" * 64, size_bytes=5)
        Lease(job, 1).release(session, paused=True)
    assert client.post(f"/api/v1/jobs/{job}/resume").json()["step"] == 5
    assert path.exists()
    assert client.post(f"/api/v1/jobs/{job}/stop", json={"keep": False}).json()["status"] == "cancelled"
    assert not path.exists()


def test_log_holds_states_and_lines(client: TestClient, database: Database, dataset: str) -> None:
    job = submit(client, dataset).json()["id"]
    with database.write() as session:
        claim_next(session, "test")
        Lease(job, 1).record(session, [NewEvent("log", {"message": "first\nsecond"})])
    lines = client.get(f"/api/v1/jobs/{job}/log").json()["lines"]
    assert lines[0].endswith("attempt 0: queued")
    assert lines[-2].endswith(" first")
    assert lines[-1].strip() == "second"


def test_usage_and_documentation_answer(client: TestClient, dataset: str) -> None:
    assert client.get("/api/v1/usage").json()["datasets"] > 0
    assert "/api/v1/jobs/{job_id}/events" in client.get("/openapi.json").json()["paths"]
    assert client.get("/docs").status_code == 200
