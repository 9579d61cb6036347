"""Look-ups on the hub: ids checked, commits pinned, refusals with the way out."""

import json

import pytest

from storage.bases.hub import (
    GatedModelError,
    HubFile,
    HubUnreachableError,
    check_hub_id,
    look_up,
    needed_files,
)
from storage.errors import InvalidInputError, NotFoundError
from tests.hub_server import COMMIT, HubServer

HUB_ID = "someone/small"
FILES = {
    "config.json": json.dumps({"model_type": "llama"}).encode(),
    "tokenizer.json": b"{}",
    "README.md": b"---\nlicense: mit\n---\n",
    "model.safetensors": bytes(5000),
    "pytorch_model.bin": bytes(5000),
    "modeling_small.py": b"raise SystemExit",
    "onnx/model.onnx": bytes(10),
    "original/model.safetensors": bytes(10),
}


@pytest.fixture
def hub():
    with HubServer(HUB_ID, dict(FILES)) as server:
        yield server


@pytest.mark.parametrize("hub_id", ["HuggingFaceTB/SmolLM2-135M", " openai-community/gpt2 ", "gpt2", "a/b.c_d-e"])
def test_hub_id_is_taken(hub_id):
    assert check_hub_id(hub_id) == hub_id.strip()


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("../../x", "no hub id"),
        ("/etc", "no hub id"),
        ("/etc/passwd", "no hub id"),
        ("a/b/c", "no hub id"),
        ("a/../b", "no hub id"),
        ("..", "no hub id"),
        ("", "no hub id"),
        ("$(touch x)", "no hub id"),
        ("a\nb", "no hub id"),
        ("C:\\models\\x", "no hub id"),
        ("foo@main", "names a revision"),
        ("someone/foo@abc", "names a revision"),
        ("https://huggingface.co/someone/foo", "is an address"),
        ("http://169.254.169.254/latest", "is an address"),
        ("file:///etc/passwd", "is an address"),
        ("huggingface.co/someone/foo", "is an address"),
    ],
)
def test_what_is_no_hub_id_is_refused_with_the_way_out(text, match):
    with pytest.raises(InvalidInputError, match=match):
        check_hub_id(text)


def test_look_up_pins_the_commit_and_takes_only_what_is_needed(hub):
    found = look_up(HUB_ID, endpoint=hub.url)
    assert found.revision == COMMIT
    assert [file.name for file in found.files] == ["tokenizer.json", "README.md", "config.json", "model.safetensors"]
    assert found.total_bytes == 5000 + sum(len(FILES[name]) for name in ("tokenizer.json", "README.md", "config.json"))
    assert found.config == {"model_type": "llama"}
    assert (found.license, found.is_gated) == ("apache-2.0", False)


def test_gated_model_is_explained(hub):
    hub.gated = True
    with pytest.raises(GatedModelError, match=r"https://huggingface.co/someone/small, make a token .* HF_TOKEN"):
        look_up(HUB_ID, endpoint=hub.url)


def test_missing_model_is_explained(hub):
    with pytest.raises(NotFoundError, match="has no model someone/else"):
        look_up("someone/else", endpoint=hub.url)


def test_hub_that_does_not_answer_is_explained(hub):
    with pytest.raises(HubUnreachableError, match="cannot be reached"):
        look_up(HUB_ID, endpoint="http://127.0.0.1:9")


def test_offline_machine_is_explained(hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubUnreachableError, match="HF_HUB_OFFLINE is set"):
        look_up(HUB_ID, endpoint=hub.url)


@pytest.mark.parametrize("config", [b"[]", b"{", b"[" * 100_000])
def test_config_that_cannot_be_read_is_refused(hub, config):
    hub.files["config.json"] = config
    with pytest.raises(InvalidInputError, match=r"config.json of someone/small cannot be read"):
        look_up(HUB_ID, endpoint=hub.url)


@pytest.mark.parametrize(
    ("names", "match"),
    [
        (["config.json", "tokenizer.json", "pytorch_model.bin"], "pickle files"),
        (["config.json", "tokenizer.json"], "no safetensors weights"),
        (["config.json", "tokenizer.json", "model.safetensors.index.json"], "no safetensors weights"),
        (["config.json", "model.safetensors"], r"no tokenizer.json"),
        (["tokenizer.json", "model.safetensors"], r"no config.json"),
        (["config.json", "tokenizer.json", "model.gguf"], "no safetensors weights"),
    ],
)
def test_incomplete_repository_is_refused(names, match):
    with pytest.raises(InvalidInputError, match=match):
        needed_files(HUB_ID, [HubFile(name, 10) for name in names])


def test_shards_are_needed_with_their_index():
    names = ["config.json", "tokenizer.json", "model.safetensors.index.json", "consolidated.safetensors"]
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    found = needed_files(HUB_ID, [HubFile(name, 10) for name in [*names, *shards]])
    assert {file.name for file in found} == {*names[:3], *shards}


def test_side_file_of_a_senseless_size_is_refused():
    names = [HubFile("config.json", 10), HubFile("model.safetensors", 10), HubFile("tokenizer.json", 10**10)]
    with pytest.raises(InvalidInputError, match="10,000,000,000 bytes"):
        needed_files(HUB_ID, names)
