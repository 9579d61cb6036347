"""What is kept, in bytes by kind."""

from pathlib import Path

from sqlalchemy import make_url

from storage.artifacts import ArtifactStore, folder_bytes
from storage.base_models import list_base_models
from storage.cache import token_cache
from storage.database import Database
from storage.references import referenced, unreferenced
from storage.schema.base_model import BaseModelSource
from storage.settings import Settings


def usage(database: Database, store: ArtifactStore, settings: Settings) -> dict[str, int]:
    """Bytes on disk by kind.

    Returns:
        `datasets`, `prefixes`, `snapshots` (of trainings), `answers` (tables given to prefixes, and answered ones),
        `runs` (checkpoints and logs), `base_models` (those fetched from the hub), `cache` (token ids of large tables),
        `unreferenced` (files that go once they have been so for an hour), `database` and `backups`.
    """
    with database.read() as session:
        by_kind = referenced(session)
        orphans = unreferenced(session, store)
        hub_folders = [
            Path(base_model.path)
            for base_model in list_base_models(session)
            if base_model.source == BaseModelSource.HUB and base_model.path
        ]
    kept = store.usage()
    return {
        **{kind: _blob_bytes(store, hashes) for kind, hashes in by_kind.items()},
        "runs": kept["runs"],
        "base_models": sum(folder_bytes(folder) for folder in hub_folders),
        "cache": folder_bytes(token_cache(settings)),
        "unreferenced": _blob_bytes(store, set(orphans)) + kept["incoming"],
        "database": _database_bytes(settings),
        "backups": folder_bytes(settings.home / "backups"),
    }


def _blob_bytes(store: ArtifactStore, hashes: set[str]) -> int:
    return sum(store.size(sha256) for sha256 in hashes)


def _database_bytes(settings: Settings) -> int:
    path = Path(make_url(settings.database_url).database or "")
    parts = (path.with_name(path.name + ending) for ending in ("", "-wal", "-shm"))
    return sum(part.stat().st_size for part in parts if part.exists())
