"""Which stored files something needs: every row that names a blob is asked here, by kind."""

from collections.abc import Callable

from sqlalchemy import select
from sqlalchemy.orm import Session

from storage.answerings import answer_hashes
from storage.artifacts import ArtifactStore
from storage.schema.dataset import DatasetVersion
from storage.schema.prefix import Prefix
from storage.schema.snapshot import Snapshot


def dataset_hashes(session: Session) -> set[str]:
    """SHA-256 of every blob that a version of a dataset names."""
    return {sha256 for blobs in session.scalars(select(DatasetVersion.blobs)) for sha256 in blobs.values()}


def prefix_hashes(session: Session) -> set[str]:
    """SHA-256 of every blob that a prefix names."""
    return set(session.scalars(select(Prefix.artifact_hash)))


def snapshot_hashes(session: Session) -> set[str]:
    """SHA-256 of every blob that a snapshot of a training names."""
    return set(session.scalars(select(Snapshot.artifact_hash)))


REFERENCES: dict[str, Callable[[Session], set[str]]] = {
    "datasets": dataset_hashes,
    "prefixes": prefix_hashes,
    "snapshots": snapshot_hashes,
    "answers": answer_hashes,
}
"""By kind; a blob that several name counts to the first. A table that comes to name blobs is added here, or they go."""


def referenced(session: Session) -> dict[str, set[str]]:
    """SHA-256 of every blob that a row names, by the first kind that does."""
    seen: set[str] = set()
    by_kind: dict[str, set[str]] = {}
    for kind, hashes in REFERENCES.items():
        by_kind[kind] = hashes(session) - seen
        seen |= by_kind[kind]
    return by_kind


def unreferenced(session: Session, store: ArtifactStore) -> list[str]:
    """SHA-256 of every blob that no row names: left by a crash before the commit, or by what was deleted."""
    named = set[str]().union(*referenced(session).values())
    return [sha256 for sha256 in store.hashes() if sha256 not in named]
