"""Encoder-decoders and quantised bases in the trainer and in the inference role."""

from importlib.util import find_spec
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from storage.artifacts import ArtifactStore
from storage.bases.fingerprint import fingerprint
from storage.database import Database
from storage.prefixes import get_prefix
from storage.schema.job import JobStatus
from storage.settings import Settings
from tests.running_role import server_events
from tests.tiny import tiny_base_folder
from tests.tiny_seq2seq import tiny_seq2seq_folder
from tests.trainer_bench import Role
from worker.engine import quantisation
from worker.inference.answers import InferenceContext
from worker.inference.registry import Registry
from worker.inference.residents import Residents
from worker.inference.server import create_app

# bitsandbytes and accelerate bring deprecated calls of torch along, which are theirs to change.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
needs_bitsandbytes = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed (pip install 'prefix-studio[quantised]')"
)


@pytest.fixture(params=["t5", "bart"])
def role(
    request: pytest.FixtureRequest, settings: Settings, database: Database, store: ArtifactStore, tmp_path: Path
) -> Role:
    return Role(settings, database, store, tiny_seq2seq_folder(tmp_path / "models" / "tiny", request.param))


def serving(role: Role) -> tuple[TestClient, Residents]:
    registry = Registry(role.database, role.store)
    residents = Residents(role.workplace.settings, registry)
    return TestClient(create_app(role.workplace.settings, InferenceContext(registry, residents))), residents


def test_prefix_of_an_encoder_decoder_is_trained_published_and_answers_beside_its_base(role: Role) -> None:
    role.submit(max_steps=16, eval_every=8)
    done = role.run()
    assert (done.status, done.error) == (JobStatus.SUCCEEDED, None)
    assert done.metrics["base_unchanged"] is True
    assert done.metrics["validation_loss"] < done.metrics["base_loss"]
    with role.database.read() as session:
        prefix = get_prefix(session, done.prefix_id or "")
    assert prefix.num_parameters == 4 * (2 + 2 * 3) * 2 * 4 * 8
    client, _ = serving(role)
    with client:
        asked = {"model": prefix.name, "prompt": "food: Thai", "max_tokens": 5, "temperature": 0}
        told = client.post("/v1/completions", json=asked).json()
        assert told["usage"]["completion_tokens"] <= 5
        alone = client.post("/v1/completions", json={**asked, "model": "tiny"}).json()
        body = {"models": [prefix.name, "tiny"], "prompt": "food: Thai", "max_tokens": 5, "stream": True}
        events = list(server_events(client.post("/v1/compare", json=body).text.splitlines()))
        proof = next(event["proof"] for event in events if "proof" in event)
        assert proof["base_verified"] is True
        assert proof["prefix_kl"] > 0
        texts = ["".join(event.get("text", "") for event in events if event.get("column") == at) for at in (0, 1)]
        assert texts == [told["choices"][0]["text"], alone["choices"][0]["text"]]
        body = {"models": [prefix.name, {"model": "tiny", "context": "few-shot"}], "fields": {"food": "Thai"}}
        assert len(client.post("/v1/compare", json={**body, "max_tokens": 3}).json()) == 2
        messages = [{"role": "user", "content": "Thai"}]
        assert client.post("/v1/chat/completions", json={"model": "tiny", "messages": messages}).status_code == 400


def test_prompt_longer_than_the_encoder_reads_is_refused_with_the_numbers(role: Role) -> None:
    client, _ = serving(role)
    with client:
        told = client.post("/v1/completions", json={"model": "tiny", "prompt": "x" * 5000})
    assert told.status_code == 400
    assert "encoder reads 128" in told.json()["error"]["message"]


@pytest.fixture
def decoder(settings: Settings, database: Database, store: ArtifactStore, tmp_path: Path) -> Role:
    return Role(settings, database, store, tiny_base_folder(tmp_path / "models" / "tiny"))


@needs_bitsandbytes
def test_prefix_trained_on_four_bit_weights_is_answered_on_four_bit_weights(decoder: Role) -> None:
    job = decoder.submit(precision="int4")
    done = decoder.run()
    assert (done.status, done.error) == (JobStatus.SUCCEEDED, None)
    assert done.metrics["base_unchanged"] is True
    assert "int4 weights computed in float32" in decoder.events(job, "log")[0].data["message"]
    with decoder.database.read() as session:
        prefix = get_prefix(session, done.prefix_id or "")
    assert prefix.base_fingerprint == fingerprint(decoder.folder), "that of the stored weights"
    client, residents = serving(decoder)
    with client:
        body = {"models": ["tiny", prefix.name], "prompt": "food: Thai", "max_tokens": 4, "stream": True}
        events = list(server_events(client.post("/v1/compare", json=body).text.splitlines()))
        assert next(event["proof"] for event in events if "proof" in event)["base_verified"] is True
        assert [entry.precision for entry in residents._runners] == ["int4"]
        client.post("/v1/completions", json={"model": "tiny", "prompt": "food", "max_tokens": 2})
        assert [entry.precision for entry in residents._runners] == ["int4", "auto"]


def test_prefix_trained_elsewhere_on_few_bits_is_used_in_full_where_they_cannot_be_had(
    decoder: Role, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder.submit()
    done = decoder.run()
    with decoder.database.write() as session:
        prefix = get_prefix(session, done.prefix_id or "")
        prefix.recipe = {**prefix.recipe, "precision": "int4"}
    monkeypatch.setattr(quantisation, "find_spec", lambda name: None)
    assert Registry(decoder.database, decoder.store).find("Food").base.precision == "auto"
    monkeypatch.setattr(quantisation, "find_spec", lambda name: object())
    assert Registry(decoder.database, decoder.store).find("Food").base.precision == "int4"
