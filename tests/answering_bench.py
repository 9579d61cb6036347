"""A home folder with a tiny base, a prefix and tables to answer, and an answering attempt that runs inside the test."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.answerings import get_answering, require_result, submit_answering
from storage.artifacts import ArtifactStore
from storage.bases.fingerprint import fingerprint
from storage.database import Database
from storage.jobs import get_job
from storage.lease import Lease
from storage.prefixes import create_prefix, find_prefix
from storage.queue import claim_next
from storage.schema.job import Job
from storage.settings import Settings
from storage.tables.table import StoredTable
from tests.running_role import random_prefix
from tests.trainer_bench import Role
from worker.answering.attempt import AnsweringAttempt
from worker.engine.families import geometry
from worker.engine.prefix_file import write_prefix_file
from worker.training.mandate import Mandate, Outcome
from worker.training.recorder import Recorder

FOODS = ("Italian", "French", "Thai", "Greek", "Indian")
RENDERING = {"kind": "plain", "template": "food: {food}", "target": "text", "instruction": "", "few_shot_seed": 0}
SETTINGS: dict[str, Any] = {"max_tokens": 6, "temperature": 0.0, "top_p": 1.0, "seed": 0}


def food_rows(number: int) -> list[dict[str, str]]:
    """Rows of different lengths, each with an id of its own."""
    return [{"id": str(row), "food": " ".join([FOODS[row % 5]] * (1 + row % 7)) + f" {row}"} for row in range(number)]


class CountingRecorder(Recorder):
    """Counts the batches that an attempt tells."""

    num_batches = 0

    def add(self, kind: str, data: dict[str, Any], step: int | None = None) -> None:
        """Notes an event; a step is a batch."""
        self.num_batches += kind == "step"
        super().add(kind, data, step)


class AnsweringRole:
    """Submits tables and runs their jobs in this process."""

    def __init__(self, settings: Settings, database: Database, store: ArtifactStore, folder: Path) -> None:
        self.settings = settings
        self.database = database
        self.store = store
        self.trainer = Role(settings, database, store, folder)
        self._add_prefix(folder)

    def _add_prefix(self, folder: Path) -> None:
        path = folder.parent / "prefix.safetensors"
        array = random_prefix(geometry(self.trainer.base.config), seed=0)
        write_prefix_file(path, array)
        fields = {
            "base_model_id": self.trainer.base.id, "base_model": "tiny", "method": array.method,
            "base_fingerprint": fingerprint(folder), "dataset_version_id": self.trainer.version_id,
            "num_virtual_tokens": array.num_virtual_tokens, "num_parameters": array.values.size,
            "size_bytes": path.stat().st_size, "rendering": RENDERING, "recipe": {}, "metrics": {}, "samples": [],
            "artifact_hash": self.store.put_file(path),
        }  # fmt: skip
        with self.database.write() as session:
            create_prefix(session, "Food", fields)

    def submit(self, rows: Sequence[dict[str, str]], **more: Any) -> str:
        """Queues a table; `more` goes to `submit_answering`, or into its settings where it is one of these."""
        settings = {**SETTINGS, **{name: more.pop(name) for name in list(more) if name in SETTINGS}}
        columns = list(rows[0]) if rows else ["id", "food"]
        data = {name: pa.array([row[name] for row in rows], pa.string()) for name in columns}
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(data), sink)
        blob = self.store.put_bytes(sink.getvalue().to_pybytes())
        stored = StoredTable({"train": blob}, columns, {"train": len(rows)}, 1, "0" * 64, {})
        with self.database.write() as session:
            prefix = find_prefix(session, "Food")
            assert prefix is not None
            more = {"file_name": "foods.csv", "mapping": {}, **more}
            return submit_answering(session, prefix, stored, settings=settings, **more).id

    def attempt(self, outcome: Outcome | None = None, batches: int = 0) -> tuple[Outcome, Lease]:
        """Claims the next job and runs one attempt of it.

        Args:
            outcome: What its user or the machine wishes for.
            batches: After so many of them.
        """
        with self.database.write() as session:
            lease = claim_next(session, "test")
        assert lease is not None
        recorder = CountingRecorder(self.database, lease)

        def wish() -> Outcome | None:
            return outcome if recorder.num_batches >= batches else None

        ended = AnsweringAttempt(Mandate(self.settings, self.database, self.store, recorder, wish)).run()
        if ended is not Outcome.PUBLISHED:
            recorder.flush()
        return ended, lease

    def release(self, lease: Lease) -> None:
        """Gives the job back to the queue, as a trainer does that was asked to end."""
        with self.database.write() as session:
            lease.release(session)

    def job(self, job_id: str) -> Job:
        """The row of a job."""
        with self.database.read() as session:
            return get_job(session, job_id)

    def result(self, job_id: str) -> list[dict[str, str]]:
        """The answered table."""
        with self.database.read() as session:
            sha256 = require_result(get_answering(session, job_id))
        rows: list[dict[str, str]] = pq.read_table(self.store.path(sha256)).to_pylist()
        return rows
