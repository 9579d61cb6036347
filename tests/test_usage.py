"""Disk use by kind, and the sweep of what nothing names."""

import os
from pathlib import Path

import pytest

from storage import usage as usage_module
from storage.artifacts import ArtifactStore
from storage.base_models import BaseModelRecord, register
from storage.database import Database
from storage.datasets import create_dataset, delete_dataset
from storage.rows import load_parts
from storage.schema.base_model import BaseModelSource, DownloadState
from storage.settings import Settings
from storage.usage import sweep, unreferenced, usage
from tests.stored import MAPPING, PREFIX_FIELDS, add_dataset, add_job, claim, store_table

ROWS: list[dict[str, str | None]] = [{"text": "good", "label": "yes"}, {"text": "bad", "label": "no"}]


def orphans(database: Database, store: ArtifactStore) -> list[str]:
    with database.read() as session:
        return unreferenced(session, store)


def test_crash_between_file_and_row_leaves_a_blob_that_the_sweep_finds(
    database: Database, store: ArtifactStore
) -> None:
    """The file is published first; whoever dies before the commit leaves only a file, never a row without one."""

    def publish_and_die() -> None:
        with database.write() as session:
            table = store_table(store, train=ROWS)
            create_dataset(session, "reviews.csv", table, MAPPING, [])
            raise SystemExit("killed")

    with pytest.raises(SystemExit, match="killed"):
        publish_and_die()
    left = orphans(database, store)
    assert len(left) == 1
    assert sweep(database, store, older_than_s=-1) == 1
    assert orphans(database, store) == list(store.hashes()) == []


def test_sweep_leaves_what_is_named_and_what_is_young(database: Database, store: ArtifactStore) -> None:
    with database.write() as session:
        _, version = add_dataset(session, store_table(store, train=ROWS))
        add_job(session)
    lease = claim(database)
    artifact = store.put_bytes(b"prefix")
    with database.write() as session:
        lease.succeed(session, {**PREFIX_FIELDS, "artifact_hash": artifact})
    store.run_folder(lease.job_id, 1)
    young = store.put_bytes(b"about to be named")
    for sha256 in (*version.blobs.values(), artifact):
        os.utime(store.path(sha256), (0, 0))

    assert sweep(database, store) == 0
    assert store.exists(young)
    assert len(load_parts(store, version).train) == 1
    assert store.exists(artifact)
    assert store.run_folders(lease.job_id) != []


def test_files_of_a_deleted_dataset_go_unless_another_shares_them(database: Database, store: ArtifactStore) -> None:
    table = store_table(store, train=ROWS)
    with database.write() as session:
        first, _ = add_dataset(session, table)
        second, _ = add_dataset(session, table)
    with database.write() as session:
        delete_dataset(session, first.id)
    assert sweep(database, store, older_than_s=-1) == 0
    with database.write() as session:
        delete_dataset(session, second.id)
    assert sweep(database, store, older_than_s=-1) == 1


def test_sweep_deletes_run_folders_of_deleted_jobs_and_half_files(database: Database, store: ArtifactStore) -> None:
    (store.run_folder("0123456789abcdef", 1) / "log").write_text("left")
    store.put_bytes(b"x")
    (store.root / "incoming" / "half").write_bytes(b"half")
    os.utime(store.root / "incoming" / "half", (0, 0))
    assert sweep(database, store) == 2
    assert store.run_ids() == []


def test_sweep_reads_the_folders_before_the_jobs(
    database: Database, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that is submitted and claimed in between has a row and a folder; neither order of events loses it."""
    run_ids = ArtifactStore.run_ids

    def list_then_submit(self: ArtifactStore) -> list[str]:
        found = run_ids(self)
        with database.write() as session:
            job = add_job(session)
        self.run_folder(job.id, 1)
        return found

    monkeypatch.setattr(usage_module.ArtifactStore, "run_ids", list_then_submit)
    assert sweep(database, store, older_than_s=-1) == 0
    assert len(run_ids(store)) == 1


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
        lease.succeed(session, {**PREFIX_FIELDS, "artifact_hash": store.put_bytes(b"123")})
    store.put_bytes(b"12")
    (store.run_folder(lease.job_id, 1) / "log").write_bytes(b"12345")

    counted = usage(database, store, settings)
    assert counted.pop("database") > 4096
    assert counted == {
        "datasets": store.size(table.blobs["train"]),
        "prefixes": 3,
        "answers": 0,
        "runs": 5,
        "base_models": 7,
        "unreferenced": 2,
        "backups": 0,
    }
