"""Downloads over HTTP from a small hub: whole, broken off, damaged, cancelled, killed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import save

from storage.base_models import BaseModelRecord, get_base_model, register
from storage.bases import download as downloading
from storage.bases import fetch
from storage.bases.download import download, download_folder
from storage.bases.fingerprint import fingerprint
from storage.downloads import cancel_download, next_download, request_download, restart_downloads
from storage.schema.base_model import BaseModelSource, DownloadState
from tests.hub_server import COMMIT, HubServer

HUB_ID = "someone/small"
WEIGHTS = save({"embed": np.arange(300_000, dtype=np.float32).reshape(300, 1000)})


@pytest.fixture
def server():
    files = {
        "config.json": json.dumps({"model_type": "llama", "hidden_size": 4}).encode(),
        "tokenizer.json": b"{}",
        "README.md": b"---\nlicense: mit\n---\n",
        "model.safetensors": WEIGHTS,
        "pytorch_model.bin": b"\x80\x04never",
        "modeling_small.py": b"raise SystemExit",
    }
    with HubServer(HUB_ID, files) as server:
        yield server


@pytest.fixture
def base_model_id(database):
    with database.write() as session:
        row = register(session, BaseModelRecord(HUB_ID, BaseModelSource.HUB, DownloadState.ABSENT))
        request_download(session, HUB_ID)
        next_download(session)
    return row.id


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)


def row_of(database):
    with database.read() as session:
        return get_base_model(session, HUB_ID)


def test_download_makes_the_model_ready(database, settings, server, base_model_id):
    download(database, settings, base_model_id, endpoint=server.url)
    row = row_of(database)
    folder = download_folder(settings, HUB_ID, COMMIT)
    assert (row.download_state, row.download_error) == (DownloadState.READY, None)
    assert (row.path, row.revision) == (str(folder), COMMIT)
    assert row.fingerprint == fingerprint(folder)
    assert row.config["model_type"] == "llama"
    assert (row.details["num_parameters"], row.details["license"]) == (300_000, "mit")
    assert row.downloaded_bytes == row.total_bytes == sum((folder / name).stat().st_size for name in os.listdir(folder))


def test_download_fetches_neither_code_nor_pickles(database, settings, server, base_model_id):
    download(database, settings, base_model_id, endpoint=server.url)
    folder = download_folder(settings, HUB_ID, COMMIT)
    assert sorted(os.listdir(folder)) == ["README.md", "config.json", "model.safetensors", "tokenizer.json"]
    assert not any(".bin" in request or ".py" in request for request in server.requests)


def test_download_asks_for_the_pinned_commit_alone(database, settings, server, base_model_id):
    download(database, settings, base_model_id, endpoint=server.url)
    assert all(f"/resolve/{COMMIT}/" in request for request in server.requests if "/resolve/" in request)
    assert not any("/resolve/main/" in request for request in server.requests)


def test_download_goes_on_where_the_connection_broke(database, settings, server, base_model_id, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 50_000)
    server.drops = {"model.safetensors": 3}
    download(database, settings, base_model_id, endpoint=server.url)
    assert row_of(database).download_state is DownloadState.READY
    resumed = [request for request in server.requests if "model.safetensors bytes=" in request]
    assert len(resumed) == 3


def test_download_starts_a_file_again_when_resuming_was_given_up(
    database, settings, server, base_model_id, monkeypatch
):
    import huggingface_hub

    fetch, refused = huggingface_hub.hf_hub_download, []

    def fetch_later(repo_id, filename, **options):
        if filename == "model.safetensors" and len(refused) < 2:
            refused.append(filename)
            raise ConnectionError("connection reset")
        return fetch(repo_id, filename, **options)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch_later)
    download(database, settings, base_model_id, endpoint=server.url)
    assert (len(refused), row_of(database).download_state) == (2, DownloadState.READY)


def test_damaged_file_is_refused_by_its_hash(database, settings, server, base_model_id):
    server.damaged = {"model.safetensors"}
    download(database, settings, base_model_id, endpoint=server.url)
    row = row_of(database)
    assert row.download_state is DownloadState.FAILED
    assert "model.safetensors came damaged" in row.download_error
    assert not (download_folder(settings, HUB_ID, COMMIT) / "model.safetensors").exists()


def test_model_that_cannot_be_used_is_refused_and_removed(database, settings, server, base_model_id):
    server.files["config.json"] = json.dumps({"auto_map": {"AutoModel": "modeling_small.Model"}}).encode()
    download(database, settings, base_model_id, endpoint=server.url)
    assert "own program code" in row_of(database).download_error
    assert not download_folder(settings, HUB_ID, COMMIT).exists()


def test_gated_model_ends_with_what_to_do(database, settings, server, base_model_id):
    server.gated = True
    download(database, settings, base_model_id, endpoint=server.url)
    row = row_of(database)
    assert row.download_state is DownloadState.FAILED
    assert "accept its licence" in row.download_error


def test_unreachable_hub_ends_with_a_sentence(database, settings, base_model_id):
    download(database, settings, base_model_id, endpoint="http://127.0.0.1:9")
    assert "cannot be reached" in row_of(database).download_error


def test_full_disk_is_seen_before_anything_is_fetched(database, settings, server, base_model_id, monkeypatch):
    monkeypatch.setattr(fetch, "SPARE_BYTES", 10**18)
    download(database, settings, base_model_id, endpoint=server.url)
    assert "the disk has" in row_of(database).download_error
    assert not any(request.startswith("GET") and "model.safetensors" in request for request in server.requests)


def test_unforeseen_fault_is_logged_and_told(database, settings, base_model_id, monkeypatch, caplog):
    def broken(*_, **__):
        raise RuntimeError("something inside")

    monkeypatch.setattr(downloading, "look_up", broken)
    download(database, settings, base_model_id)
    assert "only in the log" in row_of(database).download_error
    assert "something inside" in caplog.text


def child(settings, server, base_model_id):
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("PREFIX_STUDIO_", "HF_"))},
        "PREFIX_STUDIO_HOME": str(settings.home),
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(settings.home / "hf"),
    }
    command = [sys.executable, "-m", "storage.bases.download", base_model_id]
    return subprocess.Popen(command, env=environment, cwd=Path(__file__).parents[1], stderr=subprocess.PIPE)


def test_cancelled_download_stops_and_leaves_nothing(database, settings, server, base_model_id, monkeypatch):
    server.stall = threading.Event()
    monkeypatch.undo()  # this test waits for real
    with child(settings, server, base_model_id) as process:
        assert server.halfway.wait(30), process.stderr.read().decode()
        progress = row_of(database)
        assert progress.total_bytes > len(WEIGHTS)
        with database.write() as session:
            cancel_download(session, HUB_ID)
        time.sleep(0.6)  # the child looks twice a second, when bytes come
        server.stall.set()
        assert process.wait(20) == 0
    row = row_of(database)
    assert (row.download_state, row.download_error, row.path) == (DownloadState.ABSENT, None, None)
    assert not download_folder(settings, HUB_ID, COMMIT).exists()


def test_killed_download_goes_on_with_what_is_complete(database, settings, server, base_model_id, monkeypatch):
    server.stall = threading.Event()
    monkeypatch.undo()
    with child(settings, server, base_model_id) as process:
        assert server.halfway.wait(30), process.stderr.read().decode()
        process.send_signal(signal.SIGKILL)
    server.stall.set()
    with database.write() as session:
        assert restart_downloads(session) == 1
        next_download(session)
    before = len(server.requests)
    with child(settings, server, base_model_id) as process:
        assert process.wait(30) == 0, process.stderr.read().decode()
    assert row_of(database).download_state is DownloadState.READY
    fetched = [request for request in server.requests[before:] if request.startswith("GET") and "/resolve/" in request]
    assert [request for request in fetched if "tokenizer.json" in request] == []
    folder = download_folder(settings, HUB_ID, COMMIT)
    assert sorted(os.listdir(folder)) == ["README.md", "config.json", "model.safetensors", "tokenizer.json"]
