"""Base models through the service and REST: what is listed, refused, fetched and removed."""

import io
import zipfile
from dataclasses import replace

import pytest
from fastapi.testclient import TestClient

from app.context import AppContext
from app.services import base_models
from storage.base_models import get_base_model
from storage.bases import hub
from storage.bases.fingerprint import fingerprint
from storage.errors import ConflictError, InvalidInputError, NotFoundError
from storage.schema.base_model import DownloadState
from tests.hub_server import COMMIT, HubServer
from tests.rest import rest_client
from tests.test_hub import FILES, HUB_ID
from tests.test_inspect import model_folder
from worker.engine.errors import UnsupportedModelError

LLAMA = {
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "hidden_size": 4,
    "vocab_size": 3,
    "max_position_embeddings": 64,
}


@pytest.fixture
def context(settings, database, store, tmp_path):
    models = tmp_path / "models"
    models.mkdir()
    model_folder(models, "mine", config=LLAMA)
    return AppContext(replace(settings, models=models), database, store)


@pytest.fixture
def client(context) -> TestClient:
    return rest_client(context)


def body_of(context, name):
    return next(body for body in base_models.listing(context) if body["name"] == name)


def test_listing_tells_what_the_page_shows(context):
    first = next(each for each in base_models.listing(context) if each["name"] == "mine")
    assert first["name"] == "mine"
    assert (first["source"], first["supported"], first["reason"]) == ("local", True, None)
    assert (first["fit"], first["num_parameters"], first["context_length"]) == ("fits", 16, 64)
    assert (first["download_state"], first["size_bytes"]) == ("ready", 40)


def test_listing_works_without_a_network_for_the_short_list(context):
    llama = body_of(context, "meta-llama/Llama-3.2-1B")
    assert (llama["source"], llama["supported"], llama["gated"]) == ("hub", True, True)
    assert (llama["download_state"], llama["context_length"]) == ("absent", 131_072)
    assert llama["fit"] in ("fits", "tight", "will not fit")


def test_family_without_room_for_a_prefix_is_listed_with_the_reason(context):
    model_folder(context.settings.models, "bloom", config={"model_type": "bloom"})
    bloom = body_of(context, "bloom")
    assert not bloom["supported"]
    assert "no room for a prefix" in bloom["reason"]
    with pytest.raises(UnsupportedModelError, match="no room for a prefix"):
        base_models.require_ready(context, "bloom")


def test_ready_model_has_its_fingerprint(context):
    ready = base_models.require_ready(context, "mine")
    assert ready.fingerprint == fingerprint(context.settings.models / "mine")
    assert body_of(context, "mine")["fingerprint"] == ready.fingerprint


def test_model_that_is_not_here_is_not_ready(context):
    with pytest.raises(ConflictError, match=r"not on this machine yet. Download it first"):
        base_models.require_ready(context, "openai-community/gpt2")
    with pytest.raises(NotFoundError, match="no base model 'nothing'"):
        base_models.require_ready(context, "nothing")


def test_damaged_model_is_not_ready(context):
    (context.settings.models / "mine" / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(InvalidInputError, match="mine cannot be used"):
        base_models.require_ready(context, "mine")


@pytest.fixture
def server(monkeypatch):
    with HubServer(HUB_ID, dict(FILES)) as server:
        look_up = hub.look_up
        monkeypatch.setattr(hub, "look_up", lambda hub_id: look_up(hub_id, endpoint=server.url))
        yield server


def serve_config(server, **changes):
    import json

    server.files["config.json"] = json.dumps({"model_type": "llama", **LLAMA, **changes}).encode()


def test_hub_model_is_added_pinned_to_its_commit(context, server):
    serve_config(server, dtype="bfloat16")
    added = base_models.add_hub_model(context, f" {HUB_ID} ")
    assert (added["name"], added["revision"], added["download_state"]) == (HUB_ID, COMMIT, "absent")
    assert (added["supported"], added["num_parameters"], added["license"]) == (True, 2500, "apache-2.0")
    assert base_models.add_hub_model(context, HUB_ID)["name"] == HUB_ID


def test_hub_model_of_another_family_is_not_added(context, server):
    serve_config(server, model_type="t5", is_encoder_decoder=True)
    with pytest.raises(UnsupportedModelError, match="encoder"):
        base_models.add_hub_model(context, HUB_ID)
    assert all(body["name"] != HUB_ID for body in base_models.listing(context))


def test_hub_model_with_its_own_code_is_not_added(context, server):
    serve_config(server, auto_map={"AutoModelForCausalLM": "modeling_small.Model"})
    with pytest.raises(UnsupportedModelError, match="own program code"):
        base_models.add_hub_model(context, HUB_ID)


@pytest.mark.parametrize("hub_id", ["../../x", "/etc", "foo@main", "https://example.org/x"])
def test_rest_refuses_what_is_no_hub_id(client, hub_id):
    answer = client.post("/api/v1/base-models", json={"hub_id": hub_id})
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "invalid_input"
    assert "expected" in answer.json()["error"]["message"]


def test_rest_asks_for_a_download_and_cancels_it(client):
    name = "HuggingFaceTB/SmolLM2-135M"
    client.get("/api/v1/base-models")
    answer = client.post("/api/v1/base-models/download", json={"name": name})
    assert (answer.status_code, answer.json()["download_state"]) == (202, "requested")
    answer = client.post("/api/v1/base-models/cancel-download", json={"name": name})
    assert answer.json()["download_state"] == "absent"
    assert client.post("/api/v1/base-models/cancel-download", json={"name": name}).status_code == 409
    assert client.post("/api/v1/base-models/download", json={"name": "mine"}).status_code == 409
    assert client.post("/api/v1/base-models/download", json={"name": "nothing"}).status_code == 404


def test_rest_lists_with_the_fields_that_clients_use(client):
    listed = client.get("/api/v1/base-models").json()
    assert {"name", "source", "supported", "reason", "fit"} <= set(listed[0])


def downloaded(context, name="openai-community/gpt2"):
    base_models.listing(context)
    folder = model_folder(context.settings.home / "models", "openai-community--gpt2@0123")
    with context.database.write() as session:
        row = get_base_model(session, name)
        row.download_state, row.path = DownloadState.READY, str(folder)
    return folder


def test_files_of_a_downloaded_model_are_removed(context, client):
    folder = downloaded(context)
    answer = client.request("DELETE", "/api/v1/base-models", params={"name": "openai-community/gpt2"})
    assert (answer.status_code, answer.json()["download_state"]) == (200, "absent")
    assert not folder.exists()


def test_files_stay_while_a_job_needs_them(context, client):
    from storage.jobs import submit_job
    from tests.stored import RECIPE, RENDERING, add_dataset

    folder = downloaded(context)
    with context.database.write() as session:
        _, version = add_dataset(session)
        base_model = get_base_model(session, "openai-community/gpt2")
        fields = {"recipe": RECIPE, "rendering": RENDERING}
        submit_job(session, name="Reviews", dataset_version_id=version.id, base_model=base_model, **fields)
    answer = client.request("DELETE", "/api/v1/base-models", params={"name": "openai-community/gpt2"})
    assert answer.status_code == 409
    assert "needed by 'Reviews'" in answer.json()["error"]["message"]
    assert folder.exists()


def test_files_of_a_local_model_are_never_removed(context, client):
    base_models.listing(context)
    answer = client.request("DELETE", "/api/v1/base-models", params={"name": "mine"})
    assert answer.status_code == 409
    assert (context.settings.models / "mine" / "config.json").exists()


def test_files_outside_the_home_folder_are_never_removed(context, tmp_path):
    downloaded(context)
    elsewhere = model_folder(tmp_path, "elsewhere")
    with context.database.write() as session:
        get_base_model(session, "openai-community/gpt2").path = str(elsewhere)
    base_models.remove_files(context, "openai-community/gpt2")
    assert elsewhere.exists()


def test_local_model_is_sent_as_a_zip_of_what_it_consists_of(context, client):
    folder = context.settings.models / "mine"
    (folder / "notes.txt").write_text("private")
    (folder / "modeling.py").write_text("print()")
    client.get("/api/v1/base-models")
    answer = client.get("/api/v1/base-models/download-archive", params={"name": "mine"})
    assert answer.status_code == 200
    assert answer.headers["content-disposition"].startswith('attachment; filename="mine.zip"')
    assert answer.headers["x-content-type-options"] == "nosniff"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == ["mine/config.json", "mine/model.safetensors", "mine/tokenizer.json"]
        assert archive.read("mine/model.safetensors") == (folder / "model.safetensors").read_bytes()


def test_hub_model_and_unknown_names_are_not_sent(client):
    client.get("/api/v1/base-models")
    for name, status in (("openai-community/gpt2", 409), ("../../etc", 404), ("/etc/passwd", 404)):
        assert client.get("/api/v1/base-models/download-archive", params={"name": name}).status_code == status
