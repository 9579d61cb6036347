"""A table of conversations from its upload to a prefix: every answer of the assistant is learnt."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.main import create_app
from storage.artifacts import ArtifactStore
from storage.database import Database
from storage.jobs import get_job
from storage.prefixes import get_prefix
from storage.queue import claim_next
from storage.schema.job import JobStatus
from storage.settings import Settings
from tests.tiny import tiny_base_folder, tiny_model, tiny_tokenizer
from worker.engine.base import prepare_base
from worker.engine.chat_template import ChatTemplateError
from worker.engine.families import geometry
from worker.engine.rendering import Rendering
from worker.inference.prompts import FieldsPrompt
from worker.training.assignment import Assignment
from worker.training.inputs import encode, read_task
from worker.training.run import run_attempts
from worker.training.workplace import Workplace

RECIPE = {"num_virtual_tokens": 4, "max_steps": 4, "batch_size": 4, "eval_every": 2, "learning_rate": 0.01}


def turns(number: int) -> list[dict[str, str]]:
    return [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": f"Soup {number}?"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "Hot?"},
        {"role": "assistant", "content": f"Very {number}."},
    ]


def chat_file(rows: list[list[dict[str, str]]]) -> bytes:
    return "\n".join(json.dumps({"messages": row}) for row in rows).encode()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_base_folder(folder / "plain")
    tiny_base_folder(folder / "chat", chat=True)
    return folder


@pytest.fixture
def home(settings: Settings, models: Path) -> Settings:
    return Settings(**{**vars(settings), "models": models})


@pytest.fixture
def client(home: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(home, page=False), base_url="http://127.0.0.1") as client:
        yield client


def upload(client: TestClient, data: bytes) -> dict[str, Any]:
    answer = client.post("/api/v1/datasets", files={"file": ("chat.jsonl", data)})
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


def submit(client: TestClient, dataset: dict[str, Any], base_model: str = "chat") -> Any:
    body = {"dataset_id": dataset["id"], "base_model": base_model, "recipe": RECIPE, "name": "Chat"}
    return client.post("/api/v1/jobs", json=body)


def claimed(database: Database) -> Assignment:
    with database.write() as session:
        lease = claim_next(session, "test")
    assert lease is not None
    return Assignment(lease.job_id, lease.attempt)


def test_a_chat_file_is_mapped_as_conversations(client: TestClient) -> None:
    dataset = upload(client, chat_file([turns(number) for number in range(30)]))
    assert dataset["blocked"] is False
    assert {name: dataset["mapping"][name] for name in ("template", "target", "rendering")} == {
        "template": "{messages}",
        "target": "messages",
        "rendering": "chat",
    }
    sample = dataset["samples"][0]
    assert sample["prompt"] == "System: Be brief.\n\nUser: Soup 0?\n\nAssistant: Yes.\n\nUser: Hot?"
    assert sample["target"] == "Very 0."


def test_a_job_learns_every_answer_and_its_prefix_is_asked_in_turns(
    client: TestClient, home: Settings, database: Database, store: ArtifactStore
) -> None:
    dataset = upload(client, chat_file([turns(number) for number in range(30)]))
    assert submit(client, dataset).status_code == 201
    assignment = claimed(database)
    task = read_task(home, database, store, assignment.job_id)
    model = tiny_model()
    base = prepare_base(model, tiny_tokenizer(chat=True), geometry(model.config.to_dict()))
    inputs = encode(task, base)
    assert (len(inputs.train), len(inputs.validation)) == (2 * 27, 2 * 3)
    answers = [base.tokenizer.decode(example.target_ids) for example in inputs.train[:2]]
    assert answers[0] == "Yes.<|im_end|>"
    assert answers[1].startswith("Very ")
    run_attempts(Workplace(home, database, store, threading.Event()), [assignment])
    with database.read() as session:
        job = get_job(session, assignment.job_id)
        assert (job.status, job.error) == (JobStatus.SUCCEEDED, None)
        prefix = get_prefix(session, job.prefix_id or "")
    assert prefix.rendering["kind"] == "conversation"
    assert job.metrics["samples"][0]["prompt"].startswith("System: Be brief.\n\nUser: Soup")


def test_a_base_without_a_chat_template_is_refused_before_the_job_starts(client: TestClient) -> None:
    dataset = upload(client, chat_file([turns(number) for number in range(30)]))
    answer = submit(client, dataset, "plain")
    assert answer.status_code == 422
    message = answer.json()["error"]["message"]
    assert "conversations, and plain has no chat template" in message
    assert "Pick a chat model as base" in message


def test_a_conversation_that_the_template_refuses_is_named_by_its_row(
    client: TestClient, home: Settings, database: Database, store: ArtifactStore
) -> None:
    rows = [turns(number)[1:] for number in range(12)]
    rows[6] = turns(6)
    assert submit(client, upload(client, chat_file(rows))).status_code == 201
    model, tokenizer = tiny_model(), tiny_tokenizer(chat=True)
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    tokenizer.chat_template = refusing + str(tokenizer.chat_template)
    base = prepare_base(model, tokenizer, geometry(model.config.to_dict()))
    with pytest.raises(ChatTemplateError, match=r"Row 7: .*no system here"):
        encode(read_task(home, database, store, claimed(database).job_id), base)


def test_a_random_row_asks_without_its_answer(client: TestClient) -> None:
    dataset = upload(client, chat_file([turns(number) for number in range(30)]))
    found = client.app.state.context  # type: ignore[attr-defined]
    from app.services.datasets import random_validation_row

    row = random_validation_row(found, dataset["version_id"], 0)
    assert json.loads(row["fields"]["messages"])[-1] == {"role": "user", "content": "Hot?"}
    assert row["target"].startswith("Very ")


def test_a_field_of_turns_and_a_field_of_text_are_both_understood() -> None:
    tokenizer = tiny_tokenizer(chat=True)
    talk = Rendering(kind="conversation", template="{messages}", target="messages")
    asked = FieldsPrompt({"messages": json.dumps(turns(1)[:4])}, talk, "conversation")
    expected = tokenizer.apply_chat_template(turns(1)[:4], add_generation_prompt=True, return_dict=False)
    assert asked.encode(tokenizer, "none", ()) == expected
    user = [{"role": "user", "content": "Soup?"}]
    expected = tokenizer.apply_chat_template(user, add_generation_prompt=True, return_dict=False)
    assert FieldsPrompt({"messages": "Soup?"}, talk, "conversation").encode(tokenizer, "none", ()) == expected
