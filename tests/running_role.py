"""A real inference role in a process of its own, on a home folder with tiny bases and random prefixes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage.artifacts import ArtifactStore
from storage.base_models import BaseModelRecord, register
from storage.bases.fingerprint import fingerprint
from storage.database import open_database
from storage.datasets import create_dataset
from storage.migrate import migrate
from storage.prefixes import create_prefix
from storage.schema.base_model import BaseModelSource, DownloadState
from storage.settings import Settings, read_settings
from storage.tables.table import StoredTable
from tests.tiny import tiny_base_folder
from worker.engine.families import Geometry, geometry
from worker.engine.prefix_file import PrefixArray, write_prefix_file

ROOT = Path(__file__).parents[1]
START_TIMEOUT_S = 90.0

PLAIN, CHAT, ABSENT = "tiny", "org/tiny-chat", "org/absent"
PREFIX, SOFT_PROMPT, CHAT_PREFIX, STRANGER = "short answers", "soft prompt", "chatty", "stranger"
NUM_VIRTUAL_TOKENS = 6

RENDERING: dict[str, Any] = {
    "kind": "plain",
    "template": "Question: {question}\nAnswer:",
    "target": "answer",
    "instruction": "Answer in one word.",
    "few_shot_seed": 0,
}
ROWS = [{"question": f"What is {number}?", "answer": f"A number {number}."} for number in range(8)]


@dataclass(frozen=True)
class Role:
    """How to reach a running role."""

    settings: Settings
    process: subprocess.Popen[bytes]
    url: str
    secret: str

    def client(self) -> httpx.Client:
        """A client that knows the secret."""
        return httpx.Client(
            base_url=self.url, headers={"X-Prefix-Studio-Secret": self.secret}, timeout=60, trust_env=False
        )


@contextmanager
def running_role(home: Path) -> Iterator[Role]:
    """Fills a home folder, starts the role on it, and ends it with SIGTERM."""
    home.mkdir(mode=0o700)
    settings = read_settings({"PREFIX_STUDIO_HOME": str(home)})
    fill_home(settings)
    environment = {**os.environ, "PREFIX_STUDIO_HOME": str(home), "OMP_NUM_THREADS": "1"}
    with (home / "role.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "worker.inference.server"], cwd=ROOT, env=environment, stderr=log, stdout=log
        )
        try:
            told = _wait_for(settings.inference_file, process)
            yield Role(settings, process, told["url"], told["secret"])
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)


def fill_home(settings: Settings) -> None:
    """Two bases on this machine and one that is not; a prefix of each kind, one of them of foreign weights."""
    migrate(settings)
    plain = tiny_base_folder(settings.home / "bases" / "plain", "llama")
    chat = tiny_base_folder(settings.home / "bases" / "chat", "qwen3", chat=True)
    store = ArtifactStore(settings)
    database = open_database(settings)
    with database.write() as session:
        version = create_dataset(session, "questions", _stored_rows(store, settings.home), _mapping(), [])[1]
        session.flush()
        for name, folder in ((PLAIN, plain), (CHAT, chat)):
            record = BaseModelRecord(name, BaseModelSource.LOCAL, DownloadState.READY, path=str(folder))
            base = register(session, record)
            session.flush()
            measured = geometry(json.loads((folder / "config.json").read_text()))
            print_of = fingerprint(folder)
            fields = {"base_model_id": base.id, "base_model": name, "dataset_version_id": version.id}
            names = [PREFIX, SOFT_PROMPT, STRANGER] if name == PLAIN else [CHAT_PREFIX]
            for seed, prefix in enumerate(names):
                wanted = "0" * 64 if prefix == STRANGER else print_of
                array = random_prefix(measured, seed, is_soft=prefix == SOFT_PROMPT)
                made = _prefix_fields(store, settings.home, array, kind="plain" if name == PLAIN else "chat")
                create_prefix(session, prefix, {**fields, **made, "base_fingerprint": wanted})
        register(session, BaseModelRecord(ABSENT, BaseModelSource.HUB, DownloadState.ABSENT))
    database.close()


def random_prefix(measured: Geometry, seed: int, *, is_soft: bool = False) -> PrefixArray:
    """Random numbers of a prefix, the same for the same seed."""
    generator = np.random.default_rng(seed)
    if is_soft:
        shape: tuple[int, ...] = (NUM_VIRTUAL_TOKENS, measured.hidden_size)
    else:
        shape = (measured.num_layers, 2, measured.num_kv_heads, NUM_VIRTUAL_TOKENS, measured.head_dim)
    values = generator.normal(size=shape).astype(np.float32)
    return PrefixArray.of("prompt-tuning" if is_soft else "prefix-tuning", values)


def server_events(lines: Iterator[str]) -> Iterator[Any]:
    """The data of server-sent events, parsed."""
    for line in lines:
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line.removeprefix("data: "))


def _prefix_fields(store: ArtifactStore, folder: Path, array: PrefixArray, *, kind: str) -> dict[str, Any]:
    path = folder / "prefix.safetensors"
    write_prefix_file(path, array)
    return {
        "method": array.method,
        "num_virtual_tokens": array.num_virtual_tokens,
        "num_parameters": array.values.size,
        "size_bytes": path.stat().st_size,
        "rendering": {**RENDERING, "kind": kind},
        "recipe": {},
        "metrics": {},
        "samples": [],
        "artifact_hash": store.put_file(path),
    }


def _stored_rows(store: ArtifactStore, folder: Path) -> StoredTable:
    path = folder / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path)
    return StoredTable(
        blobs={"train": store.put_file(path)},
        columns=list(ROWS[0]),
        num_rows={"train": len(ROWS)},
        size_bytes=path.stat().st_size,
        content_hash="0" * 64,
        detected={},
    )


def _mapping() -> dict[str, Any]:
    return {**RENDERING, "validation_fraction": 0.25, "seed": 0}


def _wait_for(path: Path, process: subprocess.Popen[bytes]) -> dict[str, Any]:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        if path.is_file():
            told: dict[str, Any] = json.loads(path.read_text())
            return told
        time.sleep(0.05)
    raise AssertionError(f"the role did not start: {(path.parents[1] / 'role.log').read_text()}")
