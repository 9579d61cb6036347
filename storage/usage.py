"""What is kept, in bytes by kind; and the files that nothing needs any more."""

import time
from pathlib import Path

from sqlalchemy import make_url, select
from sqlalchemy.orm import Session

from storage.answerings import answer_hashes
from storage.artifacts import ArtifactStore, folder_bytes
from storage.base_models import list_base_models
from storage.database import Database
from storage.schema.base_model import BaseModelSource
from storage.schema.dataset import DatasetVersion
from storage.schema.job import Job
from storage.schema.prefix import Prefix
from storage.settings import Settings

SWEEP_AFTER_S = 3600.0
"""A blob is stored before the row that names it is written; younger ones may still be waiting for theirs."""


def usage(database: Database, store: ArtifactStore, settings: Settings) -> dict[str, int]:
    """Bytes on disk by kind.

    Returns:
        `datasets`, `prefixes`, `answers` (tables given to prefixes, and answered ones), `runs` (checkpoints and logs),
        `base_models` (those fetched from the hub), `unreferenced` (files that the next sweep deletes), `database` and
        `backups`.
    """
    with database.read() as session:
        datasets, prefixes = dataset_hashes(session), prefix_hashes(session)
        answers = answer_hashes(session)
        orphans = unreferenced(session, store)
        hub_folders = [
            Path(base_model.path)
            for base_model in list_base_models(session)
            if base_model.source == BaseModelSource.HUB and base_model.path
        ]
    kept = store.usage()
    return {
        "datasets": _blob_bytes(store, datasets),
        "prefixes": _blob_bytes(store, prefixes - datasets),
        "answers": _blob_bytes(store, answers - datasets - prefixes),
        "runs": kept["runs"],
        "base_models": sum(folder_bytes(folder) for folder in hub_folders),
        "unreferenced": _blob_bytes(store, set(orphans)) + kept["incoming"],
        "database": _database_bytes(settings),
        "backups": folder_bytes(settings.home / "backups"),
    }


def dataset_hashes(session: Session) -> set[str]:
    """SHA-256 of every blob that a version of a dataset names."""
    return {sha256 for blobs in session.scalars(select(DatasetVersion.blobs)) for sha256 in blobs.values()}


def prefix_hashes(session: Session) -> set[str]:
    """SHA-256 of every blob that a prefix names."""
    return set(session.scalars(select(Prefix.artifact_hash)))


def unreferenced(session: Session, store: ArtifactStore) -> list[str]:
    """SHA-256 of every blob that no row names: left by a crash before the commit, or by what was deleted."""
    named = dataset_hashes(session) | prefix_hashes(session) | answer_hashes(session)
    return [sha256 for sha256 in store.hashes() if sha256 not in named]


def sweep(database: Database, store: ArtifactStore, *, older_than_s: float = SWEEP_AFTER_S) -> int:
    """Deletes blobs that no row names, half-written files, and the run folders of deleted jobs.

    Args:
        database: It is read under the writers' lock, so that no row can come to name a blob while that is deleted.
        store: The artifacts.
        older_than_s: What was written since is left alone.

    Returns:
        How many files and folders were deleted.
    """
    moment_s = time.time()
    # A job has its row before it has a folder: folders first, so that none of them belongs to a row not yet seen.
    runs = set(store.run_ids())
    with database.write() as session:
        stale = [
            sha256
            for sha256 in unreferenced(session, store)
            if moment_s - store.path(sha256).stat().st_mtime > older_than_s
        ]
        for sha256 in stale:
            store.delete(sha256)
        runs -= set(session.scalars(select(Job.id)))
    for job_id in runs:
        store.delete_run(job_id)
    return len(stale) + len(runs) + store.delete_stale_incoming(older_than_s, moment_s)


def _blob_bytes(store: ArtifactStore, hashes: set[str]) -> int:
    return sum(store.size(sha256) for sha256 in hashes)


def _database_bytes(settings: Settings) -> int:
    path = Path(make_url(settings.database_url).database or "")
    parts = (path.with_name(path.name + ending) for ending in ("", "-wal", "-shm"))
    return sum(part.stat().st_size for part in parts if part.exists())
