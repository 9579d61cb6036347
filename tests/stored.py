"""Rows that tests of the storage start from."""

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy.orm import Session

from storage.artifacts import ArtifactStore
from storage.base_models import BaseModelRecord, register
from storage.database import Database
from storage.datasets import create_dataset
from storage.jobs import submit_job
from storage.lease import Lease
from storage.queue import claim_next
from storage.schema.base_model import BaseModel, BaseModelSource, DownloadState
from storage.schema.dataset import Dataset, DatasetVersion
from storage.schema.job import Job
from storage.tables.table import Part, StoredTable

MAPPING: dict[str, Any] = {"template": "{text}", "target": "label", "validation_fraction": 0.1, "seed": 0}
RECIPE: dict[str, Any] = {"method": "prefix-tuning", "num_virtual_tokens": 8}
RENDERING: dict[str, Any] = {"kind": "plain", "template": "{text}", "target": "label"}
PREFIX_FIELDS: dict[str, Any] = {
    "base_fingerprint": "f" * 64,
    "num_virtual_tokens": 8,
    "num_parameters": 1024,
    "size_bytes": 4096,
    "metrics": {"base": {"loss": 2.0}, "prefixed": {"loss": 1.0}},
    "samples": [],
    "artifact_hash": "a" * 64,
}


def store_table(store: ArtifactStore, **parts: list[dict[str, str | None]]) -> StoredTable:
    """Writes each part as a Parquet file of several row groups."""
    blobs: dict[Part, str] = {}
    counts: dict[Part, int] = {}
    for part, rows in parts.items():
        sink = pa.BufferOutputStream()
        columns = {name: pa.array([row[name] for row in rows], pa.string()) for name in rows[0]}
        pq.write_table(pa.table(columns), sink, row_group_size=10)
        blobs[part] = store.put_bytes(sink.getvalue().to_pybytes())  # type: ignore[index]
        counts[part] = len(rows)  # type: ignore[index]
    return StoredTable(blobs, list(parts["train"][0]), counts, 1, "c" * 64, {})


def add_dataset(session: Session, table: StoredTable | None = None) -> tuple[Dataset, DatasetVersion]:
    """A dataset of which, unless a table is given, only the row is there."""
    table = table or StoredTable({"train": "d" * 64}, ["text", "label"], {"train": 20}, 1, "c" * 64, {})
    return create_dataset(session, "reviews.csv", table, MAPPING, [])


def add_base_model(session: Session, name: str = "tiny", state: DownloadState = DownloadState.READY) -> BaseModel:
    """A base model without files."""
    return register(session, BaseModelRecord(name, BaseModelSource.LOCAL, state))


def add_job(session: Session, name: str = "Reviews") -> Job:
    """A queued job with its own dataset."""
    _, version = add_dataset(session)
    base_model = add_base_model(session)
    return submit_job(
        session, name=name, dataset_version_id=version.id, base_model=base_model, recipe=RECIPE, rendering=RENDERING
    )


def claim(database: Database) -> Lease:
    """Claims the first job of the queue."""
    with database.write() as session:
        lease = claim_next(session, "trainer")
    assert lease is not None
    return lease
