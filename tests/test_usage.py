"""Disk use by kind, and the cache that may be cleared."""

import os
from pathlib import Path

from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.api import usage as routes
from app.context import AppContext
from storage.artifacts import ArtifactStore
from storage.base_models import BaseModelRecord, register
from storage.cache import note_use, token_cache, trim_cache
from storage.database import Database
from storage.schema.base_model import BaseModelSource, DownloadState
from storage.settings import Settings
from storage.snapshots import NewSnapshot, keep_snapshot
from storage.usage import usage
from tests.stored import PREFIX_FIELDS, add_dataset, add_job, claim, store_table

ROWS: list[dict[str, str | None]] = [{"text": "good", "label": "yes"}, {"text": "bad", "label": "no"}]


def test_usage_tells_bytes_by_kind(
    database: Database, store: ArtifactStore, settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "model.safetensors").write_bytes(b"1234567")
    with database.write() as session:
        table = store_table(store, train=ROWS)
        add_dataset(session, table)
        register(
            session,
            BaseModelRecord("o/m", BaseModelSource.HUB, DownloadState.READY, path=str(tmp_path / "hub")),
        )
        add_job(session)
    lease = claim(database)
    with database.write() as session:
        for step, data in ((0, b"1234"), (4, b"123")):
            new = NewSnapshot(step, 1.0, store.put_bytes(data), len(data), 8, "f" * 64, {})
            keep_snapshot(session, lease, new)
        lease.succeed(session, {**PREFIX_FIELDS, "artifact_hash": store.put_bytes(b"123")})
    store.put_bytes(b"12")
    token_cache(settings).mkdir(parents=True)
    (token_cache(settings) / "ids.arrow").write_bytes(b"123456")
    (store.run_folder(lease.job_id, 1) / "log").write_bytes(b"12345")

    counted = usage(database, store, settings)
    assert counted.pop("database") > 4096
    assert counted == {
        "datasets": store.size(table.blobs["train"]),
        "prefixes": 3,
        "snapshots": 4,
        "answers": 0,
        "runs": 5,
        "base_models": 7,
        "cache": 6,
        "unreferenced": 2,
        "backups": 0,
    }


def test_cache_keeps_what_was_used_last_within_its_cap(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.arrow" for number in range(5)]
    for number, path in enumerate(paths):
        path.write_bytes(b"1234")
        os.utime(path, (number, number))
    note_use(paths[0])
    trim_cache(tmp_path, max_files=4)
    assert [path.exists() for path in paths] == [True, False, True, True, True]
    trim_cache(tmp_path, max_bytes=8)
    assert [path.exists() for path in paths] == [True, False, False, False, True]
    trim_cache(tmp_path, max_bytes=1)
    assert paths[0].exists()


def test_route_clears_the_cache_and_says_what_that_freed(
    database: Database, store: ArtifactStore, settings: Settings
) -> None:
    folder = token_cache(settings)
    folder.mkdir(parents=True)
    (folder / "ids.arrow").write_bytes(b"123456")
    (folder / "half.part").write_bytes(b"12")
    app = FastAPI()
    app.state.context = AppContext(settings, database, store)
    app.include_router(routes.router, prefix="/api/v1")
    client = TestClient(app)
    assert client.get("/api/v1/usage").json()["cache"] == 8
    assert client.delete("/api/v1/usage/cache").json() == {"freed": 8}
    assert client.get("/api/v1/usage").json()["cache"] == 0
    assert client.delete("/api/v1/usage/cache").json() == {"freed": 0}
